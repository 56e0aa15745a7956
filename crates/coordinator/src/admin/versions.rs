//! Changing only what is still what it was when somebody looked at it (RFC 9110, section 13).

use crate::{clock::hexadecimal, refusal::Refusal, store::NodeRow};
use serde_json::json;
use sha2::{Digest, Sha256};
use weir_protocol::ErrorCode;

/// How much of a hash makes a version: nobody gains by two that are equal.
const VERSION_BYTES: usize = 8;

/// Which version of a thing may be changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Any.
    #[default]
    Any,
    /// Any that there is.
    Existing,
    /// One of these entity tags, with their quotes.
    OneOf(Vec<String>),
}

impl Expected {
    /// Reads `If-Match`.
    pub(crate) fn parse(header: &str) -> Self {
        match header.trim() {
            "*" => Self::Existing,
            list => Self::OneOf(list.split(',').map(|tag| tag.trim().to_owned()).collect()),
        }
    }

    /// Whether something with this entity tag may be changed; none when it does not exist.
    ///
    /// # Errors
    /// [`Refusal`], when it is another version.
    pub(crate) fn check(&self, version: Option<&str>) -> Result<(), Refusal> {
        let fine = match (self, version) {
            (Self::Any, _) | (Self::Existing, Some(_)) => true,
            (Self::OneOf(tags), Some(version)) => tags.iter().any(|tag| tag == version),
            (Self::Existing | Self::OneOf(_), None) => false,
        };
        if fine {
            return Ok(());
        }
        Err(Refusal::new(
            ErrorCode::PreconditionFailed,
            "it was changed meanwhile, and nothing was done: look at it again, and make your \
             change to what it is now (with its new ETag in If-Match)",
        ))
    }
}

/// A thing and its version, as an entity tag.
#[derive(Debug)]
pub(crate) struct Versioned<T> {
    /// The entity tag, with its quotes.
    pub version: String,
    /// The thing.
    pub of: T,
}

/// The entity tag of a policy.
pub(crate) fn of_policy(revision: u64) -> String {
    format!("\"{revision}\"")
}

/// The entity tag of a node: of what admins can change about it, so that it does not change with
/// every sign of life.
pub(crate) fn of_node(node: &NodeRow) -> String {
    let what = json!([node.id, node.name, node.user, node.tags]);
    let hash = Sha256::digest(what.to_string().as_bytes());
    let start = hash.get(..VERSION_BYTES).unwrap_or_default();
    format!("\"{}\"", hexadecimal(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_version_that_is_named_may_be_changed() {
        let fine =
            |header: &str, version: Option<&str>| Expected::parse(header).check(version).is_ok();
        assert!(Expected::Any.check(None).is_ok());
        assert!(fine("\"3\"", Some("\"3\"")));
        assert!(fine("\"2\", \"3\"", Some("\"3\"")));
        assert!(fine("*", Some("\"3\"")));
        for (header, version) in [
            ("\"2\"", Some("\"3\"")),
            ("3", Some("\"3\"")),
            ("W/\"3\"", Some("\"3\"")),
            ("", Some("\"3\"")),
            ("*", None),
            ("\"3\"", None),
        ] {
            assert!(!fine(header, version), "{header} {version:?}");
        }
    }
}
