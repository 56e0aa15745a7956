//! What is said about policies.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use weir_policy::{Diagnostic, Severity};

/// Which policy is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Its number, from 1.
    pub revision: u64,
    /// Its text.
    pub text: String,
    /// When it was saved.
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRevision {
    /// Its number, from 1.
    pub revision: u64,
    /// When it was saved.
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
#[derive(Clone, Debug, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollBackPolicy {
    /// The revision whose text is to be in force again.
    pub revision: u64,
    /// Refused when this is not the newest revision.
    #[serde(default)]
    pub if_revision: Option<u64>,
}

/// The answer to [`SetPolicy`] and [`RollBackPolicy`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetPolicyDone {
    /// The revision in force now.
    pub revision: u64,
    /// Whether the text differs from the one before. An equal text makes no new revision.
    pub changed: bool,
    /// What is valid but probably not meant, drawn for a terminal.
    pub warnings: String,
}

/// `POST /api/v1/policy/test`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestPolicy {
    /// The text.
    pub text: String,
    /// What the text is called in diagnostics: its file name.
    #[serde(default)]
    pub source: Option<String>,
}

/// The answer to [`TestPolicy`]: it could be set. A policy that could not is an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyTested {
    /// How many tests it has. All pass.
    pub tests: usize,
    /// How many nodes the network has that they were evaluated in.
    pub nodes: usize,
    /// What is valid but probably not meant, drawn for a terminal.
    pub warnings: String,
}

/// One thing that is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
