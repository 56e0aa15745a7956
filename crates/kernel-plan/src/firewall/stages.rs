//! The tables on the way from one to the next, so that no packet is judged by half of each.
//!
//! A transaction changes the rules at once, but a packet asks one set after the other, each for
//! what is in it at that moment. So nobody is led to where nothing is yet, and nothing is taken
//! away while somebody is still led there. In this order, each in a transaction of its own, and
//! only where it changes something:
//!
//! 1. what can be reached is added: marks, and the chains and maps of classes;
//! 2. single sources are added or led elsewhere, which are asked for before ranges of sources;
//! 3. ranges of sources are led elsewhere;
//! 4. single sources that are in no class, or are part of a range from now on, go;
//! 5. ranges of destinations that overlap those before them take their place;
//! 6. what nobody is led to goes, and the rules of the next table come into force.
//!
//! A packet that both tables allow passes at every moment, and none does that neither allows: a
//! class has the number of one before it only where that holds (see [`numbering`](super::numbering)).
//! Only where a class reaches ranges of addresses, with all ports before and with ranges of ports
//! after or the other way about, and old and new ranges overlap within both of its maps, is there a
//! moment at which neither map has an address.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};
use weir_overlay::AddressRange;

use super::{
    listing::on_the_way,
    ruleset::SOURCES_PREFIX,
    table::{Key, Set, Shape, Table},
    transaction::CLASS_PREFIX,
};

/// The tables between `old` and `next`, in the order in which they are loaded. Both have the same
/// generation.
pub(super) fn between(old: &Table, next: &Table) -> Vec<Table> {
    let mut stages = Stages {
        next,
        last: old.clone(),
        tables: Vec::new(),
    };
    stages.add(reached);
    stages.add(|table, next| {
        replace(table, next, is_single_source, |before, after| {
            keyed(before, after)
        });
    });
    stages.add(|table, next| replace(table, next, is_source_range, |_, after| Arc::clone(after)));
    stages.add(|table, next| replace(table, next, is_single_source, |_, after| Arc::clone(after)));
    stages.add(|table, next| {
        replace(table, next, is_stretch, |before, after| {
            if holds_all(before, after) {
                Arc::clone(before)
            } else {
                Arc::clone(after)
            }
        });
    });
    stages.on_the_way()
}

struct Stages<'a> {
    next: &'a Table,
    last: Table,
    tables: Vec<Table>,
}

impl Stages<'_> {
    fn add(&mut self, change: impl FnOnce(&mut Table, &Table)) {
        let mut table = self.last.clone();
        change(&mut table, self.next);
        if table.sets == self.last.sets && table.chains == self.last.chains {
            return;
        }
        table.fingerprint = on_the_way(&self.last.fingerprint, self.tables.len() + 1);
        self.tables.push(std::mem::replace(&mut self.last, table));
    }

    /// The first is where it began, which is loaded.
    fn on_the_way(mut self) -> Vec<Table> {
        self.tables.push(self.last);
        self.tables.split_off(1)
    }
}

fn is_single_source(name: &str, shape: Shape) -> bool {
    name.starts_with(SOURCES_PREFIX)
        && matches!(
            shape,
            Shape::Classes {
                interval: false,
                ..
            }
        )
}

fn is_source_range(name: &str, shape: Shape) -> bool {
    name.starts_with(SOURCES_PREFIX) && matches!(shape, Shape::Classes { interval: true, .. })
}

/// Whether it says by ranges where a packet may go.
const fn is_stretch(_: &str, shape: Shape) -> bool {
    matches!(shape, Shape::Marks { interval: true, .. })
}

/// Sets that are in both tables, and of one kind, become what `with` makes of them.
fn replace(
    table: &mut Table,
    next: &Table,
    is_meant: impl Fn(&str, Shape) -> bool,
    with: impl Fn(&Arc<Set>, &Arc<Set>) -> Arc<Set>,
) {
    for (name, after) in &next.sets {
        if let Some(before) = table.sets.get_mut(name)
            && before.shape == after.shape
            && is_meant(name, after.shape)
            && before.elements != after.elements
        {
            *before = with(before, after);
        }
    }
}

/// Adds what the next table reaches to what this one does.
fn reached(table: &mut Table, next: &Table) {
    let is_mark = |_: &str, shape: Shape| matches!(shape, Shape::Marks { .. } | Shape::Legend);
    replace(table, next, is_mark, |before, after| {
        if is_stretch("", after.shape) {
            apart(before, after)
        } else {
            keyed(before, after)
        }
    });
    for (name, set) in &next.sets {
        if is_mark(name, set.shape) && !table.sets.contains_key(name) {
            table.sets.insert(name.clone(), Arc::clone(set));
        }
    }
    for (name, chain) in &next.chains {
        if name.starts_with(CLASS_PREFIX) {
            let mixed = table.chains.entry(name.clone()).or_default();
            let missing = chain
                .rules
                .iter()
                .filter(|rule| !mixed.rules.contains(rule));
            let missing: Vec<_> = missing.cloned().collect();
            if !missing.is_empty() {
                Arc::make_mut(mixed).rules.extend(missing);
            }
        }
    }
}

