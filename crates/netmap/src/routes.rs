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

/// Who serves each approved route: its primary first, then the others, healthy ones before the
/// others and the older before the younger. Prefixes that overlap are decided each for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Relays {
    by_route: BTreeMap<IpNet, Vec<NodeId>>,
}

impl Relays {
    pub(crate) fn of(state: &NetworkState, approved: &BTreeMap<NodeId, BTreeSet<IpNet>>) -> Self {
        let mut by_route: BTreeMap<IpNet, Vec<NodeId>> = BTreeMap::new();
        for node in state.nodes.values() {
            for route in approved.get(&node.id).into_iter().flatten() {
                by_route.entry(*route).or_default().push(node.id);
            }
        }
        for (route, relays) in &mut by_route {
            put_in_order(relays, state.primaries.get(route).copied(), state);
        }
        Self { by_route }
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
        put_in_order(nodes, state.primaries.get(route).copied(), state);
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

    /// The relay of each subnet route.
    pub(crate) fn primaries(&self) -> BTreeMap<IpNet, NodeId> {
        let routes = self.by_route.keys();
        routes
            .filter_map(|route| Some((*route, self.primary(route)?)))
            .collect()
    }

    /// The relay for a subnet route. Default routes have none: every exit is offered, and users
    /// choose.
    pub(crate) fn primary(&self, route: &IpNet) -> Option<NodeId> {
        let relays = self.by_route.get(route).filter(|_| route.prefix_len() > 0);
        relays?.first().copied()
    }
}

/// Which of some relays carries a prefix: one that is healthy before one that is not, because the
/// latter, cut off from the coordinator, may still carry traffic; among equals the one that did so
/// until now (`incumbent`), because every move cuts connections; then the oldest.
fn elect<'a>(relays: impl Iterator<Item = &'a Node>, incumbent: Option<NodeId>) -> Option<NodeId> {
    let best = relays.max_by_key(|node| (node.healthy, Some(node.id) == incumbent, rank(node)))?;
    Some(best.id)
}

/// Healthy before not, older before younger.
fn rank(node: &Node) -> impl Ord + use<> {
    (node.healthy, Reverse(node.created), Reverse(node.id))
}

fn put_in_order(relays: &mut [NodeId], incumbent: Option<NodeId>, state: &NetworkState) {
    let known = relays.iter().filter_map(|id| state.nodes.get(id));
    let primary = elect(known, incumbent);
    relays.sort_by_key(|id| Reverse((Some(*id) == primary, state.nodes.get(id).map(rank))));
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
