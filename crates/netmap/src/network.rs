//! State and policy to one network map per node.

use crate::{
    approval,
    routes::{self, Offer, Relays},
    state::{NetworkState, Node, RouteDecision},
};
use ipnet::IpNet;
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use weir_overlay::{Generation, NodeId};
use weir_policy::{CompiledPolicy, Diagnostic, Directory, Policy, compile};
use weir_protocol::{KeyStatus, NetworkMap, Peer, RouteState, RouteStatus, SelfNode};

/// Told to every node while nobody has set a policy.
pub const NO_POLICY_NOTICE: &str =
    "no policy is set: nothing is allowed. Set one with `coordinator policy set FILE`";

/// Told to a node whose key has expired.
pub const KEY_EXPIRED_NOTICE: &str = "the key of this node has expired: it has no peers until it \
     is let in again. Run `agent up --force-reauth`, with --auth-key=KEY where you have one";

/// One state of the network under one policy. Making it costs a compilation, unless
/// [`LiveNetwork`](crate::LiveNetwork) has it already; the map of a node then costs about as much
/// as the map is long.
#[derive(Debug)]
pub struct Network<'a> {
    pub(crate) state: &'a NetworkState,
    pub(crate) policy: Cow<'a, CompiledPolicy>,
    /// The policy as it was written, for what names the people of its groups.
    pub(crate) source: &'a Policy,
    /// The routes in force: approved by an admin or by the policy.
    pub(crate) approved: Cow<'a, BTreeMap<NodeId, BTreeSet<IpNet>>>,
    pub(crate) relays: Cow<'a, Relays>,
}

/// Checks a policy against the network that it is for: its `tests` and `sshTests`, and the e-mail
/// domains that it names.
///
/// # Errors
/// All that fails. The policy should not be put in force then.
pub fn verify(state: &NetworkState, policy: &Policy) -> Result<(), Vec<Diagnostic>> {
    let approved = approval::in_force(state, policy);
    policy.verify(&with_routes(state.directory(), &approved))
}

/// A directory with the routes that are in force.
pub(crate) fn with_routes(
    mut directory: Directory,
    approved: &BTreeMap<NodeId, BTreeSet<IpNet>>,
) -> Directory {
    for (id, node) in &mut directory.nodes {
        node.approved_routes = approved.get(id).cloned().unwrap_or_default();
    }
    directory
}

impl<'a> Network<'a> {
    /// Compiles the policy for the state.
    #[must_use]
    pub fn new(state: &'a NetworkState, policy: &'a Policy) -> Self {
        Self::in_directory(state, policy, state.directory())
    }

    /// Like [`Self::new`] for a network with addresses or e-mail domains of its own; the routes of
    /// the directory's nodes are replaced by those in force.
    pub(crate) fn in_directory(
        state: &'a NetworkState,
        policy: &'a Policy,
        directory: Directory,
    ) -> Self {
        let approved = approval::in_force(state, policy);
        Self {
            policy: Cow::Owned(compile(policy, &with_routes(directory, &approved))),
            relays: Cow::Owned(Relays::of(state, &approved)),
            source: policy,
            state,
            approved: Cow::Owned(approved),
        }
    }

    /// A directory with the routes that are in force here.
    pub(crate) fn with_routes(&self, directory: Directory) -> Directory {
        with_routes(directory, &self.approved)
    }

    /// The compiled policy.
    #[must_use]
    pub fn policy(&self) -> &CompiledPolicy {
        &self.policy
    }

    /// The relay through which an approved subnet route is reached, unless the policy steers some
    /// through another. None for default routes, of which every exit offers its own.
    #[must_use]
    pub fn primary(&self, route: &IpNet) -> Option<NodeId> {
        self.relays.primary(route)
    }

    /// The routes of a node that are in force: approved by an admin, or by the policy's
    /// `autoApprovers` and not rejected.
    pub fn approved_routes(&self, node: NodeId) -> impl Iterator<Item = IpNet> {
        self.approved.get(&node).into_iter().flatten().copied()
    }

