//! `doctor`: gathers what is to be known of the host; the pure room decides what it means.

use anyhow::{Context, Result};
use nix::sys::statvfs::statvfs;
use std::{collections::BTreeSet, net::IpAddr, path::Path, time::Duration};
use tokio::net::lookup_host;
use weir_diagnosis::{
    Checks,
    doctor::{
        CoordinatorSeen, DiskSeen, Host as HostSeen, NodeSeen, PeerSeen, anywhere, doctor,
        stands_for,
    },
};
use weir_kernel::{ExamineRequest, LinuxKernel};
use weir_kernel_plan::{
    DEFAULT_INTERFACE, DEFAULT_LISTEN_PORT, DesiredState, NodeSettings, desired_state,
};
use weir_protocol::{NetworkMap, RouteState};
use weir_reconcile::Status;

use super::{agent::Agent, host::Host, saved::Enrolment};
use crate::{control::NodeState, coordinator::Client, settings::CoordinatorUrl};

/// How long `doctor` waits for the reconciler's fresh look.
const LOOK_DEADLINE: Duration = Duration::from_secs(5);
/// How long the host's resolver may take.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);
/// How long the coordinator may take to answer.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);

impl<H: Host> Agent<H> {
    /// Examines the host. Changes nothing.
    ///
    /// # Errors
    /// What cannot be looked at.
    pub(crate) async fn doctor(&self) -> Result<Checks> {
        let (saved, map) = {
            let state = self.state();
            (state.saved.clone(), state.ledger.map().cloned())
        };
        let settings = saved
            .applied
            .as_ref()
            .filter(|_| saved.state == NodeState::Up)
            .map(|applied| applied.node_settings());
        let kernel = self.reconciler.look(LOOK_DEADLINE).await;
        let node = map.zip(settings.as_ref()).map(|(map, settings)| {
            let desired = desired_state(&map, settings, self.keys().node);
            node_seen(&map, settings, &desired, &kernel)
        });
        let request = request(settings.as_ref(), node.as_ref())?;
        let seen = self
            .host
            .examine(&request)
            .await
            .context("cannot look at this host")?;
        let coordinator = match &saved.enrolment {
            Some(enrolment) => self.ask_coordinator(enrolment).await,
            None => None,
        };
        Ok(doctor(&HostSeen {
            interface: request.interface,
            listen_port: request.listen_port,
            seen,
            node,
            coordinator,
            disk: disk(&self.directory.path_of("")),
        }))
    }

    /// Of several coordinators, the first that answers; else the last.
    async fn ask_coordinator(&self, enrolment: &Enrolment) -> Option<CoordinatorSeen> {
        let mut asked = None;
        for url in enrolment.coordinator.0.as_ref()?.iter() {
            let seen = self.ask(url, enrolment).await;
            if seen.unreached.is_none() {
                return Some(seen);
            }
            asked = Some(seen);
        }
        asked
    }

    async fn ask(&self, url: &CoordinatorUrl, enrolment: &Enrolment) -> CoordinatorSeen {
        let mut seen = CoordinatorSeen {
            url: url.to_string(),
            unresolved: None,
            unreached: None,
            pinned: enrolment.pin.is_some() && url.is_https(),
            ahead: None,
        };
        let found = tokio::time::timeout(RESOLVE_DEADLINE, lookup_host((url.host(), url.port())));
        seen.unresolved = match found.await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!(
                "the resolver did not answer within {} s",
                RESOLVE_DEADLINE.as_secs()
            )),
        };
        let urls = url.clone().into();
        let probed = match Client::new(urls, enrolment.pin, self.keys().machine.clone()) {
            Ok(client) => client.probe(PROBE_DEADLINE).await,
            Err(error) => Err(error),
        };
        match probed {
            Ok(ahead) => seen.ahead = ahead,
            Err(error) => seen.unreached = Some(error.to_string()),
        }
        seen
    }
}

/// Examines the host while no daemon runs: what there is to see without a node.
///
/// # Errors
/// What cannot be looked at.
pub(crate) async fn doctor_without_daemon(state: &Path) -> Result<Checks> {
    let request = request(None, None)?;
    let seen = LinuxKernel::default()
        .examine(&request)
        .await
        .context("cannot look at this host")?;
    Ok(doctor(&HostSeen {
        interface: request.interface,
        listen_port: request.listen_port,
        seen,
        node: None,
        coordinator: None,
        disk: disk(state),
    }))
}

fn request(settings: Option<&NodeSettings>, node: Option<&NodeSeen>) -> Result<ExamineRequest> {
    let mut ways: BTreeSet<IpAddr> = [anywhere(true), anywhere(false)].into();
    if let Some(node) = node {
        ways.extend(node.serves.iter().map(stands_for));
        ways.extend(
            node.peers
                .iter()
                .filter_map(|peer| Some(peer.endpoint?.ip())),
        );
    }
    Ok(ExamineRequest {
        interface: match settings {
            Some(settings) => settings.interface.clone(),
            None => DEFAULT_INTERFACE.parse()?,
        },
        listen_port: settings.map_or(DEFAULT_LISTEN_PORT, |settings| settings.listen_port),
        ways,
        sysctls: node
            .map(|node| node.needs.keys().cloned().collect())
            .unwrap_or_default(),
    })
}

fn node_seen(
    map: &NetworkMap,
    settings: &NodeSettings,
    desired: &DesiredState,
    kernel: &Status,
) -> NodeSeen {
    let device = kernel
        .observed
        .as_ref()
        .and_then(|observed| observed.device.as_ref());
    let peers = map.peers.values().map(|peer| {
        let seen = device
            .and_then(|device| device.peers.get(&peer.node_key))
            .cloned()
            .unwrap_or_default();
        PeerSeen {
            name: peer.name.clone(),
            addresses: peer.addresses.clone(),
            endpoint: seen.endpoint.or(peer.endpoint),
            shook_hands: seen.handshake_age.is_some(),
            sent_bytes: seen.sent_bytes,
        }
    });
    let own = &desired.firewall.own_addresses;
    NodeSeen {
        addresses: map.node.addresses.clone(),
        serves: map
            .node
            .routes
            .iter()
            .filter(|route| matches!(route.state, RouteState::Serving | RouteState::Standby))
            .map(|route| route.prefix)
            .collect(),
        is_reached: map
            .filter
            .iter()
            .flat_map(|grant| &grant.destinations)
            .any(|to| to.addresses.overlaps(own)),
        uses_exit: settings.exit_node.is_some(),
        needs: desired.sysctls.clone(),
        peers: peers.collect(),
        failures: kernel.failures.clone(),
        mtu: desired.link.mtu.bytes(None),
    }
}

/// What is left where the state is; none when it cannot be asked.
fn disk(path: &Path) -> Option<DiskSeen> {
    let seen = statvfs(path).ok()?;
    Some(DiskSeen {
        path: path.display().to_string().trim_end_matches('/').to_owned(),
        free: seen.blocks_available().saturating_mul(seen.fragment_size()),
    })
}
