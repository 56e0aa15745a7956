//! What passes, and where packets go, in one state of the kernel.

use std::{collections::BTreeMap, net::IpAddr};

use weir_kernel_plan::{
    DesiredState, MAIN_TABLE, ObservedState, RouteTarget, SysctlKey, firewall::DesiredFirewall,
};
use weir_lab::{Direction, FakeKernel, ForwardedPacket};
use weir_overlay::NodePublicKey;
use weir_protocol::IpProtocol;

use crate::network::{OWN, PEERS, PORTS, ROUTES, address, key, prefix};

/// The firewalls that may be in force during a change, by fingerprint.
pub(crate) type Firewalls = BTreeMap<String, DesiredFirewall>;

pub(crate) fn firewalls(before: Option<&DesiredState>, after: Option<&DesiredState>) -> Firewalls {
    let both = before
        .zip(after)
        .map(|(before, after)| before.firewall.tightened_to(&after.firewall));
    let all = [before, after].into_iter().flatten();
    all.map(|state| state.firewall.clone())
        .chain(both)
        .map(|firewall| (firewall.fingerprint(&"weir0".parse().unwrap()), firewall))
        .collect()
}

/// The peer whose prefixes cover an address best.
fn peer_of(state: &ObservedState, address: IpAddr) -> Option<NodePublicKey> {
    let peers = state.device.iter().flat_map(|device| &device.peers);
    peers
        .flat_map(|(key, peer)| peer.allowed_ips.iter().map(move |net| (net, *key)))
        .filter(|(net, _)| net.contains(&address))
        .max_by_key(|(net, _)| net.prefix_len())
        .map(|(_, key)| key)
}

fn grants(firewall: &DesiredFirewall, source: IpAddr, to: IpAddr, port: u16) -> bool {
    let relayed = firewall.served.contains(to) || firewall.own_addresses.contains(to);
    relayed
        && firewall.grants.iter().any(|grant| {
            grant.sources.contains(source)
                && grant.destinations.iter().any(|destination| {
                    let ports = destination.ports;
                    destination.addresses.contains(to) && (ports.first..=ports.last).contains(&port)
                })
        })
}

/// A new connection: by which key it comes in, from where, to where.
pub(crate) type Packet = (NodePublicKey, IpAddr, IpAddr, u16);

/// All that is asked about.
pub(crate) fn packets() -> Vec<Packet> {
    let sources: Vec<IpAddr> = (0..PEERS)
        .map(address)
        .chain(["8.8.8.8".parse().unwrap(), "10.20.0.5".parse().unwrap()])
        .collect();
    let places: Vec<IpAddr> = [OWN, "1.1.1.1", "10.77.0.9", "192.0.2.80", "100.64.0.12"]
        .iter()
        .map(|place| place.parse().unwrap())
        .collect();
    let mut all = Vec::new();
    for peer in 0..PEERS {
        for version in 0..2 {
            for source in &sources {
                for place in &places {
                    all.extend(PORTS.map(|port| (key(peer, version), *source, *place, port)));
                }
            }
        }
    }
    all
}

/// Asks `kernel` about a table that is none of those known: one on the way from one to the next.
pub(crate) fn passes(
    state: &ObservedState,
    known: &Firewalls,
    kernel: Option<&FakeKernel>,
    (by, source, to, port): Packet,
) -> bool {
    let up = state.link.as_ref().is_some_and(|link| link.up);
    if !up || peer_of(state, source) != Some(by) {
        return false;
    }
    let own = state
        .link
        .iter()
        .any(|link| link.addresses.iter().any(|net| net.addr() == to));
    let forwards = state.sysctls[&SysctlKey::ipv4_forwarding()].as_deref() == Some("1");
    if !own && !forwards {
        return false;
    }
    match &state.firewall {
        // Nobody judges.
        None => true,
        Some(table) => {
            let loaded = table
                .fingerprint
                .as_ref()
                .and_then(|print| known.get(print));
            match (loaded, kernel) {
                (Some(firewall), _) => grants(firewall, source, to, port),
                (None, Some(kernel)) => kernel.judge(&first_packet(source, to, port)).accepted,
                (None, None) => panic!("a known firewall is loaded"),
            }
        }
    }
}

