//! Which tables of a compiled policy name what, so that a node finds those that it may be among
//! without asking all of them.

use crate::{
    compile::{CompiledPolicy, Place, SendersId, TargetsId},
    directory::{PolicyNode, User},
    index::Index,
    policy::{Effect, Policy},
    prefixes::Prefixes,
    selector::{Identity, Source, Target},
};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use weir_overlay::{AddressSet, UserId};

/// Tables by what they name.
#[derive(Clone, Debug)]
struct Named<Id> {
    by_identity: BTreeMap<Identity, Vec<Id>>,
    by_prefix: Prefixes<Id>,
    /// Those that every node may be among.
    wide: Vec<Id>,
}

impl<Id> Default for Named<Id> {
    fn default() -> Self {
        Self {
            by_identity: BTreeMap::new(),
            by_prefix: Prefixes::default(),
            wide: Vec::new(),
        }
    }
}

impl<Id: Copy + Ord> Named<Id> {
    fn literal(&mut self, addresses: &AddressSet, id: Id) {
        for prefix in addresses.prefixes() {
            self.by_prefix.insert(prefix, id);
        }
    }

    fn identity(&mut self, identity: &Identity, id: Id) {
        let named = self.by_identity.entry(identity.clone()).or_default();
        named.push(id);
    }

    /// Those that a node with these identities and addresses may be among.
    fn of(&self, identities: &BTreeSet<Identity>, addresses: &AddressSet) -> BTreeSet<Id> {
        let named = identities
            .iter()
            .filter_map(|one| self.by_identity.get(one));
        let named = named.flatten().chain(&self.wide).copied();
        let literal = self.by_prefix.overlapping_any(addresses);
        named.chain(literal.map(|(_, id)| *id)).collect()
    }
}

/// Which tables name what.
#[derive(Clone, Debug)]
pub(super) struct Catalog {
    /// The identities that the policy names, by the users whose untagged nodes they stand for.
    of_users: BTreeMap<UserId, BTreeSet<Identity>>,
    senders: Named<SendersId>,
    targets: Named<TargetsId>,
    /// The senders that `*` is among.
    any_senders: Vec<SendersId>,
    /// Whether entries deny: what they leave of other rules depends on all nodes.
    pub(super) denies: bool,
}

impl Catalog {
    pub(super) fn of(policy: &Policy, users: &[User], compiled: &CompiledPolicy) -> Self {
        let mut catalog = Self {
            of_users: BTreeMap::new(),
            senders: Named::default(),
            targets: Named::default(),
            any_senders: Vec::new(),
            denies: policy.rules.iter().any(|rule| rule.effect == Effect::Deny),
        };
        for id in compiled.senders_ids() {
            catalog.add_senders(policy, compiled, id);
        }
        for id in compiled.targets_ids() {
            let written = policy.rules.get(compiled.targets(id).written);
            match written.map(|rule| &rule.target) {
                Some(Target::Any | Target::Internet) => catalog.targets.wide.push(id),
                Some(Target::Identity(identity)) => catalog.targets.identity(identity, id),
                Some(Target::Literal(addresses)) => catalog.targets.literal(addresses, id),
                Some(Target::OwnDevices) | None => {}
            }
        }
        let index = Index::of_users(users);
        let named = catalog.senders.by_identity.keys();
        for identity in named.chain(catalog.targets.by_identity.keys()) {
            for user in index.users_of(policy, identity) {
                let of_user = catalog.of_users.entry(user).or_default();
                of_user.insert(identity.clone());
            }
        }
        for target in &policy.without_ipv4 {
            if let Source::Identity(identity) = target {
                for user in index.users_of(policy, identity) {
                    let of_user = catalog.of_users.entry(user).or_default();
                    of_user.insert(identity.clone());
                }
            }
        }
        catalog
    }

    fn add_senders(&mut self, policy: &Policy, compiled: &CompiledPolicy, id: SendersId) {
        let Some(rule) = policy.rules.get(compiled.senders(id).written) else {
            return;
        };
        if rule.sources.contains(&Source::Any) && rule.postures.is_empty() {
            self.any_senders.push(id);
        }
        let is_any = |source: &Source| matches!(source, Source::Any | Source::Everything);
        if !rule.postures.is_empty() || rule.sources.iter().any(is_any) {
            self.senders.wide.push(id);
        }
        for source in &rule.sources {
            match source {
                Source::Any | Source::Everything => {}
                Source::Identity(identity) => self.senders.identity(identity, id),
                Source::Literal(addresses) => self.senders.literal(addresses, id),
            }
        }
    }

    /// The identities that stand for a node, those that the policy names at least.
    pub(super) fn identities(&self, node: &PolicyNode) -> BTreeSet<Identity> {
        if node.tags.is_empty() {
            let of_user = node.user.and_then(|user| self.of_users.get(&user));
            let mut identities = of_user.cloned().unwrap_or_default();
            identities.insert(Identity::Member);
            identities
        } else {
            let tags = node.tags.iter().cloned().map(Identity::Tag);
            tags.chain([Identity::Tagged]).collect()
        }
    }

    /// The senders that a node may be among.
    pub(super) fn senders_of(
        &self,
        identities: &BTreeSet<Identity>,
        place: &Place,
    ) -> BTreeSet<SendersId> {
        self.senders.of(identities, &place.own)
    }

    /// The targets that a node may be among, or told of as an exit.
    pub(super) fn targets_of(
        &self,
        identities: &BTreeSet<Identity>,
        place: &Place,
    ) -> BTreeSet<TargetsId> {
        let mut targets = self.targets.of(identities, &place.own);
        let public = self.targets.by_prefix.overlapping_any(&place.internet);
        targets.extend(public.map(|(_, id)| *id));
        targets
    }

    /// The senders that a route may be among.
    pub(super) fn senders_at(&self, route: &IpNet) -> BTreeSet<SendersId> {
        self.senders
            .of(&BTreeSet::new(), &[*route].into_iter().collect())
    }

    /// The targets that may lead into a route.
    pub(super) fn targets_at(&self, route: &IpNet) -> BTreeSet<TargetsId> {
        self.targets
            .of(&BTreeSet::new(), &[*route].into_iter().collect())
    }

    /// The senders that every approved subnet route is among.
    pub(super) fn any_senders(&self) -> &[SendersId] {
        &self.any_senders
    }
}
