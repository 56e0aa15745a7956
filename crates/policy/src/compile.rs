//! Policy and directory to compiled policy: selectors become addresses, and every rule learns
//! which nodes it starts from and which it leads to.

mod builder;
mod deny;
mod ends;
mod reach;

pub(crate) use deny::minus;
pub(crate) use ends::{
    CompiledRule, RouteEnds, RuleAt, Senders, SendersId, Targets, TargetsId, set_member,
};
pub(crate) use reach::{Place, Reach, internet};

use crate::{
    directory::Directory,
    holders::Holders,
    index::Index,
    policy::Policy,
    selector::{Identity, Source, Target},
};
use builder::Builder;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use weir_overlay::{AddressRange, AddressSet, NodeId, UserId};

/// A policy and the network it was compiled for. Answers what each node is told.
#[derive(Clone, Debug, Default)]
pub struct CompiledPolicy {
    pub(crate) is_set: bool,
    /// In the order of the policy, those that nobody can send by among them.
    pub(crate) rules: Vec<CompiledRule>,
    pub(crate) senders: Vec<Senders>,
    pub(crate) targets: Vec<Targets>,
    pub(crate) places: BTreeMap<NodeId, Place>,
    pub(crate) holders: Holders,
    /// The untagged nodes of each user, sorted.
    pub(crate) devices: BTreeMap<UserId, Vec<NodeId>>,
    /// All approved routes, and the rules at them.
    pub(crate) routes: BTreeMap<IpNet, RouteEnds>,
    /// Nodes that are to have no IPv4 address.
    pub(crate) without_ipv4: BTreeSet<NodeId>,
}

impl CompiledPolicy {
    pub(crate) fn rule(&self, at: RuleAt) -> &CompiledRule {
        &self.rules[at.0]
    }

    pub(crate) fn rule_mut(&mut self, at: RuleAt) -> &mut CompiledRule {
        &mut self.rules[at.0]
    }

    pub(crate) fn senders(&self, id: SendersId) -> &Senders {
        &self.senders[id.0]
    }

    pub(crate) fn senders_mut(&mut self, id: SendersId) -> &mut Senders {
        &mut self.senders[id.0]
    }

    pub(crate) fn targets(&self, id: TargetsId) -> &Targets {
        &self.targets[id.0]
    }

    pub(crate) fn targets_mut(&mut self, id: TargetsId) -> &mut Targets {
        &mut self.targets[id.0]
    }

    pub(crate) fn senders_ids(&self) -> impl Iterator<Item = SendersId> + use<> {
        (0..self.senders.len()).map(SendersId)
    }

    pub(crate) fn targets_ids(&self) -> impl Iterator<Item = TargetsId> + use<> {
        (0..self.targets.len()).map(TargetsId)
    }
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
            wildcard: directory.wildcard.union(index.holders.subnets()),
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
    let mut builder = Builder::new(policy, directory);
    for (at, rule) in policy.rules.iter().enumerate() {
        builder.rule(at, rule);
    }
    builder.finish()
}

fn without_ipv4(compiler: &mut Compiler<'_>) -> BTreeSet<NodeId> {
    let mut nodes = BTreeSet::new();
    for target in &compiler.policy.without_ipv4 {
        if *target == Source::Any {
            nodes.extend(compiler.directory.nodes.keys());
        } else {
            let addresses = compiler.sources(std::slice::from_ref(target));
            nodes.extend(compiler.index.holders.owners(&addresses));
        }
    }
    nodes
}
