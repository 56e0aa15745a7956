//! Which nodes have to be told when one compiled policy takes the place of another, because its
//! text changed or the network did.

use crate::compile::{CompiledPolicy, CompiledRule, Reach, Routes};
use ipnet::IpNet;
use std::collections::BTreeSet;
use weir_overlay::{GrantId, NodeId, UserId};

/// The nodes whose filter, peers or ways into routes differ between two compiled policies. A node
/// that only one of them knows is among them.
///
/// Only those are looked at that a changed rule, node or route touches: the cost is that of
/// comparing the lists of rules, and of some filters.
#[must_use]
pub fn changed_nodes(old: &CompiledPolicy, new: &CompiledPolicy) -> BTreeSet<NodeId> {
    let (before, after) = different(&old.rules, &new.rules);
    let mut candidates = moved(old, new);
    candidates.extend(old.without_ipv4.symmetric_difference(&new.without_ipv4));
    let mut routes: BTreeSet<IpNet> = old
        .routes
        .symmetric_difference(&new.routes)
        .copied()
        .collect();
    for (policy, rules) in [(old, &before), (new, &after)] {
        policy.touch(rules, &mut candidates);
        for route in &routes {
            policy.touch(&policy.rules_of(route), &mut candidates);
        }
    }
    routes.extend(old.routes_of(&before));
    routes.extend(new.routes_of(&after));
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

/// The rules of each list that the other does not have as they are. What is left of both lists
/// is the same, in the same order.
fn different<'a>(
    old: &'a [CompiledRule],
    new: &'a [CompiledRule],
) -> (Vec<&'a CompiledRule>, Vec<&'a CompiledRule>) {
    let ids = |rules: &[CompiledRule]| rules.iter().map(|rule| rule.id).collect();
    let (old_ids, new_ids): (BTreeSet<GrantId>, BTreeSet<GrantId>) = (ids(old), ids(new));
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let (mut olds, mut news) = (old.iter().peekable(), new.iter().peekable());
    while let (Some(one), Some(other)) = (olds.peek(), news.peek()) {
        if one.id == other.id {
            if one != other {
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

/// The nodes that came, went, or are or serve something else now, and all devices of their users.
fn moved(old: &CompiledPolicy, new: &CompiledPolicy) -> BTreeSet<NodeId> {
    let ids = old.places.keys().chain(new.places.keys());
    let mut nodes: BTreeSet<NodeId> = ids.copied().collect();
    nodes.retain(|id| match (old.places.get(id), new.places.get(id)) {
        (Some(before), Some(after)) => !before.is_like(after),
        (None, _) | (_, None) => true,
    });
    for policy in [old, new] {
        let places = nodes.iter().filter_map(|id| policy.places.get(id));
        let users: BTreeSet<UserId> = places.filter_map(|place| place.user).collect();
        let devices = users.iter().filter_map(|user| policy.devices.get(user));
        nodes.extend(devices.flatten());
    }
    nodes
}

impl CompiledPolicy {
    /// Adds the nodes that rules start from or lead to.
    fn touch(&self, rules: &[&CompiledRule], nodes: &mut BTreeSet<NodeId>) {
        for rule in rules {
            nodes.extend(rule.source_nodes.iter().chain(rule.target_nodes.iter()));
        }
        // A public prefix is also allowed at exits, for those whom another rule lets use them.
        if rules
            .iter()
            .any(|rule| matches!(rule.reach, Reach::Literal(_)))
        {
            let exits = self.places.iter();
            let exits = exits.filter(|(_, place)| !place.exits.is_empty());
            nodes.extend(exits.map(|(id, _)| *id));
        }
    }

    /// The nodes that may send into an approved route or hear from it. A few more where the policy
    /// denies.
    #[must_use]
    pub fn users_of_route(&self, route: &IpNet) -> BTreeSet<NodeId> {
        let rules = |list: Option<&Vec<usize>>| {
            let list = list.into_iter().flatten();
            list.filter_map(|at| self.rules.get(*at))
                .collect::<Vec<_>>()
        };
        let mut nodes = BTreeSet::new();
        for rule in rules(self.into.get(route)) {
            nodes.extend(rule.source_nodes.iter());
        }
        for rule in rules(self.from.get(route)) {
            nodes.extend(rule.target_nodes.iter());
        }
        if route.prefix_len() > 0 {
            let all = self.rules.iter();
            for rule in all.filter(|rule| matches!(rule.source_routes, Routes::All)) {
                nodes.extend(rule.target_nodes.iter());
            }
        }
        nodes
    }

    /// The rules that lead into a route, and those that start from it but not from all.
    fn rules_of(&self, route: &IpNet) -> Vec<&CompiledRule> {
        let lists = [self.into.get(route), self.from.get(route)];
        let rules = lists.into_iter().flatten().flatten();
        rules.filter_map(|at| self.rules.get(*at)).collect()
    }

    /// The approved routes that some of the rules lead into or start from.
    fn routes_of(&self, rules: &[&CompiledRule]) -> BTreeSet<IpNet> {
        let concerns = |route: &&IpNet| {
            rules.iter().any(|rule| {
                let starts = match &rule.source_routes {
                    Routes::All => true,
                    Routes::Some(routes) => routes.contains(route),
                };
                starts || rule.leads_into(route)
            })
        };
        self.routes.iter().filter(concerns).copied().collect()
    }
}
