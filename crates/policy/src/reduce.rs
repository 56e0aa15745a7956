//! Compiled policy to what one node is told: its packet filter, its peers, and the routes it may
//! use.

use crate::compile::{CompiledPolicy, CompiledRule, Place, Reach};
use ipnet::IpNet;
use std::collections::BTreeSet;
use weir_overlay::{AddressSet, GrantId, NodeId};
use weir_protocol::{Destination, Grant};

impl CompiledPolicy {
    /// Whether somebody set a policy.
    #[must_use]
    pub const fn is_set(&self) -> bool {
        self.is_set
    }

    /// A node's packet filter: the rules that lead to it, in the order of the policy, each cut down
    /// to the node's own addresses, its approved subnet routes, and public addresses when it is an
    /// approved exit. Standby relays have the filter of the primary, so that they can take over
    /// at once. Empty for a node that the directory does not have.
    #[must_use]
    pub fn filter(&self, node: NodeId) -> Vec<Grant> {
        let Some(place) = self.places.get(&node) else {
            return Vec::new();
        };
        // An exit is also led to by public prefixes, which make nobody its peer.
        if place.exits.is_empty() {
            let rules = self.rules_to(node);
            rules.filter_map(|rule| rule.grant(place)).collect()
        } else {
            let rules = self.rules.iter();
            rules.filter_map(|rule| rule.grant(place)).collect()
        }
    }

    /// The nodes that a node may talk to or hear from. Mutual: what is a node's peer has the node
    /// as its own.
    #[must_use]
    pub fn peers(&self, node: NodeId) -> BTreeSet<NodeId> {
        let mut peers = BTreeSet::new();
        for rule in self.rules_from(node) {
            peers.extend(&rule.target_nodes);
        }
        for rule in self.rules_to(node) {
            peers.extend(&rule.source_nodes);
        }
        peers.remove(&node);
        peers
    }

    /// Whether some rule lets a node send into a route.
    #[must_use]
    pub fn may_send_into(&self, node: NodeId, route: &IpNet) -> bool {
        self.rules_from(node)
            .any(|rule| rule.reach.leads_into(route))
    }

    /// Whether some rule lets packets from a subnet route reach a node. Never for a default route,
    /// whose traffic is translated.
    #[must_use]
    pub fn may_hear_from(&self, node: NodeId, route: &IpNet) -> bool {
        let route: AddressSet = match route.prefix_len() {
            0 => return false,
            _ => [*route].into_iter().collect(),
        };
        self.rules_to(node)
            .any(|rule| rule.sources.overlaps(&route))
    }

    /// Where the policy says what a grant allows: `acls[2], line 14`.
    #[must_use]
    pub fn origin(&self, grant: GrantId) -> Option<&str> {
        self.grants()
            .find(|(id, _)| *id == grant)
            .map(|(_, origin)| origin)
    }

    /// All grants that concern the network, and where the policy says so.
    pub fn grants(&self) -> impl Iterator<Item = (GrantId, &str)> {
        self.rules
            .iter()
            .map(|rule| (rule.id, rule.origin.as_str()))
    }

    fn rules_from(&self, node: NodeId) -> impl Iterator<Item = &CompiledRule> {
        let starts = self.places.get(&node).map(|place| &place.starts);
        starts
            .into_iter()
            .flatten()
            .filter_map(|at| self.rules.get(*at))
    }

    fn rules_to(&self, node: NodeId) -> impl Iterator<Item = &CompiledRule> {
        let leads = self.places.get(&node).map(|place| &place.leads);
        leads
            .into_iter()
            .flatten()
            .filter_map(|at| self.rules.get(*at))
    }
}

impl CompiledRule {
    fn grant(&self, place: &Place) -> Option<Grant> {
        let addresses = self.reach.at(place);
        if addresses.is_empty() {
            return None;
        }
        let destination = |ports: &_| Destination {
            addresses: addresses.clone(),
            ports: *ports,
        };
        Some(Grant {
            id: self.id,
            sources: self.sources.clone(),
            protocols: self.protocols.clone(),
            destinations: self.ports.iter().map(destination).collect(),
            origin: self.origin.clone(),
        })
    }
}

impl Reach {
    /// What of it a node has or serves. A public prefix is served by an exit too, for those whom
    /// another rule lets use the exit.
    fn at(&self, place: &Place) -> AddressSet {
        match self {
            Self::Anything => place.own.union(&place.internet),
            Self::Internet => place.internet.clone(),
            Self::Nodes(addresses) => addresses.intersection(&place.own),
            Self::Literal(prefix) => {
                let prefix: AddressSet = [*prefix].into_iter().collect();
                prefix.intersection(&place.own.union(&place.internet))
            }
        }
    }
}
