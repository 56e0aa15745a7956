//! What must never be in a network map.

use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use weir_overlay::{GrantId, NodeId, NodePublicKey, PrefixError, refuse_route};
use weir_protocol::{Grant, NetworkMap, Peer};

/// Something that must not be in a map. An agent that finds one keeps the map it has.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The node would have no address.
    #[error("the node itself has no address")]
    NoOwnAddress,
    /// The node is among its peers.
    #[error("the node is its own peer")]
    OwnPeer,
    /// A peer is filed under another node's id.
    #[error("the peer {is} is filed as {filed}")]
    WrongPeerId {
        /// Where it was found.
        filed: NodeId,
        /// What it says of itself.
        is: NodeId,
    },
    /// A peer cannot be talked to.
    #[error("the peer {0} has no address")]
    PeerWithoutAddress(NodeId),
    /// Two nodes share an overlay address.
    #[error("the address {address} belongs to {first} and to {second}")]
    SharedAddress {
        /// The address.
        address: IpAddr,
        /// The one.
        first: NodeId,
        /// The other.
        second: NodeId,
    },
    /// Two peers share a key, so WireGuard would take them for one.
    #[error("the peers {first} and {second} have one key")]
    SharedKey {
        /// The one.
        first: NodeId,
        /// The other.
        second: NodeId,
    },
    /// Two peers stand for one prefix; WireGuard would silently take it from the first.
    #[error("the prefix {prefix} leads to {first} and to {second}")]
    SharedPrefix {
        /// The prefix.
        prefix: IpNet,
        /// The one.
        first: NodeId,
        /// The other.
        second: NodeId,
    },
    /// A peer stands for a prefix that no node may stand for, such as one of the overlay.
    #[error("the peer {peer} has a prefix that it must not have")]
    BadPrefix {
        /// The peer.
        peer: NodeId,
        /// Which prefix, and why not.
        source: PrefixError,
    },
    /// Everybody may send from a default route's addresses: a peer could claim any source.
    #[error("the peer {0} may send from every address")]
    DefaultSource(NodeId),
    /// The id does not fit the conntrack mark.
    #[error("the grant id {0} is not in 1..={max}", max = GrantId::MAX)]
    GrantIdOutOfRange(GrantId),
    /// Counters and logs could not tell the two apart.
    #[error("two grants have the id {0}")]
    SharedGrantId(GrantId),
    /// Such a grant allows nothing, and should not have been sent.
    #[error("the grant {grant} has no {what}")]
    EmptyGrant {
        /// The grant.
        grant: GrantId,
        /// What it lacks: `source`, `protocol` or `destination`.
        what: &'static str,
    },
    /// A range of ports that ends before it starts.
    #[error("the grant {0} has a range of ports that ends before it starts")]
    PortsOutOfOrder(GrantId),
}

/// Finds what must not be in a map, in the map's order. Nothing in a good one.
#[must_use]
pub fn check_map(map: &NetworkMap) -> Vec<Problem> {
    let mut check = Check::default();
    if map.node.addresses.is_empty() {
        check.problems.push(Problem::NoOwnAddress);
    }
    check.addresses(map.node.id, &map.node.addresses);
    for (filed, peer) in &map.peers {
        if *filed != peer.id {
            check.problems.push(Problem::WrongPeerId {
                filed: *filed,
                is: peer.id,
            });
        }
        if peer.id == map.node.id {
            check.problems.push(Problem::OwnPeer);
        }
        check.peer(peer);
    }
    for grant in &map.filter {
        check.grant(grant);
    }
    check.problems
}

#[derive(Default)]
struct Check {
    problems: Vec<Problem>,
    addresses: BTreeMap<IpAddr, NodeId>,
    keys: BTreeMap<NodePublicKey, NodeId>,
    prefixes: BTreeMap<IpNet, NodeId>,
    grants: BTreeSet<GrantId>,
}

impl Check {
    fn addresses(&mut self, node: NodeId, addresses: &BTreeSet<IpAddr>) {
        for address in addresses {
            if let Some(first) = self.addresses.insert(*address, node) {
                self.problems.push(Problem::SharedAddress {
                    address: *address,
                    first,
                    second: node,
                });
            }
        }
    }

    fn peer(&mut self, peer: &Peer) {
        if peer.addresses.is_empty() {
            self.problems.push(Problem::PeerWithoutAddress(peer.id));
        }
        self.addresses(peer.id, &peer.addresses);
        if let Some(first) = self.keys.insert(peer.node_key, peer.id) {
            self.problems.push(Problem::SharedKey {
                first,
                second: peer.id,
            });
        }
        if peer
            .source_prefixes
            .iter()
            .any(|prefix| prefix.prefix_len() == 0)
        {
            self.problems.push(Problem::DefaultSource(peer.id));
        }
        for prefix in peer.routes.union(&peer.source_prefixes) {
            if let Err(source) = refuse_route(prefix) {
                self.problems.push(Problem::BadPrefix {
                    peer: peer.id,
                    source,
                });
            }
            // Several exits may be offered; the agent takes at most one.
            if prefix.prefix_len() == 0 {
                continue;
            }
            if let Some(first) = self.prefixes.insert(*prefix, peer.id) {
                self.problems.push(Problem::SharedPrefix {
                    prefix: *prefix,
                    first,
                    second: peer.id,
                });
            }
        }
    }

