//! Checks, in the order in which a packet meets what they are about.

use serde::{Deserialize, Serialize};

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It is as it should be.
    Passed,
    /// It is not, and this is why nothing passes (or soon will not).
    Failed,
    /// It cannot be known from here.
    Unknown,
}

/// Where a command is to be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// On this host.
    Here,
    /// On the coordinator's host.
    Coordinator,
    /// On another node.
    Node(String),
}

/// A command that mends something, or tells more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remedy {
    /// Where to run it.
    pub on: Place,
    /// The command, as typed in a shell by root.
    pub command: String,
}

impl Remedy {
    /// A command for this host.
    #[must_use]
    pub fn here(command: impl Into<String>) -> Self {
        Self {
            on: Place::Here,
            command: command.into(),
        }
    }

    /// A command for the coordinator's host.
    #[must_use]
    pub fn coordinator(command: impl Into<String>) -> Self {
        Self {
            on: Place::Coordinator,
            command: command.into(),
        }
    }

    /// A command for another node.
    #[must_use]
    pub fn node(name: impl ToString, command: impl Into<String>) -> Self {
        Self {
            on: Place::Node(name.to_string()),
            command: command.into(),
        }
    }
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at, in a word or two: `route`, `way back`.
    pub name: String,
    /// What came of it.
    pub outcome: Outcome,
    /// What was seen, as a sentence.
    pub evidence: String,
    /// What mends it, or tells more.
    pub remedies: Vec<Remedy>,
}

/// Checks in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Checks(pub Vec<Check>);

impl Checks {
    /// Whether none failed.
    #[must_use]
    pub fn all_well(&self) -> bool {
        self.0.iter().all(|check| check.outcome != Outcome::Failed)
    }

    pub(crate) fn passed(&mut self, name: &str, evidence: impl Into<String>) {
        self.add(name, Outcome::Passed, evidence, []);
    }

    pub(crate) fn failed(
        &mut self,
        name: &str,
        evidence: impl Into<String>,
        remedies: impl IntoIterator<Item = Remedy>,
    ) {
        self.add(name, Outcome::Failed, evidence, remedies);
    }

    pub(crate) fn unknown(
        &mut self,
        name: &str,
        evidence: impl Into<String>,
        remedies: impl IntoIterator<Item = Remedy>,
    ) {
        self.add(name, Outcome::Unknown, evidence, remedies);
    }

    fn add(
        &mut self,
        name: &str,
        outcome: Outcome,
        evidence: impl Into<String>,
        remedies: impl IntoIterator<Item = Remedy>,
    ) {
        self.0.push(Check {
            name: name.to_owned(),
            outcome,
            evidence: evidence.into(),
            remedies: remedies.into_iter().collect(),
        });
    }
}
