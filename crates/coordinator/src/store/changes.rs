//! What of the network was changed, for those who make maps of it.

use std::collections::BTreeSet;
use weir_overlay::NodeId;

/// What committed changes were about. Whoever makes maps reads just that again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// These nodes, their tags, keys, routes or decisions about them.
    pub nodes: BTreeSet<NodeId>,
    /// The users.
    pub users: bool,
    /// The policy.
    pub policy: bool,
    /// Which nodes count as absent.
    pub absent: bool,
    /// It is not known what.
    pub everything: bool,
    /// The revisions of the network that these changes made.
    pub revisions: BTreeSet<u64>,
}

impl Changes {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds others.
    pub fn merge(&mut self, mut other: Self) {
        self.nodes.append(&mut other.nodes);
        self.users |= other.users;
        self.policy |= other.policy;
        self.absent |= other.absent;
        self.everything |= other.everything;
        self.revisions.append(&mut other.revisions);
    }
}
