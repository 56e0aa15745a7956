//! From a network map and the node's settings to the state that the kernel should have.

use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use weir_overlay::{AddressSet, InterfaceName, NodePrivateKey, TrafficClass};
use weir_protocol::{NetworkMap, Peer, RouteEgress, RouteState};

use crate::{
    DesiredDevice, DesiredLink, DesiredPeer, DesiredState, IpFamily, KEEPALIVE_SECONDS, LinkMtu,
    NodeRoutes, PATHS_AT_MOST, PolicyRule, RELAYED_TABLE, Route, RouteTarget, Scope, SysctlKey,
    TUNNEL_MARK, WireguardBackend,
    firewall::{DesiredFirewall, SourceTranslation},
    node_routes,
};

/// What the admin of this host chose, and what its kernel can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSettings {
    /// The link's name.
    pub interface: InterfaceName,
    /// Who carries WireGuard's packets.
    pub backend: WireguardBackend,
    /// The link's MTU.
    pub mtu: LinkMtu,
    /// The UDP port that WireGuard listens on.
    pub listen_port: u16,
    /// Whether routes of peers are taken.
    pub accept_routes: bool,
    /// The peer whose default routes are taken: a name or an overlay address. While it is set,
    /// nothing leaves past it, also when there is no such peer.
    pub exit_node: Option<String>,
    /// Whether directly connected networks stay reachable while an exit is used.
    pub exit_node_allow_lan_access: bool,
    /// Whether private subnets see this relay's address.
    pub snat_subnet_routes: bool,
    /// Fixed source addresses of relayed traffic, one of each family at most.
    pub egress: BTreeSet<IpAddr>,
    /// Fixed source addresses of what is relayed to single routes.
    pub route_egress: BTreeMap<IpNet, IpAddr>,
    /// The routes this node advertises.
    pub advertised: BTreeSet<IpNet>,
    /// Whether the host has IPv6.
    pub ipv6: bool,
    /// Links that would lose their IPv6 default route when forwarding is turned on.
    pub autoconfigured_links: BTreeSet<String>,
    /// Whether this node has no fixed way in and must keep its NAT's memory of it alive.
    pub keepalive: bool,
    /// What is reached directly whatever the routes say: the coordinator, without which a node
    /// whose exit is gone would never hear of another one.
    pub direct: BTreeSet<IpAddr>,
    /// Whether the kernel can be told to heed packet marks when it checks where a packet came from
    /// (`src_valid_mark`). Where settings cannot be written, it is left as it is.
    pub may_validate_marks: bool,
}

impl NodeSettings {
    pub(crate) fn speaks(&self, prefix: &IpNet) -> bool {
        self.ipv6 || prefix.addr().is_ipv4()
    }

    /// Whether this peer is the exit that the admin of this host chose.
    #[must_use]
    pub fn is_exit(&self, peer: &Peer) -> bool {
        self.exit_node.as_ref().is_some_and(|wanted| {
            peer.name.as_str() == wanted
                || wanted
                    .parse()
                    .is_ok_and(|address: IpAddr| peer.addresses.contains(&address))
        })
    }

    /// Whether an exit was chosen and the map has no such exit (any more): then everything that
    /// would have used it is refused.
    #[must_use]
    pub fn lacks_its_exit(&self, map: &NetworkMap) -> bool {
        let is_there = |peer: &Peer| {
            self.is_exit(peer) && peer.routes.iter().any(|route| route.prefix_len() == 0)
        };
        self.exit_node.is_some() && !map.peers.values().any(is_there)
    }
}

/// The kernel settings that relaying to these routes needs.
#[must_use]
pub fn relay_sysctls(
    advertised: &BTreeSet<IpNet>,
    autoconfigured_links: &BTreeSet<String>,
) -> BTreeMap<SysctlKey, String> {
    let mut wanted = BTreeMap::new();
    if advertised.iter().any(|prefix| prefix.addr().is_ipv4()) {
        wanted.insert(SysctlKey::ipv4_forwarding(), "1".to_owned());
    }
    if advertised.iter().any(|prefix| prefix.addr().is_ipv6()) {
        // First: forwarding makes the kernel forget routes learned with accept_ra=1.
        for link in autoconfigured_links {
            wanted.insert(
                SysctlKey::accept_router_advertisements(link),
                "2".to_owned(),
            );
        }
        wanted.insert(SysctlKey::ipv6_forwarding(), "1".to_owned());
    }
    wanted
}

/// The public prefixes that are reached through relays, without the holes in them.
fn relayed(routes: &BTreeSet<Route>) -> AddressSet {
    let with = |wanted: fn(&RouteTarget) -> bool| -> AddressSet {
        routes
            .iter()
            .filter(|route| route.table == RELAYED_TABLE && wanted(&route.target))
            .map(|route| route.destination)
            .collect()
    };
    with(|target| matches!(target, RouteTarget::Link { .. }))
        .difference(&with(|target| *target == RouteTarget::NextRule))
}

