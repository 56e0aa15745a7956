//! What a token may be used for.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{collections::BTreeSet, fmt, str::FromStr};

/// One thing that a token may be used for. What is not named is denied; to write is not to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Everything, also what no other scope allows: admins, backups, restoring.
    All,
    /// Read the audit log, and check it.
    AuditRead,
    /// List auth keys.
    KeysRead,
    /// Make and revoke auth keys.
    KeysWrite,
    /// Read the metrics.
    MetricsRead,
    /// List nodes, and machines that wait to be let in.
    NodesRead,
    /// Let machines in that wait for it; rename, tag and delete nodes.
    NodesWrite,
    /// Read policies, test and compare them.
    PolicyRead,
    /// Set policies.
    PolicyWrite,
    /// List routes.
    RoutesRead,
    /// Approve and reject routes.
    RoutesWrite,
    /// Read how the coordinator is doing.
    StatusRead,
    /// List tokens.
    TokensRead,
    /// Make tokens that may do no more than the one they are made with, and revoke any.
    TokensWrite,
    /// List users.
    UsersRead,
    /// Create and delete users who are no admins.
    UsersWrite,
}

impl Scope {
    /// All there are.
    pub const EACH: [Self; 16] = [
        Self::All,
        Self::AuditRead,
        Self::KeysRead,
        Self::KeysWrite,
        Self::MetricsRead,
        Self::NodesRead,
        Self::NodesWrite,
        Self::PolicyRead,
        Self::PolicyWrite,
        Self::RoutesRead,
        Self::RoutesWrite,
        Self::StatusRead,
        Self::TokensRead,
        Self::TokensWrite,
        Self::UsersRead,
        Self::UsersWrite,
    ];

    /// How it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "*",
            Self::AuditRead => "audit:read",
            Self::KeysRead => "keys:read",
            Self::KeysWrite => "keys:write",
            Self::MetricsRead => "metrics:read",
            Self::NodesRead => "nodes:read",
            Self::NodesWrite => "nodes:write",
            Self::PolicyRead => "policy:read",
            Self::PolicyWrite => "policy:write",
            Self::RoutesRead => "routes:read",
            Self::RoutesWrite => "routes:write",
            Self::StatusRead => "status:read",
            Self::TokensRead => "tokens:read",
            Self::TokensWrite => "tokens:write",
            Self::UsersRead => "users:read",
            Self::UsersWrite => "users:write",
        }
    }
}

/// A text that is no scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no scope: there are {known}", known = Scope::EACH.map(Scope::as_str).join(", "))]
pub struct ScopeError(String);

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = ScopeError;
    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let mut known = Self::EACH.into_iter();
        known
            .find(|scope| scope.as_str() == text)
            .ok_or_else(|| ScopeError(text.to_owned()))
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// All that a token may be used for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scopes(BTreeSet<Scope>);

impl Scopes {
    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        Self([Scope::All].into())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this may be done.
    #[must_use]
    pub fn allow(&self, scope: Scope) -> bool {
        self.0.contains(&Scope::All) || self.0.contains(&scope)
    }

    /// Whether all that those others allow is allowed here, too.
    #[must_use]
    pub fn cover(&self, others: &Self) -> bool {
        others.0.iter().all(|scope| self.allow(*scope))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().collect())
    }
}

/// Separated by spaces, as in RFC 6750, section 3.
impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<_> = self.0.iter().map(|scope| scope.as_str()).collect();
        f.write_str(&texts.join(" "))
    }
}

impl FromStr for Scopes {
    type Err = ScopeError;
    fn from_str(text: &str) -> Result<Self, ScopeError> {
        text.split_whitespace().map(str::parse).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(text: &str) -> Scopes {
        text.parse().unwrap()
    }

    #[test]
    fn only_what_is_named_is_allowed() {
        let some = scopes("nodes:read routes:write");
        for scope in Scope::EACH {
            let named = matches!(scope, Scope::NodesRead | Scope::RoutesWrite);
            assert_eq!(some.allow(scope), named, "{scope}");
            assert!(Scopes::all().allow(scope));
            assert!(!Scopes::default().allow(scope));
        }
    }

    #[test]
    fn no_scopes_cover_more_than_they_allow() {
        let some = scopes("nodes:read routes:write");
        assert!(some.cover(&scopes("nodes:read")));
        assert!(some.cover(&Scopes::default()));
        assert!(!some.cover(&scopes("nodes:read nodes:write")));
        assert!(!some.cover(&Scopes::all()));
        assert!(Scopes::all().cover(&some));
        let each: Scopes = Scope::EACH
            .into_iter()
            .filter(|scope| *scope != Scope::All)
            .collect();
        assert!(!each.cover(&Scopes::all()));
    }

    #[test]
    fn scopes_are_written_as_they_are_read() {
        let each: Scopes = Scope::EACH.into_iter().collect();
        assert_eq!(scopes(&each.to_string()), each);
        let error = "nodes:rea".parse::<Scope>().unwrap_err().to_string();
        assert!(error.contains("nodes:read"), "{error}");
    }
}
