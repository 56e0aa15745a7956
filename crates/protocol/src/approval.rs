//! Joining without an auth key: a machine asks, and an admin decides.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use weir_overlay::{MachinePublicKey, NodePublicKey, Tag};

use crate::HostInfo;

/// Asks to be let in by an admin. Signed by the machine key that asks: it is what is let in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRequest {
    /// The node's WireGuard key.
    pub node_key: NodePublicKey,
    /// Tags asked for.
    #[serde(default)]
    pub tags: BTreeSet<Tag>,
    /// The host.
    pub host: HostInfo,
    /// The code of the request whose end is waited for; nothing new is asked for then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// How many seconds the answer may take while nothing was decided. The coordinator may answer
    /// sooner.
    #[serde(default)]
    pub wait_seconds: u64,
}

/// How a request to be let in stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum ApprovalAnswer {
    /// Nobody has decided yet.
    Pending {
        /// What the request is known by.
        code: String,
        /// Where an admin decides.
        url: String,
        /// For how many seconds it can be.
        expires_in_seconds: u64,
    },
    /// The machine is in: it may register now, without an auth key.
    Approved,
    /// An admin said no.
    Denied {
        /// After how many seconds the machine may ask again.
        again_in_seconds: u64,
    },
    /// Nobody decided in time, or the machine asked for something else meanwhile.
    Expired,
}

/// What people compare a machine's key by: half of its SHA-256, in groups.
#[must_use]
pub fn machine_fingerprint(machine: &MachinePublicKey) -> String {
    let digest = Sha256::digest(machine.as_bytes());
    let groups: Vec<String> = digest
        .chunks(2)
        .take(8)
        .map(|pair| pair.iter().map(|byte| format!("{byte:02x}")).collect())
        .collect();
    groups.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_of_one_key() {
        let of = |byte| machine_fingerprint(&MachinePublicKey::from_bytes([byte; 32]));
        assert_eq!(of(1), "72cd-6e84-22c4-07fb-6d09-8690-f113-0b7d");
        assert_ne!(of(1), of(2));
    }
}
