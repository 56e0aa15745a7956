//! Which nodes have to be told when one compiled policy takes the place of another, because its
//! text changed or the network did.

use crate::compile::{CompiledPolicy, CompiledRule, Reach, SendersId, TargetsId};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use weir_overlay::{GrantId, NodeId, UserId};

/// The nodes whose filter, peers or ways into routes differ between two compiled policies. A node
/// that only one of them knows is among them.
///
/// Only those are looked at that a changed rule, node or route touches: the cost is that of
/// comparing the lists of rules, and of some filters.
#[must_use]
pub fn changed_nodes(old: &CompiledPolicy, new: &CompiledPolicy) -> BTreeSet<NodeId> {
    let (before, after) = different(old, new);
    let mut candidates = moved(old, new);
    candidates.extend(old.without_ipv4.symmetric_difference(&new.without_ipv4));
    let known = |policy: &CompiledPolicy| policy.routes.keys().copied().collect::<BTreeSet<_>>();
    let mut routes = &known(old) ^ &known(new);
    for route in &routes {
        candidates.extend(old.users_of_route(route));
        candidates.extend(new.users_of_route(route));
    }
    for (policy, rules) in [(old, &before), (new, &after)] {
        policy.touch(rules, &mut candidates);
        for rule in rules {
            routes.extend(&policy.senders(rule.senders).routes);
            routes.extend(&policy.targets(rule.targets).routes);
        }
    }
    let differs = |node: &NodeId| {
        let node = *node;
        old.places.contains_key(&node) != new.places.contains_key(&node)
            || old.is_without_ipv4(node) != new.is_without_ipv4(node)
            || old.peers(node) != new.peers(node)
            || old.filter(node) != new.filter(node)
            || routes.iter().any(|route| {
                old.ways_into(node, route) != new.ways_into(node, route)
                    || old.may_hear_from(node, route) != new.may_hear_from(node, route)
            })
    };
    candidates.retain(differs);
    candidates
}

/// The rules of each that the other does not have as they are. What is left of both lists is the
/// same, in the same order.
fn different<'a>(
    old: &'a CompiledPolicy,
    new: &'a CompiledPolicy,
) -> (Vec<&'a CompiledRule>, Vec<&'a CompiledRule>) {
    let ids = |policy: &CompiledPolicy| policy.rules.iter().map(|rule| rule.id).collect();
    let (old_ids, new_ids): (BTreeSet<GrantId>, BTreeSet<GrantId>) = (ids(old), ids(new));
    let mut comparison = Comparison {
        old,
        new,
        senders: BTreeMap::new(),
        targets: BTreeMap::new(),
    };
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let (mut olds, mut news) = (old.rules.iter().peekable(), new.rules.iter().peekable());
    while let (Some(one), Some(other)) = (olds.peek(), news.peek()) {
        if one.id == other.id {
            if !comparison.is_same(one, other) {
                before.push(*one);
                after.push(*other);
            }
            olds.next();
            news.next();
        } else if !new_ids.contains(&one.id) {
            before.extend(olds.next());
        } else if !old_ids.contains(&other.id) {
            after.extend(news.next());
        } else {
            // They changed places. Whatever follows may have, too.
            break;
        }
    }
    before.extend(olds);
    after.extend(news);
    (before, after)
}

/// Compares rules, and what they have in common only once.
struct Comparison<'a> {
    old: &'a CompiledPolicy,
    new: &'a CompiledPolicy,
    senders: BTreeMap<(SendersId, SendersId), bool>,
    targets: BTreeMap<(TargetsId, TargetsId), bool>,
}

