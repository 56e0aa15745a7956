//! Machines that ask to be let in without an auth key.

use super::NodeLife;
use ipnet::IpNet;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    fmt::{self, Write},
    net::IpAddr,
};
use weir_overlay::Tag;

/// A machine that waits for an admin to let it in. What it says of itself is not proven: only the
/// fingerprint tells it from others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WaitingMachine {
    /// What its request is known by.
    pub code: String,
    /// The page on which an admin decides, with name and password.
    pub url: String,
    /// The fingerprint of its key, as `agent up` shows it on the machine.
    pub fingerprint: String,
    /// What its host calls itself.
    pub hostname: String,
    /// Its operating system.
    pub os: String,
    /// The version of its agent.
    pub version: String,
    /// Where it asked from.
    pub address: IpAddr,
    /// The routes that it advertises. They are approved each for itself.
    #[schemars(with = "std::collections::BTreeSet<String>")]
    pub routes: BTreeSet<IpNet>,
    /// The tags that it asks for.
    #[schemars(with = "std::collections::BTreeSet<String>")]
    pub tags: BTreeSet<Tag>,
    /// Since when it waits.
    #[schemars(with = "String")]
    pub asked: Timestamp,
    /// Until when it does.
    #[schemars(with = "String")]
    pub expires: Timestamp,
}

/// `POST /api/v1/approvals/CODE/approve`
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApproveMachine {
    /// Who owns the node. Either this or tags; without both, the admin who approves it.
    #[serde(default)]
    pub user: Option<String>,
    /// The tags of the node.
    #[serde(default)]
    #[schemars(with = "std::collections::BTreeSet<String>")]
    pub tags: BTreeSet<Tag>,
    /// For how long its key is good.
    #[serde(default)]
    pub node_life: NodeLife,
}

/// A text of a stranger, as people are shown it: what is no plain character is written out, so that
/// none looks like another and nothing turns the line around.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MachineName<'a>(pub(crate) &'a str);

impl fmt::Display for MachineName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if character == ' ' || character.is_ascii_graphic() {
                f.write_char(character)?;
            } else {
                write!(f, "{}", character.escape_unicode())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_plain_character_is_written_out() {
        let shown = |text| MachineName(text).to_string();
        assert_eq!(shown("relay-1.example.com"), "relay-1.example.com");
        assert_eq!(shown("\u{202e}yaler"), "\\u{202e}yaler");
        assert_eq!(shown("rel\u{430}y"), "rel\\u{430}y");
    }
}
