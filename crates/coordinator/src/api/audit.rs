//! The audit log.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Which entries of the audit log are wanted.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditQuery {
    /// The `next` of the page before; none for the newest entries.
    #[serde(default)]
    pub cursor: Option<String>,
    /// Only entries before the one with this number.
    #[serde(default)]
    pub before: Option<u64>,
    /// How many at most, from 1 to 1000; 100 when not given.
    #[serde(default)]
    pub limit: Option<u32>,
}

/// `GET /api/v1/audit`: an entry of the audit log, the newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditEntry {
    /// Its number, from 1, without gaps.
    pub id: u64,
    /// When.
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// From where: an address, or the admin socket.
    pub origin: String,
    /// What was done: `routes.approve`.
    pub action: String,
    /// To what: `node 3 (relay)`.
    pub subject: String,
    /// What was before; null when there was nothing.
    pub before: Option<Value>,
    /// What is after; null when there is nothing.
    pub after: Option<Value>,
    /// The SHA-256 of all this and of the hash of the entry before.
    pub hash: String,
}

/// `GET /api/v1/audit/verify?head=NUMBER:HASH`: whether the audit log is what was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditReport {
    /// How many entries there are.
    pub entries: u64,
    /// The number and hash of the newest; null when there is none.
    pub head: Option<String>,
    /// What is wrong, in words: at most the first hundred.
    pub flaws: Vec<String>,
}
