//! The way from a policy's rules to the tables of a [`CompiledPolicy`].

use super::{
    CompiledPolicy, CompiledRule, Compiler, Place, Reach, RouteEnds, RuleAt, Senders, SendersId,
    Targets, TargetsId,
    deny::{Deny, Exception, Part, PartIds, split, without},
    internet, without_ipv4,
};
use crate::{
    directory::{Directory, PolicyNode},
    policy::{Effect, Policy, Rule},
    ports::merge_ports,
    selector::{Source, Target},
};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use weir_overlay::{AddressSet, GrantId, NodeId, Tag};
use weir_protocol::IpProtocol;

pub(super) struct Builder<'a> {
    compiler: Compiler<'a>,
    nodes: &'a BTreeMap<NodeId, PolicyNode>,
    compiled: CompiledPolicy,
    /// The nodes with an approved default route, sorted.
    exits: Vec<NodeId>,
    /// What rules have in common, once each.
    senders: BTreeMap<&'a [String], BTreeMap<&'a [Source], SendersId>>,
    targets: BTreeMap<Option<&'a BTreeSet<Tag>>, BTreeMap<&'a Target, TargetsId>>,
    /// The senders of parts of rules.
    parts: BTreeMap<AddressSet, SendersId>,
    denied: Vec<Deny>,
    ids: PartIds,
}

impl<'a> Builder<'a> {
    pub(super) fn new(policy: &'a Policy, directory: &'a Directory) -> Self {
        let mut compiler = Compiler::new(policy, directory);
        let nodes = &directory.nodes;
        let mut exits = Vec::new();
        let mut compiled = CompiledPolicy {
            is_set: policy.is_set,
            without_ipv4: without_ipv4(&mut compiler),
            ..CompiledPolicy::default()
        };
        for (id, node) in nodes {
            let place = Place::of(node);
            if let Some(user) = place.user {
                compiled.devices.entry(user).or_default().push(*id);
            }
            if !place.exits.is_empty() {
                exits.push(*id);
            }
            compiled.places.insert(*id, place);
            for route in &node.approved_routes {
                compiled.routes.entry(route.trunc()).or_default();
            }
        }
        Self {
            compiler,
            nodes,
            compiled,
            exits,
            senders: BTreeMap::new(),
            targets: BTreeMap::new(),
            parts: BTreeMap::new(),
            denied: Vec::new(),
            ids: PartIds::beside(policy.rules.iter().map(|rule| rule.id).collect()),
        }
    }

    /// Adds the rule at a place of the policy's list.
    pub(super) fn rule(&mut self, written: usize, rule: &'a Rule) {
        let senders = self.senders(written, rule);
        let sources = self.compiled.senders(senders).addresses.clone();
        if rule.effect == Effect::Deny {
            let reach = self.compiler.reach(&rule.target);
            self.denied.push(Deny {
                sources,
                protocols: rule.protocols.clone(),
                what: Exception {
                    reach,
                    ports: merge_ports(rule.ports.clone()),
                },
            });
        } else if rule.effect == Effect::Capability || self.denied.is_empty() {
            let targets = self.targets(written, rule);
            let protocols = rule.protocols.clone();
            self.add(rule, rule.id, senders, targets, protocols, Vec::new());
        } else {
            for part in split(sources.clone(), rule.protocols.clone(), &self.denied) {
                // It allows nothing where no id is left, which is safe.
                let Some(id) = self.ids.next(rule.id, &part) else {
                    continue;
                };
                let senders = match part.sources == sources {
                    true => senders,
                    false => self.senders_of_part(written, &part.sources),
                };
                self.part(written, rule, id, senders, part);
            }
        }
    }

    fn part(
        &mut self,
        written: usize,
        rule: &'a Rule,
        id: GrantId,
        senders: SendersId,
        part: Part,
    ) {
        let mut targets = self.targets(written, rule);
        if !part.exceptions.is_empty() {
            let targets_of = self.compiled.targets(targets);
            let mut left = targets_of.clone();
            left.rules.clear();
            let ports = merge_ports(rule.ports.clone());
            let places = &self.compiled.places;
            left.nodes.retain(|id| {
                let place = places.get(id);
                place.is_some_and(|place| {
                    let addresses = targets_of.at(place);
                    !targets_of
                        .left(&addresses, &ports, &part.exceptions, place)
                        .is_empty()
                })
            });
            let reach = left.reach.clone();
            left.routes.retain(|route| {
                let (own, internet) = match route.prefix_len() {
                    0 => (AddressSet::empty(), internet().intersection(&set_of(route))),
                    _ => (set_of(route), AddressSet::empty()),
                };
                let addresses = reach.among(&own, &internet);
                !without(addresses, &ports, &part.exceptions, &own, &internet).is_empty()
            });
            targets = self.push_targets(left);
        }
        self.add(rule, id, senders, targets, part.protocols, part.exceptions);
    }

    fn add(
        &mut self,
        rule: &Rule,
        id: GrantId,
        senders: SendersId,
        targets: TargetsId,
        protocols: BTreeSet<IpProtocol>,
        exceptions: Vec<Exception>,
    ) {
        let at = RuleAt(self.compiled.rules.len());
        self.compiled.rules.push(CompiledRule {
            id,
            origin: rule.origin.as_str().into(),
            senders,
            targets,
            written_ports: rule.ports.clone(),
            ports: merge_ports(rule.ports.clone()),
            protocols,
            is_capability: rule.effect == Effect::Capability,
            exceptions,
        });
        let senders = self.compiled.senders_mut(senders);
        match rule.target {
            Target::OwnDevices => senders.own_rules.push(at),
            Target::Any | Target::Internet | Target::Identity(_) | Target::Literal(_) => {
                senders.rules.push(at);
            }
        }
        self.compiled.targets_mut(targets).rules.push(at);
    }

