//! Selectors for what is chosen beside a policy and speaks of the same people and tags.

use crate::{
    directory::User,
    policy::Policy,
    selector::{Identity, UserSelector},
    suggest::Suggestions,
};
use std::{cmp::Ordering, collections::BTreeSet, fmt, str::FromStr};
use weir_overlay::Tag;

/// Nodes, in the words of a policy: `group:x`, `alice@example.com`, `tag:x`, `user:*@example.com`,
/// `autogroup:member` or `autogroup:tagged`.
///
/// Ordered from the narrow to the wide: users, groups, tags, e-mail domains, autogroups; by name
/// among equals. Where several fit a node and one must decide, it is the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSelector(Identity);

/// A text that does not select nodes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} does not name nodes: write group:NAME, tag:NAME, a user such as alice@example.com or \
     alice@, user:*@DOMAIN, autogroup:member or autogroup:tagged"
)]
pub struct NodeSelectorError(String);

/// A selector for something that the network does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct UnknownSelector {
    message: String,
}

impl NodeSelector {
    fn rank(&self) -> (u8, String) {
        let kind = match self.0 {
            Identity::User(_) => 0,
            Identity::Group(_) => 1,
            Identity::Tag(_) => 2,
            Identity::Domain(_) => 3,
            Identity::Member | Identity::Tagged => 4,
        };
        (kind, self.to_string())
    }
}

impl PartialOrd for NodeSelector {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for NodeSelector {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl FromStr for NodeSelector {
    type Err = NodeSelectorError;

