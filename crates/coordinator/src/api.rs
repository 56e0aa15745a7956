//! What the admin API says and hears: the JSON on the admin socket, and of `--json`.
//!
//! Fields are only ever added. Times are RFC 3339, in UTC.

mod accounts;
mod approvals;
mod audit;
mod backup;
mod page;
mod policy;
mod schema;

pub use accounts::{
    CreateToken, CreateUser, CreatedToken, CreatedUser, GrantAdmin, LogIn, SetUp, Token, TokenState,
};
pub(crate) use approvals::MachineName;
pub use approvals::{ApproveMachine, WaitingMachine};
pub use audit::{AuditEntry, AuditQuery, AuditReport};
pub use backup::Restored;
pub(crate) use backup::chunks;
pub use page::{Page, PageQuery};
pub use policy::{
    AccessChange, ClosestRule, DiffPolicies, End, ExplainPolicy, Explained, ExplainedRule, Finding,
    Policy, PolicyDiff, PolicyRef, PolicyRevision, PolicyStatus, PolicyTested, RollBackPolicy,
    RouteChange, SetPolicy, SetPolicyDone, TestPolicy,
};

use ipnet::IpNet;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};
use weir_overlay::{Generation, KeyId, NodeId, NodeName, NodePublicKey, Tag, UserId};
use weir_protocol::{ItemFailure, Pin, ProblemDetails, RouteState};

/// The path that all requests start with.
pub const PATH_PREFIX: &str = "/api/v1";

/// `GET /api/v1/status`: the running coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Where agents reach it.
    pub url: String,
    /// Where it listens.
    #[schemars(with = "String")]
    pub listen: SocketAddr,
    /// The pin of its key.
    #[schemars(with = "String")]
    pub pin: Pin,
    /// Since when it runs.
    #[schemars(with = "String")]
    pub started: Timestamp,
    /// How many nodes are enrolled.
    pub nodes: usize,
    /// How many of them are connected.
    pub online: usize,
    /// How many advertised routes await a decision.
    pub routes_awaiting_approval: usize,
    /// The newest generation of any network map.
    #[schemars(with = "u64")]
    pub generation: Generation,
    /// The policy.
    pub policy: PolicyStatus,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct User {
    /// Its id.
    #[schemars(with = "u64")]
    pub id: UserId,
    /// Its name, as policies use it.
    pub name: String,
    /// When it was created.
    #[schemars(with = "String")]
    pub created: Timestamp,
    /// How many nodes it owns.
    pub nodes: u64,
    /// Whether it may log in to the admin API.
    #[serde(default)]
    pub admin: bool,
}

/// Whether a key still enrols machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KeyState {
    /// It does.
    Usable,
    /// It is a one-off, and was used.
    Used,
    /// Its time is over.
    Expired,
    /// An admin revoked it.
    Revoked,
}

/// An auth key, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Key {
    /// Its public half.
    #[schemars(with = "String")]
    pub id: KeyId,
    /// Whether it still enrols machines.
    pub state: KeyState,
    /// Who owns what it enrols; none when it carries tags.
    pub user: Option<String>,
    /// The tags of what it enrols.
    #[schemars(with = "std::collections::BTreeSet<String>")]
    pub tags: BTreeSet<Tag>,
    /// Whether it may be used more than once.
    pub reusable: bool,
    /// Whether what it enrols is forgotten once it stays away.
    pub ephemeral: bool,
    /// How many machines it enrolled.
    pub uses: u64,
    /// When it was created.
    #[schemars(with = "String")]
    pub created: Timestamp,
    /// From when on it is refused.
    #[schemars(with = "String")]
    pub expires: Timestamp,
    /// For how many seconds the keys of nodes that it lets in are good; none for ever.
    #[serde(default)]
    pub node_life_seconds: Option<u64>,
}

/// `POST /api/v1/keys`
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// Who owns what it enrols. Either this or tags.
    #[serde(default)]
    pub user: Option<String>,
    /// The tags of what it enrols.
    #[serde(default)]
    #[schemars(with = "std::collections::BTreeSet<String>")]
    pub tags: BTreeSet<Tag>,
    /// Whether it may be used more than once.
    #[serde(default)]
    pub reusable: bool,
    /// Whether what it enrols is forgotten once it stays away.
    #[serde(default)]
    pub ephemeral: bool,
    /// For how many seconds it is valid.
    pub expires_in_seconds: u64,
    /// For how long the keys of nodes that it lets in are good.
    #[serde(default)]
    pub node_life: NodeLife,
}

/// For how long the key of a node is good that is let in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NodeLife {
    /// Half a year for a user's, for ever for one with tags.
    #[default]
    Usual,
    /// For ever.
    Unlimited,
    /// For so many seconds.
    Seconds(u64),
}

/// The answer to [`CreateKey`]: the only time that the secret is shown.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
pub struct CreatedKey {
    /// The whole key.
    pub key: String,
    /// What a machine is told to join with it.
    pub command: String,
    /// What is listed of it.
    pub details: Key,
}

