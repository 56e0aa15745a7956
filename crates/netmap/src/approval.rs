//! Which advertised routes are in force.

use crate::state::{NetworkState, Node, RouteDecision};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use weir_overlay::{NodeId, UserId};
use weir_policy::{Policy, PolicyNode, User};

/// The advertised routes of each node that an admin approved, or that the policy's `autoApprovers`
/// approve and no admin rejected. A policy that changes decides anew on all of them. A node whose
/// key has expired has none.
pub(crate) fn in_force(state: &NetworkState, policy: &Policy) -> BTreeMap<NodeId, BTreeSet<IpNet>> {
    let nodes = state.nodes.values();
    nodes
        .map(|node| (node.id, of_node(node, &state.users, policy)))
        .collect()
}

/// Those of one node.
pub(crate) fn of_node(
    node: &Node,
    users: &BTreeMap<UserId, User>,
    policy: &Policy,
) -> BTreeSet<IpNet> {
    if node.key_life.is_over() || node.host.advertised_routes.is_empty() {
        return BTreeSet::new();
    }
    let owner = node.user.and_then(|user| users.get(&user));
    let approver_sees = PolicyNode {
        user: node.user,
        tags: node.tags.clone(),
        ..PolicyNode::default()
    };
    let is_in_force = |route: &IpNet| match node.decisions.get(route) {
        Some(RouteDecision::Approved) => true,
        Some(RouteDecision::Rejected) => false,
        None => policy.approves(route, &approver_sees, owner),
    };
    let routes = node.host.advertised_routes.iter().copied();
    routes.filter(is_in_force).collect()
}
