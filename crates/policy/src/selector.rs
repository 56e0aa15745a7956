//! Who and what a rule is about.
//!
//! | written | selects |
//! |---|---|
//! | `alice@example.com` | the untagged nodes of the user with this e-mail or name |
//! | `alice@` | the untagged nodes of the user with the name `alice` |
//! | `group:x` | the untagged nodes of its members |
//! | `tag:x` | the nodes that carry the tag |
//! | `autogroup:member`, `autogroup:tagged` | all untagged nodes, all tagged nodes; `autogroup:members` is an older name |
//! | `user:*@example.com` | all untagged nodes of users with an e-mail address of this domain |
//! | a name of `hosts`, an address, a prefix, a range `first-last` | exactly these addresses |
//! | `ipset:x` | the addresses that the set's entries add and do not remove |
//! | `*` | as source the overlay and every approved subnet route; as destination everything |
//! | `autogroup:danger-all` | as source only: any address whatever |
//! | `autogroup:internet` | as destination only: public addresses through an exit |
//! | `autogroup:self` | as destination only: the untagged nodes of whoever the source is |

use crate::directory::User;
use std::fmt;
use weir_overlay::{AddressSet, Tag};

/// A user as policies name them: `alice@example.com`, or `alice@` for the plain name `alice`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct UserSelector(String);

impl UserSelector {
    /// `None` when the text does not name a user: exactly those with an `@` behind a name do.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (name, domain) = text.split_once('@')?;
        let plain = |part: &str| !part.contains(|c: char| c.is_whitespace() || "@:/*".contains(c));
        (!name.is_empty() && plain(name) && plain(domain)).then(|| Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// E-mails are compared without regard to case, names exactly.
    pub(crate) fn matches(&self, user: &User) -> bool {
        user.name == self.0
            || self.0.strip_suffix('@') == Some(user.name.as_str())
            || user
                .email
                .as_ref()
                .is_some_and(|email| email.eq_ignore_ascii_case(&self.0))
    }
}

/// A selector that stands for nodes, whatever addresses they have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Identity {
    User(UserSelector),
    /// With its `group:`.
    Group(String),
    Tag(Tag),
    Member,
    Tagged,
    /// An e-mail domain, in lower case.
    Domain(String),
}

/// Where traffic may come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    Any,
    /// `autogroup:danger-all`: every address there is.
    Everything,
    Identity(Identity),
    /// Exactly these addresses.
    Literal(AddressSet),
}

/// Where traffic may go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    Any,
    Internet,
    /// `autogroup:self`: the devices of the user who sends.
    OwnDevices,
    Identity(Identity),
    /// Exactly these addresses.
    Literal(AddressSet),
}

/// Who may give a tag to a node, or approve a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TagOwner {
    User(UserSelector),
    /// With its `group:`.
    Group(String),
    Tag(Tag),
    Member,
    /// Whoever was meant by a name that is wrong; the policy is refused for it.
    Nobody,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => f.write_str(user.as_str()),
            Self::Group(name) => f.write_str(name),
            Self::Tag(tag) => tag.fmt(f),
            Self::Member => f.write_str("autogroup:member"),
            Self::Tagged => f.write_str("autogroup:tagged"),
            Self::Domain(domain) => write!(f, "user:*@{domain}"),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Everything => f.write_str("autogroup:danger-all"),
            Self::Identity(identity) => identity.fmt(f),
            Self::Literal(addresses) => literal(addresses, f),
        }
    }
}

/// The ranges, with a comma between two.
fn literal(addresses: &AddressSet, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (at, range) in addresses.ranges().iter().enumerate() {
        if at > 0 {
            f.write_str(",")?;
        }
        fmt::Display::fmt(range, f)?;
    }
    Ok(())
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Internet => f.write_str("autogroup:internet"),
            Self::OwnDevices => f.write_str("autogroup:self"),
            Self::Identity(identity) => identity.fmt(f),
            Self::Literal(addresses) => literal(addresses, f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_overlay::UserId;

    #[test]
    fn users_are_named_by_e_mail_or_name() {
        let alice = User {
            id: UserId(1),
            name: "alice".to_owned(),
            email: Some("Alice@Example.com".to_owned()),
        };
        let matches =
            |text: &str| UserSelector::parse(text).is_some_and(|user| user.matches(&alice));
        assert!(matches("alice@example.com") && matches("alice@"));
        assert!(!matches("alice@example.org") && !matches("ALICE@") && !matches("alice"));
        for text in [
            "",
            "@",
            "@x",
            "a@b@c",
            "user:*@example.com",
            "a b@c",
            "tag:a@b",
        ] {
            assert_eq!(UserSelector::parse(text), None, "{text}");
        }
    }
}