    /// The routes that a node advertises and what has become of each, sorted by prefix. Empty for
    /// a node that the network does not have.
    #[must_use]
    pub fn routes(&self, node: NodeId) -> Vec<RouteStatus> {
        let Some(node) = self.state.nodes.get(&node) else {
            return Vec::new();
        };
        let approved = self.approved.get(&node.id);
        let status = |prefix: &IpNet| RouteStatus {
            prefix: *prefix,
            state: match node.decisions.get(prefix) {
                Some(RouteDecision::Rejected) => RouteState::Rejected,
                // It serves nothing, but nobody needs to approve it again.
                Some(RouteDecision::Approved) if node.key_life.is_over() => RouteState::Standby,
                _ if !approved.is_some_and(|routes| routes.contains(prefix)) => {
                    RouteState::AwaitingApproval
                }
                None | Some(RouteDecision::Approved) => match self.primary(prefix) {
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
        let offers = self.offers(node);
        let peers = self.policy.peers(node);
        let peers = peers.iter().filter_map(|peer| self.state.nodes.get(peer));
        let mut notices = Vec::new();
        if !self.policy.is_set() {
            notices.push(NO_POLICY_NOTICE.to_owned());
        }
        if own.key_life.is_over() {
            notices.push(KEY_EXPIRED_NOTICE.to_owned());
        }
        Some(NetworkMap {
            generation,
            node: SelfNode {
                id: own.id,
                name: own.name.clone(),
                user: self.state.owner(own),
                tags: own.tags.clone(),
                addresses: self.addresses(own, own),
                routes: self.routes(node),
                egress: self.egress(node),
                key: KeyStatus {
                    public: Some(own.node_key),
                    expires: own.key_life.end(),
                    expired: own.key_life.is_over(),
                },
            },
            peers: peers
                .map(|peer| (peer.id, self.peer(own, peer, &offers)))
                .collect(),
            filter: self.policy.filter(node),
            notices,
        })
    }

    /// What a node is told of one of its peers. `None` when it is none of them.
    #[must_use]
    pub fn peer_of(&self, viewer: NodeId, peer: NodeId) -> Option<Peer> {
        // Not the peer's own: of a hub these are many, and it is asked for each of them.
        if self.policy.peers(viewer).contains(&peer) {
            let own = self.state.nodes.get(&viewer)?;
            let peer = self.state.nodes.get(&peer)?;
            return Some(self.peer(own, peer, &self.offers(viewer)));
        }
        None
    }

    /// What of others' routes a node may use or hear from, by the peer that it is reached through.
    pub(crate) fn offers(&self, viewer: NodeId) -> BTreeMap<NodeId, Offer> {
        let none = BTreeSet::new();
        let own = self.approved.get(&viewer).unwrap_or(&none);
        routes::offers(&self.policy, &self.relays, own, viewer)
    }

    /// The addresses of a node as `viewer` sees them: without IPv4 where the policy takes it from
    /// one of the two.
    pub(crate) fn addresses(&self, viewer: &Node, node: &Node) -> BTreeSet<IpAddr> {
        let policy = &self.policy;
        let without = policy.is_without_ipv4(viewer.id) || policy.is_without_ipv4(node.id);
        let addresses = node.addresses.iter().copied();
        addresses.filter(|a| !without || a.is_ipv6()).collect()
    }

    /// A peer as `viewer` sees it.
    fn peer(&self, viewer: &Node, peer: &Node, offers: &BTreeMap<NodeId, Offer>) -> Peer {
        let offer = offers.get(&peer.id).cloned().unwrap_or_default();
        Peer {
            id: peer.id,
            name: peer.name.clone(),
            user: self.state.owner(peer),
            tags: peer.tags.clone(),
            node_key: peer.node_key,
            addresses: self.addresses(viewer, peer),
            routes: offer.routes,
            source_prefixes: offer.source_prefixes,
            endpoint: peer.endpoint(),
        }
    }
}
