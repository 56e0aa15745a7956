//! Ids that cannot be mixed up.

use serde::{Deserialize, Deserializer, Serialize, de};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let number = deserializer.deserialize_any(Number)?;
                <$inner>::try_from(number).map(Self).map_err(de::Error::custom)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

/// Reads an id that stands as a number, or as a text: the keys of a JSON object are texts, and
/// inside an enum that is told apart by a field, serde hands them on as such.
struct Number;

impl de::Visitor<'_> for Number {
    type Value = u64;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an id, which is a number")
    }

    fn visit_u64<E>(self, number: u64) -> Result<u64, E> {
        Ok(number)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
        text.parse()
            .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_from_a_number_or_a_text() {
        assert_eq!(serde_json::from_str::<NodeId>("7").unwrap(), NodeId(7));
        assert_eq!(serde_json::from_str::<NodeId>("\"7\"").unwrap(), NodeId(7));
        for wrong in ["\"seven\"", "-1", "4294967296", "null"] {
            let read = serde_json::from_str::<GrantId>(wrong);
            assert!(read.is_err(), "{wrong}");
        }
        assert_eq!(serde_json::to_string(&NodeId(7)).unwrap(), "7");
    }
}
