//! Grants cut into pieces that a hash table can hold.
//!
//! Sources that are in exactly the same grants form a *class*. A packet costs one look-up for its
//! source's class and one or two for its destination in that class, however many grants there
//! are. Pieces never overlap, so no order of look-ups matters: where grants overlap, the first
//! one in policy order has the piece.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use weir_overlay::{AddressRange, AddressSet, GrantId};
use weir_protocol::{Grant, IpProtocol, PortRange};

use super::narrow::fits;

/// What a class may reach in one stretch of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reach {
    /// The addresses.
    pub(super) addresses: AddressRange,
    /// TCP, UDP and SCTP: ports, and the grant that allows them. Sorted, without overlap.
    pub(super) ports: Vec<(IpProtocol, PortRange, GrantId)>,
    /// Protocols without ports, and the grant that allows each.
    pub(super) protocols: Vec<(IpProtocol, GrantId)>,
}

/// Sources, by class, and what each class may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Classes {
    /// Stretches of source addresses and the index of their class.
    pub(super) sources: Vec<(AddressRange, usize)>,
    /// What each class may reach. Never empty for a class that is listed.
    pub(super) reach: Vec<Vec<Reach>>,
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn address(ipv4: bool, number: u128) -> IpAddr {
    if ipv4 {
        IpAddr::V4(Ipv4Addr::from_bits(
            u32::try_from(number).unwrap_or(u32::MAX),
        ))
    } else {
        IpAddr::V6(Ipv6Addr::from_bits(number))
    }
}

/// Cuts overlapping ranges of one family into stretches that each lie in the same set of items.
fn stretches(ipv4: bool, items: &[(AddressRange, usize)]) -> Vec<(AddressRange, Vec<usize>)> {
    let highest = if ipv4 {
        u128::from(u32::MAX)
    } else {
        u128::MAX
    };
    // At each position, which items begin and which ended just before it.
    let mut edges: BTreeMap<u128, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
    for (range, item) in items.iter().filter(|(range, _)| range.is_ipv4() == ipv4) {
        edges
            .entry(number(range.first()))
            .or_default()
            .0
            .push(*item);
        if number(range.last()) < highest {
            edges
                .entry(number(range.last()) + 1)
                .or_default()
                .1
                .push(*item);
        }
    }
    let mut counted: BTreeMap<usize, usize> = BTreeMap::new();
    let mut cut = Vec::new();
    let mut edges = edges.into_iter().peekable();
    while let Some((position, (begin, end))) = edges.next() {
        for item in end {
            if let Some(count) = counted.get_mut(&item) {
                *count -= 1;
                if *count == 0 {
                    counted.remove(&item);
                }
            }
        }
        for item in begin {
            *counted.entry(item).or_default() += 1;
        }
        if counted.is_empty() {
            continue;
        }
        let last = edges.peek().map_or(highest, |(next, _)| next - 1);
        if let Some(range) = AddressRange::new(address(ipv4, position), address(ipv4, last)) {
            cut.push((range, counted.keys().copied().collect()));
        }
    }
    cut
}

/// The ports of one protocol, each with the first grant that allows it, neighbours joined.
fn port_pieces(wanted: &[(PortRange, usize)], grants: &[&Grant]) -> Vec<(PortRange, GrantId)> {
    let mut edges: BTreeSet<u32> = BTreeSet::new();
    for (ports, _) in wanted {
        edges.insert(u32::from(ports.first));
        edges.insert(u32::from(ports.last) + 1);
    }
    let edges: Vec<u32> = edges.into_iter().collect();
    let mut pieces: Vec<(PortRange, GrantId)> = Vec::new();
    for pair in edges.windows(2) {
        let &[first, next] = pair else { continue };
        let (Ok(first), Ok(last)) = (u16::try_from(first), u16::try_from(next - 1)) else {
            continue;
        };
        let winner = wanted
            .iter()
            .filter(|(ports, _)| ports.first <= first && last <= ports.last)
            .map(|(_, grant)| *grant)
            .min();
        let Some(id) = winner
            .and_then(|index| grants.get(index))
            .map(|grant| grant.id)
        else {
            continue;
        };
        match pieces.last_mut() {
            Some((open, open_id)) if *open_id == id && open.last.checked_add(1) == Some(first) => {
                open.last = last;
            }
            Some(_) | None => pieces.push((PortRange { first, last }, id)),
        }
    }
    pieces
}