impl std::fmt::Debug for CreatedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreatedKey")
            .field("details", &self.details)
            .finish_non_exhaustive()
    }
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Node {
    /// Its id.
    #[schemars(with = "u64")]
    pub id: NodeId,
    /// Its name.
    #[schemars(with = "String")]
    pub name: NodeName,
    /// Its owner; none when it is tagged.
    pub user: Option<String>,
    /// Its tags.
    #[schemars(with = "std::collections::BTreeSet<String>")]
    pub tags: BTreeSet<Tag>,
    /// Its overlay addresses.
    #[schemars(with = "std::collections::BTreeSet<String>")]
    pub addresses: BTreeSet<IpAddr>,
    /// Whether it is connected now.
    pub online: bool,
    /// When it was last heard of.
    #[schemars(with = "String")]
    pub last_seen: Timestamp,
    /// When it was enrolled.
    #[schemars(with = "String")]
    pub enrolled: Timestamp,
    /// Whether it is forgotten once it stays away.
    pub ephemeral: bool,
    /// Its WireGuard key.
    #[schemars(with = "String")]
    pub key: NodePublicKey,
    /// Until when that is good; none for ever.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub key_expires: Option<Timestamp>,
    /// Whether that time is over: no other node talks to it until it is let in again.
    #[serde(default)]
    pub key_expired: bool,
    /// What its host calls itself.
    pub hostname: String,
    /// Its operating system.
    pub os: String,
    /// The version of its agent.
    pub version: String,
    /// Where its WireGuard can be reached, when it has a fixed way in.
    #[schemars(with = "Option<String>")]
    pub endpoint: Option<SocketAddr>,
    /// Its routes.
    pub routes: Vec<NodeRoute>,
    /// The newest map that it was sent; none when it was not connected since the coordinator was
    /// started.
    #[schemars(with = "Option<u64>")]
    pub generation: Option<Generation>,
    /// Whether it is connected and has not said yet that this map is in force.
    pub lags: bool,
    /// The map that it last said was in force.
    #[schemars(with = "Option<u64>")]
    pub applied_generation: Option<Generation>,
    /// What it last said it could not do.
    #[schemars(with = "Vec<schema::ItemFailure>")]
    pub failures: Vec<ItemFailure>,
}

/// Who approved a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Approver {
    /// An admin did. It stays approved whatever the policy says.
    Admin,
    /// The policy's `autoApprovers` do, as long as they say so.
    Policy,
}

/// A route of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeRoute {
    /// The destination.
    #[schemars(with = "String")]
    pub prefix: IpNet,
    /// What has become of it.
    #[schemars(with = "schema::RouteState")]
    pub state: RouteState,
    /// Who approved it; none for a route that is not approved.
    #[serde(default)]
    pub approved_by: Option<Approver>,
}

/// A route, with the node that advertises it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Route {
    /// The node.
    #[schemars(with = "u64")]
    pub node: NodeId,
    /// Its name.
    #[schemars(with = "String")]
    pub name: NodeName,
    /// The destination.
    #[schemars(with = "String")]
    pub prefix: IpNet,
    /// What has become of it.
    #[schemars(with = "schema::RouteState")]
    pub state: RouteState,
    /// Who approved it; none for a route that is not approved.
    #[serde(default)]
    pub approved_by: Option<Approver>,
    /// Whether the node is connected now.
    pub online: bool,
    /// The addresses that were chosen for what it relays there, in the order in which they count.
    #[serde(default)]
    pub egress: Vec<RouteEgress>,
}

/// The address that traffic to a route leaves with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RouteEgress {
    /// Whose traffic, in the words of the policy; that of everybody else when there is none.
    #[serde(rename = "for", default)]
    pub of: Option<String>,
    /// The address.
    #[schemars(with = "String")]
    pub address: IpAddr,
    /// Whether the relay's host has it, as its agent last said. While it has not, nothing comes
    /// back to what leaves with it.
    pub on_host: bool,
}

/// `POST /api/v1/nodes/NODE/routes/egress`
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChooseEgress {
    /// The routes, which the node must advertise.
    #[schemars(with = "std::collections::BTreeSet<String>")]
    pub prefixes: BTreeSet<IpNet>,
    /// What new connections leave with: an address of the node's host. What was chosen is taken
    /// back when there is none.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub address: Option<IpAddr>,
    /// Whose connections, in the words of the policy. Of everybody for whom nothing else is chosen
    /// when it is empty; where choices are taken back, all of them.
    #[serde(rename = "for", default)]
    pub of: BTreeSet<String>,
}

/// `PUT /api/v1/nodes/NODE/name`
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RenameNode {
    /// The new name.
    pub name: String,
}

/// `PUT /api/v1/nodes/NODE/expiry`
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetNodeExpiry {
    /// In how many seconds its key expires: 0 is at once, null is never.
    pub in_seconds: Option<u64>,
}

/// `PUT /api/v1/nodes/NODE/address`
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetNodeAddress {
    /// One of the two; the other one has the same number.
    pub address: IpAddr,
}

/// `PUT /api/v1/nodes/NODE/tags`
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TagNode {
    /// Its tags from now on. At least one.
    #[schemars(with = "std::collections::BTreeSet<String>")]
    pub tags: BTreeSet<Tag>,
}

/// `POST /api/v1/nodes/NODE/routes/approve`, `.../reject` and `.../reset`
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DecideRoutes {
    /// The prefixes. The node must advertise each; what was decided can also be taken back from
    /// one that it advertised before.
    #[schemars(with = "std::collections::BTreeSet<String>")]
    pub prefixes: BTreeSet<IpNet>,
}

/// An error answer (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AdminProblem {
    /// Which kind of problem this is: a URI that only names it.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// The HTTP status in words.
    #[serde(default)]
    pub title: String,
    /// What is wrong.
    #[serde(flatten)]
    #[schemars(with = "schema::ProblemDetails")]
    pub problem: ProblemDetails,
    /// For a policy: the places in the text, drawn for a terminal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diagnostics: Option<String>,
    /// The same for programs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
}
