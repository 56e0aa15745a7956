//! From a network map and the node's settings to the state that the kernel should have.

use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use weir_overlay::{AddressSet, InterfaceName, NodePrivateKey, TrafficClass, overlay_prefixes};
use weir_protocol::{NetworkMap, Peer, RouteState};

use crate::{
    DesiredDevice, DesiredLink, DesiredPeer, DesiredState, EXIT_TABLE, IpFamily, KEEPALIVE_SECONDS,
    MAIN_TABLE, PolicyRule, RELAYED_TABLE, RULE_EXIT, RULE_MAIN, RULE_RELAYED, RULE_SUBNET, Route,
    SUBNET_TABLE, Scope, SysctlKey, TUNNEL_MARK, WireguardBackend,
    firewall::{DesiredFirewall, SourceTranslation},
};

/// What the admin of this host chose, and what its kernel can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSettings {
    /// The link's name.
    pub interface: InterfaceName,
    /// Who carries WireGuard's packets.
    pub backend: WireguardBackend,
    /// The link's MTU, in bytes.
    pub mtu: u32,
    /// The UDP port that WireGuard listens on.
    pub listen_port: u16,
    /// Whether routes of peers are taken.
    pub accept_routes: bool,
    /// The peer whose default routes are taken: a name or an overlay address.
    pub exit_node: Option<String>,
    /// Whether directly connected networks stay reachable while an exit is used.
    pub exit_node_allow_lan_access: bool,
    /// Whether private subnets see this relay's address.
    pub snat_subnet_routes: bool,
    /// Fixed source addresses of relayed traffic, one of each family at most.
    pub egress: BTreeSet<IpAddr>,
    /// The routes this node advertises.
    pub advertised: BTreeSet<IpNet>,
    /// Whether the host has IPv6.
    pub ipv6: bool,
    /// Links that would lose their IPv6 default route when forwarding is turned on.
    pub autoconfigured_links: BTreeSet<String>,
    /// Whether this node has no fixed way in and must keep its NAT's memory of it alive.
    pub keepalive: bool,
}

impl NodeSettings {
    fn speaks(&self, prefix: &IpNet) -> bool {
        self.ipv6 || prefix.addr().is_ipv4()
    }

    fn is_exit(&self, peer: &Peer) -> bool {
        self.exit_node.as_ref().is_some_and(|wanted| {
            peer.name.as_str() == wanted
                || wanted
                    .parse()
                    .is_ok_and(|address: IpAddr| peer.addresses.contains(&address))
        })
    }

    /// The routes of a peer that this node takes.
    fn taken<'a>(&'a self, peer: &'a Peer) -> impl Iterator<Item = IpNet> + 'a {
        peer.routes
            .iter()
            .copied()
            .filter(|prefix| self.speaks(prefix))
            .filter(|prefix| {
                match TrafficClass::of(prefix) {
                    TrafficClass::Exit => self.is_exit(peer),
                    // A relay reaches what it advertises itself, not through another one.
                    TrafficClass::Subnet | TrafficClass::Relayed => {
                        self.accept_routes && !self.advertised.contains(prefix)
                    }
                    TrafficClass::Node => false,
                }
            })
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

fn firewall(map: &NetworkMap, settings: &NodeSettings, own: &BTreeSet<IpAddr>) -> DesiredFirewall {
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
        },
    }
}

fn rules(routes: &BTreeSet<Route>, settings: &NodeSettings) -> BTreeSet<PolicyRule> {
    let mut rules = BTreeSet::new();
    for family in [IpFamily::V4, IpFamily::V6] {
        let has = |table| {
            routes
                .iter()
                .any(|r| r.table == table && IpFamily::of(&r.destination) == family)
        };
        let mut rule = |priority, table, suppress_prefix_length| {
            rules.insert(PolicyRule {
                priority,
                family,
                table,
                suppress_prefix_length,
            });
        };
        if has(RELAYED_TABLE) {
            rule(RULE_RELAYED, RELAYED_TABLE, None);
        }
        let exit = has(EXIT_TABLE);
        if (has(SUBNET_TABLE) || exit) && (!exit || settings.exit_node_allow_lan_access) {
            rule(RULE_MAIN, MAIN_TABLE, Some(0));
        }
        if has(SUBNET_TABLE) {
            rule(RULE_SUBNET, SUBNET_TABLE, None);
        }
        if exit {
            rule(RULE_EXIT, EXIT_TABLE, None);
        }
    }
    rules
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
    let source = |prefix: &IpNet| {
        own.iter()
            .copied()
            .find(|a| a.is_ipv4() == prefix.addr().is_ipv4())
    };
    let mut peers = BTreeMap::new();
    let mut routes: BTreeSet<Route> = overlay_prefixes()
        .into_iter()
        .filter(|prefix| settings.speaks(prefix))
        .map(|prefix| Route {
            table: MAIN_TABLE,
            destination: prefix,
            source: source(&prefix),
        })
        .collect();
    for peer in map.peers.values() {
        let taken: BTreeSet<IpNet> = settings.taken(peer).collect();
        routes.extend(taken.iter().map(|prefix| Route {
            table: match TrafficClass::of(prefix) {
                TrafficClass::Relayed => RELAYED_TABLE,
                TrafficClass::Exit => EXIT_TABLE,
                TrafficClass::Subnet | TrafficClass::Node => SUBNET_TABLE,
            },
            destination: *prefix,
            source: source(prefix),
        }));
        let mut allowed_ips = taken;
        allowed_ips.extend(peer.addresses.iter().map(|address| IpNet::from(*address)));
        allowed_ips.extend(peer.source_prefixes.iter().copied());
        allowed_ips.retain(|prefix| settings.speaks(prefix));
        peers.insert(
            peer.node_key,
            DesiredPeer {
                allowed_ips,
                endpoint: peer.endpoint.filter(|at| settings.ipv6 || at.is_ipv4()),
                keepalive: (settings.keepalive && peer.endpoint.is_some())
                    .then_some(KEEPALIVE_SECONDS),
            },
        );
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
        peers,
        rules: rules(&routes, settings),
        routes,
        sysctls: relay_sysctls(&settings.advertised, &settings.autoconfigured_links),
        firewall: firewall(map, settings, &own),
    }
}

/// What must be looked at to plan towards a state.
#[must_use]
pub fn scope(desired: &DesiredState) -> Scope {
    Scope {
        interface: desired.link.name.clone(),
        sysctls: desired.sysctls.keys().cloned().collect(),
    }
}