/// What the members of one class may reach, within `within`.
fn reach(members: &[usize], grants: &[&Grant], within: &AddressSet) -> Vec<Reach> {
    // One item for each stretch of destination addresses of each destination of each grant.
    let mut destinations = Vec::new();
    let mut ranges = Vec::new();
    for index in members {
        let Some(grant) = grants.get(*index) else {
            continue;
        };
        for destination in &grant.destinations {
            for range in destination.addresses.intersection(within).ranges() {
                ranges.push((*range, destinations.len()));
                destinations.push((*index, destination.ports));
            }
        }
    }
    let mut reached: Vec<Reach> = Vec::new();
    for ipv4 in [true, false] {
        for (addresses, items) in stretches(ipv4, &ranges) {
            let mut with_ports: BTreeMap<IpProtocol, Vec<(PortRange, usize)>> = BTreeMap::new();
            let mut without: BTreeMap<IpProtocol, usize> = BTreeMap::new();
            for (index, ports) in items.iter().filter_map(|item| destinations.get(*item)) {
                let Some(grant) = grants.get(*index) else {
                    continue;
                };
                for protocol in grant.protocols.iter().filter(|p| fits(**p, ipv4)) {
                    if protocol.has_ports() {
                        with_ports
                            .entry(*protocol)
                            .or_default()
                            .push((*ports, *index));
                    } else if ports.is_all()
                        || matches!(*protocol, IpProtocol::ICMP | IpProtocol::ICMPV6)
                    {
                        let first = without.entry(*protocol).or_insert(*index);
                        *first = (*first).min(*index);
                    }
                }
            }
            let ports: Vec<_> = with_ports
                .iter()
                .flat_map(|(protocol, wanted)| {
                    port_pieces(wanted, grants)
                        .into_iter()
                        .map(|(ports, id)| (*protocol, ports, id))
                })
                .collect();
            let protocols: Vec<_> = without
                .iter()
                .filter_map(|(protocol, index)| Some((*protocol, grants.get(*index)?.id)))
                .collect();
            if ports.is_empty() && protocols.is_empty() {
                continue;
            }
            let piece = Reach {
                addresses,
                ports,
                protocols,
            };
            match reached.last_mut() {
                Some(open)
                    if open.ports == piece.ports
                        && open.protocols == piece.protocols
                        && open.addresses.is_ipv4() == ipv4
                        && number(open.addresses.last()).checked_add(1)
                            == Some(number(piece.addresses.first())) =>
                {
                    if let Some(joined) =
                        AddressRange::new(open.addresses.first(), piece.addresses.last())
                    {
                        open.addresses = joined;
                    }
                }
                Some(_) | None => reached.push(piece),
            }
        }
    }
    reached
}

