//! Compiled policy to what one node is told: its packet filter, its peers, and the routes it may
//! use.

use crate::compile::{
    CompiledPolicy, CompiledRule, Place, Reach, RuleAt, SendersId, Targets, TargetsId,
};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use weir_overlay::{AddressSet, GrantId, NodeId};
use weir_protocol::Grant;

/// Through whom a node may use a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// Through whoever serves it.
    pub anyone: bool,
    /// Through these nodes, to which `via` steers. Empty when it is through anyone.
    pub through: BTreeSet<NodeId>,
}

impl Ways {
    /// Adds the way that a rule's targets are. Tells whether another could add anything.
    fn lead_to(&mut self, targets: &Targets) -> bool {
        if targets.is_via && !self.anyone {
            self.through.extend(&targets.nodes);
        } else {
            *self = Self {
                anyone: true,
                ..Self::default()
            };
        }
        !self.anyone
    }
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
        let rules = self.rules_at(place).into_iter();
        rules
            .filter_map(|(rule, addresses)| {
                let sources = self.sources_at(rule, place);
                if sources.is_empty() {
                    return None;
                }
                let targets = self.targets(rule.targets);
                let destinations = rule.destinations(targets, &addresses, place);
                (!destinations.is_empty()).then(|| Grant {
                    id: rule.id,
                    sources,
                    protocols: rule.protocols.clone(),
                    destinations,
                    origin: rule.origin.to_string(),
                })
            })
            .collect()
    }

    /// The rules that can allow something at a node, in the order of the policy, each with what of
    /// its targets the node has or serves.
    pub(crate) fn rules_at(&self, place: &Place) -> Vec<(&CompiledRule, AddressSet)> {
        let mut rules: Vec<(RuleAt, AddressSet)> = Vec::new();
        let passes = place.passes.iter();
        let passes = passes.filter(|id| place.leads.binary_search(id).is_err());
        for id in place.leads.iter().chain(passes) {
            let targets = self.targets(*id);
            let addresses = targets.at(place);
            rules.extend(targets.rules.iter().map(|at| (*at, addresses.clone())));
        }
        let own = self.own_rules_to(place).into_iter();
        rules.extend(own.map(|at| (at, place.addresses.clone())));
        rules.sort_by_key(|(at, _)| *at);
        let rules = rules.into_iter();
        let rules = rules.map(|(at, addresses)| (self.rule(at), addresses));
        rules.filter(|(rule, _)| !rule.is_capability).collect()
    }

    /// The rules that lead from a user's devices to the user's devices, for one of these.
    fn own_rules_to(&self, place: &Place) -> BTreeSet<RuleAt> {
        let devices = self.devices_of(place).iter();
        let devices = devices.filter_map(|id| self.places.get(id));
        let senders: BTreeSet<SendersId> =
            devices.flat_map(|place| &place.starts).copied().collect();
        let rules = senders
            .into_iter()
            .flat_map(|id| &self.senders(id).own_rules);
        rules.copied().collect()
    }

    /// All devices of the user whose device this is, sorted. None for a tagged node.
    fn devices_of(&self, place: &Place) -> &[NodeId] {
        let devices = place.user.and_then(|user| self.devices.get(&user));
        devices.map_or(&[], Vec::as_slice)
    }

    /// The sources of a rule, as a node is told them.
    pub(crate) fn sources_at(&self, rule: &CompiledRule, place: &Place) -> AddressSet {
        let senders = self.senders(rule.senders);
        if !matches!(self.targets(rule.targets).reach, Reach::OwnDevices) {
            return senders.addresses.clone();
        }
        let devices = self
            .devices_of(place)
            .iter()
            .filter(|id| senders.nodes.binary_search(id).is_ok())
            .filter_map(|id| self.places.get(id));
        let addresses: AddressSet = devices
            .flat_map(|place| place.addresses.ranges())
            .copied()
            .collect();
        addresses.intersection(&senders.addresses)
    }

    /// The nodes that a node may talk to or hear from. Mutual: what is a node's peer has the node
    /// as its own.
    #[must_use]
    pub fn peers(&self, node: NodeId) -> BTreeSet<NodeId> {
        self.sorted_peers(node).into_iter().collect()
    }

    pub(crate) fn sorted_peers(&self, node: NodeId) -> Vec<NodeId> {
        let Some(place) = self.places.get(&node) else {
            return Vec::new();
        };
        let mut targets: Vec<TargetsId> = Vec::new();
        for id in &place.starts {
            let rules = self.senders(*id).rules.iter();
            targets.extend(rules.map(|at| self.rule(*at).targets));
        }
        let mut senders: Vec<SendersId> = Vec::new();
        for id in &place.leads {
            let rules = self.targets(*id).rules.iter();
            senders.extend(rules.map(|at| self.rule(*at).senders));
        }
        targets.sort_unstable();
        targets.dedup();
        senders.sort_unstable();
        senders.dedup();
        let mut peers: Vec<NodeId> = Vec::new();
        for id in targets {
            peers.extend(&self.targets(id).nodes);
        }
        for id in senders {
            peers.extend(&self.senders(id).nodes);
        }
        let devices = self.devices_of(place).iter();
        let devices = devices.filter_map(|id| Some((id, self.places.get(id)?)));
        let talk = |(_, other): &(&NodeId, &Place)| {
            self.sends_to_own(place, other) || self.sends_to_own(other, place)
        };
        peers.extend(devices.filter(talk).map(|(id, _)| *id));
        // A few sorted lists behind each other, which a stable sort merges.
        peers.sort();
        peers.dedup();
        peers.retain(|id| *id != node);
        peers
    }

    /// Whether a rule for a user's own devices leads from one of them to another.
    fn sends_to_own(&self, from: &Place, to: &Place) -> bool {
        let senders = from.starts.iter().map(|id| self.senders(*id));
        let mut rules = senders.flat_map(|senders| &senders.own_rules);
        rules.any(|at| {
            let rule = self.rule(*at);
            let targets = self.targets(rule.targets);
            rule.exceptions.is_empty() || !rule.destinations(targets, &to.addresses, to).is_empty()
        })
    }

    /// Through whom a node may send into an approved route.
    #[must_use]
    pub fn ways_into(&self, node: NodeId, route: &IpNet) -> Ways {
        let mut ways = Ways::default();
        let into = self.routes.get(route).map(|ends| &ends.into);
        for id in into.into_iter().flatten() {
            let targets = self.targets(*id);
            let sends = targets.rules.iter().any(|at| {
                let senders = self.senders(self.rule(*at).senders);
                senders.nodes.binary_search(&node).is_ok()
            });
            if sends && !ways.lead_to(targets) {
                break;
            }
        }
        ways
    }

    /// [`Self::ways_into`] every approved route that the node may send into.
    #[must_use]
    pub fn ways(&self, node: NodeId) -> BTreeMap<IpNet, Ways> {
        let mut ways: BTreeMap<IpNet, Ways> = BTreeMap::new();
        let starts = self.places.get(&node).map(|place| &place.starts);
        let rules = starts
            .into_iter()
            .flatten()
            .flat_map(|id| &self.senders(*id).rules);
        let targets: BTreeSet<TargetsId> = rules.map(|at| self.rule(*at).targets).collect();
        for id in targets {
            let targets = self.targets(id);
            for route in &targets.routes {
                ways.entry(*route).or_default().lead_to(targets);
            }
        }
        // Who is steered through nobody has no way.
        ways.retain(|_, ways| ways.anyone || !ways.through.is_empty());
        ways
    }

    /// Whether some rule lets a node send into a route, through whomever.
    #[must_use]
    pub fn may_send_into(&self, node: NodeId, route: &IpNet) -> bool {
        let ways = self.ways_into(node, route);
        ways.anyone || !ways.through.is_empty()
    }

    /// Whether some rule lets packets from an approved subnet route reach a node. Never for a
    /// default route, whose traffic is translated.
    #[must_use]
    pub fn may_hear_from(&self, node: NodeId, route: &IpNet) -> bool {
        let Some(ends) = self.routes.get(route).filter(|ends| !ends.from.is_empty()) else {
            return false;
        };
        self.senders_to(node)
            .any(|id| ends.from.binary_search(&id).is_ok())
    }

    /// The approved subnet routes from which some rule lets packets reach a node.
    #[must_use]
    pub fn heard_routes(&self, node: NodeId) -> BTreeSet<IpNet> {
        let senders: BTreeSet<SendersId> = self.senders_to(node).collect();
        let routes = senders.into_iter().flat_map(|id| &self.senders(id).routes);
        routes.copied().collect()
    }

    /// Where the rules that lead to a node start, with repetitions.
    fn senders_to(&self, node: NodeId) -> impl Iterator<Item = SendersId> {
        let leads = self.places.get(&node).map(|place| &place.leads);
        let targets = leads.into_iter().flatten().map(|id| self.targets(*id));
        let rules = targets.flat_map(|targets| &targets.rules);
        rules.map(|at| self.rule(*at).senders)
    }

    /// Whether a node is to have no IPv4 address (`disable-ipv4`).
    #[must_use]
    pub fn is_without_ipv4(&self, node: NodeId) -> bool {
        self.without_ipv4.contains(&node)
    }

    /// All of those.
    #[must_use]
    pub const fn without_ipv4(&self) -> &BTreeSet<NodeId> {
        &self.without_ipv4
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
        self.rules_in_force()
            .filter(|rule| !rule.is_capability)
            .map(|rule| (rule.id, &*rule.origin))
    }

    /// The rules that somebody can send by.
    pub(crate) fn rules_in_force(&self) -> impl Iterator<Item = &CompiledRule> {
        let rules = self.rules.iter();
        rules.filter(|rule| !self.senders(rule.senders).addresses.is_empty())
    }
}
