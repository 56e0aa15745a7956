//! Which of several relays a prefix is reached through.

use crate::state::{NetworkState, Node};
use ipnet::IpNet;
use std::{cmp::Reverse, collections::BTreeMap};
use weir_overlay::NodeId;

/// The primary relay of every approved subnet route: the oldest healthy node that serves exactly
/// this prefix, or the oldest of all when none is healthy, because a relay that is cut off from
/// the coordinator may still carry traffic. Prefixes that overlap are decided each for itself.
/// Default routes have no primary: every exit is offered, and users choose.
pub(crate) fn elect(state: &NetworkState) -> BTreeMap<IpNet, NodeId> {
    let mut primaries: BTreeMap<IpNet, &Node> = BTreeMap::new();
    for node in state.nodes.values() {
        for route in node
            .approved_routes()
            .filter(|route| route.prefix_len() > 0)
        {
            let primary = primaries.entry(route).or_insert(node);
            if rank(node) > rank(primary) {
                *primary = node;
            }
        }
    }
    primaries
        .into_iter()
        .map(|(route, node)| (route, node.id))
        .collect()
}

fn rank(node: &Node) -> impl Ord + use<> {
    (node.healthy, Reverse(node.created), Reverse(node.id))
}