    /// Where a rule starts.
    fn senders(&mut self, written: usize, rule: &'a Rule) -> SendersId {
        let alike = self.senders.entry(rule.postures.as_slice()).or_default();
        if let Some(known) = alike.get(rule.sources.as_slice()) {
            return *known;
        }
        let mut addresses = self.compiler.sources(&rule.sources);
        if !rule.postures.is_empty() {
            addresses = addresses.intersection(&self.compiler.meeting(&rule.postures));
        }
        let id = self.push_senders(written, addresses);
        let alike = self.senders.entry(rule.postures.as_slice()).or_default();
        alike.insert(rule.sources.as_slice(), id);
        id
    }

    fn senders_of_part(&mut self, written: usize, addresses: &AddressSet) -> SendersId {
        if let Some(known) = self.parts.get(addresses) {
            return *known;
        }
        let id = self.push_senders(written, addresses.clone());
        self.parts.insert(addresses.clone(), id);
        id
    }

    fn push_senders(&mut self, written: usize, addresses: AddressSet) -> SendersId {
        let holders = &self.compiler.index.holders;
        let id = SendersId(self.compiled.senders.len());
        self.compiled.senders.push(Senders {
            written,
            nodes: holders.nodes(&addresses),
            routes: holders.routes(&addresses),
            addresses,
            rules: Vec::new(),
            own_rules: Vec::new(),
        });
        id
    }

    /// Where a rule leads.
    fn targets(&mut self, written: usize, rule: &'a Rule) -> TargetsId {
        let alike = self.targets.entry(rule.via.as_ref()).or_default();
        if let Some(known) = alike.get(&rule.target) {
            return *known;
        }
        let reach = self.compiler.reach(&rule.target);
        let targets = self.new_targets(written, rule, reach);
        let id = self.push_targets(targets);
        let alike = self.targets.entry(rule.via.as_ref()).or_default();
        alike.insert(&rule.target, id);
        id
    }

    fn push_targets(&mut self, targets: Targets) -> TargetsId {
        let id = TargetsId(self.compiled.targets.len());
        self.compiled.targets.push(targets);
        id
    }

    fn new_targets(&self, written: usize, rule: &Rule, reach: Reach) -> Targets {
        let holders = &self.compiler.index.holders;
        let places = &self.compiled.places;
        let defaults = || {
            self.compiled
                .routes
                .keys()
                .filter(|route| route.prefix_len() == 0)
        };
        let mut targets = Targets {
            written,
            is_via: rule.via.is_some(),
            nodes: match &reach {
                Reach::Anything => places.keys().copied().collect(),
                Reach::Internet => self.exits.clone(),
                Reach::OwnDevices => Vec::new(),
                Reach::Nodes(addresses) | Reach::Literal(addresses) => holders.nodes(addresses),
            },
            exits: Vec::new(),
            routes: match &reach {
                Reach::Anything => self.compiled.routes.keys().copied().collect(),
                Reach::Internet => defaults().copied().collect(),
                Reach::OwnDevices => BTreeSet::new(),
                Reach::Nodes(addresses) => holders.routes(addresses),
                Reach::Literal(addresses) => {
                    let defaults = defaults().filter(|route| reach.leads_into(route));
                    holders
                        .routes(addresses)
                        .into_iter()
                        .chain(defaults.copied())
                        .collect()
                }
            },
            rules: Vec::new(),
            reach,
        };
        if let Some(tags) = &rule.via {
            let is_chosen = |id: &NodeId| {
                let place = places.get(id);
                place.is_some_and(|place| targets.lead_to(place))
                    && (self.nodes.get(id)).is_some_and(|node| !node.tags.is_disjoint(tags))
            };
            targets.nodes = (targets.nodes.iter().copied().filter(is_chosen)).collect();
        }
        let passes = |id: &NodeId| places.get(id).is_some_and(|place| targets.pass(place));
        targets.exits = self.exits.iter().copied().filter(passes).collect();
        targets
    }

    /// Tells nodes and routes in which tables they are.
    pub(super) fn finish(self) -> CompiledPolicy {
        let mut compiled = self.compiled;
        for (at, senders) in compiled.senders.iter().enumerate() {
            for id in &senders.nodes {
                if let Some(place) = compiled.places.get_mut(id) {
                    place.starts.push(SendersId(at));
                }
            }
            for route in &senders.routes {
                ends_of(&mut compiled.routes, route)
                    .from
                    .push(SendersId(at));
            }
        }
        for (at, targets) in compiled.targets.iter().enumerate() {
            for id in &targets.nodes {
                if let Some(place) = compiled.places.get_mut(id) {
                    place.leads.push(TargetsId(at));
                }
            }
            for id in &targets.exits {
                if let Some(place) = compiled.places.get_mut(id) {
                    place.passes.push(TargetsId(at));
                }
            }
            for route in &targets.routes {
                ends_of(&mut compiled.routes, route)
                    .into
                    .push(TargetsId(at));
            }
        }
        compiled.holders = self.compiler.index.holders;
        compiled
    }
}

fn ends_of<'r>(routes: &'r mut BTreeMap<IpNet, RouteEnds>, route: &IpNet) -> &'r mut RouteEnds {
    routes.entry(*route).or_default()
}

fn set_of(route: &IpNet) -> AddressSet {
    [*route].into_iter().collect()
}
