//! One node's change, made in place in the tables of a compiled policy.

use super::catalog::Catalog;
use crate::{
    compile::{CompiledPolicy, Place, Reach, RouteEnds, SendersId, TargetsId, set_member},
    directory::PolicyNode,
    policy::{Policy, Rule},
    selector::{Identity, Source, Target},
};
use ipnet::IpNet;
use std::{collections::BTreeSet, net::IpAddr};
use weir_overlay::{AddressRange, AddressSet, NodeId, UserId};

/// A node as it was and as it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step<'a> {
    pub(super) policy: &'a Policy,
    pub(super) catalog: &'a Catalog,
    /// What `*` means as a source, but for approved routes.
    pub(super) wildcard: &'a AddressSet,
    pub(super) id: NodeId,
    pub(super) before: Option<&'a PolicyNode>,
    pub(super) after: Option<&'a PolicyNode>,
}

/// Whom a step touches.
#[derive(Debug, Default)]
struct Touched {
    /// With repetitions.
    nodes: Vec<NodeId>,
    /// The senders whose addresses are others now.
    senders: BTreeSet<SendersId>,
    /// The targets of `via` whose nodes are others now.
    steered: BTreeSet<TargetsId>,
}

impl Step<'_> {
    /// Whether the step concerns this node alone. Where nodes share an address, or a route holds
    /// a node's address, it decides about other nodes too; and what entries that deny leave of
    /// other rules depends on all nodes.
    pub(super) fn is_local(&self, compiled: &CompiledPolicy) -> bool {
        let holders = &compiled.holders;
        let nodes = || [self.before, self.after].into_iter().flatten();
        let is_own = |address: &IpAddr| {
            let mut owners = holders.owners_in(AddressRange::from(*address));
            owners.all(|owner| owner == self.id) && !holders.is_served(*address)
        };
        let is_empty = |route: IpNet| holders.owners_in(route.into()).next().is_none();
        let holds_own = |node: &PolicyNode| {
            let mut subnets = node.subnets();
            subnets.any(|route| node.addresses.iter().any(|address| route.contains(address)))
        };
        !self.catalog.denies
            && nodes().all(|node| node.addresses.iter().all(is_own))
            && nodes().all(|node| node.subnets().all(is_empty) && !holds_own(node))
    }

    /// Makes the change, and names the nodes whose answers may differ.
    pub(super) fn carry_out(&self, compiled: &mut CompiledPolicy) -> BTreeSet<NodeId> {
        let mut touched = Touched::default();
        touched.nodes.push(self.id);
        let peers = compiled.sorted_peers(self.id);
        let mut devices = self.own_devices(compiled);
        let old = compiled.places.remove(&self.id).unwrap_or_default();
        let mut new = self.after.map(Place::of).unwrap_or_default();
        self.hold(compiled, old.user, new.user);
        self.follow_routes(compiled, &mut touched);

        let identities = self.after.map(|node| self.catalog.identities(node));
        let identities = identities.unwrap_or_default();
        let mut senders = self.catalog.senders_of(&identities, &new);
        senders.extend(&old.starts);
        for id in senders {
            self.follow_senders(compiled, id, &identities, &mut new, &mut touched);
        }
        let mut targets = self.catalog.targets_of(&identities, &new);
        targets.extend(old.leads.iter().chain(&old.passes));
        for id in targets {
            self.follow_targets(compiled, id, &identities, &mut new, &mut touched);
        }
        let moved = old.user != new.user || old.addresses != new.addresses;
        if self.after.is_some() {
            compiled.places.insert(self.id, new);
        }
        set_flag(
            &mut compiled.without_ipv4,
            self.id,
            self.is_without_ipv4(&identities),
        );

        devices.extend(self.own_devices(compiled));
        let has_own = |id: &SendersId| !compiled.senders(*id).own_rules.is_empty();
        if moved || touched.senders.iter().any(has_own) {
            touched.nodes.extend(devices);
        }
        let now = compiled.sorted_peers(self.id);
        touched.nodes.extend(only_in_one(&peers, &now));
        touched.resolve(compiled)
    }

    /// The devices of the node's user, if a rule leads from it to these.
    fn own_devices(&self, compiled: &CompiledPolicy) -> BTreeSet<NodeId> {
        let Some(place) = compiled.places.get(&self.id) else {
            return BTreeSet::new();
        };
        let has_own = |id: &SendersId| !compiled.senders(*id).own_rules.is_empty();
        let user = place.user.filter(|_| place.starts.iter().any(has_own));
        let devices = user.and_then(|user| compiled.devices.get(&user));
        devices.into_iter().flatten().copied().collect()
    }

    /// Who has and serves what, and whose device this is.
    fn hold(&self, compiled: &mut CompiledPolicy, old: Option<UserId>, new: Option<UserId>) {
        let held = |node: &PolicyNode| (node.addresses.clone(), node.approved_routes.clone());
        if self.before.map(held) != self.after.map(held) {
            if let Some(node) = self.before {
                compiled.holders.remove(self.id, node);
            }
            if let Some(node) = self.after {
                compiled.holders.insert(self.id, node);
            }
        }
        if old != new {
            if let Some(devices) = old.and_then(|user| compiled.devices.get_mut(&user)) {
                set_member(devices, self.id, false);
            }
            if let Some(user) = new {
                set_member(compiled.devices.entry(user).or_default(), self.id, true);
            }
        }
    }

    /// Routes that come and go with the node.
    fn follow_routes(&self, compiled: &mut CompiledPolicy, touched: &mut Touched) {
        let routes = |node: Option<&PolicyNode>| -> BTreeSet<IpNet> {
            let routes = node.into_iter().flat_map(|node| &node.approved_routes);
            routes.map(IpNet::trunc).collect()
        };
        let (before, after) = (routes(self.before), routes(self.after));
        let mut gone = before;
        gone.retain(|route| !compiled.holders.is_route(route));
        let mut come = after;
        come.retain(|route| !compiled.routes.contains_key(route));
        for route in &gone {
            touched.nodes.extend(compiled.users_of_route(route));
            let ends = compiled.routes.remove(route).unwrap_or_default();
            for id in ends.into {
                compiled.targets_mut(id).routes.remove(route);
            }
            for id in ends.from {
                compiled.senders_mut(id).routes.remove(route);
            }
        }
        self.follow_any(compiled, &gone, &come, touched);
        for route in &come {
            let mut ends = RouteEnds::default();
            let set = [*route].into_iter().collect();
            for id in self.catalog.targets_at(route) {
                let targets = compiled.targets_mut(id);
                if targets.reach.leads_into(route) {
                    targets.routes.insert(*route);
                    ends.into.push(id);
                }
            }
            for id in self.catalog.senders_at(route) {
                let senders = compiled.senders_mut(id);
                if route.prefix_len() > 0 && senders.addresses.overlaps(&set) {
                    senders.routes.insert(*route);
                    ends.from.push(id);
                }
            }
            compiled.routes.insert(*route, ends);
            touched.nodes.extend(compiled.users_of_route(route));
        }
    }

    /// `*` as a source holds every approved subnet route.
    fn follow_any(
        &self,
        compiled: &mut CompiledPolicy,
        gone: &BTreeSet<IpNet>,
        come: &BTreeSet<IpNet>,
        touched: &mut Touched,
    ) {
        let subnets = |routes: &BTreeSet<IpNet>| -> AddressSet {
            let routes = routes.iter().copied();
            routes.filter(|route| route.prefix_len() > 0).collect()
        };
        let (gone, come) = (subnets(gone), subnets(come));
        if gone.is_empty() && come.is_empty() {
            return;
        }
        let left = self.wildcard.union(compiled.holders.subnets());
        for id in self.catalog.any_senders() {
            let senders = compiled.senders_mut(*id);
            let sources = self.rule(senders.written).map(|rule| &rule.sources);
            let literal = sources.into_iter().flatten().map(|source| match source {
                Source::Literal(addresses) => addresses.clone(),
                Source::Everything => AddressSet::everything(),
                Source::Any | Source::Identity(_) => AddressSet::empty(),
            });
            let stays = literal.fold(left.clone(), |all, more| all.union(&more));
            let addresses = senders.addresses.difference(&gone.difference(&stays));
            let addresses = addresses.union(&come);
            if addresses != senders.addresses {
                senders.addresses = addresses;
                touched.senders.insert(*id);
            }
        }
    }

    fn rule(&self, written: usize) -> Option<&Rule> {
        self.policy.rules.get(written)
    }

    /// The addresses that the node had or has, some twice.
    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let nodes = [self.before, self.after].into_iter().flatten();
        nodes.flat_map(|node| &node.addresses).copied()
    }

    fn has(&self, address: IpAddr) -> bool {
        self.after
            .is_some_and(|node| node.addresses.contains(&address))
    }

    fn follow_senders(
        &self,
        compiled: &mut CompiledPolicy,
        id: SendersId,
        identities: &BTreeSet<Identity>,
        place: &mut Place,
        touched: &mut Touched,
    ) {
        let senders = compiled.senders_mut(id);
        let Some(rule) = self.rule(senders.written) else {
            return;
        };
        for address in self.addresses() {
            let is = self.is_source(rule, identities, address);
            if senders.addresses.contains(address) != is {
                set_address(&mut senders.addresses, address, is);
                touched.senders.insert(id);
            }
        }
        let is = senders.addresses.overlaps(&place.own);
        set_member(&mut senders.nodes, self.id, is);
        if is {
            place.starts.push(id);
        }
    }

    /// Whether an address that no other node has, and no route holds, is a rule's source.
    fn is_source(&self, rule: &Rule, identities: &BTreeSet<Identity>, address: IpAddr) -> bool {
        let meets = || self.has(address) && self.meets(&rule.postures);
        if !rule.postures.is_empty() && !meets() {
            return false;
        }
        rule.sources.iter().any(|source| match source {
            Source::Any => self.wildcard.contains(address),
            Source::Everything => true,
            Source::Identity(identity) => self.has(address) && identities.contains(identity),
            Source::Literal(addresses) => addresses.contains(address),
        })
    }

    fn meets(&self, postures: &[String]) -> bool {
        let conditions = postures.iter().map(|name| self.policy.postures.get(name));
        let mut conditions = conditions.map(|all| all.map(Vec::as_slice).unwrap_or_default());
        self.after.is_some_and(|node| {
            conditions.any(|all| all.iter().all(|one| one.is_met(&node.posture)))
        })
    }

    fn follow_targets(
        &self,
        compiled: &mut CompiledPolicy,
        id: TargetsId,
        identities: &BTreeSet<Identity>,
        place: &mut Place,
        touched: &mut Touched,
    ) {
        let targets = compiled.targets_mut(id);
        let Some(rule) = self.rule(targets.written) else {
            return;
        };
        if let (Reach::Nodes(reached), Target::Identity(identity)) =
            (&mut targets.reach, &rule.target)
        {
            for address in self.addresses() {
                let is = self.has(address) && identities.contains(identity);
                set_address(reached, address, is);
            }
        }
        let is_chosen = rule
            .via
            .as_ref()
            .is_none_or(|tags| self.after.is_some_and(|node| !node.tags.is_disjoint(tags)));
        let leads = is_chosen && self.after.is_some() && targets.lead_to(place);
        let passes = self.after.is_some() && targets.pass(place);
        if set_member(&mut targets.nodes, self.id, leads) && targets.is_via {
            touched.steered.insert(id);
        }
        set_member(&mut targets.exits, self.id, passes);
        if leads {
            place.leads.push(id);
        }
        if passes {
            place.passes.push(id);
        }
    }

    fn is_without_ipv4(&self, identities: &BTreeSet<Identity>) -> bool {
        let mut targets = self.policy.without_ipv4.iter();
        self.after.is_some_and(|node| {
            let mut addresses = node.addresses.iter();
            targets.any(|target| match target {
                Source::Any => true,
                Source::Everything => !node.addresses.is_empty(),
                Source::Identity(identity) => {
                    identities.contains(identity) && !node.addresses.is_empty()
                }
                Source::Literal(literal) => addresses.any(|address| literal.contains(*address)),
            })
        })
    }
}

