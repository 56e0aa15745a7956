//! What is said about policies.

use ipnet::IpNet;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, net::IpAddr};
use weir_overlay::{AddressSet, NodeName};
use weir_policy::{Diagnostic, Severity};
use weir_protocol::{IpProtocol, PortRange};

/// Which policy is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyStatus {
    /// Its revision; none while nobody has set a policy, so that nothing is granted.
    pub revision: Option<u64>,
    /// Newer stored revisions that are not valid and therefore not in force.
    #[serde(default)]
    pub bad_revisions: Vec<u64>,
    /// What is valid but probably not meant.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// `GET /api/v1/policy`, and `GET /api/v1/policy/revisions/REVISION`: a stored policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Policy {
    /// Its number, from 1.
    pub revision: u64,
    /// Its text.
    pub text: String,
    /// When it was saved.
    #[schemars(with = "String")]
    pub saved: Timestamp,
    /// By whom.
    pub saved_by: String,
    /// Why, in the words of who saved it.
    #[serde(default)]
    pub note: String,
    /// Whether it is the one in force; a newest one that is not valid is not.
    pub in_force: bool,
}

/// `GET /api/v1/policy/revisions`: one of the policies that were ever saved, the newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyRevision {
    /// Its number, from 1.
    pub revision: u64,
    /// When it was saved.
    #[schemars(with = "String")]
    pub saved: Timestamp,
    /// By whom.
    pub saved_by: String,
    /// The length of its text.
    pub bytes: u64,
    /// Why, in the words of who saved it.
    pub note: String,
    /// Whether it is the one in force.
    pub in_force: bool,
}

/// `PUT /api/v1/policy`
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetPolicy {
    /// The new text.
    pub text: String,
    /// What the text is called in diagnostics: its file name.
    #[serde(default)]
    pub source: Option<String>,
    /// The revision that the new text was made from; 0 for none. Refused when it is not the
    /// newest any more.
    #[serde(default)]
    pub if_revision: Option<u64>,
    /// Why, for the history.
    #[serde(default)]
    pub note: String,
}

/// `POST /api/v1/policy/rollback`
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RollBackPolicy {
    /// The revision whose text is to be in force again.
    pub revision: u64,
    /// Refused when this is not the newest revision.
    #[serde(default)]
    pub if_revision: Option<u64>,
}

/// The answer to [`SetPolicy`] and [`RollBackPolicy`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SetPolicyDone {
    /// The revision in force now.
    pub revision: u64,
    /// Whether the text differs from the one before. An equal text makes no new revision.
    pub changed: bool,
    /// What is valid but probably not meant, drawn for a terminal.
    pub warnings: String,
}

/// `POST /api/v1/policy/test`
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TestPolicy {
    /// The text.
    pub text: String,
    /// What the text is called in diagnostics: its file name.
    #[serde(default)]
    pub source: Option<String>,
}

/// The answer to [`TestPolicy`]: it could be set. A policy that could not is an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyTested {
    /// How many tests it has. All pass.
    pub tests: usize,
    /// How many nodes the network has that they were evaluated in.
    pub nodes: usize,
    /// What is valid but probably not meant, drawn for a terminal.
    pub warnings: String,
}

/// One thing that is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// `error`, or `warning` for what is only mentioned beside the errors.
    pub severity: String,
    /// What is wrong.
    pub message: String,
    /// What to do instead, or why a test fails.
    pub help: Option<String>,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

impl From<Diagnostic> for Finding {
    fn from(diagnostic: Diagnostic) -> Self {
        Self {
            severity: match diagnostic.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            }
            .to_owned(),
            message: diagnostic.message,
            help: diagnostic.help,
            line: diagnostic.line,
            column: diagnostic.column,
        }
    }
}

