//! Which advertised routes are in force.

use crate::state::{NetworkState, RouteDecision};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use weir_overlay::NodeId;
use weir_policy::Policy;

/// The advertised routes of each node that an admin approved, or that the policy's `autoApprovers`
/// approve and no admin rejected. A policy that changes decides anew on all of them.
pub(crate) fn in_force(state: &NetworkState, policy: &Policy) -> BTreeMap<NodeId, BTreeSet<IpNet>> {
    let directory = state.directory();
    let nodes = state.nodes.values().map(|node| {
        let as_policy_node = directory.nodes.get(&node.id);
        let owner = node.user.and_then(|user| state.users.get(&user));
        let is_in_force = |route: &IpNet| match node.decisions.get(route) {
            Some(RouteDecision::Approved) => true,
            Some(RouteDecision::Rejected) => false,
            None => as_policy_node.is_some_and(|of| policy.approves(route, of, owner)),
        };
        let routes = node.host.advertised_routes.iter().copied();
        (node.id, routes.filter(is_in_force).collect())
    });
    nodes.collect()
}
