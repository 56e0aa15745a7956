//! How far a firewall reaches: what it serves, what two of them both allow, and its fingerprint.

use ipnet::IpNet;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use weir_overlay::{AddressRange, AddressSet, GrantId, InterfaceName, TrafficClass};
use weir_protocol::{Destination, Grant, IpProtocol, PortRange};

use super::DesiredFirewall;

/// Changes when the shape of the ruleset does, so that a new version of the agent loads its own.
const LAYOUT: &str = "4";

impl DesiredFirewall {
    /// Names the ruleset that this makes. Equal firewalls have equal fingerprints.
    #[must_use]
    pub fn fingerprint(&self, interface: &InterfaceName) -> String {
        let mut hash = Sha256::new();
        hash.update(LAYOUT);
        hash.update(interface.as_str());
        hash.update(serde_json::to_vec(&self.without_grants()).unwrap_or_default());
        hash_grants(&self.grants, &mut hash);
        short(hash)
    }

    /// All but the grants, which may be many.
    fn without_grants(&self) -> Self {
        Self {
            own_addresses: self.own_addresses.clone(),
            served: self.served.clone(),
            exit: self.exit,
            grants: Vec::new(),
            translation: self.translation.clone(),
            tunnel_port: self.tunnel_port,
            relayed: self.relayed.clone(),
        }
    }

    /// What both this firewall and `other` allow. Loaded before a change takes anything away, so
    /// that no moment is wider than before or after, and none is narrower than both.
    #[must_use]
    pub fn tightened_to(&self, other: &Self) -> Self {
        let mut both = other.without_grants();
        both.grants = allowed_by_both(&self.grants, &other.grants);
        both.own_addresses = self.own_addresses.intersection(&other.own_addresses);
        both.served = self.served.intersection(&other.served);
        both.exit = self.exit && other.exit;
        both
    }

    /// Whether both allow and translate the same packets under the same grants, in whatever order,
    /// and wherever the policy says so.
    #[must_use]
    pub fn acts_like(&self, other: &Self) -> bool {
        self.grants.len() == other.grants.len()
            && self.without_grants() == other.without_grants()
            && by_id(&self.grants)
                .into_iter()
                .zip(by_id(&other.grants))
                .all(|(one, other)| same(one, other))
    }

    /// The private prefixes among what this node relays to.
    pub(super) fn subnets(&self) -> Vec<IpNet> {
        let is_subnet = |prefix: &IpNet| TrafficClass::of(prefix) == TrafficClass::Subnet;
        self.served
            .prefixes()
            .into_iter()
            .filter(is_subnet)
            .collect()
    }

    /// Where packets from the overlay may go at all: the node itself and what it serves.
    #[must_use]
    pub fn within(&self) -> AddressSet {
        let within = self.own_addresses.union(&self.served);
        if self.exit {
            within.union(&exit_addresses())
        } else {
            within
        }
    }
}

/// Names grants, in their order, within what this node is and serves.
pub(super) fn fingerprint_of_grants(grants: &[&Grant], within: &AddressSet) -> String {
    let mut hash = Sha256::new();
    hash.update(serde_json::to_vec(within).unwrap_or_default());
    hash_grants(grants.iter().copied(), &mut hash);
    short(hash)
}

fn hash_grants<'a>(grants: impl IntoIterator<Item = &'a Grant>, hash: &mut Sha256) {
    let mut bytes = Vec::new();
    for grant in grants {
        bytes.clear();
        write_grant(grant, &mut bytes);
        hash.update(&bytes);
    }
}

