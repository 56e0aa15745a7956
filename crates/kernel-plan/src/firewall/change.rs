//! The way from one table to another: the difference where we know what is loaded, in as many
//! transactions as it takes for no packet to be judged by half of each; all of it where we do not.

use std::{collections::BTreeSet, fmt, sync::Arc};
use weir_overlay::InterfaceName;

use super::{
    DesiredFirewall, ObservedFirewall,
    listing::stamp,
    ruleset::{SOURCES_PREFIX, compile},
    stages,
    table::{Chain, Key, Set, Shape, Table, Value},
    transaction::Transaction,
    whole::whole,
};
use crate::{CT_GENERATION_MAX, CT_GENERATION_SHIFT};

/// Why a change loads the whole table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FullLoad {
    /// There is no table.
    NoTable,
    /// It is not known what is loaded: the agent has just started, or the table is not as it was
    /// left.
    Unknown,
    /// The difference is larger than the table.
    LargeDifference,
}

impl fmt::Display for FullLoad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoTable => "there is no table",
            Self::Unknown => "it is not known what the table holds",
            Self::LargeDifference => "more changes than stays",
        })
    }
}

/// One transaction on the way to a firewall.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The libnftables JSON document.
    pub document: String,
    /// What it leaves.
    pub table: Arc<Table>,
}

/// What puts a firewall in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirewallChange {
    /// What is loaded before, in this order, so that what both tables allow passes at every moment:
    /// each leaves what allows no more than both of them together. None where the last transaction
    /// is enough.
    pub before: Vec<Stage>,
    /// The transaction that puts it in force.
    pub last: Stage,
    /// The mark bits of the generation that it brings in; `None` when connections keep theirs.
    /// Connections that bear the bits already were judged thousands of changes ago, and must be
    /// forgotten first.
    pub mark: Option<u32>,
    /// Why it is the whole table; `None` for a difference.
    pub full: Option<FullLoad>,
    /// How many set elements it adds and deletes.
    pub elements: usize,
}

impl FirewallChange {
    /// The documents of all transactions, in order.
    pub fn documents(&self) -> impl Iterator<Item = &str> {
        let before = self.before.iter().map(|stage| &stage.document);
        before.chain([&self.last.document]).map(String::as_str)
    }
}

/// The document that removes our table.
#[must_use]
pub fn removal() -> String {
    let mut transaction = Transaction::default();
    // Deleting what is not there is an error; adding what is there is not.
    transaction.add_table();
    transaction.delete_table();
    transaction.render()
}

pub(super) const fn following(generation: u16) -> u16 {
    generation % CT_GENERATION_MAX + 1
}

/// The change that puts `desired` in force. `loaded` is what was loaded last, as far as is known;
/// it counts only while the table that was observed bears its stamp. Counters keep their values.
///
/// A difference that only adds keeps the generation: what was allowed still is. One that takes
/// anything away, or names another grant for it, has the next, so that every connection is judged
/// again.
#[must_use]
pub fn change(
    desired: &DesiredFirewall,
    interface: &InterfaceName,
    observed: Option<&ObservedFirewall>,
    loaded: Option<&Table>,
) -> FirewallChange {
    let loaded = loaded.filter(|table| observed.is_some_and(|observed| observed.is(table)));
    let (Some(observed), Some(loaded)) = (observed, loaded) else {
        let reason = if observed.is_some() {
            FullLoad::Unknown
        } else {
            FullLoad::NoTable
        };
        return whole(desired, interface, observed, reason);
    };
    let mut next = compile(desired, interface, loaded.generation, Some(loaded));
    let difference = Difference::between(loaded, &next);
    let only_adds = difference.only_adds();
    let elements = difference.elements();
    if elements > next.elements().max(SMALL) {
        return whole(
            desired,
            interface,
            Some(observed),
            FullLoad::LargeDifference,
        );
    }
    let on_the_way = if difference.moves() {
        stages::between(loaded, &next)
    } else {
        Vec::new()
    };
    if !only_adds {
        next = next.with_generation(desired, interface, following(loaded.generation));
    }
    let mark = (!only_adds).then(|| mark_of(&next));
    let stage = |from: &Table, table: Table| Stage {
        document: Difference::between(from, &table).document(from, &table),
        table: Arc::new(table),
    };
    let mut before: Vec<Stage> = Vec::new();
    for table in on_the_way {
        let from = before.last().map_or(loaded, |stage| &stage.table);
        before.push(stage(from, table));
    }
    let from = before.last().map_or(loaded, |stage| &stage.table);
    FirewallChange {
        last: stage(from, next),
        before,
        mark,
        full: None,
        elements,
    }
}

/// Differences of so many elements are sent whatever the size of the table.
const SMALL: usize = 1000;

pub(super) fn mark_of(table: &Table) -> u32 {
    u32::from(table.generation) << CT_GENERATION_SHIFT
}

pub(super) fn stamp_of(table: &Table) -> String {
    stamp(
        &table.fingerprint,
        table.generation,
        table.rules(),
        table.elements(),
    )
}

/// Elements of one set that come and go. One whose value changes does both.
struct SetDifference<'a> {
    name: &'a str,
    shape: Shape,
    gone: Vec<&'a (Key, Value)>,
    new: Vec<&'a (Key, Value)>,
}

/// What is in one table and not in the other, by name.
struct Difference<'a> {
    new_chains: Vec<&'a str>,
    gone_chains: Vec<&'a str>,
    changed_chains: Vec<&'a str>,
    new_sets: Vec<(&'a str, &'a Set)>,
    gone_sets: Vec<(&'a str, &'a Set)>,
    changed_sets: Vec<SetDifference<'a>>,
}

