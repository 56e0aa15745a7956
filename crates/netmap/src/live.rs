//! A network that lives across changes, and tells after each whose maps may differ.

use crate::{
    approval,
    network::{Network, with_routes},
    routes::Relays,
    state::{KeyLife, NetworkState, Node},
};
use ipnet::IpNet;
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use weir_overlay::{Generation, NodeId, NodeName, NodePublicKey, Tag, UserId};
use weir_policy::{CompiledPolicy, Diagnostic, Directory, LivePolicy, Policy, Replacement, User};
use weir_protocol::{NetworkMap, Peer, RouteEgress, RouteStatus};

/// A change of the network or of its policy.
#[derive(Clone, Debug)]
pub enum NetworkChange {
    /// A node joins, or is so from now on: its tags, its routes, whether it is healthy, all of it.
    Node(Box<Node>),
    /// A node leaves.
    Left(NodeId),
    /// These are the users from now on.
    Users(BTreeMap<UserId, User>),
    /// Another policy is in force from now on.
    Policy(Arc<Policy>),
}

/// Whose maps may differ after a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Any part of these nodes' maps.
    pub whole: BTreeSet<NodeId>,
    /// Of these nodes' maps nothing but what they say of these peers. Nobody is in both.
    pub peers: BTreeMap<NodeId, BTreeSet<NodeId>>,
}

impl Touched {
    /// Everybody whose map may differ.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.whole.iter().chain(self.peers.keys()).copied()
    }

    /// Whether nobody is touched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.peers.is_empty()
    }

    /// Adds what another change touches.
    pub fn merge(&mut self, other: Self) {
        self.whole.extend(other.whole);
        for (viewer, peers) in other.peers {
            self.peers.entry(viewer).or_default().extend(peers);
        }
        let whole = &self.whole;
        self.peers.retain(|viewer, _| !whole.contains(viewer));
    }

    fn whole(nodes: BTreeSet<NodeId>) -> Self {
        Self {
            whole: nodes,
            peers: BTreeMap::new(),
        }
    }
}

/// One network and its policy across all changes. Equals [`Network::new`] of the same state and
/// policy, in every answer; but one node's change costs what that node touches. Users and policies
/// that change cost a compilation.
#[derive(Clone, Debug)]
pub struct LiveNetwork {
    state: NetworkState,
    policy: LivePolicy,
    /// The routes in force: approved by an admin or by the policy.
    approved: BTreeMap<NodeId, BTreeSet<IpNet>>,
    relays: Relays,
}

impl LiveNetwork {
    /// Compiles the policy for the state.
    #[must_use]
    pub fn new(state: NetworkState, policy: Arc<Policy>) -> Self {
        let approved = approval::in_force(&state, &policy);
        let relays = Relays::of(&state, &approved);
        Self {
            policy: LivePolicy::new(policy, with_routes(state.directory(), &approved)),
            state: NetworkState {
                primaries: relays.primaries(),
                ..state
            },
            relays,
            approved,
        }
    }

    /// The state, with the primaries that were chosen.
    #[must_use]
    pub const fn state(&self) -> &NetworkState {
        &self.state
    }

    /// The policy as it was written.
    #[must_use]
    pub const fn policy(&self) -> &Arc<Policy> {
        self.policy.policy()
    }

