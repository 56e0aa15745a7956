//! Policy and directory to compiled policy: selectors become addresses, and every rule learns
//! which nodes it starts from and which it leads to.

mod deny;
mod reach;

pub(crate) use deny::{Exception, minus, without};
pub(crate) use reach::{Place, Reach, internet};

use crate::{
    directory::Directory,
    index::Index,
    policy::{Effect, Policy, Rule},
    ports::merge_ports,
    selector::{Identity, Source, Target},
};
use deny::{Deny, PartIds, split};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use weir_overlay::{AddressRange, AddressSet, GrantId, NodeId, UserId};
use weir_protocol::{IpProtocol, PortRange};

/// A policy and the network it was compiled for. Answers what each node is told.
#[derive(Clone, Debug, Default)]
pub struct CompiledPolicy {
    pub(crate) is_set: bool,
    /// In the order of the policy; rules without a source are left out.
    pub(crate) rules: Vec<CompiledRule>,
    pub(crate) places: BTreeMap<NodeId, Place>,
    /// The untagged nodes of each user, sorted.
    pub(crate) devices: BTreeMap<UserId, Vec<NodeId>>,
    /// The rules that start from every node, by place in the list.
    pub(crate) starts: Vec<usize>,
    /// The rules that lead to every node, by place in the list.
    pub(crate) leads: Vec<usize>,
    /// All approved routes.
    pub(crate) routes: BTreeSet<IpNet>,
    /// The rules that lead into each approved route, by place in the list.
    pub(crate) into: BTreeMap<IpNet, Vec<usize>>,
    /// The rules that start from each approved subnet route, by place in the list, but for those
    /// that start from all of them.
    pub(crate) from: BTreeMap<IpNet, Vec<usize>>,
    /// Nodes that are to have no IPv4 address.
    pub(crate) without_ipv4: BTreeSet<NodeId>,
}

/// A rule whose selectors are resolved, not yet cut down to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CompiledRule {
    pub(crate) id: GrantId,
    pub(crate) origin: Arc<str>,
    pub(crate) sources: AddressSet,
    pub(crate) reach: Reach,
    /// As they were written; they may overlap.
    pub(crate) written_ports: Vec<PortRange>,
    /// The same in the fewest ranges.
    pub(crate) ports: Vec<PortRange>,
    pub(crate) protocols: BTreeSet<IpProtocol>,
    /// Whether it only says something to an application.
    pub(crate) is_capability: bool,
    /// Whether it leads through chosen nodes only.
    pub(crate) is_via: bool,
    /// What it does not allow although it says so.
    pub(crate) exceptions: Vec<Exception>,
    /// The approved subnet routes that it starts from.
    pub(crate) source_routes: Routes,
    /// The nodes that have a source address, or serve one. Sorted.
    pub(crate) source_nodes: Arc<[NodeId]>,
    /// The nodes that have a destination address, or serve one. Sorted.
    pub(crate) target_nodes: Arc<[NodeId]>,
}

/// Some of the approved subnet routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Routes {
    All,
    Some(Arc<[IpNet]>),
}

/// Resolves selectors, each identity once.
pub(crate) struct Compiler<'a> {
    policy: &'a Policy,
    directory: &'a Directory,
    pub(crate) index: Index<'a>,
    /// `*` as a source.
    wildcard: AddressSet,
    identities: BTreeMap<Identity, AddressSet>,
    postures: BTreeMap<String, AddressSet>,
}

impl<'a> Compiler<'a> {
    pub(crate) fn new(policy: &'a Policy, directory: &'a Directory) -> Self {
        let index = Index::of(directory);
        Self {
            policy,
            directory,
            wildcard: directory.wildcard.union(&index.subnets()),
            index,
            identities: BTreeMap::new(),
            postures: BTreeMap::new(),
        }
    }

