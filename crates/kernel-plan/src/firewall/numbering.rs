//! Numbers for classes that stay while the classes live.
//!
//! A packet that the kernel judges in the moment of a transaction may find its class in the old
//! map of sources, and what the class reaches in the new ones; with interval maps, which change
//! last, the other way about. So a number stays only where both say what one of the tables says.

use std::collections::{BTreeMap, BTreeSet};
use weir_overlay::AddressRange;

use super::{
    classes::{Classes, Reach},
    narrow::{FEW, each, size},
    table::{Key, Table, Value},
    transaction::class_chain,
};

/// The key of a source.
pub(super) fn source(range: AddressRange) -> Key {
    Key {
        source: Some(range),
        ..Key::default()
    }
}

/// What a class reaches, as elements of its maps.
#[derive(Debug, Default)]
pub(super) struct Elements {
    /// Single addresses with single ports.
    pub(super) ports: Vec<(Key, Value)>,
    /// Single addresses with all ports, or of protocols without.
    pub(super) hosts: Vec<(Key, Value)>,
    /// Where the addresses or the ports are a range.
    pub(super) port_ranges: Vec<(Key, Value)>,
    /// Ranges of addresses with all ports, or of protocols without.
    pub(super) nets: Vec<(Key, Value)>,
}

impl Elements {
    pub(super) fn of(reach: &[Reach], ipv4: bool) -> Self {
        let mut elements = Self::default();
        for piece in reach
            .iter()
            .filter(|piece| piece.addresses.is_ipv4() == ipv4)
        {
            let single = piece.addresses.single().is_some();
            let key = |protocol, ports| Key {
                destination: Some(piece.addresses),
                protocol: Some(protocol),
                ports,
                ..Key::default()
            };
            let with_ports = piece.ports.iter().map(|(proto, ports, id)| {
                let ports = (!ports.is_all()).then_some(*ports);
                (*proto, ports, *id)
            });
            let without = piece
                .protocols
                .iter()
                .map(|(proto, id)| (*proto, None, *id));
            for (proto, these, id) in with_ports.chain(without) {
                let element = (key(proto, these), Value::Grant(id));
                match these {
                    Some(these) if single && these.first == these.last => &mut elements.ports,
                    Some(_) => &mut elements.port_ranges,
                    None if single => &mut elements.hosts,
                    None => &mut elements.nets,
                }
                .push(element);
            }
        }
        elements
    }

    fn into_keys(self) -> impl Iterator<Item = Key> {
        let all = [self.ports, self.hosts, self.port_ranges, self.nets];
        all.into_iter().flatten().map(|(key, _)| key)
    }
}

/// What the class of this number reaches in a table.
fn reach_before(table: &Table, number: u32) -> BTreeSet<Key> {
    let prefix = format!("{}_", class_chain(number));
    let sets = table.sets.range(prefix.clone()..);
    sets.take_while(|(name, _)| name.starts_with(&prefix))
        .flat_map(|(_, set)| &set.elements)
        .map(|(key, _)| *key)
        .collect()
}

/// The same of a class that has no maps yet.
fn reach_now(reach: &[Reach]) -> BTreeSet<Key> {
    let families = [true, false].into_iter();
    let elements = families.map(|ipv4| Elements::of(reach, ipv4));
    elements.flat_map(Elements::into_keys).collect()
}

fn counts<T: Ord>(items: impl Iterator<Item = T>) -> BTreeMap<T, usize> {
    let mut counts = BTreeMap::new();
    for item in items {
        *counts.entry(item).or_default() += 1;
    }
    counts
}

/// Classes with their numbers.
pub(super) struct Numbered {
    classes: Classes,
    numbers: Vec<u32>,
}

impl Numbered {
    /// Gives each class the number of the one before that most of its sources were in.
    pub(super) fn new(mut classes: Classes, previous: Option<&Table>) -> Self {
        classes.sources = classes
            .sources
            .into_iter()
            .flat_map(|(range, class)| {
                // A few addresses go to the hash, one by one.
                let few = size(&range) <= FEW;
                let one_by_one = few.then(|| each(range)).into_iter().flatten();
                let as_one = (!few).then_some(range);
                one_by_one.chain(as_one).map(move |range| (range, class))
            })
            .collect();
        let before: BTreeMap<Key, u32> = previous
            .into_iter()
            .flat_map(|table| table.sets.values())
            .flat_map(|set| &set.elements)
            .filter_map(|(key, value)| match value {
                Value::Class(class) => Some((*key, *class)),
                Value::Present | Value::Grant(_) | Value::Translation(_) | Value::Comment(_) => {
                    None
                }
            })
            .collect();
        let mut shared: BTreeMap<(usize, u32), usize> = BTreeMap::new();
        for (range, class) in &classes.sources {
            if let Some(number) = before.get(&source(*range)) {
                *shared.entry((*class, *number)).or_default() += 1;
            }
        }
        let sources_before = counts(before.values().copied());
        let sources_now = counts(classes.sources.iter().map(|(_, class)| *class));
        let stays = |class: usize, number: u32, both: usize| {
            let leave = sources_before.get(&number).is_some_and(|all| *all > both);
            let join = sources_now.get(&class).is_some_and(|all| *all > both);
            let (Some(table), Some(reach)) = (previous, classes.reach.get(class)) else {
                return false;
            };
            // What both reach is looked at only where it matters: it may be much.
            let old = || reach_before(table, number);
            let new = || reach_now(reach);
            (!leave || new().is_subset(&old())) && (!join || old().is_subset(&new()))
        };
        let mut shared: Vec<_> = shared.into_iter().collect();
        shared.sort_by_key(|((class, number), count)| (usize::MAX - count, *number, *class));
        let mut numbers = vec![None; classes.reach.len()];
        let mut given: BTreeSet<u32> = BTreeSet::new();
        for ((class, number), both) in shared {
            if let Some(free @ None) = numbers.get_mut(class)
                && !given.contains(&number)
                && stays(class, number, both)
            {
                given.insert(number);
                *free = Some(number);
            }
        }
        // A number that was in use before means other rules: not in the same change.
        given.extend(before.values());
        let mut fresh = (0..).filter(|number| !given.contains(number));
        let numbers = numbers
            .into_iter()
            .map(|number| number.or_else(|| fresh.next()).unwrap_or(u32::MAX))
            .collect();
        Self { classes, numbers }
    }

