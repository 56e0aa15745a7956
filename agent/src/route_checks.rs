//! Which routes this host should not advertise, and which choices the map does not allow.
//!
//! Pure. A route that holds the address of the coordinator or of a peer's WireGuard would send the
//! tunnel's own packets, or the agent's, into the tunnel of whoever accepts it.

use ipnet::IpNet;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use weir_overlay::{NodeName, refuse_route};
use weir_protocol::{NetworkMap, Peer};

use crate::settings::Settings;

/// All routes that the settings advertise: an exit advertises both default routes, one on a host
/// without IPv6.
pub(crate) fn advertised(settings: &Settings, ipv6: bool) -> BTreeSet<IpNet> {
    let mut routes = settings.advertise_routes.0.clone();
    if settings.advertise_exit_node {
        let default = |address: IpAddr| IpNet::new(address, 0).ok();
        routes.extend(default(Ipv4Addr::UNSPECIFIED.into()));
        if ipv6 {
            routes.extend(default(Ipv6Addr::UNSPECIFIED.into()));
        }
    }
    routes
}

/// What is wrong with the routes on any host: nothing lifts these refusals.
pub(crate) fn never_routable(settings: &Settings) -> Vec<String> {
    settings
        .advertise_routes
        .0
        .iter()
        .filter_map(|prefix| refuse_route(prefix).err())
        .map(|error| format!("{error}; leave it out of --advertise-routes"))
        .collect()
}

/// Which routes would cut the nodes that accept them off from the coordinator: `--force` lifts
/// these refusals.
pub(crate) fn cut_off_coordinator(
    settings: &Settings,
    coordinator: &BTreeSet<IpAddr>,
) -> Vec<String> {
    let holds = |prefix: &IpNet| {
        coordinator
            .iter()
            .find(|address| prefix.contains(*address))
            .copied()
    };
    settings
        .advertise_routes
        .0
        .iter()
        .filter_map(|prefix| Some((prefix, holds(prefix)?)))
        .map(|(prefix, address)| {
            format!(
                "{prefix} holds {address}, the coordinator's address, which the nodes that accept \
                 the route could no longer reach: leave it out, or use --force"
            )
        })
        .collect()
}

/// What the map shows to be wrong with the routes: `--force` lifts these.
pub(crate) fn cut_off_peers(settings: &Settings, map: &NetworkMap) -> Vec<String> {
    cut_off_peers_by(&settings.advertise_routes.0, map)
        .into_iter()
        .map(|(prefix, endpoint, peer)| {
            format!(
                "{prefix} holds {endpoint}, where {peer} is reached, so what its clients send \
                 there would be relayed: leave it out, or use --force"
            )
        })
        .collect()
}

/// Prefixes that hold a peer's endpoint, with the first such peer; default routes hold them all
/// and are left out.
pub(crate) fn cut_off_peers_by<'a>(
    prefixes: &BTreeSet<IpNet>,
    map: &'a NetworkMap,
) -> Vec<(IpNet, IpAddr, &'a NodeName)> {
    let inside = |prefix: &IpNet| {
        map.peers.values().find_map(|peer| {
            let address = peer.endpoint?.ip();
            prefix
                .contains(&address)
                .then_some((*prefix, address, &peer.name))
        })
    };
    prefixes
        .iter()
        .filter(|prefix| prefix.prefix_len() > 0)
        .filter_map(inside)
        .collect()
}

/// The peers that offer an approved exit to this node.
pub(crate) fn exits(map: &NetworkMap) -> impl Iterator<Item = &Peer> {
    map.peers
        .values()
        .filter(|peer| peer.routes.iter().any(|route| route.prefix_len() == 0))
}

/// What is wrong with the choice of an exit node, once the map is known.
pub(crate) fn unknown_exit(settings: &Settings, map: &NetworkMap) -> Option<String> {
    let wanted = settings.exit_node.0.as_ref()?;
    let exits: Vec<_> = exits(map).collect();
    let address: Option<IpAddr> = wanted.parse().ok();
    let known = exits.iter().any(|peer| {
        peer.name.as_str() == wanted
            || address.is_some_and(|address| peer.addresses.contains(&address))
    });
    if known {
        return None;
    }
    let names: Vec<_> = exits.iter().map(|peer| peer.name.to_string()).collect();
    Some(if names.is_empty() {
        format!(
            "there is no exit node \"{wanted}\": no node offers an approved exit that this one may \
             use"
        )
    } else {
        format!(
            "there is no exit node \"{wanted}\" that this node may use; there is: {}",
            names.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Change, OrNone};
    use std::collections::BTreeMap;
    use weir_overlay::{Generation, NodeId, NodePublicKey};
    use weir_protocol::SelfNode;

    fn settings(routes: &str) -> Settings {
        Settings::default().with(&Change {
            advertise_routes: Some(routes.parse().unwrap()),
            ..Change::default()
        })
    }

    fn map() -> NetworkMap {
        let relay = Peer {
            id: NodeId(2),
            name: "relay".parse().unwrap(),
            user: None,
            tags: BTreeSet::new(),
            node_key: NodePublicKey::from_bytes([1; 32]),
            addresses: BTreeSet::from(["100.64.0.2".parse().unwrap()]),
            routes: BTreeSet::from(["0.0.0.0/0".parse().unwrap()]),
            source_prefixes: BTreeSet::new(),
            endpoint: Some("198.51.100.9:51920".parse().unwrap()),
        };
        NetworkMap {
            generation: Generation(1),
            node: SelfNode {
                egress: Vec::new(),
                id: NodeId(1),
                name: "alice".parse().unwrap(),
                user: None,
                tags: BTreeSet::new(),
                addresses: BTreeSet::new(),
                routes: Vec::new(),
                key: weir_protocol::KeyStatus::default(),
            },
            peers: BTreeMap::from([(relay.id, relay)]),
            filter: Vec::new(),
            notices: Vec::new(),
        }
    }

    #[test]
    fn an_exit_advertises_what_the_host_can_carry() {
        let exit = Settings {
            advertise_exit_node: true,
            ..settings("8.8.8.8")
        };
        assert_eq!(advertised(&exit, true).len(), 3);
        assert_eq!(advertised(&exit, false).len(), 2);
    }

    #[test]
    fn routes_that_cut_off_are_named_with_the_reason() {
        let coordinator = BTreeSet::from(["192.0.2.1".parse().unwrap()]);
        let refused = cut_off_coordinator(&settings("192.0.2.0/24,8.8.8.8"), &coordinator);
        assert_eq!(refused.len(), 1);
        assert!(refused[0].starts_with("192.0.2.0/24 holds 192.0.2.1, the coordinator's address"));
        assert!(cut_off_peers(&settings("198.51.100.0/24"), &map())[0].contains("relay"));
        assert!(cut_off_peers(&settings("8.8.8.8"), &map()).is_empty());
        assert!(never_routable(&settings("127.0.0.0/8"))[0].contains("loopback"));
    }

    #[test]
    fn an_exit_node_must_be_one() {
        let with = |exit: &str| Settings {
            exit_node: OrNone(Some(exit.to_owned())),
            ..Settings::default()
        };
        assert_eq!(unknown_exit(&with("relay"), &map()), None);
        assert_eq!(unknown_exit(&with("100.64.0.2"), &map()), None);
        assert!(
            unknown_exit(&with("bob"), &map())
                .unwrap()
                .ends_with("there is: relay")
        );
        assert_eq!(unknown_exit(&Settings::default(), &map()), None);
    }
}
