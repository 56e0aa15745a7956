//! What is stored, as types.

use ipnet::IpNet;
use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use weir_overlay::{
    Generation, KeyId, MachinePublicKey, NodeId, NodeName, NodePublicKey, Tag, UserId,
};
use weir_protocol::{HostInfo, ItemFailure};

use super::Decision;

/// A user. Times here and below are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRow {
    /// Its id.
    pub id: UserId,
    /// The name that policies use.
    pub name: String,
    /// When it was created.
    pub created_at: i64,
    /// How many nodes it owns.
    pub nodes: u64,
}

/// An auth key, without its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthKeyRow {
    /// Its public half.
    pub id: KeyId,
    /// The SHA-256 of its secret half.
    pub secret_hash: String,
    /// Who owns what it enrols; none when it carries tags.
    pub user: Option<UserId>,
    /// The name of that user.
    pub user_name: Option<String>,
    /// The tags of what it enrols.
    pub tags: BTreeSet<Tag>,
    /// Whether it may be used more than once.
    pub reusable: bool,
    /// Whether what it enrols is forgotten once it stays away.
    pub ephemeral: bool,
    /// When it was created.
    pub created_at: i64,
    /// From when on it is refused.
    pub expires_at: i64,
    /// How many nodes it has enrolled.
    pub uses: u64,
    /// When an admin revoked it.
    pub revoked_at: Option<i64>,
}

impl fmt::Debug for AuthKeyRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthKeyRow")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// An auth key to be stored.
pub struct NewAuthKey {
    /// Its public half.
    pub id: KeyId,
    /// The SHA-256 of its secret half.
    pub secret_hash: String,
    /// Who owns what it enrols.
    pub user: Option<UserId>,
    /// The tags of what it enrols.
    pub tags: BTreeSet<Tag>,
    /// Whether it may be used more than once.
    pub reusable: bool,
    /// Whether what it enrols is forgotten once it stays away.
    pub ephemeral: bool,
    /// When it is created.
    pub created_at: i64,
    /// From when on it is refused.
    pub expires_at: i64,
}

impl fmt::Debug for NewAuthKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewAuthKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// An enrolled machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRow {
    /// Its id.
    pub id: NodeId,
    /// What it signs with.
    pub machine_key: MachinePublicKey,
    /// What its WireGuard is known by.
    pub node_key: NodePublicKey,
    /// Its unique name.
    pub name: NodeName,
    /// Whether an admin gave the name; then its host name no longer changes it.
    pub named_by_admin: bool,
    /// Its owner; none when it is tagged.
    pub user: Option<UserId>,
    /// The name of its owner.
    pub user_name: Option<String>,
    /// Its tags.
    pub tags: BTreeSet<Tag>,
    /// Whether it is forgotten once it stays away.
    pub ephemeral: bool,
    /// Its overlay address.
    pub ipv4: Ipv4Addr,
    /// Its overlay address.
    pub ipv6: Ipv6Addr,
    /// What it told of its host, without the routes: those have rows of their own.
    pub host: HostInfo,
    /// Where its requests come from.
    pub observed_address: Option<IpAddr>,
    /// When it was enrolled.
    pub created_at: i64,
    /// When it was last heard of.
    pub last_seen_at: i64,
    /// The map that it last said was in force.
    pub reported_generation: Option<Generation>,
    /// What it last said it could not do.
    pub reported_failures: Vec<ItemFailure>,
}

/// A machine to be enrolled.
#[derive(Clone, Debug)]
pub struct NewNode {
    /// What it signs with.
    pub machine_key: MachinePublicKey,
    /// What its WireGuard is known by.
    pub node_key: NodePublicKey,
    /// Its unique name.
    pub name: NodeName,
    /// Its owner.
    pub user: Option<UserId>,
    /// Its tags.
    pub tags: BTreeSet<Tag>,
    /// Whether it is forgotten once it stays away.
    pub ephemeral: bool,
    /// Its overlay address.
    pub ipv4: Ipv4Addr,
    /// Its overlay address.
    pub ipv6: Ipv6Addr,
    /// What it tells of its host.
    pub host: HostInfo,
    /// Where its request comes from.
    pub observed_address: IpAddr,
    /// Now.
    pub created_at: i64,
}

/// A route that a node advertises, or about which an admin has decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRow {
    /// The node.
    pub node: NodeId,
    /// The destination.
    pub prefix: IpNet,
    /// Whether the node advertises it now.
    pub advertised: bool,
    /// What an admin said.
    pub decision: Option<Decision>,
}

/// A policy that was saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRow {
    /// Its number, from 1.
    pub revision: u64,
    /// Its text, as it was written.
    pub text: String,
    /// When it was saved.
    pub saved_at: i64,
    /// By whom.
    pub saved_by: String,
    /// Why, in the words of who saved it.
    pub note: String,
}

/// A policy that was saved, without its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionRow {
    /// Its number, from 1.
    pub revision: u64,
    /// The length of its text, in bytes.
    pub bytes: u64,
    /// When it was saved.
    pub saved_at: i64,
    /// By whom.
    pub saved_by: String,
    /// Why, in the words of who saved it.
    pub note: String,
}