impl<'a> Difference<'a> {
    fn between(old: &'a Table, new: &'a Table) -> Self {
        let mut difference = Self {
            new_chains: Vec::new(),
            gone_chains: Vec::new(),
            changed_chains: Vec::new(),
            new_sets: Vec::new(),
            gone_sets: Vec::new(),
            changed_sets: Vec::new(),
        };
        for (name, chain) in &new.chains {
            match old.chains.get(name) {
                None => difference.new_chains.push(name),
                Some(before) if !Arc::ptr_eq(before, chain) && before.rules != chain.rules => {
                    difference.changed_chains.push(name);
                }
                Some(_) => {}
            }
        }
        let gone = old
            .chains
            .keys()
            .filter(|name| !new.chains.contains_key(*name));
        difference.gone_chains.extend(gone.map(String::as_str));
        for (name, set) in &new.sets {
            match old.sets.get(name) {
                Some(before) if Arc::ptr_eq(before, set) => {}
                Some(before) if before.shape == set.shape => {
                    if let Some(changed) = elements(name, before, set) {
                        difference.changed_sets.push(changed);
                    }
                }
                Some(before) => {
                    difference.gone_sets.push((name, before.as_ref()));
                    difference.new_sets.push((name, set.as_ref()));
                }
                None => difference.new_sets.push((name, set.as_ref())),
            }
        }
        let gone = old
            .sets
            .iter()
            .filter(|(name, _)| !new.sets.contains_key(*name));
        difference
            .gone_sets
            .extend(gone.map(|(name, set)| (name.as_str(), set.as_ref())));
        difference
    }

    /// Whether every packet that the old table passes, the new one passes under the same grant. The
    /// legend is not asked.
    fn only_adds(&self) -> bool {
        self.gone_chains.is_empty()
            && self.gone_sets.is_empty()
            && self
                .changed_sets
                .iter()
                .all(|set| set.gone.iter().all(|(_, value)| matches!(value, Value::Comment(_))))
            // A class that gets another map gets rules beside those it has.
            && self.changed_chains.iter().all(|name| name.starts_with("class_"))
    }

    /// Whether a packet that both tables allow may find its way through other elements after: those
    /// that are there before go, and others come. The same element with another grant is found
    /// before and after.
    fn moves(&self) -> bool {
        let is_source = |name: &str| name.starts_with(SOURCES_PREFIX);
        let judges =
            |name: &str, shape: Shape| matches!(shape, Shape::Marks { .. }) || is_source(name);
        let any = |sets: &[(&str, &Set)]| sets.iter().any(|(name, set)| judges(name, set.shape));
        let mut changed = self
            .changed_sets
            .iter()
            .filter(|set| judges(set.name, set.shape));
        let goes = any(&self.gone_sets) || changed.clone().any(|set| !set.gone.is_empty());
        let comes = any(&self.new_sets)
            || changed.any(|set| {
                let gone: BTreeSet<_> = set.gone.iter().map(|(key, _)| key).collect();
                let mut new = set.new.iter().map(|(key, _)| key);
                new.any(|key| is_source(set.name) || !gone.contains(key))
            });
        goes && comes
    }

    fn elements(&self) -> usize {
        let new = self.new_sets.iter().map(|(_, set)| set.elements.len());
        let changed = self
            .changed_sets
            .iter()
            .map(|set| set.gone.len() + set.new.len());
        new.chain(changed).sum()
    }

    /// In an order in which nothing is named before it is there, or deleted while it is in use.
    fn document(&self, old: &Table, new: &Table) -> String {
        let mut transaction = Transaction::default();
        let none = Chain::default();
        let chain = |name: &str| new.chains.get(name).map_or(&none, Arc::as_ref);
        let (before, after) = (stamp_of(old), stamp_of(new));
        for name in &self.new_chains {
            transaction.add_chain(name, chain(name));
        }
        for name in self.changed_chains.iter().chain(&self.gone_chains) {
            transaction.flush_chain(name);
        }
        for (name, set) in &self.gone_sets {
            transaction.delete_set(name, set.shape.is_map());
        }
        for (name, set) in &self.new_sets {
            transaction.add_set(name, set);
        }
        for set in &self.changed_sets {
            transaction.delete_elements(set.name, set.gone.clone());
            transaction.add_elements(set.name, set.new.clone());
        }
        for name in self.new_chains.iter().chain(&self.changed_chains) {
            if let Some(chain) = new.chains.get(*name) {
                transaction.add_rules(name, &chain.rules);
            }
        }
        for name in &self.gone_chains {
            transaction.delete_chain(name);
        }
        if before != after {
            transaction.delete_chain(&before);
            transaction.add_chain(&after, &none);
        }
        transaction.render()
    }
}

fn elements<'a>(name: &'a str, old: &'a Set, new: &'a Set) -> Option<SetDifference<'a>> {
    let mut difference = SetDifference {
        name,
        shape: new.shape,
        gone: Vec::new(),
        new: Vec::new(),
    };
    let (mut before, mut after) = (
        old.elements.iter().peekable(),
        new.elements.iter().peekable(),
    );
    loop {
        match (before.peek(), after.peek()) {
            (None, None) => break,
            (Some(b), Some(a)) if b == a => {
                before.next();
                after.next();
            }
            (Some(b), Some(a)) if b.0 == a.0 => {
                difference.gone.extend(before.next());
                difference.new.extend(after.next());
            }
            (Some(b), a) if a.is_none_or(|a| b.0 < a.0) => difference.gone.extend(before.next()),
            (_, _) => difference.new.extend(after.next()),
        }
    }
    (!difference.gone.is_empty() || !difference.new.is_empty()).then_some(difference)
}
