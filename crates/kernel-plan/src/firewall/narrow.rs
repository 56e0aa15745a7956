//! Grants that name few addresses and ports: written out, an element for each combination.
//!
//! They cost a packet one look-up, and a change of one of them costs its own elements, whatever
//! else is granted. Grants that would need many elements, or whose addresses or ports only an
//! interval can hold, are *broad* and make up classes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use weir_overlay::{AddressRange, AddressSet};
use weir_protocol::{Grant, IpProtocol, PortRange};

use super::table::{Key, Value};

/// The most elements that a narrow grant is written out to: enough for the few devices of one
/// person and a few services. For more sources a class is shorter, which they share with all their
/// other grants.
const NARROW_ELEMENTS: u128 = 16;

/// The most addresses, or ports, in a stretch that is written out one by one.
pub(super) const FEW: u128 = 16;

/// The keys of narrow grants of one family, each with the first grant that has it.
#[derive(Debug, Default)]
pub(super) struct Narrow {
    /// Source, destination, protocol and port.
    pub(super) ports: Vec<(Key, Value)>,
    /// Source, destination and protocol: protocols without ports, and those whose every port is
    /// granted.
    pub(super) hosts: Vec<(Key, Value)>,
}

/// The narrow grants, and the others.
#[derive(Debug, Default)]
pub(super) struct Tiers<'a> {
    pub(super) narrow4: Narrow,
    pub(super) narrow6: Narrow,
    pub(super) broad: Vec<&'a Grant>,
}

/// How many addresses there are.
pub(super) fn size(range: &AddressRange) -> u128 {
    match (range.first(), range.last()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => u128::from(last.to_bits() - first.to_bits()) + 1,
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            (last.to_bits() - first.to_bits()).saturating_add(1)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => u128::MAX,
    }
}

/// Each address of a stretch. Ask for [`size`] first.
pub(super) fn each(range: AddressRange) -> impl Iterator<Item = AddressRange> {
    let (first, last) = match (range.first(), range.last()) {
        (IpAddr::V4(first), last) => (
            first.to_ipv6_mapped().to_bits(),
            match last {
                IpAddr::V4(last) => last.to_ipv6_mapped().to_bits(),
                IpAddr::V6(last) => last.to_bits(),
            },
        ),
        (IpAddr::V6(first), IpAddr::V6(last)) => (first.to_bits(), last.to_bits()),
        (IpAddr::V6(first), IpAddr::V4(_)) => (first.to_bits(), first.to_bits()),
    };
    (first..=last).map(move |number| {
        let address = Ipv6Addr::from_bits(number);
        if range.is_ipv4() {
            let low = u32::try_from(number & u128::from(u32::MAX)).unwrap_or_default();
            IpAddr::V4(Ipv4Addr::from_bits(low)).into()
        } else {
            IpAddr::V6(address).into()
        }
    })
}

/// Whether packets of this protocol exist in this family.
pub(super) fn fits(protocol: IpProtocol, ipv4: bool) -> bool {
    match protocol {
        IpProtocol::ICMP => ipv4,
        IpProtocol::ICMPV6 => !ipv4,
        _ => true,
    }
}

/// What one protocol of a destination asks of a packet's ports.
#[derive(Clone, Copy)]
enum Ports {
    /// Nothing.
    Any,
    These(PortRange),
}

/// `None` where the protocol is not granted at all.
fn ports_of(protocol: IpProtocol, ports: PortRange) -> Option<Ports> {
    if ports.is_all() || matches!(protocol, IpProtocol::ICMP | IpProtocol::ICMPV6) {
        Some(Ports::Any)
    } else if protocol.has_ports() {
        Some(Ports::These(ports))
    } else {
        None
    }
}

struct Piece {
    destination: AddressRange,
    services: Vec<(IpProtocol, Ports)>,
}

/// The destinations of a grant within what this node serves; `None` when any is too wide.
fn pieces(grant: &Grant, within: &AddressSet) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    for destination in &grant.destinations {
        for range in destination.addresses.intersection(within).ranges() {
            if size(range) > FEW {
                return None;
            }
            let mut services = Vec::new();
            for protocol in grant
                .protocols
                .iter()
                .filter(|p| fits(**p, range.is_ipv4()))
            {
                match ports_of(*protocol, destination.ports) {
                    Some(Ports::These(ports)) if u128::from(ports.last - ports.first) + 1 > FEW => {
                        return None;
                    }
                    Some(ports) => services.push((*protocol, ports)),
                    None => {}
                }
            }
            pieces.push(Piece {
                destination: *range,
                services,
            });
        }
    }
    Some(pieces)
}

fn count(sources: &AddressSet, pieces: &[Piece], ipv4: bool) -> Option<u128> {
    let mut addresses = 0_u128;
    for range in sources.ranges().iter().filter(|r| r.is_ipv4() == ipv4) {
        if size(range) > FEW {
            return None;
        }
        addresses += size(range);
    }
    let services: u128 = pieces
        .iter()
        .filter(|piece| piece.destination.is_ipv4() == ipv4)
        .map(|piece| {
            let services = piece.services.iter().map(|(_, ports)| match ports {
                Ports::Any => 1,
                Ports::These(ports) => u128::from(ports.last - ports.first) + 1,
            });
            size(&piece.destination) * services.sum::<u128>()
        })
        .sum();
    Some(addresses * services)
}

/// Splits the grants by how much it takes to write them out, and writes the narrow ones out.
pub(super) fn split<'a>(grants: &'a [Grant], within: &AddressSet) -> Tiers<'a> {
    let mut tiers = Tiers::default();
    for grant in grants {
        let Some(pieces) = pieces(grant, within) else {
            tiers.broad.push(grant);
            continue;
        };
        let elements = [true, false].map(|ipv4| count(&grant.sources, &pieces, ipv4));
        let [Some(v4), Some(v6)] = elements else {
            // What has no destination here needs no class either.
            if !pieces.is_empty() {
                tiers.broad.push(grant);
            }
            continue;
        };
        if v4 + v6 > NARROW_ELEMENTS {
            tiers.broad.push(grant);
            continue;
        }
        for source in grant.sources.ranges().iter().copied() {
            let narrow = if source.is_ipv4() {
                &mut tiers.narrow4
            } else {
                &mut tiers.narrow6
            };
            let same_family = |piece: &&Piece| piece.destination.is_ipv4() == source.is_ipv4();
            for piece in pieces.iter().filter(same_family) {
                write_out(grant, source, piece, narrow);
            }
        }
    }
    tiers
}

fn write_out(grant: &Grant, source: AddressRange, piece: &Piece, narrow: &mut Narrow) {
    for source in each(source) {
        for destination in each(piece.destination) {
            for (protocol, ports) in &piece.services {
                let key = Key {
                    source: Some(source),
                    destination: Some(destination),
                    protocol: Some(*protocol),
                    ..Key::default()
                };
                match ports {
                    Ports::Any => narrow.hosts.push((key, Value::Grant(grant.id))),
                    Ports::These(PortRange { first, last }) => {
                        narrow.ports.extend((*first..=*last).map(|port| {
                            let ports = Some(PortRange::single(port));
                            (Key { ports, ..key }, Value::Grant(grant.id))
                        }));
                    }
                }
            }
        }
    }
}
