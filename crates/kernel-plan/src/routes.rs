//! Which packets enter the tunnel: routes of ours, the rules that lead to them, and what each peer
//! may carry.
//!
//! | table | looked up | holds |
//! |---|---|---|
//! | `main` | | the overlay |
//! | relayed | before `main` | relayed public prefixes of peers |
//! | subnet | after `main`, its default route left out | private prefixes of peers |
//! | exit | last | the exit's default routes, the overlay, and a refusal of all else |

use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use weir_overlay::{NodeId, TrafficClass, overlay_prefixes};
use weir_protocol::{NetworkMap, Peer};

use crate::{
    EXIT_TABLE, IpFamily, MAIN_TABLE, NodeSettings, PolicyRule, RELAYED_TABLE, RULE_EXIT,
    RULE_MAIN, RULE_RELAYED, RULE_SUBNET, Route, RouteTarget, SUBNET_TABLE,
};

/// What of a network map concerns routing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeRoutes {
    /// Our routes.
    pub(crate) routes: BTreeSet<Route>,
    /// The rules that lead to them: none for a table without routes.
    pub(crate) rules: BTreeSet<PolicyRule>,
    /// What may come from each peer and is sent to it.
    pub(crate) allowed_ips: BTreeMap<NodeId, BTreeSet<IpNet>>,
}

/// The routes of a peer that this node takes.
fn taken<'a>(settings: &'a NodeSettings, peer: &'a Peer) -> impl Iterator<Item = IpNet> + 'a {
    let routes = peer.routes.iter().copied();
    routes
        .filter(|prefix| settings.speaks(prefix))
        .filter(|prefix| {
            let is_direct = settings
                .direct
                .iter()
                .any(|address| IpNet::from(*address) == *prefix);
            match TrafficClass::of(prefix) {
                TrafficClass::Exit => settings.is_exit(peer),
                // A relay reaches what it advertises itself, not through another one.
                TrafficClass::Subnet | TrafficClass::Relayed => {
                    settings.accept_routes && !settings.advertised.contains(prefix) && !is_direct
                }
                TrafficClass::Node => false,
            }
        })
}

/// Private prefixes from which a peer hands us packets as they are: the answers must go back the
/// same way, and a strict `rp_filter` drops the packets where there is no way back. A public
/// prefix is none of these: its hosts begin nothing, and a route would hijack our own traffic.
fn answered<'a>(settings: &'a NodeSettings, peer: &'a Peer) -> impl Iterator<Item = IpNet> + 'a {
    let prefixes = peer.source_prefixes.iter().copied();
    prefixes.filter(|prefix| {
        settings.accept_routes
            && settings.speaks(prefix)
            && !settings.advertised.contains(prefix)
            && TrafficClass::of(prefix) == TrafficClass::Subnet
    })
}

fn table_of(prefix: &IpNet) -> u32 {
    match TrafficClass::of(prefix) {
        TrafficClass::Relayed => RELAYED_TABLE,
        TrafficClass::Exit => EXIT_TABLE,
        TrafficClass::Subnet | TrafficClass::Node => SUBNET_TABLE,
    }
}

/// All that leaves by default stays in the tunnel or goes nowhere while an exit is chosen: also
/// while there is no such peer, in a family that it does not carry, and without the link.
fn closed_exit(
    settings: &NodeSettings,
    through_link: &impl Fn(u32, IpNet) -> Route,
) -> BTreeSet<Route> {
    let mut routes = BTreeSet::new();
    let everything = [
        IpNet::from(IpAddr::from(Ipv4Addr::UNSPECIFIED)),
        IpNet::from(IpAddr::from(Ipv6Addr::UNSPECIFIED)),
    ];
    for prefix in everything
        .iter()
        .filter_map(|host| IpNet::new(host.addr(), 0).ok())
    {
        routes.insert(Route {
            table: EXIT_TABLE,
            destination: prefix,
            target: RouteTarget::Unreachable,
        });
    }
    // The table is looked up before `main`, where the overlay's own route is.
    routes.extend(
        overlay_prefixes()
            .into_iter()
            .map(|prefix| through_link(EXIT_TABLE, prefix)),
    );
    routes.retain(|route| settings.speaks(&route.destination));
    routes
}

/// A hole for each address that is reached directly, in every table that would catch it before
/// `main` does.
fn holes(routes: &BTreeSet<Route>, settings: &NodeSettings) -> BTreeSet<Route> {
    let catches = |table: u32, address: &IpAddr| {
        routes
            .iter()
            .any(|route| route.table == table && route.destination.contains(address))
    };
    let tables = [RELAYED_TABLE, EXIT_TABLE];
    let addresses = settings.direct.iter();
    addresses
        .flat_map(|address| tables.map(|table| (table, address)))
        .filter(|(table, address)| catches(*table, address))
        .map(|(table, address)| Route {
            table,
            destination: IpNet::from(*address),
            target: RouteTarget::NextRule,
        })
        .collect()
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

/// Routes, rules and allowed prefixes of a node that has these overlay addresses.
pub(crate) fn node_routes(
    map: &NetworkMap,
    settings: &NodeSettings,
    own: &BTreeSet<IpAddr>,
) -> NodeRoutes {
    let through_link = |table, destination: IpNet| Route {
        table,
        destination,
        target: RouteTarget::Link {
            source: own
                .iter()
                .copied()
                .find(|address| address.is_ipv4() == destination.addr().is_ipv4()),
        },
    };
    let mut routes: BTreeSet<Route> = overlay_prefixes()
        .into_iter()
        .filter(|prefix| settings.speaks(prefix))
        .map(|prefix| through_link(MAIN_TABLE, prefix))
        .collect();
    if settings.exit_node.is_some() {
        routes.extend(closed_exit(settings, &through_link));
    }
    let mut allowed_ips = BTreeMap::new();
    for peer in map.peers.values() {
        let mut allowed: BTreeSet<IpNet> = taken(settings, peer).collect();
        let led_here = allowed.iter().copied().chain(answered(settings, peer));
        routes.extend(led_here.map(|prefix| through_link(table_of(&prefix), prefix)));
        allowed.extend(peer.addresses.iter().map(|address| IpNet::from(*address)));
        allowed.extend(peer.source_prefixes.iter().copied());
        allowed.retain(|prefix| settings.speaks(prefix));
        allowed_ips.insert(peer.id, allowed);
    }
    routes.extend(holes(&routes, settings));
    NodeRoutes {
        rules: rules(&routes, settings),
        routes,
        allowed_ips,
    }
}