    pub(crate) fn identity(&mut self, identity: &Identity) -> AddressSet {
        if let Some(known) = self.identities.get(identity) {
            return known.clone();
        }
        let addresses = self.index.addresses(self.policy, identity);
        self.identities.insert(identity.clone(), addresses.clone());
        addresses
    }

    /// The addresses that sources stand for.
    pub(crate) fn sources(&mut self, sources: &[Source]) -> AddressSet {
        let mut ranges = Vec::new();
        for source in sources {
            match source {
                Source::Any => ranges.extend_from_slice(self.wildcard.ranges()),
                Source::Everything => ranges.extend(AddressRange::everything()),
                Source::Identity(identity) => {
                    ranges.extend_from_slice(self.identity(identity).ranges());
                }
                Source::Literal(addresses) => ranges.extend_from_slice(addresses.ranges()),
            }
        }
        ranges.into()
    }

    pub(crate) fn reach(&mut self, target: &Target) -> Reach {
        match target {
            Target::Any => Reach::Anything,
            Target::Internet => Reach::Internet,
            Target::OwnDevices => Reach::OwnDevices,
            Target::Identity(identity) => Reach::Nodes(self.identity(identity)),
            Target::Literal(addresses) => Reach::Literal(addresses.clone()),
        }
    }

    /// The addresses of the nodes that meet one of some postures.
    fn meeting(&mut self, postures: &[String]) -> AddressSet {
        let mut ranges = Vec::new();
        for name in postures {
            if !self.postures.contains_key(name) {
                let conditions = self.policy.postures.get(name);
                let conditions = conditions.map(Vec::as_slice).unwrap_or_default();
                let addresses = self.index.meeting(conditions);
                self.postures.insert(name.clone(), addresses);
            }
            let known = self.postures.get(name).into_iter();
            ranges.extend(known.flat_map(AddressSet::ranges).copied());
        }
        ranges.into()
    }
}

/// Compiles a policy for a network. Never fails: what could fail did so when the policy was read.
#[must_use]
pub fn compile(policy: &Policy, directory: &Directory) -> CompiledPolicy {
    let mut compiler = Compiler::new(policy, directory);
    let places: BTreeMap<NodeId, Place> = directory
        .nodes
        .iter()
        .map(|(id, node)| (*id, Place::of(node)))
        .collect();
    let mut devices: BTreeMap<UserId, Vec<NodeId>> = BTreeMap::new();
    for (id, place) in &places {
        if let Some(user) = place.user {
            devices.entry(user).or_default().push(*id);
        }
    }
    let exits = places.iter().filter(|(_, place)| !place.exits.is_empty());
    let routes = directory.nodes.values();
    let routes: BTreeSet<IpNet> = routes
        .flat_map(|node| &node.approved_routes)
        .map(IpNet::trunc)
        .collect();
    let (default_routes, subnets): (BTreeSet<IpNet>, BTreeSet<IpNet>) =
        routes.iter().partition(|route| route.prefix_len() == 0);
    let mut builder = Builder {
        subnets: subnets.into(),
        default_routes,
        all: places.keys().copied().collect(),
        exits: exits.map(|(id, _)| *id).collect(),
        compiled: CompiledPolicy {
            is_set: policy.is_set,
            without_ipv4: without_ipv4(&mut compiler),
            places,
            devices,
            routes,
            ..CompiledPolicy::default()
        },
        compiler,
        senders: BTreeMap::new(),
        members: BTreeMap::new(),
        denied: Vec::new(),
        ids: PartIds::beside(policy.rules.iter().map(|rule| rule.id).collect()),
    };
    for rule in &policy.rules {
        builder.rule(rule);
    }
    builder.compiled
}

fn without_ipv4(compiler: &mut Compiler<'_>) -> BTreeSet<NodeId> {
    let mut nodes = BTreeSet::new();
    for target in &compiler.policy.without_ipv4 {
        if *target == Source::Any {
            nodes.extend(compiler.directory.nodes.keys());
        } else {
            let addresses = compiler.sources(std::slice::from_ref(target));
            nodes.extend(compiler.index.owners(&addresses));
        }
    }
    nodes
}