    /// The network as it is now, to be asked. Costs nothing.
    #[must_use]
    pub fn network(&self) -> Network<'_> {
        Network {
            state: &self.state,
            policy: Cow::Borrowed(self.policy.compiled()),
            source: self.policy.policy(),
            approved: Cow::Borrowed(&self.approved),
            relays: Cow::Borrowed(&self.relays),
        }
    }

    /// All that a node is told. `None` for a node that the network does not have.
    #[must_use]
    pub fn map(&self, node: NodeId, generation: Generation) -> Option<NetworkMap> {
        self.network().map(node, generation)
    }

    /// What a node is told of one of its peers. `None` when it is none of them.
    #[must_use]
    pub fn peer(&self, viewer: NodeId, peer: NodeId) -> Option<Peer> {
        self.network().peer_of(viewer, peer)
    }

    /// Makes a change, and names the nodes whose maps may differ: all of those that do, a node
    /// that joined or left among them, and hardly another. Nothing is touched by a change to what
    /// is so already.
    pub fn apply(&mut self, change: NetworkChange) -> Touched {
        match change {
            NetworkChange::Node(node) => self.set_node(node.id, Some(*node)),
            NetworkChange::Left(id) => self.set_node(id, None),
            NetworkChange::Users(users) => {
                let before = self.everything();
                self.state.users = users;
                Touched::whole(self.decide_anew(&before, Arc::clone(self.policy.policy())))
            }
            NetworkChange::Policy(policy) => {
                let mut prepared = self.prepare(policy);
                self.put_in_force(&mut prepared)
            }
        }
    }

    /// What the policy is compiled against.
    #[must_use]
    pub const fn directory(&self) -> &Directory {
        self.policy.directory()
    }

    /// Checks a policy as [`verify`](crate::verify) does.
    ///
    /// # Errors
    /// All that fails.
    pub fn verify(&self, policy: &Policy) -> Result<(), Vec<Diagnostic>> {
        match policy.tests() {
            // Only these ask for routes, which it may approve otherwise.
            0 => policy.verify(self.directory()),
            _ => crate::verify(&self.state, policy),
        }
    }

    /// Compiles another policy. The network is asked meanwhile, and must not be changed until the
    /// policy is put in force.
    #[must_use]
    pub fn prepare(&self, policy: Arc<Policy>) -> Prepared {
        let approved = approval::in_force(&self.state, &policy);
        let routes = (approved != self.approved).then(|| {
            let relays = Relays::of(&self.state, &approved);
            (approved, relays)
        });
        let directory = routes.as_ref().map(|(approved, _)| {
            let directory = self.state.directory();
            with_routes(directory, approved)
        });
        let replacement = self.policy.prepare(policy, directory);
        let mut touched = BTreeSet::new();
        if let Some(new) = replacement.compiled() {
            let old = self.compiled();
            if let Some((_, relays)) = &routes {
                for route in relays.that_differ(&self.relays) {
                    touched.extend(relays.of_route(&route));
                    touched.extend(self.relays.of_route(&route));
                    touched.extend(new.users_of_route(&route));
                }
            }
            // Of what peers see of each other, this alone follows from the policy.
            for id in old.without_ipv4() ^ new.without_ipv4() {
                touched.insert(id);
                touched.extend(new.peers(id));
            }
            if old.is_set() != new.is_set() {
                touched.extend(self.state.nodes.keys());
            }
        }
        Prepared {
            egress: self.egress(),
            replacement,
            routes,
            touched,
        }
    }

    /// Puts a policy in force that was prepared for the network as it is, and leaves the one before
    /// in its place: taking that down takes a while.
    pub fn put_in_force(&mut self, prepared: &mut Prepared) -> Touched {
        let mut touched = std::mem::take(&mut prepared.touched);
        touched.extend(self.policy.put_in_force(&mut prepared.replacement));
        if let Some((approved, relays)) = &mut prepared.routes {
            std::mem::swap(&mut self.approved, approved);
            std::mem::swap(&mut self.relays, relays);
            self.state.primaries = self.relays.primaries();
        }
        for (id, egress) in self.egress() {
            if prepared.egress.get(&id) != Some(&egress) {
                touched.insert(id);
            }
        }
        Touched::whole(touched)
    }

    fn compiled(&self) -> &CompiledPolicy {
        self.policy.compiled()
    }

    fn set_node(&mut self, id: NodeId, node: Option<Node>) -> Touched {
        if self.state.nodes.get(&id) == node.as_ref() {
            return Touched::default();
        }
        let seen_before = self.seen(id);
        let told_before = self.told(id);
        match node {
            Some(node) => drop(self.state.nodes.insert(id, node)),
            None => drop(self.state.nodes.remove(&id)),
        }
        let mut touched = Touched::whole(self.follow_routes(id));
        if self.told(id) != told_before {
            touched.whole.insert(id);
        }
        if self.seen(id) != seen_before {
            touched.whole.insert(id);
            for peer in self.compiled().peers(id) {
                // A relay's own part tells which of its peers leave by which address.
                let node = self.state.nodes.get(&peer);
                if node.is_some_and(|node| !node.egress.is_empty()) {
                    touched.whole.insert(peer);
                } else if !touched.whole.contains(&peer) {
                    touched.peers.insert(peer, [id].into());
                }
            }
        }
        touched
    }

    /// Brings approvals, policy and relays up to what the state says of a node.
    fn follow_routes(&mut self, id: NodeId) -> BTreeSet<NodeId> {
        let node = self.state.nodes.get(&id);
        let routes = node.map(|node| {
            let policy = self.policy.policy();
            approval::of_node(node, &self.state.users, policy)
        });
        let in_force = node.filter(|node| !node.key_life.is_over());
        let mut as_policy_node = in_force.map(Node::as_policy_node);
        if let (Some(node), Some(routes)) = (&mut as_policy_node, &routes) {
            node.approved_routes.clone_from(routes);
        }
        let mut touched = self.policy.set_node(id, as_policy_node);
        let before = match &routes {
            Some(routes) => self.approved.insert(id, routes.clone()),
            None => self.approved.remove(&id),
        };
        let before = before.unwrap_or_default();
        let after = routes.unwrap_or_default();
        for route in before.union(&after) {
            let old = self.relays.of_route(route).to_vec();
            let serves = after.contains(route);
            self.relays.set(route, id, serves, &self.state);
            match self.relays.primary(route) {
                Some(primary) => self.state.primaries.insert(*route, primary),
                None => self.state.primaries.remove(route),
            };
            self.touch_route(route, id, &old, &mut touched);
        }
        touched
    }

    /// Adds those whom a node's new place among the relays of a route concerns.
    fn touch_route(
        &self,
        route: &IpNet,
        moved: NodeId,
        old: &[NodeId],
        touched: &mut BTreeSet<NodeId>,
    ) {
        let new = self.relays.of_route(route);
        let compiled = self.compiled();
        let is_new = if route.prefix_len() == 0 {
            old.contains(&moved) != new.contains(&moved)
        } else {
            old.first() != new.first()
        };
        if is_new {
            touched.extend(old.iter().chain(new));
            touched.extend(compiled.users_of_route(route));
        } else if route.prefix_len() > 0 && old != new {
            // Who may use whichever relay is best uses the same one as before.
            let steered = |viewer: &NodeId| {
                let ways = compiled.ways_into(*viewer, route);
                !ways.anyone && ways.through.contains(&moved)
            };
            let users = compiled.users_of_route(route).into_iter();
            touched.extend(users.filter(steered));
        }
    }

    /// Compiles everything, and decides on all routes anew.
    fn decide_anew(&mut self, before: &Everything, policy: Arc<Policy>) -> BTreeSet<NodeId> {
        self.approved = approval::in_force(&self.state, &policy);
        let directory = with_routes(self.state.directory(), &self.approved);
        let mut touched = self.policy.replace(policy, directory);
        self.relays = Relays::of(&self.state, &self.approved);
        self.state.primaries = self.relays.primaries();
        for route in self.relays.that_differ(&before.relays) {
            touched.extend(self.relays.of_route(&route));
            touched.extend(before.relays.of_route(&route));
            touched.extend(self.compiled().users_of_route(&route));
        }
        for id in self.state.nodes.keys() {
            if before.seen.get(id) != self.seen(*id).as_ref() {
                touched.insert(*id);
                touched.extend(self.compiled().peers(*id));
            }
        }
        if before.is_set != self.compiled().is_set() {
            touched.extend(self.state.nodes.keys());
        }
        for (id, egress) in self.egress() {
            if before.egress.get(&id) != Some(&egress) {
                touched.insert(id);
            }
        }
        touched
    }

    fn everything(&self) -> Everything {
        let ids = self.state.nodes.keys();
        Everything {
            seen: ids.filter_map(|id| Some((*id, self.seen(*id)?))).collect(),
            relays: self.relays.clone(),
            egress: self.egress(),
            is_set: self.compiled().is_set(),
        }
    }

    /// What the relays are told for which an admin chose addresses: few.
    fn egress(&self) -> BTreeMap<NodeId, Vec<RouteEgress>> {
        let network = self.network();
        let nodes = self.state.nodes.values();
        let chosen = nodes.filter(|node| !node.egress.is_empty());
        chosen
            .map(|node| (node.id, network.egress(node.id)))
            .collect()
    }

    /// What a node's peers are told of it, its routes aside.
    fn seen(&self, id: NodeId) -> Option<Seen> {
        let node = self.state.nodes.get(&id)?;
        Some(Seen {
            name: node.name.clone(),
            owner: self.state.owner(node),
            tags: node.tags.clone(),
            node_key: node.node_key,
            addresses: node.addresses.clone(),
            without_ipv4: self.compiled().is_without_ipv4(id),
            endpoint: node.endpoint(),
        })
    }

    /// What a node alone is told: of its routes and its key.
    fn told(&self, id: NodeId) -> (Vec<RouteStatus>, Vec<RouteEgress>, Option<KeyLife>) {
        let node = self.state.nodes.get(&id);
        let network = self.network();
        (
            network.routes(id),
            network.egress(id),
            node.map(|node| node.key_life),
        )
    }
}

/// Another policy for a network, compiled and not in force yet.
#[derive(Debug)]
pub struct Prepared {
    replacement: Replacement,
    /// The routes in force and who serves them, where these are others.
    routes: Option<(BTreeMap<NodeId, BTreeSet<IpNet>>, Relays)>,
    /// What relays are told now for which an admin chose addresses.
    egress: BTreeMap<NodeId, Vec<RouteEgress>>,
    /// Whose maps may differ, beside those to whom the policy says something else.
    touched: BTreeSet<NodeId>,
}

/// What has to be known of before to tell what a change of all changed.
struct Everything {
    seen: BTreeMap<NodeId, Seen>,
    relays: Relays,
    egress: BTreeMap<NodeId, Vec<RouteEgress>>,
    is_set: bool,
}

#[derive(PartialEq, Eq)]
struct Seen {
    name: NodeName,
    owner: Option<String>,
    tags: BTreeSet<Tag>,
    node_key: NodePublicKey,
    addresses: BTreeSet<IpAddr>,
    without_ipv4: bool,
    endpoint: Option<SocketAddr>,
}
