//! Where rules lead, and what of it a node has or serves.

use super::ends::{SendersId, TargetsId};
use crate::directory::PolicyNode;
use ipnet::IpNet;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use weir_overlay::{AddressRange, AddressSet, UserId};

/// Where a rule leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Whatever a node has and serves.
    Anything,
    /// Public addresses, through nodes that serve as exits.
    Internet,
    /// The devices of the user who sends.
    OwnDevices,
    /// The overlay addresses of nodes.
    Nodes(AddressSet),
    /// Addresses, as they were written.
    Literal(AddressSet),
}

/// What a node has and serves, and which rules concern it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    /// The user whose device it is. None for a tagged node.
    pub(crate) user: Option<UserId>,
    /// Its overlay addresses.
    pub(crate) addresses: AddressSet,
    /// Its approved subnet routes.
    pub(crate) subnets: AddressSet,
    /// Its overlay addresses and its approved subnet routes.
    pub(crate) own: AddressSet,
    /// Its approved default routes.
    pub(crate) exits: BTreeSet<IpNet>,
    /// What it serves as an exit: public addresses of the families of its default routes.
    pub(crate) internet: AddressSet,
    /// The senders that it is among. Sorted.
    pub(crate) starts: Vec<SendersId>,
    /// The targets that it is among. Sorted.
    pub(crate) leads: Vec<TargetsId>,
    /// The targets that it is told of as an exit. Sorted.
    pub(crate) passes: Vec<TargetsId>,
}

impl Place {
    pub(crate) fn of(node: &PolicyNode) -> Self {
        let exits: BTreeSet<_> = node.exits().collect();
        let addresses: AddressSet = node
            .addresses
            .iter()
            .copied()
            .map(AddressRange::from)
            .collect();
        let subnets: AddressSet = node.subnets().collect();
        Self {
            user: node.user.filter(|_| node.tags.is_empty()),
            own: addresses.union(&subnets),
            addresses,
            subnets,
            internet: match exits.is_empty() {
                true => AddressSet::empty(),
                false => internet().intersection(&exits.iter().copied().collect()),
            },
            exits,
            starts: Vec::new(),
            leads: Vec::new(),
            passes: Vec::new(),
        }
    }

    /// Whether it has and serves the same, for the same user.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.user == other.user
            && self.addresses == other.addresses
            && self.subnets == other.subnets
            && self.exits == other.exits
    }
}

impl Reach {
    /// Whether it leads into a route: overlaps a subnet route, is meant for or is a default route.
    pub(crate) fn leads_into(&self, route: &IpNet) -> bool {
        let is_exit = route.prefix_len() == 0;
        let route: AddressSet = [*route].into_iter().collect();
        match self {
            Self::Anything => true,
            Self::Internet => is_exit,
            Self::OwnDevices => false,
            Self::Nodes(addresses) => !is_exit && addresses.overlaps(&route),
            Self::Literal(addresses) if is_exit => *addresses == route,
            Self::Literal(addresses) => addresses.overlaps(&route),
        }
    }

    /// What of it is among a node's own addresses and the public ones that it serves. A public
    /// prefix is served by an exit too, for those whom another rule lets use the exit.
    pub(crate) fn among(&self, own: &AddressSet, internet: &AddressSet) -> AddressSet {
        match self {
            Self::Anything => own.union(internet),
            Self::Internet => internet.clone(),
            Self::OwnDevices => own.clone(),
            Self::Nodes(addresses) => addresses.intersection(own),
            Self::Literal(addresses) => addresses.intersection(&own.union(internet)),
        }
    }
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
