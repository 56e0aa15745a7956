//! The directory, arranged so that a selector finds its nodes without asking each of them.

use crate::{
    directory::{Directory, PolicyNode},
    policy::Policy,
    posture::Assertion,
    selector::{Identity, UserSelector},
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use weir_overlay::{AddressRange, AddressSet, NodeId, Tag, UserId};

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
    by_address: BTreeMap<IpAddr, Vec<NodeId>>,
    /// Approved subnet routes and who serves them. Sorted by their first address.
    subnets: BTreeMap<IpNet, Vec<NodeId>>,
    /// The lengths that these prefixes have. A few, so that what contains an address is found by
    /// asking for each.
    lengths: BTreeSet<u8>,
}

impl<'a> Index<'a> {
    pub(crate) fn of(directory: &'a Directory) -> Self {
        let mut index = Self::default();
        for user in &directory.users {
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
            for address in &node.addresses {
                index.by_address.entry(*address).or_default().push(*id);
            }
            for subnet in node.subnets() {
                index.lengths.insert(subnet.prefix_len());
                index.subnets.entry(subnet.trunc()).or_default().push(*id);
            }
        }
        index
    }

    /// The users that a selector names: those that it matches.
    pub(crate) fn users(&self, selector: &UserSelector) -> impl Iterator<Item = UserId> + use<'_> {
        let by_name = self.by_name.get(selector.as_str());
        let by_email = self.by_email.get(&selector.as_str().to_ascii_lowercase());
        by_name.into_iter().chain(by_email).flatten().copied()
    }

    /// The nodes that an identity stands for.
    pub(crate) fn members(&self, policy: &Policy, identity: &Identity) -> Vec<&'a PolicyNode> {
        let of_users = |users: BTreeSet<UserId>| {
            let nodes = users.iter().filter_map(|user| self.by_user.get(user));
            nodes.flatten().copied().collect()
        };
        match identity {
            Identity::User(selector) => of_users(self.users(selector).collect()),
            Identity::Group(name) => {
                let members = policy.groups.get(name).into_iter().flatten();
                of_users(members.flat_map(|member| self.users(member)).collect())
            }
            Identity::Domain(domain) => {
                let users = self.by_domain.get(domain).into_iter().flatten();
                of_users(users.copied().collect())
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

    /// The nodes that have one of the addresses, or serve one by an approved subnet route. Sorted.
    pub(crate) fn nodes(&self, addresses: &AddressSet) -> Vec<NodeId> {
        let own = addresses
            .ranges()
            .iter()
            .flat_map(|range| self.by_address.range(range.first()..=range.last()))
            .map(|(_, nodes)| nodes);
        let serving = self.serving(addresses).map(|(_, nodes)| nodes);
        let mut nodes: Vec<NodeId> = own.chain(serving).flatten().copied().collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// The approved subnet routes that hold one of the addresses. Sorted.
    pub(crate) fn routes(&self, addresses: &AddressSet) -> BTreeSet<IpNet> {
        self.serving(addresses).map(|(route, _)| *route).collect()
    }

    /// The approved subnet routes that hold one of the addresses, with repetitions.
    fn serving(&self, addresses: &AddressSet) -> impl Iterator<Item = (&IpNet, &Vec<NodeId>)> {
        addresses.ranges().iter().flat_map(move |range| {
            let end = IpNet::from(range.last());
            let start = IpNet::new(range.first(), 0).unwrap_or(end);
            // Those that start in the range, and those that contain its start.
            let inside = self.subnets.range(start..=end);
            let around = self.lengths.iter().filter_map(move |length| {
                let prefix = IpNet::new(range.first(), *length).ok()?.trunc();
                self.subnets.get_key_value(&prefix)
            });
            inside.chain(around)
        })
    }

    /// The nodes that have one of the addresses themselves.
    pub(crate) fn owners(&self, addresses: &AddressSet) -> impl Iterator<Item = NodeId> {
        let ranges = addresses.ranges().iter();
        ranges
            .flat_map(|range| self.by_address.range(range.first()..=range.last()))
            .flat_map(|(_, nodes)| nodes)
            .copied()
    }

    /// All approved subnet routes.
    pub(crate) fn subnets(&self) -> AddressSet {
        self.subnets.keys().copied().collect()
    }
}

fn addresses<'a>(nodes: impl IntoIterator<Item = &'a PolicyNode>) -> AddressSet {
    let addresses = nodes.into_iter().flat_map(|node| &node.addresses);
    addresses.copied().map(AddressRange::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::User;
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

        #[test]
        fn nodes_are_found_as_each_would_be(
            routes in proptest::collection::vec((0u8..16, 24u8..=32, any::<bool>()), 0..6),
            asked in proptest::collection::vec((0u8..20, 0u8..8, any::<bool>()), 0..3),
        ) {
            let at = |byte: u8, is_overlay: bool| {
                let second = if is_overlay { 64 } else { 0 };
                IpAddr::from([10, second, 0, byte])
            };
            let nodes = routes.iter().zip(0u8..).map(|((byte, length, second), id)| {
                let route = IpNet::new(at(*byte, false), *length).unwrap().trunc();
                let node = PolicyNode {
                    addresses: [at(id, true)].into(),
                    approved_routes: second.then_some(route).into_iter().collect(),
                    ..PolicyNode::default()
                };
                (NodeId(u64::from(id)), node)
            });
            let directory = Directory { nodes: nodes.collect(), ..Directory::default() };
            let asked: AddressSet = asked
                .into_iter()
                .filter_map(|(first, more, is_overlay)| {
                    AddressRange::new(at(first, is_overlay), at(first + more, is_overlay))
                })
                .collect();
            let has = |node: &PolicyNode| {
                node.addresses.iter().any(|address| asked.contains(*address))
                    || node.subnets().any(|route| asked.overlaps(&[route].into_iter().collect()))
            };
            let naive = directory.nodes.iter().filter(|(_, node)| has(node));
            let naive: Vec<NodeId> = naive.map(|(id, _)| *id).collect();
            prop_assert_eq!(Index::of(&directory).nodes(&asked), naive);
        }
    }
}