/// Packets to the host itself are looked up as those that are relayed.
fn first_packet(source: IpAddr, destination: IpAddr, port: u16) -> ForwardedPacket {
    ForwardedPacket {
        from_link: "weir0".to_owned(),
        to_link: "eth0".to_owned(),
        source,
        destination,
        protocol: IpProtocol::TCP.0,
        ports: Some((40_000, port)),
        direction: Direction::Original,
        mark: 0,
    }
}

/// Where the host's own packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Direct,
    Tunnel(NodePublicKey),
    Nowhere,
}

pub(crate) fn way(state: &ObservedState, to: IpAddr) -> Way {
    let mut rules: Vec<_> = state.rules.iter().collect();
    rules.sort_by_key(|rule| rule.priority);
    let mut tables: Vec<u32> = rules.iter().map(|rule| rule.table).collect();
    tables.push(MAIN_TABLE);
    for table in tables {
        let routes = state.routes.iter().filter(|route| route.table == table);
        let best = routes
            .filter(|route| route.destination.contains(&to))
            .max_by_key(|route| {
                let backstop = route.target == RouteTarget::Unreachable;
                (route.destination.prefix_len(), !backstop)
            });
        match best.map(|route| route.target) {
            Some(RouteTarget::Link { .. }) => {
                return peer_of(state, to).map_or(Way::Nowhere, Way::Tunnel);
            }
            Some(RouteTarget::Unreachable) => return Way::Nowhere,
            Some(RouteTarget::NextRule) | None => {}
        }
    }
    Way::Direct
}

pub(crate) fn places() -> Vec<IpAddr> {
    let routed = ROUTES.iter().map(|route| prefix(route).addr());
    routed.chain((0..PEERS).map(address)).collect()
}

/// Compares every state of a change with the one before and the one after it.
pub(crate) struct Judge {
    pub(crate) known: Firewalls,
    /// Each packet, whether it passes before, and whether it passes after.
    pub(crate) packets: Vec<(Packet, bool, bool)>,
    /// Each place, and the way to it before and after.
    pub(crate) places: Vec<(IpAddr, Way, Way)>,
    /// Whether the host was up before and is up after: only then can anything be interrupted.
    pub(crate) continues: bool,
}

impl Judge {
    pub(crate) fn new(
        known: Firewalls,
        before: &ObservedState,
        after: &ObservedState,
        continues: bool,
    ) -> Self {
        let passes = |state, packet| passes(state, &known, None, packet);
        let packets = packets();
        let places = places();
        Self {
            packets: packets
                .into_iter()
                .map(|packet| (packet, passes(before, packet), passes(after, packet)))
                .collect(),
            places: places
                .into_iter()
                .map(|place| (place, way(before, place), way(after, place)))
                .collect(),
            continues,
            known,
        }
    }

    /// What the kernel does now.
    pub(crate) fn judge_kernel(&self, kernel: &FakeKernel) -> Result<(), String> {
        self.compare(&kernel.state(), Some(kernel))
    }

    pub(crate) fn judge(&self, state: &ObservedState) -> Result<(), String> {
        self.compare(state, None)
    }

    fn compare(&self, state: &ObservedState, kernel: Option<&FakeKernel>) -> Result<(), String> {
        for (packet, before, after) in &self.packets {
            let now = passes(state, &self.known, kernel, *packet);
            if now && !before && !after {
                return Err(format!("{packet:?} passes, and neither before nor after"));
            }
            if !now && *before && *after && self.continues {
                return Err(format!(
                    "{packet:?} is cut off, and passes before and after"
                ));
            }
        }
        for (place, before, after) in &self.places {
            let now = way(state, *place);
            let same = before == after && self.continues;
            if now != *before && now != *after && (same || now != Way::Nowhere) {
                return Err(format!(
                    "to {place}: {before:?}, then {now:?}, then {after:?}"
                ));
            }
        }
        Ok(())
    }
}
