//! Compiled policy to what one node is told: its packet filter, its peers, and the routes it may
//! use.

use crate::compile::{CompiledPolicy, CompiledRule, Place, Reach, Routes, internet, without};
use ipnet::IpNet;
use std::collections::BTreeSet;
use weir_overlay::{AddressSet, GrantId, NodeId};
use weir_protocol::{Destination, Grant};

/// Through whom a node may use a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// Through whoever serves it.
    pub anyone: bool,
    /// Through these nodes, to which `via` steers.
    pub through: BTreeSet<NodeId>,
}

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
        self.rules_at(node, place)
            .filter_map(|rule| {
                let destinations = rule.destinations(place);
                let sources = self.sources_at(rule, place);
                (!destinations.is_empty() && !sources.is_empty()).then(|| Grant {
                    id: rule.id,
                    sources,
                    protocols: rule.protocols.clone(),
                    destinations,
                    origin: rule.origin.to_string(),
                })
            })
            .collect()
    }

    /// The rules that can allow something at a node, in the order of the policy.
    pub(crate) fn rules_at(
        &self,
        node: NodeId,
        place: &Place,
    ) -> impl Iterator<Item = &CompiledRule> {
        // An exit is also led to by public prefixes, which make nobody its peer.
        let rules: Vec<&CompiledRule> = if place.exits.is_empty() {
            self.rules_to(node).collect()
        } else {
            let public = |rule: &&CompiledRule| matches!(rule.reach, Reach::Literal(_));
            let leads = |rule: &&CompiledRule| rule.target_nodes.binary_search(&node).is_ok();
            let rules = self.rules.iter();
            rules
                .filter(|rule| leads(rule) || (public(rule) && !rule.is_via))
                .collect()
        };
        rules.into_iter().filter(|rule| !rule.is_capability)
    }

    /// The sources of a rule, as a node is told them.
    pub(crate) fn sources_at(&self, rule: &CompiledRule, place: &Place) -> AddressSet {
        if !matches!(rule.reach, Reach::OwnDevices) {
            return rule.sources.clone();
        }
        let devices = place.user.and_then(|user| self.devices.get(&user));
        let devices = devices
            .into_iter()
            .flatten()
            .filter(|id| rule.source_nodes.binary_search(id).is_ok())
            .filter_map(|id| self.places.get(id));
        let addresses: AddressSet = devices
            .flat_map(|place| place.addresses.ranges())
            .copied()
            .collect();
        addresses.intersection(&rule.sources)
    }

    /// The nodes that a node may talk to or hear from. Mutual: what is a node's peer has the node
    /// as its own.
    #[must_use]
    pub fn peers(&self, node: NodeId) -> BTreeSet<NodeId> {
        let mut peers = BTreeSet::new();
        let user = self.places.get(&node).and_then(|place| place.user);
        let devices = user.and_then(|user| self.devices.get(&user));
        let devices = || devices.into_iter().flatten().copied();
        for rule in self.rules_from(node) {
            if matches!(rule.reach, Reach::OwnDevices) {
                peers.extend(devices());
            } else {
                peers.extend(rule.target_nodes.iter());
            }
        }
        for rule in self.rules_to(node) {
            if matches!(rule.reach, Reach::OwnDevices) {
                let sends = |id: &NodeId| rule.source_nodes.binary_search(id).is_ok();
                peers.extend(devices().filter(sends));
            } else {
                peers.extend(rule.source_nodes.iter());
            }
        }
        peers.remove(&node);
        peers
    }

    /// Through whom a node may send into an approved route.
    #[must_use]
    pub fn ways_into(&self, node: NodeId, route: &IpNet) -> Ways {
        let mut ways = Ways::default();
        let rules = self.into.get(route).into_iter().flatten();
        for rule in rules.filter_map(|at| self.rules.get(*at)) {
            if rule.source_nodes.binary_search(&node).is_err() {
                continue;
            }
            if !rule.is_via {
                ways.anyone = true;
                return ways;
            }
            ways.through.extend(rule.target_nodes.iter());
        }
        ways
    }

    /// Whether some rule lets a node send into a route, through whomever.
    #[must_use]
    pub fn may_send_into(&self, node: NodeId, route: &IpNet) -> bool {
        let ways = self.ways_into(node, route);
        ways.anyone || !ways.through.is_empty()
    }

    /// Whether some rule lets packets from an approved subnet route reach a node. Never for a default route,
    /// whose traffic is translated.
    #[must_use]
    pub fn may_hear_from(&self, node: NodeId, route: &IpNet) -> bool {
        let leads = |at: &usize| {
            let rule = self.rules.get(*at)?;
            let leads = rule.target_nodes.binary_search(&node).is_ok();
            (leads && !matches!(rule.reach, Reach::OwnDevices)).then_some(())
        };
        if self
            .from
            .get(route)
            .into_iter()
            .flatten()
            .any(|at| leads(at).is_some())
        {
            return true;
        }
        let Some(place) = self.places.get(&node).filter(|_| route.prefix_len() > 0) else {
            return false;
        };
        let rules = place.leads.iter().chain(&self.leads);
        let mut rules = rules.filter_map(|at| self.rules.get(*at));
        rules.any(|rule| {
            matches!(rule.source_routes, Routes::All) && !matches!(rule.reach, Reach::OwnDevices)
        })
    }

    /// Whether a node is to have no IPv4 address (`disable-ipv4`).
    #[must_use]
    pub fn is_without_ipv4(&self, node: NodeId) -> bool {
        self.without_ipv4.contains(&node)
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
            .filter(|rule| !rule.is_capability)
            .map(|rule| (rule.id, &*rule.origin))
    }

    fn rules_from(&self, node: NodeId) -> impl Iterator<Item = &CompiledRule> {
        let place = self.places.get(&node);
        self.in_order(place.map(|place| (&place.starts, &self.starts)))
    }

    fn rules_to(&self, node: NodeId) -> impl Iterator<Item = &CompiledRule> {
        let place = self.places.get(&node);
        self.in_order(place.map(|place| (&place.leads, &self.leads)))
    }

    fn in_order(
        &self,
        lists: Option<(&Vec<usize>, &Vec<usize>)>,
    ) -> impl Iterator<Item = &CompiledRule> {
        let mut places: Vec<usize> = Vec::new();
        if let Some((own, shared)) = lists {
            places.extend(own);
            places.extend(shared);
            places.sort_unstable();
        }
        places.into_iter().filter_map(|at| self.rules.get(at))
    }
}

impl CompiledRule {
    /// What it allows at a node.
    pub(crate) fn destinations(&self, place: &Place) -> Vec<Destination> {
        let own = match (&self.reach, self.is_via) {
            (Reach::OwnDevices, _) => &place.addresses,
            (_, true) => &place.subnets,
            (_, false) => &place.own,
        };
        let internet = match (&self.reach, self.is_via) {
            (Reach::Literal(_), true) => &AddressSet::empty(),
            (_, _) => &place.internet,
        };
        let addresses = self.reach.among(own, internet);
        without(addresses, &self.ports, &self.exceptions, own, internet)
    }

    /// Whether it leads into a route.
    pub(crate) fn leads_into(&self, route: &IpNet) -> bool {
        if !self.reach.leads_into(route) {
            return false;
        }
        if self.exceptions.is_empty() {
            return true;
        }
        let set: AddressSet = [*route].into_iter().collect();
        let (own, internet) = match route.prefix_len() {
            0 => (AddressSet::empty(), internet().intersection(&set)),
            _ => (set, AddressSet::empty()),
        };
        let addresses = self.reach.among(&own, &internet);
        !without(addresses, &self.ports, &self.exceptions, &own, &internet).is_empty()
    }
}