/// Cuts grants into classes. Destinations outside `within` (what this node has and serves) are
/// cut off: a relay is never open wider than that, whatever the policy says.
pub(super) fn classify(grants: &[&Grant], within: &AddressSet) -> Classes {
    let sources: Vec<_> = grants
        .iter()
        .enumerate()
        .flat_map(|(index, grant)| {
            grant
                .sources
                .ranges()
                .iter()
                .map(move |range| (*range, index))
        })
        .collect();
    let mut known: BTreeMap<Vec<usize>, Option<usize>> = BTreeMap::new();
    let mut classes = Classes::default();
    for ipv4 in [true, false] {
        for (range, members) in stretches(ipv4, &sources) {
            let class = known.entry(members).or_insert_with_key(|members| {
                let reached = reach(members, grants, within);
                (!reached.is_empty()).then(|| {
                    classes.reach.push(reached);
                    classes.reach.len() - 1
                })
            });
            if let Some(class) = class {
                classes.sources.push((range, *class));
            }
        }
    }
    classes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use weir_protocol::Destination;

    fn ranges(text: &str) -> AddressSet {
        text.split_whitespace()
            .map(|item| item.parse::<AddressRange>().unwrap())
            .collect()
    }

    fn grant(id: u32, sources: &str, protocols: &[u8], to: &str, ports: (u16, u16)) -> Grant {
        Grant {
            id: GrantId(id),
            sources: ranges(sources),
            protocols: protocols.iter().map(|p| IpProtocol(*p)).collect(),
            destinations: vec![Destination {
                addresses: ranges(to),
                ports: PortRange {
                    first: ports.0,
                    last: ports.1,
                },
            }],
            origin: String::new(),
        }
    }

    /// What the tables built from the classes would answer.
    fn verdict(
        classes: &Classes,
        from: IpAddr,
        to: IpAddr,
        p: IpProtocol,
        port: u16,
    ) -> Option<u32> {
        let (_, class) = classes
            .sources
            .iter()
            .find(|(range, _)| range.contains(from))?;
        let reach = classes.reach[*class]
            .iter()
            .find(|reach| reach.addresses.contains(to))?;
        if p.has_ports() {
            let found = reach.ports.iter().find(|(proto, ports, _)| {
                *proto == p && ports.first <= port && port <= ports.last
            })?;
            Some(found.2.0)
        } else {
            Some(reach.protocols.iter().find(|(proto, _)| *proto == p)?.1.0)
        }
    }

    /// What the grants say, read one by one.
    fn plainly(
        grants: &[Grant],
        within: &AddressSet,
        from: IpAddr,
        to: IpAddr,
        p: IpProtocol,
        port: u16,
    ) -> Option<u32> {
        let icmp = matches!(p, IpProtocol::ICMP | IpProtocol::ICMPV6);
        grants
            .iter()
            .find(|grant| {
                within.contains(to)
                    && fits(p, to.is_ipv4())
                    && grant.sources.contains(from)
                    && grant.protocols.contains(&p)
                    && grant.destinations.iter().any(|d| {
                        d.addresses.contains(to)
                            && (icmp
                                || (p.has_ports() && d.ports.first <= port && port <= d.ports.last)
                                || (!p.has_ports() && d.ports.is_all()))
                    })
            })
            .map(|grant| grant.id.0)
    }

    #[test]
    fn sources_in_the_same_grants_share_a_class() {
        let grants = [
            grant(1, "100.64.0.2 100.64.0.4", &[6], "8.8.8.8", (443, 443)),
            grant(2, "100.64.0.4 100.64.0.9", &[17], "8.8.8.8", (53, 53)),
        ];
        let classes = classify(&grants.iter().collect::<Vec<_>>(), &ranges("8.8.8.8"));
        assert_eq!(classes.reach.len(), 3);
        assert_eq!(classes.sources.len(), 3);
    }

    #[test]
    fn nothing_outside_what_is_served_is_kept() {
        let grants = [grant(1, "100.64.0.2", &[6], "0.0.0.0/0", (0, 65535))];
        let classes = classify(
            &grants.iter().collect::<Vec<_>>(),
            &ranges("8.8.8.8 100.64.0.1"),
        );
        let kept: AddressSet = classes
            .reach
            .iter()
            .flatten()
            .map(|reach| reach.addresses)
            .collect();
        assert_eq!(kept, ranges("8.8.8.8 100.64.0.1"));
        assert_eq!(
            classify(&grants.iter().collect::<Vec<_>>(), &ranges("2001:db8::1")),
            Classes::default()
        );
    }

    #[test]
    fn the_first_grant_has_what_overlaps() {
        let grants = [
            grant(7, "100.64.0.2", &[6], "10.0.0.0/24", (100, 200)),
            grant(8, "100.64.0.2", &[6, 1], "10.0.0.0/16", (0, 65535)),
        ];
        let classes = classify(&grants.iter().collect::<Vec<_>>(), &ranges("10.0.0.0/8"));
        let at = |to: &str, port| {
            verdict(
                &classes,
                "100.64.0.2".parse().unwrap(),
                to.parse().unwrap(),
                IpProtocol::TCP,
                port,
            )
        };
        assert_eq!(at("10.0.0.5", 150), Some(7));
        assert_eq!(at("10.0.0.5", 99), Some(8));
        assert_eq!(at("10.0.1.5", 150), Some(8));
        assert_eq!(at("10.1.0.5", 150), None);
    }

    fn any_set(net: u8) -> impl Strategy<Value = AddressSet> {
        proptest::collection::vec((0u8..12, 0u8..6), 1..4).prop_map(move |items| {
            items
                .into_iter()
                .filter_map(|(start, length)| {
                    let at = |n: u8| IpAddr::V4(Ipv4Addr::new(10, net, 0, n));
                    AddressRange::new(at(start), at(start + length))
                })
                .collect()
        })
    }

    fn any_grants() -> impl Strategy<Value = Vec<Grant>> {
        let one = (
            any_set(0),
            any_set(1),
            proptest::sample::subsequence(vec![1u8, 6, 17, 47], 1..4),
            prop_oneof![
                Just((0u16, 65535u16)),
                (1u16..8).prop_flat_map(|f| (Just(f), f..10))
            ],
        );
        proptest::collection::vec(one, 0..6).prop_map(|rows| {
            rows.into_iter()
                .enumerate()
                .map(
                    |(index, (sources, addresses, protocols, (first, last)))| Grant {
                        id: GrantId(u32::try_from(index).unwrap() + 1),
                        sources,
                        protocols: protocols.into_iter().map(IpProtocol).collect(),
                        destinations: vec![Destination {
                            addresses,
                            ports: PortRange { first, last },
                        }],
                        origin: String::new(),
                    },
                )
                .collect()
        })
    }

    proptest! {
        #[test]
        fn classes_answer_as_the_grants_do(
            grants in any_grants(), within in any_set(1),
            from in 0u8..20, to in 0u8..20, protocol in proptest::sample::select(vec![1u8, 6, 17, 47, 58]),
            port in 0u16..12,
        ) {
            let classes = classify(&grants.iter().collect::<Vec<_>>(), &within);
            let from = IpAddr::V4(Ipv4Addr::new(10, 0, 0, from));
            let to = IpAddr::V4(Ipv4Addr::new(10, 1, 0, to));
            let protocol = IpProtocol(protocol);
            prop_assert_eq!(
                verdict(&classes, from, to, protocol, port),
                plainly(&grants, &within, from, to, protocol, port)
            );
        }
    }
}