impl Comparison<'_> {
    fn is_same(&mut self, one: &CompiledRule, other: &CompiledRule) -> bool {
        one.origin == other.origin
            && one.ports == other.ports
            && one.protocols == other.protocols
            && one.is_capability == other.is_capability
            && one.exceptions == other.exceptions
            && self.has_same_senders(one.senders, other.senders)
            && self.has_same_targets(one.targets, other.targets)
    }

    fn has_same_senders(&mut self, one: SendersId, other: SendersId) -> bool {
        let (old, new) = (self.old, self.new);
        *self.senders.entry((one, other)).or_insert_with(|| {
            let (one, other) = (old.senders(one), new.senders(other));
            one.addresses == other.addresses
                && one.nodes == other.nodes
                && one.routes == other.routes
        })
    }

    fn has_same_targets(&mut self, one: TargetsId, other: TargetsId) -> bool {
        let (old, new) = (self.old, self.new);
        *self.targets.entry((one, other)).or_insert_with(|| {
            let (one, other) = (old.targets(one), new.targets(other));
            one.reach == other.reach
                && one.is_via == other.is_via
                && one.nodes == other.nodes
                && one.exits == other.exits
                && one.routes == other.routes
        })
    }
}

/// The nodes that came, went, or are or serve something else now, and all devices of their users.
fn moved(old: &CompiledPolicy, new: &CompiledPolicy) -> BTreeSet<NodeId> {
    let ids = old.places.keys().chain(new.places.keys());
    let mut nodes: BTreeSet<NodeId> = ids.copied().collect();
    nodes.retain(|id| match (old.places.get(id), new.places.get(id)) {
        (Some(before), Some(after)) => !before.is_like(after),
        (None, _) | (_, None) => true,
    });
    for policy in [old, new] {
        let devices = policy.devices_beside(&nodes);
        nodes.extend(devices);
    }
    nodes
}

impl CompiledPolicy {
    /// All devices of the users who have one of the nodes.
    fn devices_beside<'n>(&self, nodes: impl IntoIterator<Item = &'n NodeId>) -> BTreeSet<NodeId> {
        let places = nodes.into_iter().filter_map(|id| self.places.get(id));
        let users: BTreeSet<UserId> = places.filter_map(|place| place.user).collect();
        let devices = users.iter().filter_map(|user| self.devices.get(user));
        devices.flatten().copied().collect()
    }

    /// Adds the nodes that rules start from or lead to.
    pub(crate) fn touch(&self, rules: &[&CompiledRule], nodes: &mut BTreeSet<NodeId>) {
        let senders: BTreeSet<SendersId> = rules.iter().map(|rule| rule.senders).collect();
        let targets: BTreeSet<TargetsId> = rules.iter().map(|rule| rule.targets).collect();
        for id in senders {
            nodes.extend(&self.senders(id).nodes);
        }
        for id in targets {
            let targets = self.targets(id);
            nodes.extend(targets.nodes.iter().chain(&targets.exits));
        }
        for rule in rules {
            if matches!(self.targets(rule.targets).reach, Reach::OwnDevices) {
                nodes.extend(self.devices_beside(&self.senders(rule.senders).nodes));
            }
        }
    }

    /// The nodes that may send into an approved route or hear from it. Some more, where the policy
    /// steers through nobody.
    #[must_use]
    pub fn users_of_route(&self, route: &IpNet) -> BTreeSet<NodeId> {
        let Some(ends) = self.routes.get(route) else {
            return BTreeSet::new();
        };
        let into = ends.into.iter().flat_map(|id| &self.targets(*id).rules);
        let senders: BTreeSet<SendersId> = into.map(|at| self.rule(*at).senders).collect();
        let from = ends.from.iter().flat_map(|id| &self.senders(*id).rules);
        let targets: BTreeSet<TargetsId> = from.map(|at| self.rule(*at).targets).collect();
        let senders = senders.into_iter().flat_map(|id| &self.senders(id).nodes);
        let targets = targets.into_iter().flat_map(|id| &self.targets(id).nodes);
        let mut nodes: Vec<NodeId> = senders.chain(targets).copied().collect();
        // Sorted lists behind each other: merged first, they make a set in one go.
        nodes.sort();
        nodes.dedup();
        nodes.into_iter().collect()
    }
}
