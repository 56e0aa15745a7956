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
use weir_policy::NodeSelector;
use weir_protocol::{HostInfo, ItemFailure};

use super::Decision;
use crate::accounts::Scopes;

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
    /// Whether it has an account, and so is an admin.
    pub admin: bool,
}

/// The account of a user who is an admin.
#[derive(Clone, PartialEq, Eq)]
pub struct AccountRow {
    /// The user.
    pub user: UserId,
    /// The user's name.
    pub name: String,
    /// What is kept of the password: argon2id, as a PHC string.
    pub password_hash: String,
}

impl fmt::Debug for AccountRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccountRow")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A token of the admin API, without its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminTokenRow {
    /// Its public half.
    pub id: KeyId,
    /// The SHA-256 of its secret half.
    pub secret_hash: String,
    /// What it is for, in the words of who made it.
    pub name: String,
    /// What it may be used for.
    pub scopes: Scopes,
    /// The name of the user who logged in for it; none when it was made for a program.
    pub account: Option<String>,
    /// Who made it.
    pub created_by: String,
    /// When it was made.
    pub created_at: i64,
    /// From when on it is refused.
    pub expires_at: i64,
    /// When it was last used, to a minute.
    pub last_used_at: Option<i64>,
    /// When an admin revoked it.
    pub revoked_at: Option<i64>,
}

impl fmt::Debug for AdminTokenRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminTokenRow")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// A token to be stored.
pub struct NewAdminToken {
    /// Its public half.
    pub id: KeyId,
    /// The SHA-256 of its secret half.
    pub secret_hash: String,
    /// What it is for.
    pub name: String,
    /// What it may be used for.
    pub scopes: Scopes,
    /// Who logged in for it.
    pub account: Option<UserId>,
    /// Who makes it.
    pub created_by: String,
    /// When it is made.
    pub created_at: i64,
    /// From when on it is refused.
    pub expires_at: i64,
}

impl fmt::Debug for NewAdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewAdminToken")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
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
    /// For how many seconds the keys of nodes that it lets in are good; none for ever.
    pub node_life: Option<i64>,
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
    /// For how many seconds the keys of nodes that it lets in are good; none for ever.
    pub node_life: Option<i64>,
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
    /// Until when that is good; none for ever.
    pub key_expires_at: Option<i64>,
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
    /// Until when that is good; none for ever.
    pub key_expires_at: Option<i64>,
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

/// The address that traffic to a route of a node leaves with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressRow {
    /// The node.
    pub node: NodeId,
    /// The destination.
    pub prefix: IpNet,
    /// Whose traffic; that of everybody else when there is none.
    pub selector: Option<NodeSelector>,
    /// The address.
    pub address: IpAddr,
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

/// A machine that asks an admin to let it in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingRow {
    /// What it signs with.
    pub machine_key: MachinePublicKey,
    /// What its request is known by.
    pub code: String,
    /// What its WireGuard is known by.
    pub node_key: NodePublicKey,
    /// The tags that it asks for.
    pub tags: BTreeSet<Tag>,
    /// What it tells of its host.
    pub host: HostInfo,
    /// Where its request came from.
    pub address: IpAddr,
    /// What is counted together with that address.
    pub source: String,
    /// When it asked.
    pub asked_at: i64,
    /// From when on nobody decides about it any more.
    pub expires_at: i64,
    /// When an admin said no.
    pub denied_at: Option<i64>,
}
