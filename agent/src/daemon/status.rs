//! The status, put together from what the daemon knows.
//!
//! Pure.

use std::collections::BTreeMap;
use weir_kernel_plan::{Counter, NAT_PORTS, NodeSettings, ObservedState, PortUse, desired_state};
use weir_overlay::{NodePrivateKey, TrafficClass};
use weir_protocol::{ItemFailure, NetworkMap, Peer};
use weir_reconcile::Status;

use super::{
    saved::Saved,
    warnings::{scarce_ports, warnings},
};
use crate::control::{
    AvailableRoute, CoordinatorReport, ExitReport, MapReport, NodeReport, NodeState, PeerReport,
    PortReport, RouteUse, StatusReport, WireguardReport,
};

/// The connection to the coordinator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Connection {
    /// Whether the map stream is open.
    pub(crate) open: bool,
    /// Counts the streams that were opened.
    pub(crate) opened: u64,
    /// What is wrong, when something is.
    pub(crate) problem: Option<String>,
}

/// What was looked at for the status.
#[derive(Clone, Debug)]
pub(crate) struct Looked {
    /// The source ports in use.
    pub(crate) ports: Vec<PortUse>,
    /// When, in seconds since 1970.
    pub(crate) now: i64,
}

/// Puts the status together.
pub(crate) fn report(
    saved: &Saved,
    map: Option<&NetworkMap>,
    kernel: &Status,
    connection: &Connection,
    looked: Looked,
    ledger_problem: Option<&ItemFailure>,
    key: &NodePrivateKey,
) -> StatusReport {
    let applied = saved
        .applied
        .as_ref()
        .filter(|_| saved.state == NodeState::Up);
    let map = map.filter(|_| applied.is_some());
    let observed = kernel.observed.as_deref();
    let settings = applied.map(|applied| applied.node_settings());
    StatusReport {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        state: saved.state,
        node: map.map(|map| NodeReport {
            name: map.node.name.clone(),
            user: map.node.user.clone(),
            tags: map.node.tags.clone(),
            addresses: map.node.addresses.clone(),
        }),
        coordinator: saved.enrolment.as_ref().map(|enrolment| CoordinatorReport {
            url: enrolment.coordinator.to_string(),
            connected: connection.open,
            problem: connection.problem.clone(),
        }),
        map: MapReport {
            held: map.map(|map| map.generation),
            applied: kernel.applied,
        },
        wireguard: applied.map(|applied| WireguardReport {
            mtu: observed
                .and_then(|observed| observed.link.as_ref())
                .map(|link| link.mtu),
            ..applied.wireguard(key.public())
        }),
        peers: map.map(|map| peers(map, observed)).unwrap_or_default(),
        advertised: map.map(|map| map.node.routes.clone()).unwrap_or_default(),
        available: match (map, &settings) {
            (Some(map), Some(settings)) => available(map, settings, observed, key),
            (Some(_), None) | (None, _) => Vec::new(),
        },
        counters: counters(observed),
        approval: None,
        reconciler: kernel.counters,
        exit_node: settings.as_ref().zip(map).and_then(|(settings, map)| {
            Some(ExitReport {
                name: settings.exit_node.clone()?,
                available: !settings.lacks_its_exit(map),
                lan_access: settings.exit_node_allow_lan_access,
            })
        }),
        repairs: kernel.repairs.iter().cloned().collect(),
        notices: map.map(|map| map.notices.clone()).unwrap_or_default(),
        warnings: match (map, &settings) {
            (Some(map), Some(settings)) => warnings(map, settings, looked.now),
            (Some(_), None) | (None, _) => Vec::new(),
        }
        .into_iter()
        .chain(scarce_ports(&looked.ports))
        .collect(),
        ports: most_used(looked.ports),
        failures: kernel
            .failures
            .iter()
            .chain(ledger_problem)
            .cloned()
            .collect(),
    }
}

/// How many destinations are shown, those with the most ports in use.
const DESTINATIONS: usize = 20;

fn most_used(mut ports: Vec<PortUse>) -> Vec<PortReport> {
    ports.sort_by_key(|one| std::cmp::Reverse(one.ports));
    ports.truncate(DESTINATIONS);
    ports
        .into_iter()
        .map(|one| PortReport {
            egress: one.egress,
            protocol: one.protocol.to_string(),
            destination: one.destination,
            ports: one.ports,
            available: NAT_PORTS,
        })
        .collect()
}

fn counters(observed: Option<&ObservedState>) -> BTreeMap<String, Counter> {
    observed
        .and_then(|observed| observed.firewall.as_ref())
        .map(|firewall| firewall.counters.clone())
        .unwrap_or_default()
}

fn peers(map: &NetworkMap, observed: Option<&ObservedState>) -> Vec<PeerReport> {
    let device = observed.and_then(|observed| observed.device.as_ref());
    let mut peers: Vec<_> = map
        .peers
        .values()
        .map(|peer| {
            let seen = device
                .and_then(|device| device.peers.get(&peer.node_key))
                .cloned()
                .unwrap_or_default();
            PeerReport {
                name: peer.name.clone(),
                user: peer.user.clone(),
                tags: peer.tags.clone(),
                addresses: peer.addresses.clone(),
                public_key: peer.node_key,
                endpoint: seen.endpoint.or(peer.endpoint),
                handshake_age: seen.handshake_age,
                received_bytes: seen.received_bytes,
                sent_bytes: seen.sent_bytes,
                routes: peer.routes.clone(),
            }
        })
        .collect();
    peers.sort_by(|a, b| a.name.cmp(&b.name));
    peers
}

/// The routes of others: asks the planner which of them should be in the kernel, so that there is
/// one place that decides.
fn available(
    map: &NetworkMap,
    settings: &NodeSettings,
    observed: Option<&ObservedState>,
    key: &NodePrivateKey,
) -> Vec<AvailableRoute> {
    let desired = desired_state(map, settings, key.clone());
    let usage = |peer: &Peer, prefix| {
        let wanted = desired
            .peers
            .get(&peer.node_key)
            .is_some_and(|wanted| wanted.allowed_ips.contains(prefix));
        let route = desired
            .routes
            .iter()
            .find(|route| route.destination == *prefix);
        let installed = route
            .is_some_and(|route| observed.is_some_and(|observed| observed.routes.contains(route)));
        match (wanted, installed) {
            (true, true) => RouteUse::Installed,
            (true, false) => RouteUse::Missing,
            (false, _) => RouteUse::NotAccepted,
        }
    };
    let mut routes: Vec<_> = map
        .peers
        .values()
        .flat_map(|peer| peer.routes.iter().map(move |prefix| (peer, prefix)))
        .map(|(peer, prefix)| AvailableRoute {
            prefix: *prefix,
            class: TrafficClass::of(prefix),
            via: peer.name.clone(),
            usage: usage(peer, prefix),
        })
        .collect();
    routes.sort_by(|a, b| (a.prefix, &a.via).cmp(&(b.prefix, &b.via)));
    routes
}
