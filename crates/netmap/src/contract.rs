//! The whole computation for a network that is described in a file: what `coordinator policy
//! compile` answers.

use crate::{
    network::Network,
    state::{NetworkState, Node},
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use weir_overlay::{AddressSet, NodeId, NodeName, NodePublicKey, Tag, UserId};
use weir_policy::{Diagnostic, Directory, Policy, Row, User};
use weir_protocol::HostInfo;

/// A network as a file describes it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct NetworkFile {
    /// The e-mail domain that belongs to the network.
    #[serde(default)]
    pub domain: Option<String>,
    /// The users.
    #[serde(default)]
    pub users: Vec<FileUser>,
    /// The nodes.
    pub nodes: Vec<FileNode>,
}

/// A user of a [`NetworkFile`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct FileUser {
    /// The name.
    pub name: String,
    /// The e-mail address.
    #[serde(default)]
    pub email: Option<String>,
}

/// A node of a [`NetworkFile`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct FileNode {
    /// Its name.
    pub name: String,
    /// The name of the user who owns it.
    #[serde(default)]
    pub user: Option<String>,
    /// Its tags.
    #[serde(default)]
    pub tags: Vec<Tag>,
    /// Its IPv4 address.
    #[serde(default)]
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    #[serde(default)]
    pub ipv6: Option<Ipv6Addr>,
    /// The routes that it advertises.
    #[serde(default)]
    pub advertised_routes: Vec<IpNet>,
    /// Those of them that an admin approved.
    #[serde(default)]
    pub approved_routes: Vec<IpNet>,
    /// When it was enrolled. Of two relays for one prefix, the older one goes first.
    #[serde(default)]
    pub created: Option<jiff::Timestamp>,
}

/// What a policy means in a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Compiled {
    /// By name, what each node is told.
    pub nodes: BTreeMap<String, CompiledNode>,
    /// What is probably not meant.
    pub warnings: Vec<Diagnostic>,
}

/// What a node is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CompiledNode {
    /// Its packet filter, as the policy wrote it.
    pub filter: Vec<Row>,
    /// Its peers.
    pub peers: BTreeMap<String, CompiledPeer>,
}

/// A peer of a [`CompiledNode`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CompiledPeer {
    /// Its addresses, and the routes that the viewer uses or hears from through it.
    pub allowed_ips: Vec<IpNet>,
}

/// A policy that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// What is wrong, in the order of the text, warnings among the errors left out.
    pub errors: Vec<Diagnostic>,
}

/// Why nothing was compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The policy is wrong, or does not hold what it promises.
    #[error("the policy is refused")]
    Refused(Refused),
    /// A node belongs to a user that the network does not have.
    #[error("the node {node:?} belongs to {user:?}, who is not among the users")]
    UnknownUser {
        /// The node.
        node: String,
        /// The user.
        user: String,
    },
}

/// Compiles a policy for a network that is described in a file.
///
/// # Errors
/// [`CompileError::Refused`] with the diagnostics; [`CompileError::UnknownUser`].
pub fn compile_file(policy: &[u8], network: &NetworkFile) -> Result<Compiled, CompileError> {
    let refused = |found: Vec<Diagnostic>| {
        let is_error = |one: &Diagnostic| one.severity == weir_policy::Severity::Error;
        let errors = found.into_iter().filter(is_error).collect();
        CompileError::Refused(Refused { errors })
    };
    let policy = Policy::parse_bytes(policy).map_err(refused)?;
    let (state, names) = network.state()?;
    let directory = Directory {
        wildcard: wildcard(),
        domains: network.domain.iter().cloned().collect(),
        ..state.directory()
    };
    let warnings = policy.warnings(&directory);
    let network = Network::in_directory(&state, &policy, directory.clone());
    policy
        .verify(&network.with_routes(directory))
        .map_err(refused)?;
    let nodes = state.nodes.values().map(|node| {
        let name = names.get(&node.id).cloned().unwrap_or_default();
        (name, compiled_node(&network, &state, node, &names))
    });
    Ok(Compiled {
        nodes: nodes.collect(),
        warnings,
    })
}