impl Touched {
    /// All of them, once the change is made.
    fn resolve(self, compiled: &CompiledPolicy) -> BTreeSet<NodeId> {
        let mut nodes = self.nodes;
        // Whose filter names these senders.
        let rules = self
            .senders
            .iter()
            .flat_map(|id| &compiled.senders(*id).rules);
        let rules = rules.map(|at| compiled.rule(*at));
        let told = rules.filter(|rule| !rule.is_capability);
        let told: BTreeSet<TargetsId> = told.map(|rule| rule.targets).collect();
        for id in told {
            let targets = compiled.targets(id);
            nodes.extend(targets.nodes.iter().chain(&targets.exits));
        }
        // Who is steered through them.
        let rules = self
            .steered
            .iter()
            .flat_map(|id| &compiled.targets(*id).rules);
        let senders: BTreeSet<SendersId> = rules.map(|at| compiled.rule(*at).senders).collect();
        for id in senders {
            nodes.extend(&compiled.senders(id).nodes);
        }
        // Sorted lists behind each other: merged first, they make a set in one go.
        nodes.sort();
        nodes.dedup();
        nodes.into_iter().collect()
    }
}

/// What only one of two sorted lists has.
fn only_in_one<'a>(one: &'a [NodeId], other: &'a [NodeId]) -> impl Iterator<Item = NodeId> + 'a {
    let missing = |from: &'a [NodeId]| move |id: &&NodeId| from.binary_search(id).is_err();
    let ones = one.iter().filter(missing(other));
    ones.chain(other.iter().filter(missing(one))).copied()
}

fn set_address(set: &mut AddressSet, address: IpAddr, is: bool) {
    if is {
        set.insert(address);
    } else {
        set.remove(address);
    }
}

fn set_flag(set: &mut BTreeSet<NodeId>, id: NodeId, is: bool) {
    if is {
        set.insert(id);
    } else {
        set.remove(&id);
    }
}
