//! State and policy to one network map per node.

use crate::{
    primary,
    state::{NetworkState, Node, RouteDecision},
};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use weir_overlay::{Generation, NodeId};
use weir_policy::{CompiledPolicy, Policy, compile};
use weir_protocol::{NetworkMap, Peer, RouteState, RouteStatus, SelfNode};

/// Told to every node while nobody has set a policy.
pub const NO_POLICY_NOTICE: &str =
    "no policy is set: nothing is allowed. Set one with `coordinator policy set FILE`";

/// One state of the network under one policy. Making it costs about rules times nodes; the map of
/// a node then costs about as much as the map is long.
#[derive(Debug)]
pub struct Network<'a> {
    state: &'a NetworkState,
    policy: CompiledPolicy,
    primaries: BTreeMap<IpNet, NodeId>,
}

impl<'a> Network<'a> {
    /// Compiles the policy for the state.
    #[must_use]
    pub fn new(state: &'a NetworkState, policy: &Policy) -> Self {
        Self {
            state,
            policy: compile(policy, &state.directory()),
            primaries: primary::elect(state),
        }
    }

    /// The compiled policy.
    #[must_use]
    pub const fn policy(&self) -> &CompiledPolicy {
        &self.policy
    }

    /// The relay through which an approved subnet route is reached. None for default routes, of
    /// which every exit offers its own.
    #[must_use]
    pub fn primary(&self, route: &IpNet) -> Option<NodeId> {
        self.primaries.get(route).copied()
    }

    /// The routes that a node advertises and what has become of each, sorted by prefix. Empty for
    /// a node that the network does not have.
    #[must_use]
    pub fn routes(&self, node: NodeId) -> Vec<RouteStatus> {
        let Some(node) = self.state.nodes.get(&node) else {
            return Vec::new();
        };
        let status = |prefix: &IpNet| RouteStatus {
            prefix: *prefix,
            state: match node.decisions.get(prefix) {
                None => RouteState::AwaitingApproval,
                Some(RouteDecision::Rejected) => RouteState::Rejected,
                Some(RouteDecision::Approved) => match self.primary(prefix) {
                    Some(primary) if primary != node.id => RouteState::Standby,
                    Some(_) | None => RouteState::Serving,
                },
            },
        };
        node.host.advertised_routes.iter().map(status).collect()
    }

    /// All that a node is told. `None` for a node that the network does not have.
    #[must_use]
    pub fn map(&self, node: NodeId, generation: Generation) -> Option<NetworkMap> {
        let own = self.state.nodes.get(&node)?;
        let peers = self.policy.peers(node);
        let peers = peers.iter().filter_map(|peer| self.state.nodes.get(peer));
        let notices = match self.policy.is_set() {
            true => Vec::new(),
            false => vec![NO_POLICY_NOTICE.to_owned()],
        };
        Some(NetworkMap {
            generation,
            node: SelfNode {
                id: own.id,
                name: own.name.clone(),
                user: self.state.owner(own),
                tags: own.tags.clone(),
                addresses: own.addresses.clone(),
                routes: self.routes(node),
            },
            peers: peers.map(|peer| (peer.id, self.peer(own, peer))).collect(),
            filter: self.policy.filter(node),
            notices,
        })
    }

    /// A peer as `viewer` sees it.
    fn peer(&self, viewer: &Node, peer: &Node) -> Peer {
        let mut routes = BTreeSet::new();
        let mut source_prefixes = BTreeSet::new();
        for route in peer.approved_routes() {
            let may_use = self.policy.may_send_into(viewer.id, &route);
            if route.prefix_len() == 0 {
                if may_use {
                    routes.insert(route);
                }
                continue;
            }
            // One prefix goes to one peer: WireGuard gives it to whoever was named last.
            if self.primary(&route) != Some(peer.id) {
                continue;
            }
            // Who serves a prefix itself has its own way there, but must let the primary speak
            // for it.
            let serves_it = viewer.approved_routes().any(|own| own == route);
            if may_use && !serves_it {
                routes.insert(route);
            } else if serves_it || self.policy.may_hear_from(viewer.id, &route) {
                source_prefixes.insert(route);
            }
        }
        Peer {
            id: peer.id,
            name: peer.name.clone(),
            user: self.state.owner(peer),
            tags: peer.tags.clone(),
            node_key: peer.node_key,
            addresses: peer.addresses.clone(),
            routes,
            source_prefixes,
            endpoint: peer.endpoint(),
        }
    }
}