/// `POST /api/v1/policy/explain`
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainPolicy {
    /// Who sends: a node's name, an address, a user, a group or a tag.
    pub source: String,
    /// Where to: the same.
    pub destination: String,
    /// To which port. Without effect for protocols that have none.
    pub port: u16,
    /// The protocol. ICMP stands for that of IPv6, too.
    #[schemars(with = "u8")]
    pub protocol: IpProtocol,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct End {
    /// The node that has the address; none for an address behind a relay.
    #[schemars(with = "Option<String>")]
    pub node: Option<NodeName>,
    /// The address.
    #[schemars(with = "String")]
    pub address: IpAddr,
    /// The prefix or range that the address is the first of, when the question was about more than
    /// one address: the answer is for this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_of: Option<String>,
}

/// The answer to [`ExplainPolicy`], one for each pair of addresses that the two texts stand for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Explained {
    /// Who sends.
    pub source: End,
    /// Where to.
    pub destination: End,
    /// The protocol.
    #[schemars(with = "u8")]
    pub protocol: IpProtocol,
    /// The port.
    pub port: u16,
    /// Whether the connection can be opened.
    pub allowed: bool,
    /// The rules that allow it.
    pub rules: Vec<ExplainedRule>,
    /// The nodes that have the destination, or serve it by an approved route.
    #[schemars(with = "Vec<String>")]
    pub served_by: Vec<NodeName>,
    /// When nothing allows it: the rule that comes closest, if one has to do with it.
    pub closest: Option<ClosestRule>,
}

/// A rule that allows a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainedRule {
    /// Where the policy says so: `acls[2], line 14`.
    pub origin: String,
    /// That line of the policy.
    pub text: String,
    /// The nodes that let the connection in by it.
    #[schemars(with = "Vec<String>")]
    pub at: Vec<NodeName>,
}

/// A rule that nearly allows a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClosestRule {
    /// Where the policy says so.
    pub origin: String,
    /// That line of the policy.
    pub text: String,
    /// All that stands between the rule and the connection, in words.
    pub why: Vec<String>,
}

/// Which policy is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyRef {
    /// The one in force.
    Current,
    /// The one with this revision; 0 for none, which allows nothing.
    Revision(u64),
    /// This text.
    Text {
        /// The text.
        text: String,
        /// What it is called in diagnostics: its file name.
        source: String,
    },
}

/// `POST /api/v1/policy/diff`
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiffPolicies {
    /// The one.
    pub old: PolicyRef,
    /// The one that would take its place.
    pub new: PolicyRef,
}

/// The answer to [`DiffPolicies`]: what changes in the network as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyDiff {
    /// What only the new policy allows.
    pub gains: Vec<AccessChange>,
    /// What only the old policy allows.
    pub losses: Vec<AccessChange>,
    /// Routes that the new policy puts in force.
    pub routes_gained: Vec<RouteChange>,
    /// Routes that the new policy takes out of force.
    pub routes_lost: Vec<RouteChange>,
}

/// Traffic that one of two policies allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccessChange {
    /// The node that lets it in: it has the destination, or serves it.
    #[schemars(with = "String")]
    pub at: NodeName,
    /// Whether the destination is this node itself.
    pub is_node: bool,
    /// The nodes among the sources.
    #[schemars(with = "std::collections::BTreeSet<String>")]
    pub nodes: BTreeSet<NodeName>,
    /// Where it comes from.
    #[schemars(with = "Vec<String>")]
    pub sources: AddressSet,
    /// Where it goes.
    #[schemars(with = "Vec<String>")]
    pub destinations: AddressSet,
    /// The protocols.
    #[schemars(with = "std::collections::BTreeSet<u8>")]
    pub protocols: BTreeSet<IpProtocol>,
    /// The ports; all for protocols that have none.
    #[schemars(with = "Vec<super::schema::PortRange>")]
    pub ports: Vec<PortRange>,
    /// Where the policy that allows it says so.
    pub origin: String,
}

/// A route that only one of two policies puts in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RouteChange {
    /// The node that advertises it.
    #[schemars(with = "String")]
    pub node: NodeName,
    /// The destination.
    #[schemars(with = "String")]
    pub prefix: IpNet,
}