fn compiled_node(
    network: &Network<'_>,
    state: &NetworkState,
    node: &Node,
    names: &BTreeMap<NodeId, String>,
) -> CompiledNode {
    let offers = network.offers(node.id);
    let peers = network.policy().peers(node.id).into_iter();
    let peers = peers.filter_map(|id| {
        let peer = state.nodes.get(&id)?;
        let addresses = network.addresses(node, peer).into_iter().map(IpNet::from);
        let routes = offers.get(&id).into_iter();
        let routes = routes.flat_map(|offer| offer.routes.union(&offer.source_prefixes));
        let allowed_ips = addresses.chain(routes.copied()).collect();
        Some((names.get(&id)?.clone(), CompiledPeer { allowed_ips }))
    });
    CompiledNode {
        filter: network.policy().rows(node.id),
        peers: peers.collect(),
    }
}

/// What `*` means as a source in such a file: shared address space (RFC 6598) but for
/// 100.115.92.0/23, which one platform uses inside its machines, and the unique local prefix that
/// these networks have.
fn wildcard() -> AddressSet {
    let v4 = |a, b, c, d, length| IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length));
    let v6 = Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0);
    let all: AddressSet = [
        v4(100, 64, 0, 0, 10),
        IpNet::V6(Ipv6Net::new_assert(v6, 48)),
    ]
    .into_iter()
    .collect();
    all.difference(&[v4(100, 115, 92, 0, 23)].into_iter().collect())
}

impl NetworkFile {
    /// The network as the coordinator would hold it, and what its nodes are called in the file.
    fn state(&self) -> Result<(NetworkState, BTreeMap<NodeId, String>), CompileError> {
        let users: BTreeMap<UserId, User> = (1..)
            .map(UserId)
            .zip(&self.users)
            .map(|(id, user)| {
                let user = User {
                    id,
                    name: user.name.clone(),
                    email: user.email.clone(),
                };
                (id, user)
            })
            .collect();
        // Times of the same second still have an order.
        let times: BTreeSet<_> = self.nodes.iter().map(|node| node.created).collect();
        let times: BTreeMap<_, i64> = times.into_iter().zip(0..).collect();
        let mut nodes = BTreeMap::new();
        let mut names = BTreeMap::new();
        for (id, node) in (1..).map(NodeId).zip(&self.nodes) {
            let user = match &node.user {
                None => None,
                Some(name) => {
                    let known = users.values().find(|user| user.name == *name);
                    let known = known.ok_or_else(|| CompileError::UnknownUser {
                        node: node.name.clone(),
                        user: name.clone(),
                    })?;
                    Some(known.id)
                }
            };
            let v4 = node.ipv4.map(IpAddr::V4);
            let v6 = node.ipv6.map(IpAddr::V6);
            names.insert(id, node.name.clone());
            nodes.insert(
                id,
                Node {
                    id,
                    name: NodeName::from_hostname(&node.name),
                    user,
                    tags: node.tags.iter().cloned().collect(),
                    // Nobody asks for the keys of a network that is only described.
                    node_key: NodePublicKey::from_bytes([0; 32]),
                    key_life: crate::KeyLife::Unlimited,
                    addresses: v4.into_iter().chain(v6).collect(),
                    created: times.get(&node.created).copied().unwrap_or_default(),
                    host: HostInfo {
                        hostname: node.name.clone(),
                        advertised_routes: node.advertised_routes.iter().copied().collect(),
                        ..HostInfo::default()
                    },
                    decisions: node
                        .approved_routes
                        .iter()
                        .map(|route| (*route, crate::RouteDecision::Approved))
                        .collect(),
                    observed_address: None,
                    egress: BTreeMap::new(),
                    healthy: true,
                },
            );
        }
        let state = NetworkState {
            users,
            nodes,
            ..NetworkState::default()
        };
        Ok((state, names))
    }
}