/// Addresses, and the nodes that have or serve one of them.
#[derive(Clone, Debug)]
struct Ends {
    addresses: AddressSet,
    nodes: Arc<[NodeId]>,
    routes: Routes,
}

type Members = (Arc<[NodeId]>, Arc<BTreeSet<IpNet>>);

struct Builder<'a> {
    compiler: Compiler<'a>,
    compiled: CompiledPolicy,
    /// The approved exits, sorted.
    exits: Arc<[NodeId]>,
    /// All nodes, sorted.
    all: Arc<[NodeId]>,
    /// All approved subnet routes.
    subnets: Arc<BTreeSet<IpNet>>,
    /// All approved default routes.
    default_routes: BTreeSet<IpNet>,
    /// What sources and identities stand for, once each: rules have many of them in common.
    senders: BTreeMap<Vec<Source>, Ends>,
    members: BTreeMap<Identity, Members>,
    denied: Vec<Deny>,
    ids: PartIds,
}

impl Builder<'_> {
    fn rule(&mut self, rule: &Rule) {
        let mut ends = self.senders(&rule.sources);
        if !rule.postures.is_empty() {
            let meeting = self.compiler.meeting(&rule.postures);
            ends = self.ends(ends.addresses.intersection(&meeting));
        }
        let sources = ends.addresses;
        if sources.is_empty() {
            return;
        }
        let reach = self.compiler.reach(&rule.target);
        let ports = merge_ports(rule.ports.clone());
        if rule.effect == Effect::Deny {
            self.denied.push(Deny {
                sources,
                protocols: rule.protocols.clone(),
                what: Exception { reach, ports },
            });
            return;
        }
        let compiled = CompiledRule {
            id: rule.id,
            origin: rule.origin.as_str().into(),
            sources,
            reach,
            written_ports: rule.ports.clone(),
            ports,
            protocols: rule.protocols.clone(),
            is_capability: rule.effect == Effect::Capability,
            is_via: rule.via.is_some(),
            exceptions: Vec::new(),
            source_nodes: ends.nodes,
            source_routes: ends.routes,
            target_nodes: [].into(),
        };
        if compiled.is_capability || self.denied.is_empty() {
            self.part(rule, compiled);
        } else {
            for mut part in split(compiled, &self.denied, &mut self.ids) {
                let ends = self.ends(part.sources.clone());
                (part.source_nodes, part.source_routes) = (ends.nodes, ends.routes);
                self.part(rule, part);
            }
        }
    }

    /// Finds a rule's ends, and adds it to what they know.
    fn part(&mut self, written: &Rule, mut rule: CompiledRule) {
        rule.target_nodes = match (&rule.reach, &written.target) {
            (Reach::Anything, _) => Arc::clone(&self.all),
            (Reach::Internet, _) => Arc::clone(&self.exits),
            (Reach::OwnDevices, _) => self.own_devices(&mut rule.source_nodes),
            (Reach::Nodes(addresses), Target::Identity(identity)) => {
                self.members(identity, addresses).0
            }
            (Reach::Nodes(addresses) | Reach::Literal(addresses), _) => self.nodes(addresses),
        };
        if let Some(tags) = &written.via {
            let nodes = &self.compiler.directory.nodes;
            let mut targets = rule.target_nodes.to_vec();
            targets.retain(|id| {
                let place = self.compiled.places.get(id);
                let serves = place.is_some_and(|place| match &rule.reach {
                    Reach::Internet => true,
                    Reach::Literal(addresses) => addresses.overlaps(&place.subnets),
                    Reach::Anything | Reach::OwnDevices | Reach::Nodes(_) => false,
                });
                serves
                    && nodes
                        .get(id)
                        .is_some_and(|node| !node.tags.is_disjoint(tags))
            });
            rule.target_nodes = targets.into();
        }
        if !rule.exceptions.is_empty() {
            let mut targets = rule.target_nodes.to_vec();
            targets.retain(|id| {
                let place = self.compiled.places.get(id);
                place.is_some_and(|place| !rule.destinations(place).is_empty())
            });
            rule.target_nodes = targets.into();
        }
        let into: Arc<BTreeSet<IpNet>> = match (&rule.reach, &written.target) {
            (Reach::Anything, _) => Arc::clone(&self.subnets),
            (Reach::Internet | Reach::OwnDevices, _) => Arc::default(),
            (Reach::Nodes(addresses), Target::Identity(identity)) => {
                self.members(identity, addresses).1
            }
            (Reach::Nodes(addresses) | Reach::Literal(addresses), _) => {
                self.compiler.index.routes(addresses).into()
            }
        };
        let at = self.compiled.rules.len();
        let compiled = &mut self.compiled;
        if rule.source_nodes.len() == self.all.len() {
            compiled.starts.push(at);
        } else {
            for place in rule.source_nodes.iter() {
                if let Some(place) = compiled.places.get_mut(place) {
                    place.starts.push(at);
                }
            }
        }
        if rule.target_nodes.len() == self.all.len() {
            compiled.leads.push(at);
        } else {
            for place in rule.target_nodes.iter() {
                if let Some(place) = compiled.places.get_mut(place) {
                    place.leads.push(at);
                }
            }
        }
        if let Routes::Some(routes) = &rule.source_routes {
            for route in routes.iter() {
                compiled.from.entry(*route).or_default().push(at);
            }
        }
        for route in into.iter().chain(&self.default_routes) {
            if rule.leads_into(route) {
                compiled.into.entry(*route).or_default().push(at);
            }
        }
        compiled.rules.push(rule);
    }

    fn senders(&mut self, sources: &[Source]) -> Ends {
        if let Some(known) = self.senders.get(sources) {
            return known.clone();
        }
        let addresses = self.compiler.sources(sources);
        let ends = self.ends(addresses);
        self.senders.insert(sources.to_vec(), ends.clone());
        ends
    }

    fn ends(&self, addresses: AddressSet) -> Ends {
        let routes = self.compiler.index.routes(&addresses);
        Ends {
            nodes: self.nodes(&addresses),
            routes: match routes == *self.subnets && !routes.is_empty() {
                true => Routes::All,
                false => Routes::Some(routes.into_iter().collect()),
            },
            addresses,
        }
    }

    /// Members' nodes, and the approved subnet routes that hold one of their addresses.
    fn members(&mut self, identity: &Identity, addresses: &AddressSet) -> Members {
        if let Some(known) = self.members.get(identity) {
            return known.clone();
        }
        let routes = self.compiler.index.routes(addresses);
        let members = (self.nodes(addresses), Arc::new(routes));
        self.members.insert(identity.clone(), members.clone());
        members
    }

    fn nodes(&self, addresses: &AddressSet) -> Arc<[NodeId]> {
        let nodes = self.compiler.index.nodes(addresses);
        if nodes.len() == self.all.len() {
            Arc::clone(&self.all)
        } else {
            nodes.into()
        }
    }

    /// Leaves only users' devices among the sources, and gives all devices of these users.
    fn own_devices(&self, sources: &mut Arc<[NodeId]>) -> Arc<[NodeId]> {
        let user = |id: &NodeId| self.compiled.places.get(id)?.user;
        let users: BTreeSet<UserId> = sources.iter().filter_map(user).collect();
        *sources = sources
            .iter()
            .copied()
            .filter(|id| user(id).is_some())
            .collect();
        let devices = users
            .iter()
            .filter_map(|user| self.compiled.devices.get(user));
        let devices: BTreeSet<NodeId> = devices.flatten().copied().collect();
        devices.into_iter().collect()
    }
}