/// What is in either; of a key that is in both, what it says after.
fn keyed(before: &Set, after: &Set) -> Arc<Set> {
    let keys: BTreeSet<&Key> = after.elements.iter().map(|(key, _)| key).collect();
    let gone = before
        .elements
        .iter()
        .filter(|(key, _)| !keys.contains(key));
    let elements = gone.chain(&after.elements).cloned();
    sorted(before.shape, elements.collect())
}

/// What is before, and what comes and overlaps none of it.
fn apart(before: &Set, after: &Set) -> Arc<Set> {
    let keys = |set: &Set| -> BTreeSet<Key> { set.elements.iter().map(|(key, _)| *key).collect() };
    let (old, new) = (keys(before), keys(after));
    let gone = Gone::new(old.difference(&new).copied());
    let comes = after
        .elements
        .iter()
        .filter(|(key, _)| !old.contains(key) && !gone.overlap(key));
    let elements = before.elements.iter().chain(comes).cloned();
    sorted(before.shape, elements.collect())
}

fn sorted(shape: Shape, mut elements: Vec<(Key, super::table::Value)>) -> Arc<Set> {
    elements.sort_by_key(|(key, _)| *key);
    Arc::new(Set { shape, elements })
}

/// Whether every key of `after` is in `before`.
fn holds_all(before: &Set, after: &Set) -> bool {
    let keys: BTreeSet<&Key> = before.elements.iter().map(|(key, _)| key).collect();
    after.elements.iter().all(|(key, _)| keys.contains(key))
}

/// Keys by the addresses that they are of, to find those that another one overlaps.
struct Gone {
    /// Sorted by the first address.
    keys: Vec<(AddressRange, Key)>,
    /// For each, the last address of it and of all before it.
    furthest: Vec<IpAddr>,
}

impl Gone {
    fn new(keys: impl Iterator<Item = Key>) -> Self {
        let mut keys: Vec<_> = keys
            .filter_map(|key| Some((key.destination?, key)))
            .collect();
        keys.sort_unstable();
        let mut furthest = Vec::with_capacity(keys.len());
        for (range, _) in &keys {
            let last = range.last();
            furthest.push(furthest.last().map_or(last, |far: &IpAddr| last.max(*far)));
        }
        Self { keys, furthest }
    }

    fn overlap(&self, key: &Key) -> bool {
        let Some(range) = key.destination else {
            return false;
        };
        let end = self
            .keys
            .partition_point(|(other, _)| other.first() <= range.last());
        let near = self.keys.iter().zip(&self.furthest).take(end).rev();
        near.take_while(|(_, furthest)| **furthest >= range.first())
            .any(|((other, gone), _)| {
                let ports = match (key.ports, gone.ports) {
                    (Some(one), Some(two)) => one.first <= two.last && two.first <= one.last,
                    (one, two) => one.is_none() == two.is_none(),
                };
                other.intersection(&range).is_some() && key.protocol == gone.protocol && ports
            })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DesiredFirewall, ruleset::compile, table::Value};
    use super::*;
    use proptest::prelude::*;
    use std::{collections::BTreeMap, net::Ipv4Addr};
    use weir_overlay::{AddressSet, GrantId};
    use weir_protocol::{Destination, Grant, IpProtocol, PortRange};

    #[derive(Clone, Copy, Debug)]
    struct Packet {
        from: IpAddr,
        to: IpAddr,
        port: u16,
    }

    // Addresses, and ports, so far apart that ranges of them are too long for single elements.

    fn destination(number: u8) -> IpAddr {
        Ipv4Addr::new(10, 1, 0, number * 16).into()
    }

    fn source(number: u8) -> IpAddr {
        Ipv4Addr::new(100, 64, 0, number * 16).into()
    }

    fn packets() -> impl Iterator<Item = Packet> {
        let ends = (0..8).flat_map(|from| (0..8).map(move |to| (from, to)));
        ends.flat_map(|(from, to)| {
            (1..5).map(move |port| Packet {
                from: source(from),
                to: destination(to),
                port: port * 20,
            })
        })
    }

    fn some(make: fn(u8) -> IpAddr) -> impl Strategy<Value = AddressSet> {
        proptest::collection::vec((0u8..6, 0u8..3), 1..3).prop_map(move |items| {
            let ranges = items.into_iter();
            ranges
                .filter_map(|(first, more)| AddressRange::new(make(first), make(first + more)))
                .collect()
        })
    }

