//! Another policy that differs from the one before in a few rules, between ends that were compiled
//! already: those rules are put into the tables in place of the others.

use crate::{
    compile::{CompiledPolicy, CompiledRule, RuleAt, SendersId, TargetsId, set_member},
    policy::{Effect, Policy, Rule},
    ports::merge_ports,
    reduce::Ways,
    selector::Target,
};
use ipnet::IpNet;
use std::collections::BTreeSet;
use weir_overlay::NodeId;
use weir_protocol::Grant;

/// How many rules are replaced, and nodes looked at, at most. From there on, compiling everything
/// is not much more, and others do not have to wait for it.
const MAX_RULES: usize = 32;
const MAX_NODES: usize = 512;

/// Rules that take the place of others.
#[derive(Debug)]
pub(super) struct Patch {
    rules: Vec<(RuleAt, CompiledRule)>,
    /// What each end is written in from now on, where it was in a rule that is replaced.
    senders: Vec<(SendersId, usize)>,
    targets: Vec<(TargetsId, usize)>,
    /// The routes that the rules lead into or start from.
    routes: BTreeSet<IpNet>,
    /// What the nodes were told that the rules are about.
    before: Vec<(NodeId, Told)>,
}

/// What a node is told.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    peers: BTreeSet<NodeId>,
    filter: Vec<Grant>,
    routes: Vec<(Ways, bool)>,
}

impl Told {
    fn of(compiled: &CompiledPolicy, node: NodeId, routes: &BTreeSet<IpNet>) -> Self {
        let route = |route: &IpNet| {
            let hears = compiled.may_hear_from(node, route);
            (compiled.ways_into(node, route), hears)
        };
        Self {
            peers: compiled.peers(node),
            filter: compiled.filter(node),
            routes: routes.iter().map(route).collect(),
        }
    }
}

fn starts_alike(one: &Rule, other: &Rule) -> bool {
    one.postures == other.postures && one.sources == other.sources
}

fn leads_alike(one: &Rule, other: &Rule) -> bool {
    one.via == other.via && one.target == other.target
}

impl Patch {
    /// From one policy to another in the same network; none where everything has to be compiled.
    pub(super) fn of(old: &Policy, new: &Policy, compiled: &CompiledPolicy) -> Option<Self> {
        let denies = |policy: &Policy| policy.rules.iter().any(|rule| rule.effect == Effect::Deny);
        let is_same_beside_rules = old.is_set == new.is_set
            && old.groups == new.groups
            && old.postures == new.postures
            && old.without_ipv4 == new.without_ipv4;
        // Where none denies, each rule is compiled to one, in the same order.
        let is_one_to_one = old.rules.len() == new.rules.len()
            && old.rules.len() == compiled.rules.len()
            && !denies(old)
            && !denies(new);
        if !is_same_beside_rules || !is_one_to_one {
            return None;
        }
        let both = || old.rules.iter().zip(&new.rules);
        let differ = both().enumerate().filter(|(_, (old, new))| old != new);
        let differ: Vec<usize> = differ.map(|(at, _)| at).take(MAX_RULES + 1).collect();
        if differ.len() > MAX_RULES {
            return None;
        }
        let mut patch = Self {
            rules: Vec::new(),
            senders: Vec::new(),
            targets: Vec::new(),
            routes: BTreeSet::new(),
            before: Vec::new(),
        };
        for at in &differ {
            let rule = new.rules.get(*at)?;
            // The tables know the ends by the old policy.
            let known = |alike: fn(&Rule, &Rule) -> bool| {
                let known = old.rules.iter().zip(&compiled.rules);
                let mut alike = known.filter(move |(old, _)| alike(old, rule));
                alike.next().map(|(_, compiled)| compiled)
            };
            let compiled_rule = CompiledRule {
                id: rule.id,
                origin: rule.origin.as_str().into(),
                senders: known(starts_alike)?.senders,
                targets: known(leads_alike)?.targets,
                written_ports: rule.ports.clone(),
                ports: merge_ports(rule.ports.clone()),
                protocols: rule.protocols.clone(),
                is_capability: rule.effect == Effect::Capability,
                exceptions: Vec::new(),
            };
            patch.rules.push((RuleAt::new(*at), compiled_rule));
        }
        patch.name_ends(old, new, compiled, &differ)?;
        patch.look_at_nodes(compiled)?;
        Some(patch)
    }

    /// Finds where the ends of the rules that go are written now. None where one is nowhere.
    fn name_ends(
        &mut self,
        old: &Policy,
        new: &Policy,
        compiled: &CompiledPolicy,
        differ: &[usize],
    ) -> Option<()> {
        for at in differ {
            let (rule, gone) = (old.rules.get(*at)?, compiled.rules.get(*at)?);
            if compiled.senders(gone.senders).written == *at {
                let mut rules = new.rules.iter();
                let now = rules.position(|new| starts_alike(rule, new))?;
                self.senders.push((gone.senders, now));
            }
            if compiled.targets(gone.targets).written == *at {
                let mut rules = new.rules.iter();
                let now = rules.position(|new| leads_alike(rule, new))?;
                self.targets.push((gone.targets, now));
            }
        }
        Some(())
    }

    /// Notes what the nodes are told now that the rules are about. None where these are many.
    fn look_at_nodes(&mut self, compiled: &CompiledPolicy) -> Option<()> {
        let gone = self.rules.iter().map(|(at, _)| compiled.rule(*at));
        let rules: Vec<_> = gone.chain(self.rules.iter().map(|(_, new)| new)).collect();
        for rule in &rules {
            self.routes.extend(&compiled.senders(rule.senders).routes);
            self.routes.extend(&compiled.targets(rule.targets).routes);
            let nodes = compiled.senders(rule.senders).nodes.len();
            if nodes + compiled.targets(rule.targets).nodes.len() > MAX_NODES {
                return None;
            }
        }
        let mut nodes = BTreeSet::new();
        compiled.touch(&rules, &mut nodes);
        if nodes.len() > MAX_NODES {
            return None;
        }
        let told = |node| (node, Told::of(compiled, node, &self.routes));
        self.before = nodes.into_iter().map(told).collect();
        Some(())
    }

    /// Replaces the rules. Gives the nodes that are told something else since.
    pub(super) fn carry_out(self, new: &Policy, compiled: &mut CompiledPolicy) -> BTreeSet<NodeId> {
        for (at, rule) in self.rules {
            let leads_to_own = new
                .rules
                .get(at.index())
                .is_some_and(|rule| rule.target == Target::OwnDevices);
            let (senders, targets) = (rule.senders, rule.targets);
            let gone = std::mem::replace(compiled.rule_mut(at), rule);
            let starts = compiled.senders_mut(gone.senders);
            set_member(&mut starts.rules, at, false);
            set_member(&mut starts.own_rules, at, false);
            set_member(&mut compiled.targets_mut(gone.targets).rules, at, false);
            let starts = compiled.senders_mut(senders);
            match leads_to_own {
                true => set_member(&mut starts.own_rules, at, true),
                false => set_member(&mut starts.rules, at, true),
            };
            set_member(&mut compiled.targets_mut(targets).rules, at, true);
        }
        for (id, written) in self.senders {
            compiled.senders_mut(id).written = written;
        }
        for (id, written) in self.targets {
            compiled.targets_mut(id).written = written;
        }
        let differs =
            |(node, before): &(NodeId, Told)| *before != Told::of(compiled, *node, &self.routes);
        let nodes = self.before.into_iter().filter(differs);
        nodes.map(|(node, _)| node).collect()
    }
}
