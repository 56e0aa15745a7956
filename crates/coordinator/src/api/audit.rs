//! The audit log.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `GET /api/v1/audit?before=NUMBER&limit=NUMBER`: an entry of the audit log, the newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Its number, from 1, without gaps. That of the last entry of an answer is the `before` of
    /// the next request.
    pub id: u64,
    /// When.
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReport {
    /// How many entries there are.
    pub entries: u64,
    /// The number and hash of the newest; null when there is none.
    pub head: Option<String>,
    /// What is wrong, in words: at most the first hundred.
    pub flaws: Vec<String>,
}
