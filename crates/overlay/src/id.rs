//! Ids that cannot be mixed up.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A node in one coordinator's network. Given at enrolment, never reused.
    NodeId,
    u64
);
id!(
    /// A user in one coordinator's network. Never reused.
    UserId,
    u64
);
id!(
    /// One allow rule of the compiled policy, `1..=`[`GrantId::MAX`]. It rides in the low 20 bits
    /// of the conntrack mark, so 0 (no grant) and larger numbers do not exist.
    GrantId,
    u32
);
id!(
    /// The number of a network map. It only grows.
    Generation,
    u64
);

impl GrantId {
    /// The largest grant id: 20 bits of the conntrack mark.
    pub const MAX: u32 = 0x000f_ffff;
}

impl Generation {
    /// The generation after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// The public half of an auth key: names it in lists and logs without revealing it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub String);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