    fn number(&self, class: usize) -> u32 {
        self.numbers.get(class).copied().unwrap_or(u32::MAX)
    }

    /// Stretches of sources and the number of their class.
    pub(super) fn sources(&self) -> impl Iterator<Item = (AddressRange, u32)> {
        let sources = self.classes.sources.iter();
        sources.map(|(range, class)| (*range, self.number(*class)))
    }

    /// What each class may reach.
    pub(super) fn reach(&self) -> impl Iterator<Item = (u32, &[Reach])> {
        let reach = self.classes.reach.iter().enumerate();
        reach.map(|(class, reach)| (self.number(class), reach.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        DesiredFirewall,
        ruleset::compile,
        table::{Table, Value},
    };
    use super::*;
    use proptest::prelude::*;
    use std::net::{IpAddr, Ipv4Addr};
    use weir_overlay::{AddressSet, GrantId};
    use weir_protocol::{Destination, Grant, IpProtocol, PortRange};

    fn source_address(last: u8) -> IpAddr {
        Ipv4Addr::new(100, 64, 0, last).into()
    }

    fn destination_address(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 1, 0, last).into()
    }

    fn table(grants: &[Grant], previous: Option<&Table>) -> Table {
        let served = "10.1.0.0/24".parse::<AddressRange>().unwrap();
        let desired = DesiredFirewall {
            served: [served].into_iter().collect(),
            grants: grants.to_vec(),
            ..DesiredFirewall::default()
        };
        compile(&desired, &"weir0".parse().unwrap(), 1, previous)
    }

    fn class_of(table: &Table, from: IpAddr) -> Option<u32> {
        let elements = table.sets.values().flat_map(|set| &set.elements);
        elements
            .filter(|(key, _)| key.source.is_some_and(|range| range.contains(from)))
            .find_map(|(_, value)| match value {
                Value::Class(class) => Some(*class),
                Value::Present | Value::Grant(_) | Value::Translation(_) | Value::Comment(_) => {
                    None
                }
            })
    }

    fn reaches(table: &Table, class: u32, to: IpAddr, port: u16) -> bool {
        reach_before(table, class).iter().any(|key| {
            key.destination.is_some_and(|range| range.contains(to))
                && key.protocol == Some(IpProtocol::TCP)
                && key
                    .ports
                    .is_none_or(|ports| ports.first <= port && port <= ports.last)
        })
    }

    fn allows(table: &Table, from: IpAddr, to: IpAddr, port: u16) -> bool {
        class_of(table, from).is_some_and(|class| reaches(table, class, to, port))
    }

    fn few(make: fn(u8) -> IpAddr) -> impl Strategy<Value = AddressSet> {
        proptest::collection::vec((0u8..8, 0u8..3), 1..3).prop_map(move |items| {
            let ranges = items.into_iter();
            ranges
                .filter_map(|(first, more)| AddressRange::new(make(first), make(first + more)))
                .collect()
        })
    }

    fn grants() -> impl Strategy<Value = Vec<Grant>> {
        let one = (few(source_address), few(destination_address), 1u16..4);
        proptest::collection::vec(one, 0..4).prop_map(|rows| {
            // Others beside them make a grant broad, so that all have classes.
            let others = "100.65.0.0/24".parse::<AddressRange>().unwrap();
            let grant = |(id, (sources, addresses, first)): (u32, (AddressSet, _, u16))| Grant {
                id: GrantId(id),
                sources: sources.union(&[others].into_iter().collect()),
                protocols: [IpProtocol::TCP].into(),
                destinations: vec![Destination {
                    addresses,
                    ports: PortRange {
                        first,
                        last: first + 1,
                    },
                }],
                origin: String::new(),
            };
            (1..).zip(rows).map(grant).collect()
        })
    }

    proptest! {
        #[test]
        fn half_of_each_table_allows_nothing_that_neither_does(old in grants(), new in grants()) {
            let old = table(&old, None);
            let new = table(&new, Some(&old));
            for (from, to) in (0..12).flat_map(|from| (0..12).map(move |to| (from, to))) {
                let (from, to) = (source_address(from), destination_address(to));
                for (sources, reach) in [(&old, &new), (&new, &old)] {
                    let Some(class) = class_of(sources, from) else { continue };
                    for port in 1..6 {
                        let half = reaches(reach, class, to, port);
                        let whole = allows(&old, from, to, port) || allows(&new, from, to, port);
                        prop_assert!(!half || whole, "{from} to {to}:{port}");
                    }
                }
            }
        }
    }
}
