//! The directory, arranged so that a selector finds its nodes without asking each of them.

use crate::{
    directory::{Directory, PolicyNode, User},
    holders::Holders,
    policy::Policy,
    posture::Assertion,
    selector::{Identity, UserSelector},
};
use std::collections::{BTreeMap, BTreeSet};
use weir_overlay::{AddressRange, AddressSet, Tag, UserId};

/// Finds users, and their and others' nodes.
#[derive(Debug, Default)]
pub(crate) struct Index<'a> {
    /// Users by each text that names them exactly: see [`UserSelector::matches`].
    by_name: BTreeMap<String, Vec<UserId>>,
    /// Users by e-mail in lower case.
    by_email: BTreeMap<String, Vec<UserId>>,
    by_user: BTreeMap<UserId, Vec<&'a PolicyNode>>,
    /// Users by the domain of their e-mail, in lower case.
    by_domain: BTreeMap<String, Vec<UserId>>,
    by_tag: BTreeMap<&'a Tag, Vec<&'a PolicyNode>>,
    all: Vec<&'a PolicyNode>,
    untagged: Vec<&'a PolicyNode>,
    tagged: Vec<&'a PolicyNode>,
    pub(crate) holders: Holders,
}

impl<'a> Index<'a> {
    /// Knows users and no nodes.
    pub(crate) fn of_users(users: &[User]) -> Self {
        let mut index = Self::default();
        for user in users {
            for text in [user.name.clone(), format!("{}@", user.name)] {
                index.by_name.entry(text).or_default().push(user.id);
            }
            if let Some(email) = &user.email {
                let email = email.to_ascii_lowercase();
                if let Some((_, domain)) = email.rsplit_once('@') {
                    let of_domain = index.by_domain.entry(domain.to_owned()).or_default();
                    of_domain.push(user.id);
                }
                index.by_email.entry(email).or_default().push(user.id);
            }
        }
        index
    }

    pub(crate) fn of(directory: &'a Directory) -> Self {
        let mut index = Self::of_users(&directory.users);
        for (id, node) in &directory.nodes {
            index.all.push(node);
            if node.tags.is_empty() {
                index.untagged.push(node);
                if let Some(user) = node.user {
                    index.by_user.entry(user).or_default().push(node);
                }
            } else {
                index.tagged.push(node);
            }
            for tag in &node.tags {
                index.by_tag.entry(tag).or_default().push(node);
            }
            index.holders.insert(*id, node);
        }
        index
    }

    /// The users that a selector names: those that it matches.
    pub(crate) fn users(&self, selector: &UserSelector) -> impl Iterator<Item = UserId> + use<'_> {
        let by_name = self.by_name.get(selector.as_str());
        let by_email = self.by_email.get(&selector.as_str().to_ascii_lowercase());
        by_name.into_iter().chain(by_email).flatten().copied()
    }

    /// The users for whose untagged nodes an identity stands; none for one that is not about
    /// certain users.
    pub(crate) fn users_of(&self, policy: &Policy, identity: &Identity) -> BTreeSet<UserId> {
        match identity {
            Identity::User(selector) => self.users(selector).collect(),
            Identity::Group(name) => {
                let members = policy.groups.get(name).into_iter().flatten();
                members.flat_map(|member| self.users(member)).collect()
            }
            Identity::Domain(domain) => {
                let users = self.by_domain.get(domain).into_iter().flatten();
                users.copied().collect()
            }
            Identity::Tag(_) | Identity::Member | Identity::Tagged => BTreeSet::new(),
        }
    }

    /// The nodes that an identity stands for.
    pub(crate) fn members(&self, policy: &Policy, identity: &Identity) -> Vec<&'a PolicyNode> {
        match identity {
            Identity::User(_) | Identity::Group(_) | Identity::Domain(_) => {
                let users = self.users_of(policy, identity);
                let nodes = users.iter().filter_map(|user| self.by_user.get(user));
                nodes.flatten().copied().collect()
            }
            Identity::Tag(tag) => self.by_tag.get(tag).cloned().unwrap_or_default(),
            Identity::Member => self.untagged.clone(),
            Identity::Tagged => self.tagged.clone(),
        }
    }

    /// The overlay addresses of the nodes that an identity stands for.
    pub(crate) fn addresses(&self, policy: &Policy, identity: &Identity) -> AddressSet {
        addresses(self.members(policy, identity))
    }

    /// The overlay addresses of the nodes that meet every one of some conditions.
    pub(crate) fn meeting(&self, conditions: &[Assertion]) -> AddressSet {
        let meets = |node: &&&PolicyNode| conditions.iter().all(|one| one.is_met(&node.posture));
        addresses(self.all.iter().filter(meets).copied())
    }
}

fn addresses<'a>(nodes: impl IntoIterator<Item = &'a PolicyNode>) -> AddressSet {
    let addresses = nodes.into_iter().flat_map(|node| &node.addresses);
    addresses.copied().map(AddressRange::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn users_are_found_as_they_match(
            names in proptest::collection::vec(("[abA]{1,2}(@b)?", proptest::option::of("[abA]@[bB]")), 0..6),
            text in "[abA]{1,2}@b?",
        ) {
            let users = names.into_iter().zip(0..).map(|((name, email), id)| User {
                id: UserId(id),
                name,
                email,
            });
            let directory = Directory { users: users.collect(), ..Directory::default() };
            let selector = UserSelector::parse(&text).unwrap();
            let found: BTreeSet<_> = Index::of(&directory).users(&selector).collect();
            let matching = directory.users.iter().filter(|user| selector.matches(user));
            prop_assert_eq!(found, matching.map(|user| user.id).collect());
        }
    }
}
