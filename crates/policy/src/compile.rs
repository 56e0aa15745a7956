//! Policy and directory to compiled policy: selectors become addresses, and every rule learns
//! which nodes it starts from and which it leads to.

use crate::{
    directory::{Directory, PolicyNode},
    index::Index,
    policy::{Policy, Rule},
    selector::{Identity, Source, Target},
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use weir_overlay::{AddressRange, AddressSet, GrantId, NodeId};
use weir_protocol::{IpProtocol, PortRange};

/// A policy and the network it was compiled for. Answers what each node is told.
#[derive(Clone, Debug, Default)]
pub struct CompiledPolicy {
    pub(crate) is_set: bool,
    /// In the order of the policy; rules without a source are left out.
    pub(crate) rules: Vec<CompiledRule>,
    pub(crate) places: BTreeMap<NodeId, Place>,
}

/// A rule whose selectors are resolved, not yet cut down to a node.
#[derive(Clone, Debug)]
pub(crate) struct CompiledRule {
    pub(crate) id: GrantId,
    pub(crate) origin: String,
    pub(crate) sources: AddressSet,
    pub(crate) reach: Reach,
    pub(crate) ports: Vec<PortRange>,
    pub(crate) protocols: BTreeSet<IpProtocol>,
    /// The nodes that have a source address, or serve one. Sorted.
    pub(crate) source_nodes: Vec<NodeId>,
    /// The nodes that have a destination address, or serve one. Sorted.
    pub(crate) target_nodes: Vec<NodeId>,
}

/// Where a rule leads.
#[derive(Clone, Debug)]
pub(crate) enum Reach {
    /// Whatever a node has and serves.
    Anything,
    /// Public addresses, through nodes that serve as exits.
    Internet,
    /// The overlay addresses of nodes.
    Nodes(AddressSet),
    /// A prefix, as it was written.
    Literal(IpNet),
}

/// What a node has and serves, and which rules concern it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    /// Its overlay addresses and its approved subnet routes.
    pub(crate) own: AddressSet,
    /// Its approved default routes.
    pub(crate) exits: BTreeSet<IpNet>,
    /// What it serves as an exit: public addresses of the families of its default routes.
    pub(crate) internet: AddressSet,
    /// The rules that start from it, by place in the list.
    pub(crate) starts: Vec<usize>,
    /// The rules that lead to it, by place in the list.
    pub(crate) leads: Vec<usize>,
}

/// The public addresses that an exit stands for: all IPv4 but private (RFC 1918), link-local and
/// overlay (RFC 6598) ones, and global unicast IPv6 (RFC 4291, section 2.4). An exit is no way
/// into the networks around it.
pub(crate) fn internet() -> AddressSet {
    let v4 = |a, b, c, d| IpAddr::V4(Ipv4Addr::new(a, b, c, d));
    let public = [
        (v4(0, 0, 0, 0), v4(9, 255, 255, 255)),
        (v4(11, 0, 0, 0), v4(100, 63, 255, 255)),
        (v4(100, 128, 0, 0), v4(169, 253, 255, 255)),
        (v4(169, 255, 0, 0), v4(172, 15, 255, 255)),
        (v4(172, 32, 0, 0), v4(192, 167, 255, 255)),
        (v4(192, 169, 0, 0), v4(255, 255, 255, 255)),
        (
            IpAddr::V6(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0)),
            IpAddr::V6(Ipv6Addr::from_bits((0x4000 << 112) - 1)),
        ),
    ];
    public
        .into_iter()
        .filter_map(|(first, last)| AddressRange::new(first, last))
        .collect()
}

impl Reach {
    /// Whether it leads into a route: overlaps a subnet route, is meant for or is a default route.
    pub(crate) fn leads_into(&self, route: &IpNet) -> bool {
        let is_exit = route.prefix_len() == 0;
        match self {
            Self::Anything => true,
            Self::Internet => is_exit,
            Self::Nodes(addresses) => {
                !is_exit && addresses.overlaps(&AddressSet::from_iter([*route]))
            }
            Self::Literal(prefix) if is_exit => prefix == route,
            Self::Literal(prefix) => prefix.contains(route) || route.contains(prefix),
        }
    }
}