/// What single routes leave with: as an admin of the network chose or, where none did, as the
/// admin of this host did. Of several choices for one source the first counts.
fn route_egress(map: &NetworkMap, settings: &NodeSettings) -> Vec<RouteEgress> {
    let own = settings
        .route_egress
        .iter()
        .map(|(route, address)| RouteEgress {
            route: *route,
            sources: None,
            address: *address,
        });
    map.node.egress.iter().cloned().chain(own).collect()
}

fn firewall(
    map: &NetworkMap,
    settings: &NodeSettings,
    own: &BTreeSet<IpAddr>,
    routes: &BTreeSet<Route>,
    rules: &BTreeSet<PolicyRule>,
) -> DesiredFirewall {
    let approved: Vec<_> = map
        .node
        .routes
        .iter()
        .filter(|route| matches!(route.state, RouteState::Serving | RouteState::Standby))
        .map(|route| route.prefix)
        .filter(|prefix| settings.advertised.contains(prefix) && settings.speaks(prefix))
        .collect();
    let is_exit = |prefix: &IpNet| TrafficClass::of(prefix) == TrafficClass::Exit;
    DesiredFirewall {
        own_addresses: own.iter().map(|address| IpNet::from(*address)).collect(),
        served: approved
            .iter()
            .copied()
            .filter(|prefix| !is_exit(prefix))
            .collect::<AddressSet>(),
        exit: approved.iter().any(is_exit),
        grants: map.filter.clone(),
        translation: SourceTranslation {
            subnets: settings.snat_subnet_routes,
            egress: settings.egress.clone(),
            routes: route_egress(map, settings),
        },
        tunnel_port: (!rules.is_empty()).then_some(settings.listen_port),
        relayed: relayed(routes),
    }
}

/// The state that the kernel should have.
#[must_use]
pub fn desired_state(
    map: &NetworkMap,
    settings: &NodeSettings,
    private_key: NodePrivateKey,
) -> DesiredState {
    let own: BTreeSet<IpAddr> = map
        .node
        .addresses
        .iter()
        .copied()
        .filter(|address| settings.speaks(&IpNet::from(*address)))
        .collect();
    let NodeRoutes {
        routes,
        rules,
        mut allowed_ips,
    } = node_routes(map, settings, &own);
    let peers = map.peers.values().map(|peer| {
        let desired = DesiredPeer {
            allowed_ips: allowed_ips.remove(&peer.id).unwrap_or_default(),
            endpoint: peer.endpoint.filter(|at| settings.ipv6 || at.is_ipv4()),
            keepalive: (settings.keepalive && peer.endpoint.is_some()).then_some(KEEPALIVE_SECONDS),
        };
        (peer.node_key, desired)
    });
    let mut sysctls = relay_sysctls(&settings.advertised, &settings.autoconfigured_links);
    if settings.may_validate_marks && rules.iter().any(|rule| rule.family == IpFamily::V4) {
        sysctls.insert(SysctlKey::validate_marks(), "1".to_owned());
    }
    DesiredState {
        link: DesiredLink {
            name: settings.interface.clone(),
            backend: settings.backend,
            mtu: settings.mtu,
            addresses: own.iter().map(|address| IpNet::from(*address)).collect(),
        },
        device: DesiredDevice {
            private_key,
            listen_port: settings.listen_port,
            firewall_mark: TUNNEL_MARK,
        },
        peers: peers.collect(),
        sysctls,
        firewall: firewall(map, settings, &own, &routes, &rules),
        rules,
        routes,
    }
}

/// Public addresses that stand for peers without a known place: they are reached by the default
/// route. Only the kernel is asked for the way there; nothing is sent.
const ANYWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2606, 0x4700, 0x4700, 0, 0, 0, 0, 0x1111)),
];

/// The paths that the tunnel's packets take.
fn paths(desired: &DesiredState) -> BTreeSet<IpAddr> {
    if desired.link.mtu != LinkMtu::FromPath {
        return BTreeSet::new();
    }
    let endpoints = desired.peers.values().map(|peer| peer.endpoint);
    let all_are_known = !desired.peers.is_empty() && endpoints.clone().all(|at| at.is_some());
    let mut paths: BTreeSet<IpAddr> = endpoints
        .flatten()
        .map(|endpoint| endpoint.ip())
        .take(PATHS_AT_MOST)
        .collect();
    if !all_are_known {
        paths.extend(ANYWHERE);
    }
    paths
}

/// What must be looked at to plan towards a state.
#[must_use]
pub fn scope(desired: &DesiredState) -> Scope {
    Scope {
        interface: desired.link.name.clone(),
        sysctls: desired.sysctls.keys().cloned().collect(),
        paths: paths(desired),
    }
}
