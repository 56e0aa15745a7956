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