impl Place {
    fn of(node: &PolicyNode) -> Self {
        let addresses = node.addresses.iter().copied().map(AddressRange::from);
        let exits: BTreeSet<_> = node.exits().collect();
        Self {
            own: addresses
                .chain(node.subnets().map(AddressRange::from))
                .collect(),
            internet: internet().intersection(&exits.iter().copied().collect()),
            exits,
            starts: Vec::new(),
            leads: Vec::new(),
        }
    }
}

/// Resolves selectors, each identity once.
struct Compiler<'a> {
    policy: &'a Policy,
    index: Index<'a>,
    /// `*` as a source.
    wildcard: AddressSet,
    /// The approved exits, sorted.
    exits: Vec<NodeId>,
    /// All nodes, sorted.
    all: Vec<NodeId>,
    identities: BTreeMap<Identity, AddressSet>,
}

impl Compiler<'_> {
    fn identity(&mut self, identity: &Identity) -> AddressSet {
        if let Some(known) = self.identities.get(identity) {
            return known.clone();
        }
        let addresses = self.index.addresses(self.policy, identity);
        self.identities.insert(identity.clone(), addresses.clone());
        addresses
    }

    fn sources(&mut self, sources: &[Source]) -> AddressSet {
        let mut ranges = Vec::new();
        for source in sources {
            match source {
                Source::Any => ranges.extend_from_slice(self.wildcard.ranges()),
                Source::Identity(identity) => {
                    ranges.extend_from_slice(self.identity(identity).ranges());
                }
                Source::Literal(prefix) => ranges.push(AddressRange::from(*prefix)),
            }
        }
        ranges.into()
    }

    fn rule(&mut self, rule: &Rule) -> CompiledRule {
        let sources = self.sources(&rule.sources);
        let reach = match &rule.target {
            Target::Any => Reach::Anything,
            Target::Internet => Reach::Internet,
            Target::Identity(identity) => Reach::Nodes(self.identity(identity)),
            Target::Literal(prefix) => Reach::Literal(*prefix),
        };
        CompiledRule {
            id: rule.id,
            origin: rule.origin.clone(),
            source_nodes: self.index.nodes(&sources),
            target_nodes: match &reach {
                Reach::Anything => self.all.clone(),
                Reach::Internet => self.exits.clone(),
                Reach::Nodes(addresses) => self.index.nodes(addresses),
                Reach::Literal(prefix) => self.index.nodes(&[*prefix].into_iter().collect()),
            },
            sources,
            reach,
            ports: rule.ports.clone(),
            protocols: rule.protocols.clone(),
        }
    }
}

/// Compiles a policy for a network. Never fails: what could fail did so when the policy was read.
#[must_use]
pub fn compile(policy: &Policy, directory: &Directory) -> CompiledPolicy {
    let mut places: BTreeMap<NodeId, Place> = directory
        .nodes
        .iter()
        .map(|(id, node)| (*id, Place::of(node)))
        .collect();
    let index = Index::of(directory);
    let exits = places.iter().filter(|(_, place)| !place.exits.is_empty());
    let mut compiler = Compiler {
        policy,
        wildcard: directory.wildcard.union(&index.subnets()),
        index,
        exits: exits.map(|(id, _)| *id).collect(),
        all: places.keys().copied().collect(),
        identities: BTreeMap::new(),
    };
    let mut rules = Vec::new();
    for rule in &policy.rules {
        let rule = compiler.rule(rule);
        if rule.sources.is_empty() {
            continue;
        }
        for node in &rule.source_nodes {
            if let Some(place) = places.get_mut(node) {
                place.starts.push(rules.len());
            }
        }
        for node in &rule.target_nodes {
            if let Some(place) = places.get_mut(node) {
                place.leads.push(rules.len());
            }
        }
        rules.push(rule);
    }
    CompiledPolicy {
        is_set: policy.is_set,
        rules,
        places,
    }
}