    fn grants() -> impl Strategy<Value = Vec<Grant>> {
        let ports = prop_oneof![
            (1u16..5, 0u16..3).prop_map(|(first, more)| PortRange {
                first: first * 20,
                last: (first + more) * 20,
            }),
            Just(PortRange::ALL),
        ];
        let one = (some(source), some(destination), ports, any::<bool>());
        proptest::collection::vec(one, 0..4).prop_map(|rows| {
            let others = "100.65.0.0/24".parse::<AddressRange>().unwrap();
            let others: AddressSet = [others].into_iter().collect();
            let grant =
                |(id, (sources, addresses, ports, broad)): (u32, (AddressSet, _, _, bool))| Grant {
                    id: GrantId(id),
                    sources: if broad {
                        sources.union(&others)
                    } else {
                        sources
                    },
                    protocols: [IpProtocol::TCP].into(),
                    destinations: vec![Destination { addresses, ports }],
                    origin: String::new(),
                };
            (1..).zip(rows).map(grant).collect()
        })
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

    /// The sets of which a packet may see one state or the other.
    type Sets<'a> = BTreeMap<&'a str, &'a Set>;

    fn find<'a>(sets: &Sets<'a>, name: &str, packet: Packet) -> Option<&'a Value> {
        let matches = |key: &Key| {
            let from = key.source.is_none_or(|range| range.contains(packet.from));
            let to = key
                .destination
                .is_none_or(|range| range.contains(packet.to));
            let ports = key.ports;
            from && to && ports.is_none_or(|p| p.first <= packet.port && packet.port <= p.last)
        };
        let elements = &sets.get(name)?.elements;
        elements
            .iter()
            .find_map(|(key, value)| matches(key).then_some(value))
    }

    /// Walks as the chains do: narrow grants, then the first class that names the source.
    fn passes(rules: &Table, sets: &Sets<'_>, packet: Packet) -> bool {
        let narrow = ["grants_ports4", "grants_hosts4"];
        if narrow.iter().any(|name| find(sets, name, packet).is_some()) {
            return true;
        }
        let mut classes = ["sources4", "source_ranges4"].into_iter();
        let class = classes.find_map(|name| find(sets, name, packet));
        let Some(Value::Class(class)) = class else {
            return false;
        };
        let maps = format!("{CLASS_PREFIX}{class}_");
        let asked = rules.sets.range(maps.clone()..);
        asked
            .take_while(|(name, _)| name.starts_with(&maps))
            .filter(|_| rules.chains.contains_key(&format!("{CLASS_PREFIX}{class}")))
            .any(|(name, _)| find(sets, name, packet).is_some())
    }

    fn sets(table: &Table) -> Sets<'_> {
        let sets = table.sets.iter();
        sets.map(|(name, set)| (name.as_str(), set.as_ref()))
            .collect()
    }

    /// What a packet may see while one table takes the place of another: each set that changes as
    /// it was, or as it is. The two interval maps of a class change together.
    fn mixed<'a>(old: &'a Table, new: &'a Table) -> Vec<Sets<'a>> {
        let (before, after) = (sets(old), sets(new));
        let names: BTreeSet<&str> = before.keys().chain(after.keys()).copied().collect();
        let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for name in names
            .into_iter()
            .filter(|name| before.get(name) != after.get(name))
        {
            let of_class = name
                .strip_suffix("_nets4")
                .or(name.strip_suffix("_port_ranges4"));
            groups
                .entry(of_class.unwrap_or(name))
                .or_default()
                .push(name);
        }
        let mut all = vec![before];
        for names in groups.values() {
            for sets in all.clone() {
                let mut changed = sets;
                for name in names {
                    match after.get(name) {
                        Some(set) => changed.insert(*name, *set),
                        None => changed.remove(name),
                    };
                }
                all.push(changed);
            }
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn on_the_way_all_pass_that_both_allow_and_none_that_neither_does(
            first in grants(),
            second in grants(),
        ) {
            let old = table(&first, None);
            let next = table(&second, Some(&old));
            let mut tables = vec![old.clone()];
            tables.extend(between(&old, &next));
            tables.push(next.clone());
            let (before, after) = (sets(&old), sets(&next));
            let verdicts: Vec<_> = packets()
                .map(|packet| {
                    let both = [passes(&old, &before, packet), passes(&next, &after, packet)];
                    (packet, both)
                })
                .collect();
            for (stage, pair) in tables.windows(2).enumerate() {
                for sets in mixed(&pair[0], &pair[1]) {
                    for rules in pair {
                        for (packet, verdict) in &verdicts {
                            let now = passes(rules, &sets, *packet);
                            prop_assert!(verdict.contains(&now), "{packet:?} in {stage}: {now}");
                        }
                    }
                }
            }
        }
    }
}
