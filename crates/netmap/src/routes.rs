//! Which of several relays a prefix is reached through, and by whom.

use crate::state::{NetworkState, Node};
use ipnet::IpNet;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};
use weir_overlay::NodeId;
use weir_policy::{CompiledPolicy, Ways};

/// What of its routes a peer offers to one viewer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offer {
    /// The viewer may send into these.
    pub(crate) routes: BTreeSet<IpNet>,
    /// The viewer may only hear from these.
    pub(crate) source_prefixes: BTreeSet<IpNet>,
}

/// Who serves each approved route, the best relay first: the oldest healthy node that serves
/// exactly this prefix, or the oldest of all when none is healthy, because a relay that is cut off
/// from the coordinator may still carry traffic. Prefixes that overlap are decided each for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Relays {
    by_route: BTreeMap<IpNet, Vec<NodeId>>,
}

impl Relays {
    pub(crate) fn of(state: &NetworkState, approved: &BTreeMap<NodeId, BTreeSet<IpNet>>) -> Self {
        let mut relays: BTreeMap<IpNet, Vec<&Node>> = BTreeMap::new();
        for node in state.nodes.values() {
            for route in approved.get(&node.id).into_iter().flatten() {
                relays.entry(*route).or_default().push(node);
            }
        }
        let ids = |mut nodes: Vec<&Node>| {
            nodes.sort_by_key(|node| Reverse(rank(node)));
            nodes.into_iter().map(|node| node.id).collect()
        };
        Self {
            by_route: relays
                .into_iter()
                .map(|(route, nodes)| (route, ids(nodes)))
                .collect(),
        }
    }

    /// Who serves a route, the best first.
    pub(crate) fn of_route(&self, route: &IpNet) -> &[NodeId] {
        self.by_route.get(route).map_or(&[], Vec::as_slice)
    }

    /// Finds a node's place among those who serve a route, or takes it from them.
    pub(crate) fn set(&mut self, route: &IpNet, id: NodeId, serves: bool, state: &NetworkState) {
        let nodes = self.by_route.entry(*route).or_default();
        nodes.retain(|node| *node != id);
        if serves {
            nodes.push(id);
        }
        nodes.sort_by_key(|id| Reverse(state.nodes.get(id).map(rank)));
        if nodes.is_empty() {
            self.by_route.remove(route);
        }
    }

    /// The routes that others serve, or in another order.
    pub(crate) fn that_differ(&self, other: &Self) -> BTreeSet<IpNet> {
        let routes = self.by_route.keys().chain(other.by_route.keys());
        let differs = |route: &&IpNet| self.of_route(route) != other.of_route(route);
        routes.filter(differs).copied().collect()
    }

    /// The relay for a subnet route. Default routes have none: every exit is offered, and users
    /// choose.
    pub(crate) fn primary(&self, route: &IpNet) -> Option<NodeId> {
        let relays = self.by_route.get(route).filter(|_| route.prefix_len() > 0);
        relays?.first().copied()
    }
}

fn rank(node: &Node) -> impl Ord + use<> {
    (node.healthy, Reverse(node.created), Reverse(node.id))
}

/// What a viewer may use or hear from, by peer. Of several relays for one prefix, one is offered:
/// WireGuard gives a prefix to whoever was named last. It is the best among all of them, or among
/// those that `via` steers the viewer to when nothing else lets it use the route. Who serves a
/// prefix itself has its own way there, but must let a better relay speak for it. `own` are the
/// routes that the viewer serves.
pub(crate) fn offers(
    policy: &CompiledPolicy,
    relays: &Relays,
    own: &BTreeSet<IpNet>,
    viewer: NodeId,
) -> BTreeMap<NodeId, Offer> {
    let mut offers: BTreeMap<NodeId, Offer> = BTreeMap::new();
    let ways = policy.ways(viewer);
    let heard = policy.heard_routes(viewer);
    let mut routes: BTreeSet<&IpNet> = ways.keys().chain(&heard).collect();
    routes.extend(own);
    let none = Ways::default();
    for route in routes {
        let nodes = relays.of_route(route);
        let ways = ways.get(route).unwrap_or(&none);
        let serves_it = nodes.contains(&viewer);
        if route.prefix_len() == 0 {
            for exit in nodes.iter().filter(|exit| may_use(ways, exit) || serves_it) {
                offers.entry(*exit).or_default().routes.insert(*route);
            }
            continue;
        }
        let all = ways.anyone || heard.contains(route) || serves_it;
        let winner = nodes
            .iter()
            .find(|node| all || **node == viewer || ways.through.contains(node));
        let Some(winner) = winner.filter(|node| **node != viewer) else {
            continue;
        };
        let offer = offers.entry(*winner).or_default();
        if may_use(ways, winner) && !serves_it {
            offer.routes.insert(*route);
        } else {
            offer.source_prefixes.insert(*route);
        }
    }
    offers
}

fn may_use(ways: &Ways, node: &NodeId) -> bool {
    ways.anyone || ways.through.contains(node)
}
