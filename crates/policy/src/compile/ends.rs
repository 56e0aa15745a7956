//! What rules have in common: where they start, where they lead. Each is kept once, however many
//! rules share it, and knows its nodes; a node knows in which of them it is.

use super::{
    deny::{Exception, without},
    reach::{Place, Reach},
};
use ipnet::IpNet;
use std::{collections::BTreeSet, sync::Arc};
use weir_overlay::{AddressSet, GrantId, NodeId};
use weir_protocol::{Destination, IpProtocol, PortRange};

/// The place of some [`Senders`] in their list. The list only grows, so it stays good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SendersId(pub(super) usize);

/// The place of some [`Targets`] in their list. The list only grows, so it stays good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TargetsId(pub(super) usize);

/// The place of a rule in the list, which is the order of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RuleAt(pub(super) usize);

impl RuleAt {
    pub(crate) const fn new(index: usize) -> Self {
        Self(index)
    }

    pub(crate) const fn index(self) -> usize {
        self.0
    }
}

/// A rule whose selectors are resolved, not yet cut down to a node.
#[derive(Clone, Debug)]
pub(crate) struct CompiledRule {
    pub(crate) id: GrantId,
    pub(crate) origin: Arc<str>,
    pub(crate) senders: SendersId,
    pub(crate) targets: TargetsId,
    /// As they were written; they may overlap.
    pub(crate) written_ports: Vec<PortRange>,
    /// The same in the fewest ranges.
    pub(crate) ports: Vec<PortRange>,
    pub(crate) protocols: BTreeSet<IpProtocol>,
    /// Whether it only says something to an application.
    pub(crate) is_capability: bool,
    /// What it does not allow although it says so.
    pub(crate) exceptions: Vec<Exception>,
}

/// Where rules start. May be empty: the next node that joins may be in it.
#[derive(Clone, Debug)]
pub(crate) struct Senders {
    /// A rule of the policy that names them, by place in its list.
    pub(crate) written: usize,
    pub(crate) addresses: AddressSet,
    /// The nodes that have a source address, or serve one. Sorted.
    pub(crate) nodes: Vec<NodeId>,
    /// The approved subnet routes that hold a source address.
    pub(crate) routes: BTreeSet<IpNet>,
    /// The rules that start here and lead elsewhere than to the senders' own devices. Sorted.
    pub(crate) rules: Vec<RuleAt>,
    /// The rules that start here and lead to the senders' own devices. Sorted.
    pub(crate) own_rules: Vec<RuleAt>,
}

/// Where rules lead.
#[derive(Clone, Debug)]
pub(crate) struct Targets {
    /// A rule of the policy that names them, by place in its list.
    pub(crate) written: usize,
    pub(crate) reach: Reach,
    /// Whether the way leads through chosen nodes only.
    pub(crate) is_via: bool,
    /// The nodes that have a destination address, or serve one. Sorted. Left empty where they are
    /// the devices of whoever sends.
    pub(crate) nodes: Vec<NodeId>,
    /// The exits that are told of these public addresses, which makes nobody their peer. Sorted.
    pub(crate) exits: Vec<NodeId>,
    /// The approved routes that rules to here lead into.
    pub(crate) routes: BTreeSet<IpNet>,
    /// The rules that lead here. Sorted.
    pub(crate) rules: Vec<RuleAt>,
}

/// The rules at an approved route. Sorted.
#[derive(Clone, Debug, Default)]
pub(crate) struct RouteEnds {
    /// What leads into it.
    pub(crate) into: Vec<TargetsId>,
    /// What starts from it.
    pub(crate) from: Vec<SendersId>,
}

impl Targets {
    /// Whether they lead to a node, when that is one of the chosen.
    pub(crate) fn lead_to(&self, place: &Place) -> bool {
        match (&self.reach, self.is_via) {
            (Reach::Anything, false) => true,
            (Reach::Internet, _) => !place.exits.is_empty(),
            (Reach::Nodes(addresses) | Reach::Literal(addresses), false) => {
                addresses.overlaps(&place.own)
            }
            (Reach::Literal(addresses), true) => addresses.overlaps(&place.subnets),
            (Reach::Anything | Reach::Nodes(_), true) | (Reach::OwnDevices, _) => false,
        }
    }

    /// Whether an exit is told of them although they do not lead to it.
    pub(crate) fn pass(&self, place: &Place) -> bool {
        match &self.reach {
            Reach::Literal(addresses) => !self.is_via && addresses.overlaps(&place.internet),
            Reach::Anything | Reach::Internet | Reach::OwnDevices | Reach::Nodes(_) => false,
        }
    }

    /// The node's own addresses, and the public ones, that count here.
    fn own<'a>(&self, place: &'a Place) -> (&'a AddressSet, AddressSet) {
        let own = match (&self.reach, self.is_via) {
            (Reach::OwnDevices, _) => &place.addresses,
            (_, true) => &place.subnets,
            (_, false) => &place.own,
        };
        let internet = match (&self.reach, self.is_via) {
            (Reach::Literal(_), true) => AddressSet::empty(),
            (_, _) => place.internet.clone(),
        };
        (own, internet)
    }

    /// What of them a node has or serves.
    pub(crate) fn at(&self, place: &Place) -> AddressSet {
        let (own, internet) = self.own(place);
        self.reach.among(own, &internet)
    }

    /// What exceptions leave of these addresses and ports at a node.
    pub(super) fn left(
        &self,
        addresses: &AddressSet,
        ports: &[PortRange],
        exceptions: &[Exception],
        place: &Place,
    ) -> Vec<Destination> {
        if addresses.is_empty() {
            return Vec::new();
        }
        if exceptions.is_empty() {
            let to = |ports: &PortRange| Destination {
                addresses: addresses.clone(),
                ports: *ports,
            };
            return ports.iter().map(to).collect();
        }
        let (own, internet) = self.own(place);
        without(addresses.clone(), ports, exceptions, own, &internet)
    }
}

impl CompiledRule {
    /// What it allows at a node that has or serves these addresses of its targets.
    pub(crate) fn destinations(
        &self,
        targets: &Targets,
        addresses: &AddressSet,
        place: &Place,
    ) -> Vec<Destination> {
        targets.left(addresses, &self.ports, &self.exceptions, place)
    }
}

/// Adds to a sorted list what is not in it, or takes out what is. Tells whether it changed.
pub(crate) fn set_member<T: Ord>(list: &mut Vec<T>, item: T, is: bool) -> bool {
    match (list.binary_search(&item), is) {
        (Err(at), true) => list.insert(at, item),
        (Ok(at), false) => drop(list.remove(at)),
        (Ok(_), true) | (Err(_), false) => return false,
    }
    true
}