fn short(hash: Sha256) -> String {
    let digest = hash.finalize();
    let bytes = digest.iter().take(8);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

fn by_id(grants: &[Grant]) -> Vec<&Grant> {
    let mut sorted: Vec<_> = grants.iter().collect();
    sorted.sort_by_key(|grant| grant.id);
    sorted
}

/// Writes all that a grant says, so that different lists of grants are different bytes: each part
/// behind its length.
fn write_grant(grant: &Grant, bytes: &mut Vec<u8>) {
    fn length(count: usize, bytes: &mut Vec<u8>) {
        bytes.extend(u64::try_from(count).unwrap_or(u64::MAX).to_le_bytes());
    }
    fn address(address: IpAddr, bytes: &mut Vec<u8>) {
        match address {
            IpAddr::V4(v4) => {
                bytes.push(4);
                bytes.extend(v4.octets());
            }
            IpAddr::V6(v6) => {
                bytes.push(6);
                bytes.extend(v6.octets());
            }
        }
    }
    fn addresses(set: &AddressSet, bytes: &mut Vec<u8>) {
        length(set.ranges().len(), bytes);
        for range in set.ranges() {
            address(range.first(), bytes);
            address(range.last(), bytes);
        }
    }
    bytes.extend(grant.id.0.to_le_bytes());
    addresses(&grant.sources, bytes);
    length(grant.protocols.len(), bytes);
    bytes.extend(grant.protocols.iter().map(|protocol| protocol.0));
    length(grant.destinations.len(), bytes);
    for destination in &grant.destinations {
        addresses(&destination.addresses, bytes);
        bytes.extend(destination.ports.first.to_le_bytes());
        bytes.extend(destination.ports.last.to_le_bytes());
    }
    length(grant.origin.len(), bytes);
    bytes.extend(grant.origin.as_bytes());
}

/// Whether two grants allow the same packets under the same id, wherever the policy says so now.
fn same(one: &Grant, other: &Grant) -> bool {
    one.id == other.id
        && one.protocols == other.protocols
        && one.sources == other.sources
        && one.destinations == other.destinations
}

/// Grants for what both lists allow, in the order and with the ids of the second.
fn allowed_by_both(old: &[Grant], new: &[Grant]) -> Vec<Grant> {
    let by_id: BTreeMap<GrantId, &Grant> = old.iter().map(|grant| (grant.id, grant)).collect();
    let stays = |grant: &Grant| by_id.get(&grant.id).is_some_and(|old| same(old, grant));
    let staying: BTreeSet<GrantId> = new
        .iter()
        .filter(|grant| stays(grant))
        .map(|grant| grant.id)
        .collect();
    let going: Vec<&Grant> = old
        .iter()
        .filter(|grant| !staying.contains(&grant.id))
        .collect();
    let mut both = Vec::new();
    for grant in new {
        if staying.contains(&grant.id) {
            both.push(grant.clone());
            continue;
        }
        // What a grant that stays allows, it goes on allowing; what one that goes allowed may be
        // allowed by this one now. The grant with its own id comes first.
        let own = going.iter().filter(|old| old.id == grant.id);
        let others = going.iter().filter(|old| old.id != grant.id);
        let pieces = own.chain(others).flat_map(|old| common(old, grant));
        both.extend(without_covered(pieces.collect(), covers));
    }
    both
}

/// Leaves out what others of the list cover; of equals the first stays. Without this, what two
/// firewalls share would be written in ever more pieces each time it is asked for, and a change
/// that tightens first would never come to its end.
fn without_covered<T>(items: Vec<T>, covers: fn(&T, &T) -> bool) -> Vec<T> {
    let mut left: Vec<T> = Vec::new();
    for item in items {
        if left.iter().any(|other| covers(other, &item)) {
            continue;
        }
        left.retain(|other| !covers(&item, other));
        left.push(item);
    }
    left
}

const ICMP: [IpProtocol; 2] = [IpProtocol::ICMP, IpProtocol::ICMPV6];

/// Whether one grant plainly allows all that another does.
fn covers(one: &Grant, other: &Grant) -> bool {
    let asks_for_ports = !other
        .protocols
        .iter()
        .all(|protocol| ICMP.contains(protocol));
    let holds = |one: &Destination, other: &Destination| {
        other.addresses.difference(&one.addresses).is_empty()
            && (!asks_for_ports || holds_ports(one.ports, other.ports))
    };
    other.protocols.is_subset(&one.protocols)
        && other.sources.difference(&one.sources).is_empty()
        && other
            .destinations
            .iter()
            .all(|to| one.destinations.iter().any(|wider| holds(wider, to)))
}

fn holds_destination(one: &Destination, other: &Destination) -> bool {
    other.addresses.difference(&one.addresses).is_empty() && holds_ports(one.ports, other.ports)
}

const fn holds_ports(one: PortRange, other: PortRange) -> bool {
    one.first <= other.first && other.last <= one.last
}

/// What two grants both allow, under the id of the second.
fn common(old: &Grant, new: &Grant) -> Vec<Grant> {
    let sources = old.sources.intersection(&new.sources);
    let protocols: BTreeSet<IpProtocol> = old
        .protocols
        .intersection(&new.protocols)
        .copied()
        .collect();
    if sources.is_empty() || protocols.is_empty() {
        return Vec::new();
    }
    let (mut destinations, mut without_ports) = (Vec::new(), Vec::new());
    for one in &old.destinations {
        for other in &new.destinations {
            let addresses = one.addresses.intersection(&other.addresses);
            let ports = PortRange {
                first: one.ports.first.max(other.ports.first),
                last: one.ports.last.min(other.ports.last),
            };
            if addresses.is_empty() {
            } else if ports.first <= ports.last {
                destinations.push(Destination { addresses, ports });
            } else {
                without_ports.push(Destination {
                    addresses,
                    ports: other.ports,
                });
            }
        }
    }
    // ICMP passes whatever the ports are, also where two have none in common.
    let icmp = protocols.iter().copied().filter(|p| ICMP.contains(p));
    let icmp: BTreeSet<IpProtocol> = icmp.collect();
    [(protocols, destinations), (icmp, without_ports)]
        .into_iter()
        .filter(|(protocols, destinations)| !protocols.is_empty() && !destinations.is_empty())
        .map(|(protocols, destinations)| Grant {
            id: new.id,
            sources: sources.clone(),
            protocols,
            destinations: without_covered(destinations, holds_destination),
            origin: new.origin.clone(),
        })
        .collect()
}

/// What an exit relays to: everything but private, local and reserved addresses, whose meaning
/// depends on where one stands.
fn exit_addresses() -> AddressSet {
    let not_the_internet: AddressSet = [
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "224.0.0.0/3",
        "::/3",
        "4000::/2",
        "8000::/1",
    ]
    .iter()
    .filter_map(|prefix| prefix.parse::<AddressRange>().ok())
    .collect();
    AddressSet::everything().difference(&not_the_internet)
}
