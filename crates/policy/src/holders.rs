//! Who has which address, and who serves which approved subnet route.

use crate::{directory::PolicyNode, prefixes::Prefixes};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use weir_overlay::{AddressRange, AddressSet, NodeId};

/// Nodes by what they have and serve.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holders {
    by_address: BTreeMap<IpAddr, Vec<NodeId>>,
    subnets: Prefixes<NodeId>,
    /// The addresses of these, so that sets of nodes' addresses need not be looked up one by one.
    served: AddressSet,
    /// The approved default routes, and who serves them.
    exits: BTreeMap<IpNet, Vec<NodeId>>,
}

impl Holders {
    pub(crate) fn insert(&mut self, id: NodeId, node: &PolicyNode) {
        for address in &node.addresses {
            self.by_address.entry(*address).or_default().push(id);
        }
        for subnet in node.subnets() {
            if !self.subnets.contains_key(&subnet.trunc()) {
                self.served = self.served.union(&[subnet].into_iter().collect());
            }
            self.subnets.insert(subnet, id);
        }
        for exit in node.exits() {
            self.exits.entry(exit.trunc()).or_default().push(id);
        }
    }

    pub(crate) fn remove(&mut self, id: NodeId, node: &PolicyNode) {
        for address in &node.addresses {
            if let Some(nodes) = self.by_address.get_mut(address) {
                nodes.retain(|other| *other != id);
                if nodes.is_empty() {
                    self.by_address.remove(address);
                }
            }
        }
        for subnet in node.subnets() {
            self.subnets.remove(subnet, &id);
            if !self.subnets.contains_key(&subnet.trunc()) {
                self.served = self.subnets.keys().collect();
            }
        }
        for exit in node.exits() {
            if let Some(nodes) = self.exits.get_mut(&exit.trunc()) {
                nodes.retain(|other| *other != id);
            }
        }
    }

    /// The nodes that have one of the addresses, or serve one by an approved subnet route. Sorted.
    pub(crate) fn nodes(&self, addresses: &AddressSet) -> Vec<NodeId> {
        let serving = self.serving(addresses).map(|(_, id)| *id);
        let mut nodes: Vec<NodeId> = self.owners(addresses).chain(serving).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// The nodes that have one of the addresses themselves.
    pub(crate) fn owners(&self, addresses: &AddressSet) -> impl Iterator<Item = NodeId> {
        let ranges = addresses.ranges().iter();
        ranges.flat_map(|range| self.owners_in(*range))
    }

    /// The nodes that have an address in the range.
    pub(crate) fn owners_in(&self, range: AddressRange) -> impl Iterator<Item = NodeId> {
        let nodes = self.by_address.range(range.first()..=range.last());
        nodes.flat_map(|(_, nodes)| nodes).copied()
    }

    /// The approved subnet routes that hold one of the addresses. Sorted.
    pub(crate) fn routes(&self, addresses: &AddressSet) -> BTreeSet<IpNet> {
        let serving = self.serving(addresses);
        serving.map(|(route, _)| *route).collect()
    }

    fn serving(&self, addresses: &AddressSet) -> impl Iterator<Item = (&IpNet, &NodeId)> {
        // Most sets are of the overlay, where nobody serves a route.
        let shared = self.served.intersection(addresses);
        let shared: Vec<AddressRange> = shared.ranges().to_vec();
        shared
            .into_iter()
            .flat_map(|range| self.subnets.overlapping(range))
    }

    /// Whether an approved subnet route holds the address.
    pub(crate) fn is_served(&self, address: IpAddr) -> bool {
        self.served.contains(address)
    }

    /// Whether somebody serves exactly this route.
    pub(crate) fn is_route(&self, route: &IpNet) -> bool {
        let exits = self.exits.get(route);
        self.subnets.contains_key(route) || exits.is_some_and(|nodes| !nodes.is_empty())
    }

    /// All approved subnet routes.
    pub(crate) const fn subnets(&self) -> &AddressSet {
        &self.served
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nodes_are_found_as_each_would_be(
            routes in proptest::collection::vec((0u8..16, 24u8..=32, any::<bool>()), 0..6),
            asked in proptest::collection::vec((0u8..20, 0u8..8, any::<bool>()), 0..3),
        ) {
            let at = |byte: u8, is_overlay: bool| {
                let second = if is_overlay { 64 } else { 0 };
                IpAddr::from([10, second, 0, byte])
            };
            let nodes = routes.iter().zip(0u8..).map(|((byte, length, second), id)| {
                let route = IpNet::new(at(*byte, false), *length).unwrap().trunc();
                let node = PolicyNode {
                    addresses: [at(id, true)].into(),
                    approved_routes: second.then_some(route).into_iter().collect(),
                    ..PolicyNode::default()
                };
                (NodeId(u64::from(id)), node)
            });
            let nodes: BTreeMap<NodeId, PolicyNode> = nodes.collect();
            let mut holders = Holders::default();
            for (id, node) in &nodes {
                holders.insert(*id, node);
            }
            let gone = NodeId(7);
            let visitor = PolicyNode {
                addresses: [at(3, true)].into(),
                approved_routes: [IpNet::new(at(0, false), 20).unwrap()].into(),
                ..PolicyNode::default()
            };
            holders.insert(gone, &visitor);
            holders.remove(gone, &visitor);
            let asked: AddressSet = asked
                .into_iter()
                .filter_map(|(first, more, is_overlay)| {
                    AddressRange::new(at(first, is_overlay), at(first + more, is_overlay))
                })
                .collect();
            let has = |node: &PolicyNode| {
                node.addresses.iter().any(|address| asked.contains(*address))
                    || node.subnets().any(|route| asked.overlaps(&[route].into_iter().collect()))
            };
            let naive = nodes.iter().filter(|(_, node)| has(node));
            let naive: Vec<NodeId> = naive.map(|(id, _)| *id).collect();
            prop_assert_eq!(holders.nodes(&asked), naive);
        }
    }
}
