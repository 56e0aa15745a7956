//! The straightforward compiler: each node's filter by asking every rule, each rule's sources by
//! asking every node. Kept to measure the real one against, and to check it.

use crate::generate::{Meant, Sample, Who, user_id};
use ipnet::IpNet;
use std::{borrow::Cow, collections::BTreeSet};
use weir_overlay::{AddressRange, AddressSet, Tag, UserId, overlay_prefixes};
use weir_policy::PolicyNode;
use weir_protocol::Grant;

/// What a rule allows at a node: from where, to where, at which port.
pub(crate) type Entry = (AddressSet, AddressSet, u16);

/// Where a rule starts and where it leads.
#[derive(Clone, Debug)]
pub(crate) struct Ends {
    sources: AddressSet,
    target: AddressSet,
}

/// What has to be looked at again and again, in the form that is easiest to look at.
#[derive(Debug)]
pub(crate) struct Yardstick<'a> {
    sample: &'a Sample,
    tags: Vec<Tag>,
    groups: Vec<BTreeSet<UserId>>,
    wildcard: AddressSet,
    internet: AddressSet,
}

impl<'a> Yardstick<'a> {
    pub(crate) fn of(sample: &'a Sample, tags: usize) -> anyhow::Result<Self> {
        let nodes = sample.directory.nodes.values();
        let subnets = nodes
            .flat_map(|node| node.approved_routes.iter().copied())
            .filter(|route| route.prefix_len() > 0);
        let tags = (0..tags).map(|tag| format!("tag:t{tag}").parse());
        let public = [
            "0.0.0.0-9.255.255.255",
            "11.0.0.0-100.63.255.255",
            "100.128.0.0-169.253.255.255",
            "169.255.0.0-172.15.255.255",
            "172.32.0.0-192.167.255.255",
            "192.169.0.0-255.255.255.255",
            "2000::/3",
        ];
        let public: Result<Vec<AddressRange>, _> =
            public.iter().map(|range| range.parse()).collect();
        Ok(Self {
            wildcard: overlay_prefixes().into_iter().chain(subnets).collect(),
            tags: tags.collect::<Result<_, _>>()?,
            groups: sample
                .groups
                .iter()
                .map(|members| members.iter().map(|user| user_id(*user)).collect())
                .collect(),
            internet: public?.into(),
            sample,
        })
    }

    fn is(&self, node: &PolicyNode, who: &Who) -> bool {
        let user = node.user.filter(|_| node.tags.is_empty());
        match who {
            Who::Members => node.tags.is_empty(),
            Who::User(number) => user == Some(user_id(*number)),
            Who::Group(group) => {
                let members = self.groups.get(*group);
                user.is_some_and(|user| members.is_some_and(|members| members.contains(&user)))
            }
            Who::Tag(tag) => self
                .tags
                .get(*tag)
                .is_some_and(|tag| node.tags.contains(tag)),
            Who::Any | Who::Prefix(_) | Who::OwnDevices | Who::Internet => false,
        }
    }

    /// The addresses of a selector, by asking every node.
    fn addresses(&self, who: &Who) -> AddressSet {
        match who {
            Who::Any => self.wildcard.clone(),
            Who::Prefix(prefix) => [*prefix].into_iter().collect(),
            Who::Members | Who::User(_) | Who::Group(_) | Who::Tag(_) => {
                let nodes = self.sample.directory.nodes.values();
                own_addresses(nodes.filter(|node| self.is(node, who)))
            }
            Who::OwnDevices | Who::Internet => AddressSet::empty(),
        }
    }

    /// Where a rule starts and where it leads, by asking every node.
    pub(crate) fn ends(&self, rule: &Meant) -> Ends {
        let sources = rule.sources.iter().map(|who| self.addresses(who));
        let sources = sources.reduce(|all, more| all.union(&more));
        Ends {
            sources: sources.unwrap_or_default(),
            target: self.addresses(&rule.target),
        }
    }

    /// A node's filter: every rule is asked. `ends` tells where the rule of a number starts and
    /// leads.
    pub(crate) fn filter<'e>(
        &self,
        node: &PolicyNode,
        mut ends: impl FnMut(usize, &Meant) -> Cow<'e, Ends>,
    ) -> Vec<Entry> {
        let subnets: AddressSet = routes(node, |length| length > 0).collect();
        let exits: AddressSet = routes(node, |length| length == 0).collect();
        let internet = self.internet.intersection(&exits);
        let addresses = own_addresses([node]);
        let own = addresses.union(&subnets);
        let all = own.union(&internet);
        let mut filter = Vec::new();
        for (number, rule) in self.sample.rules.iter().enumerate() {
            let ends = ends(number, rule);
            let steered = rule.via.is_none_or(|tag| self.is(node, &Who::Tag(tag)));
            let destinations = match &rule.target {
                _ if !steered => AddressSet::empty(),
                Who::Internet => internet.clone(),
                Who::OwnDevices => addresses.clone(),
                Who::Prefix(_) if rule.via.is_some() => ends.target.intersection(&subnets),
                Who::Prefix(_) => ends.target.intersection(&all),
                Who::Any | Who::Members | Who::User(_) | Who::Group(_) | Who::Tag(_) => {
                    ends.target.intersection(&own)
                }
            };
            if destinations.is_empty() {
                continue;
            }
            let sources = if matches!(rule.target, Who::OwnDevices) {
                self.devices(node).intersection(&ends.sources)
            } else {
                ends.sources.clone()
            };
            if !sources.is_empty() {
                filter.push((sources, destinations, rule.port));
            }
        }
        filter
    }

    /// The addresses of all devices of a node's user.
    fn devices(&self, node: &PolicyNode) -> AddressSet {
        let user = node.user.filter(|_| node.tags.is_empty());
        let nodes = self.sample.directory.nodes.values();
        own_addresses(
            nodes.filter(|other| user.is_some() && other.tags.is_empty() && other.user == user),
        )
    }
}

fn routes(node: &PolicyNode, length: impl Fn(u8) -> bool) -> impl Iterator<Item = IpNet> {
    let routes = node.approved_routes.iter().copied();
    routes.filter(move |route| length(route.prefix_len()))
}

fn own_addresses<'a>(nodes: impl IntoIterator<Item = &'a PolicyNode>) -> AddressSet {
    let addresses = nodes.into_iter().flat_map(|node| &node.addresses);
    addresses.copied().map(AddressRange::from).collect()
}

/// A filter of the real compiler in the form of the yardstick's.
pub(crate) fn entries(filter: &[Grant]) -> Vec<Entry> {
    let destinations = filter.iter().flat_map(|grant| {
        let to = grant.destinations.iter();
        to.map(|to| (grant.sources.clone(), to.addresses.clone(), to.ports.first))
    });
    destinations.collect()
}