    fn from_str(text: &str) -> Result<Self, NodeSelectorError> {
        let wrong = || NodeSelectorError(text.to_owned());
        let is_name = |name: &str| {
            !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control())
        };
        let identity = if let Some(domain) = text.strip_prefix("user:*@") {
            is_name(domain).then(|| Identity::Domain(domain.to_ascii_lowercase()))
        } else if let Some(name) = text.strip_prefix("group:") {
            is_name(name).then(|| Identity::Group(text.to_owned()))
        } else if text.starts_with("tag:") {
            text.parse().ok().map(Identity::Tag)
        } else {
            match text {
                "autogroup:member" | "autogroup:members" => Some(Identity::Member),
                "autogroup:tagged" => Some(Identity::Tagged),
                _ => UserSelector::parse(text).map(Identity::User),
            }
        };
        identity.map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for NodeSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Policy {
    /// Whether a node with these tags, of this owner, is among those that a selector stands for.
    /// Tags replace the owner, as everywhere.
    #[must_use]
    pub fn selects(
        &self,
        selector: &NodeSelector,
        tags: &BTreeSet<Tag>,
        owner: Option<&User>,
    ) -> bool {
        let owner = owner.filter(|_| tags.is_empty());
        match &selector.0 {
            Identity::User(user) => owner.is_some_and(|owner| user.matches(owner)),
            Identity::Group(group) => owner.is_some_and(|owner| self.is_member(group, owner)),
            Identity::Domain(domain) => owner
                .and_then(|owner| owner.email.as_deref()?.rsplit_once('@'))
                .is_some_and(|(_, of)| of.eq_ignore_ascii_case(domain)),
            Identity::Tag(tag) => tags.contains(tag),
            Identity::Member => tags.is_empty(),
            Identity::Tagged => !tags.is_empty(),
        }
    }

    /// Finds out whether a selector names something that this policy and these users have.
    ///
    /// # Errors
    /// [`UnknownSelector`], with the nearest name that there is.
    pub fn knows(&self, selector: &NodeSelector, users: &[User]) -> Result<(), UnknownSelector> {
        let text = selector.to_string();
        let (is_known, what, candidates): (bool, &str, Vec<&str>) = match &selector.0 {
            Identity::User(user) => (
                users.iter().any(|one| user.matches(one)),
                "the network has no user",
                users.iter().map(|user| user.name.as_str()).collect(),
            ),
            Identity::Domain(domain) => (
                users.iter().any(|user| {
                    let domain_of = user
                        .email
                        .as_deref()
                        .and_then(|email| email.rsplit_once('@'));
                    domain_of.is_some_and(|(_, of)| of.eq_ignore_ascii_case(domain))
                }),
                "the network has no user of",
                Vec::new(),
            ),
            Identity::Group(name) => (
                self.groups.contains_key(name),
                "the policy has no group",
                self.groups.keys().map(String::as_str).collect(),
            ),
            Identity::Tag(tag) => (
                self.tag_owners.contains_key(tag),
                "the policy has no tag",
                self.tag_owners.keys().map(Tag::as_str).collect(),
            ),
            Identity::Member | Identity::Tagged => return Ok(()),
        };
        if is_known {
            return Ok(());
        }
        let nearest = Suggestions::default().did_you_mean(&text, candidates);
        let nearest = nearest.map(|help| format!("; {help}")).unwrap_or_default();
        Err(UnknownSelector {
            message: format!("{what} {text:?}{nearest}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_overlay::UserId;

    fn selector(text: &str) -> NodeSelector {
        text.parse().unwrap()
    }

    fn user(id: u64, name: &str) -> User {
        User {
            id: UserId(id),
            name: name.to_owned(),
            email: name.contains('@').then(|| name.to_owned()),
        }
    }

    fn policy() -> Policy {
        Policy::parse(
            r#"{"groups": {"group:finance": ["alice@example.com"]}, "tagOwners": {"tag:ci": []}}"#,
        )
        .unwrap()
    }

    #[test]
    fn a_text_is_a_selector_of_nodes_or_refused() {
        for text in [
            "group:finance",
            "alice@",
            "alice@example.com",
            "tag:ci",
            "user:*@example.com",
            "autogroup:member",
        ] {
            assert_eq!(selector(text).to_string(), text);
        }
        for text in [
            "",
            "*",
            "group:",
            "finance",
            "tag:",
            "100.64.0.1",
            "autogroup:internet",
        ] {
            assert!(text.parse::<NodeSelector>().is_err(), "{text}");
        }
    }

    #[test]
    fn selectors_go_from_the_narrow_to_the_wide() {
        let sorted = [
            "zoe@",
            "group:a",
            "group:b",
            "tag:ci",
            "user:*@example.com",
            "autogroup:member",
        ];
        assert!(sorted.map(selector).is_sorted());
    }

    #[test]
    fn a_selector_stands_for_the_nodes_that_a_rule_with_it_would() {
        let (policy, alice, bob) = (policy(), user(1, "alice@example.com"), user(2, "bob"));
        let (none, ci) = (BTreeSet::new(), BTreeSet::from(["tag:ci".parse().unwrap()]));
        for (text, alices, bobs, server) in [
            ("group:finance", true, false, false),
            ("group:gone", false, false, false),
            ("bob@", false, true, false),
            ("user:*@EXAMPLE.com", true, false, false),
            ("tag:ci", false, false, true),
            ("autogroup:member", true, true, false),
            ("autogroup:tagged", false, false, true),
        ] {
            let selects = |tags, owner| policy.selects(&selector(text), tags, Some(owner));
            assert_eq!(selects(&none, &alice), alices, "{text}");
            assert_eq!(selects(&none, &bob), bobs, "{text}");
            // Tags replace the owner.
            assert_eq!(selects(&ci, &alice), server, "{text}");
        }
    }

    #[test]
    fn what_the_network_does_not_have_is_said() {
        let users = [user(1, "alice@example.com"), user(2, "bob")];
        let said = |text: &str| {
            let known = policy().knows(&selector(text), &users);
            known.err().map(|error| error.to_string())
        };
        assert_eq!(
            said("group:finanse").as_deref(),
            Some(r#"the policy has no group "group:finanse"; did you mean "group:finance"?"#)
        );
        assert_eq!(
            said("tag:web").as_deref(),
            Some(r#"the policy has no tag "tag:web""#)
        );
        assert!(said("carol@").is_some() && said("user:*@example.org").is_some());
        for text in ["group:finance", "bob@", "tag:ci", "autogroup:tagged"] {
            assert_eq!(said(text), None, "{text}");
        }
    }
}