    fn grant(&mut self, grant: &Grant) {
        if !(1..=GrantId::MAX).contains(&grant.id.0) {
            self.problems.push(Problem::GrantIdOutOfRange(grant.id));
        }
        if !self.grants.insert(grant.id) {
            self.problems.push(Problem::SharedGrantId(grant.id));
        }
        let no_destination = grant.destinations.is_empty()
            || grant.destinations.iter().any(|to| to.addresses.is_empty());
        for (is_empty, what) in [
            (grant.sources.is_empty(), "source"),
            (grant.protocols.is_empty(), "protocol"),
            (no_destination, "destination"),
        ] {
            if is_empty {
                self.problems.push(Problem::EmptyGrant {
                    grant: grant.id,
                    what,
                });
            }
        }
        if grant
            .destinations
            .iter()
            .any(|to| to.ports.first > to.ports.last)
        {
            self.problems.push(Problem::PortsOutOfOrder(grant.id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_overlay::{AddressSet, Generation};
    use weir_protocol::{Destination, IpProtocol, PortRange, SelfNode};

    fn peer(id: u64, routes: &[&str]) -> Peer {
        Peer {
            id: NodeId(id),
            name: format!("n{id}").parse().unwrap(),
            user: None,
            tags: BTreeSet::new(),
            node_key: NodePublicKey::from_bytes([u8::try_from(id).unwrap(); 32]),
            addresses: [format!("100.64.0.{id}").parse().unwrap()].into(),
            routes: routes.iter().map(|route| route.parse().unwrap()).collect(),
            source_prefixes: BTreeSet::new(),
            endpoint: None,
        }
    }

    fn grant(id: u32) -> Grant {
        Grant {
            id: GrantId(id),
            sources: AddressSet::everything(),
            protocols: [IpProtocol::TCP].into(),
            destinations: vec![Destination {
                addresses: AddressSet::everything(),
                ports: PortRange::single(443),
            }],
            origin: String::new(),
        }
    }

    fn map(peers: Vec<Peer>, filter: Vec<Grant>) -> NetworkMap {
        NetworkMap {
            generation: Generation(1),
            node: SelfNode {
                egress: Vec::new(),
                id: NodeId(1),
                name: "self".parse().unwrap(),
                user: None,
                tags: BTreeSet::new(),
                addresses: ["100.64.0.1".parse().unwrap()].into(),
                routes: Vec::new(),
                key: weir_protocol::KeyStatus::default(),
            },
            peers: peers.into_iter().map(|peer| (peer.id, peer)).collect(),
            filter,
            notices: Vec::new(),
        }
    }

    fn problems(peers: Vec<Peer>, filter: Vec<Grant>) -> Vec<String> {
        let found = check_map(&map(peers, filter));
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_good_map_has_none() {
        let peers = vec![
            peer(2, &["10.0.0.0/8", "0.0.0.0/0"]),
            peer(3, &["10.20.0.0/24", "0.0.0.0/0"]),
        ];
        assert!(problems(peers, vec![grant(1), grant(GrantId::MAX)]).is_empty());
    }

    #[test]
    fn two_peers_never_stand_for_one_thing() {
        let mut second = peer(3, &[]);
        second.source_prefixes = ["8.8.8.8/32".parse().unwrap()].into();
        second.addresses = peer(2, &[]).addresses;
        second.node_key = peer(2, &[]).node_key;
        assert_eq!(
            problems(vec![peer(2, &["8.8.8.8/32"]), second], vec![]),
            [
                "the address 100.64.0.2 belongs to 2 and to 3",
                "the peers 2 and 3 have one key",
                "the prefix 8.8.8.8/32 leads to 2 and to 3",
            ]
        );
    }

    #[test]
    fn a_peer_stands_for_itself_and_for_what_may_be_routed() {
        let mut greedy = peer(2, &["100.64.0.0/16"]);
        greedy.source_prefixes = ["::/0".parse().unwrap()].into();
        let mut mute = peer(3, &[]);
        mute.addresses.clear();
        assert_eq!(
            problems(vec![greedy, mute], vec![]),
            [
                "the peer 2 may send from every address",
                "the peer 2 has a prefix that it must not have",
                "the peer 3 has no address",
            ]
        );
        let mut map = map(vec![peer(1, &[])], vec![]);
        map.node.addresses.clear();
        if let Some(own) = map.peers.remove(&NodeId(1)) {
            map.peers.insert(NodeId(9), own);
        }
        assert_eq!(
            check_map(&map),
            [
                Problem::NoOwnAddress,
                Problem::WrongPeerId {
                    filed: NodeId(9),
                    is: NodeId(1)
                },
                Problem::OwnPeer,
            ]
        );
    }

    #[test]
    fn a_grant_allows_something_and_fits_its_mark() {
        let mut hollow = grant(2);
        hollow.sources = AddressSet::empty();
        hollow.protocols.clear();
        hollow.destinations.clear();
        let mut backwards = grant(3);
        backwards.destinations[0].ports = PortRange { first: 9, last: 1 };
        assert_eq!(
            problems(vec![], vec![grant(0), grant(0), hollow, backwards]),
            [
                "the grant id 0 is not in 1..=1048575",
                "the grant id 0 is not in 1..=1048575",
                "two grants have the id 0",
                "the grant 2 has no source",
                "the grant 2 has no protocol",
                "the grant 2 has no destination",
                "the grant 3 has a range of ports that ends before it starts",
            ]
        );
    }
}
