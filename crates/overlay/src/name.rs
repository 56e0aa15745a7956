//! Names that are safe to use where they go.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Why a text is not a valid name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    /// Linux limits interface names.
    #[error("\"{0}\" is not an interface name: 1 to 15 letters, digits, `-`, `_` or `.`")]
    Interface(String),
    /// Node names are DNS labels (RFC 1035, section 2.3.1).
    #[error("\"{0}\" is not a node name: 1 to 63 lower-case letters, digits or `-`, not at an end")]
    Node(String),
    /// Tags are `tag:` and a name.
    #[error("\"{0}\" is not a tag: `tag:`, then a letter, then letters, digits or `-`")]
    Tag(String),
}

macro_rules! checked_name {
    ($(#[$doc:meta])* $name:ident, $error:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> bool = $check;
                if check(text) { Ok(Self(text.to_owned())) } else { Err(NameError::$error(text.to_owned())) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

checked_name!(
    /// A network interface: 15 bytes at most (`IFNAMSIZ` - 1, linux/if.h), no slash or white space.
    InterfaceName,
    Interface,
    |text| {
        (1..=15).contains(&text.len())
            && text != "."
            && text != ".."
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    }
);
checked_name!(
    /// A node's name: one DNS label, lower case.
    NodeName,
    Node,
    |text| {
        (1..=63).contains(&text.len())
            && !text.starts_with('-')
            && !text.ends_with('-')
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    }
);
checked_name!(
    /// A tag, with its `tag:` in front. A tagged node belongs to its tags, not to a user.
    Tag,
    Tag,
    |text| {
        text.strip_prefix("tag:").is_some_and(|name| {
            name.starts_with(|c: char| c.is_ascii_alphabetic())
                && name.len() <= 63
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
    }
);

impl NodeName {
    /// The nearest valid name to what a machine calls itself: `Alice's Laptop.local` becomes
    /// `alice-s-laptop`. `node` when nothing is left.
    #[must_use]
    pub fn from_hostname(hostname: &str) -> Self {
        let first = hostname.split('.').next().unwrap_or_default();
        let mut label = String::new();
        for c in first.chars() {
            if c.is_ascii_alphanumeric() {
                label.push(c.to_ascii_lowercase());
            } else if !label.ends_with('-') && !label.is_empty() {
                label.push('-');
            }
        }
        label.truncate(63);
        let label = label.trim_end_matches('-');
        Self(if label.is_empty() {
            "node".to_owned()
        } else {
            label.to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_become_labels() {
        for (given, label) in [
            ("Alice's Laptop.local", "alice-s-laptop"),
            ("relay", "relay"),
            ("--", "node"),
            ("", "node"),
            ("a_b-", "a-b"),
        ] {
            assert_eq!(NodeName::from_hostname(given).as_str(), label);
        }
    }

    #[test]
    fn bad_names_are_refused() {
        assert!("weir0".parse::<InterfaceName>().is_ok());
        for bad in ["", "has space", "a/b", "sixteen-letters-x"] {
            assert!(bad.parse::<InterfaceName>().is_err(), "{bad}");
        }
        for bad in ["tag:", "tag:1a", "server", "tag:a b"] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
        assert!("tag:build".parse::<Tag>().is_ok());
        assert!("Upper".parse::<NodeName>().is_err());
    }
}
