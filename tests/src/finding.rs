//! What `agent explain` and `agent doctor` say of one step, as their JSON has it.

use serde::Deserialize;

/// One step, and how it went.
#[derive(Clone, Debug, Deserialize)]
pub struct Finding {
    /// What was looked at.
    pub name: String,
    /// `passed`, `failed` and so on.
    pub outcome: String,
    /// What was seen, in words.
    pub evidence: String,
    /// What mends it.
    pub remedies: Vec<Remedy>,
}

/// A command that mends something.
#[derive(Clone, Debug, Deserialize)]
pub struct Remedy {
    /// Where to type it.
    pub on: serde_json::Value,
    /// The command.
    pub command: String,
}
