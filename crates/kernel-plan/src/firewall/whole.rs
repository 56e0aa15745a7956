//! Loading a table whole: it is laid beside the one that is there, under names of its own; then the
//! rules lead to it; then what was there goes. In one transaction the maps of the old rules would
//! be empty for a packet that is judged in that moment.

use std::{collections::BTreeMap, sync::Arc};
use weir_overlay::InterfaceName;

use super::{
    DesiredFirewall, FirewallChange, FullLoad, ObservedFirewall, Stage,
    change::{following, mark_of, stamp_of},
    listing::{STAMP, on_the_way, stamp},
    nat::TRANSLATION_PREFIX,
    ruleset::{COUNTERS, compile_in},
    table::{Bank, Chain, Set, Table},
    transaction::{CLASS_PREFIX, Transaction},
};

/// The generation of a table that is loaded over what was observed.
fn next_generation(observed: Option<&ObservedFirewall>, fingerprint: &str) -> u16 {
    match observed {
        Some(observed) if observed.generation != 0 => following(observed.generation),
        // The table is gone and the connections are not: any number that few of them bear.
        Some(_) | None => {
            let drawn = u16::from_str_radix(fingerprint.get(..4).unwrap_or("1"), 16).unwrap_or(1);
            following(drawn)
        }
    }
}

/// The change that loads the whole table: beside the one that is there, where that can be.
pub(super) fn whole(
    desired: &DesiredFirewall,
    interface: &InterfaceName,
    observed: Option<&ObservedFirewall>,
    reason: FullLoad,
) -> FirewallChange {
    let aside = observed.and_then(Aside::beside);
    let bank = aside.as_ref().map_or(Bank::First, |aside| aside.bank);
    let mut table = compile_in(bank, desired, interface, 0, None);
    let generation = next_generation(observed, &table.fingerprint);
    table = table.with_generation(desired, interface, generation);
    let table = Arc::new(table);
    let stage = |document| Stage {
        document,
        table: Arc::clone(&table),
    };
    let (before, last) = match observed.zip(aside) {
        Some((observed, aside)) => {
            let before = [lay_aside(&table, &aside), take_over(&table, &aside)];
            let last = clear(&table, observed, &aside);
            (before.map(stage).into(), stage(last))
        }
        None => (Vec::new(), stage(load(&table, observed))),
    };
    FirewallChange {
        before,
        mark: Some(mark_of(&table)),
        full: Some(reason),
        elements: table.elements(),
        last,
    }
}

/// Where a table is laid that takes the place of another.
struct Aside<'a> {
    /// The names of sets that are not in use.
    bank: Bank,
    /// The stamp of the table that is there.
    stamp: &'a str,
    fingerprint: &'a str,
    generation: u16,
    elements: usize,
    /// Its sets that keep their names: the legend, and what rate-limits the log.
    sets: &'a BTreeMap<String, bool>,
}

impl<'a> Aside<'a> {
    /// None where the table is not as somebody of us left it, or was left half way.
    fn beside(observed: &'a ObservedFirewall) -> Option<Self> {
        let has = |bank: Bank| observed.sets.keys().any(|name| bank.has(name));
        let bank = match (has(Bank::First), has(Bank::Second)) {
            (true, false) => Bank::Second,
            (false, true) => Bank::First,
            (true, true) | (false, false) => return None,
        };
        Some(Self {
            bank,
            stamp: observed
                .chains
                .iter()
                .find(|name| name.starts_with(STAMP))?,
            fingerprint: observed.fingerprint.as_deref()?,
            generation: observed.generation,
            elements: observed.elements()?,
            sets: &observed.sets,
        })
    }

    /// Sets of the table that is laid here.
    fn sets(table: &Table) -> impl Iterator<Item = (&String, &Set)> {
        let sets = table.sets.iter().map(|(name, set)| (name, set.as_ref()));
        sets.filter(|(name, _)| table.bank.has(name))
    }

    /// How many elements both have, the legend of the new one left out.
    fn elements_of_both(&self, table: &Table) -> usize {
        let new = Self::sets(table).map(|(_, set)| set.elements.len());
        self.elements + new.sum::<usize>()
    }

    fn stamp_laid(&self, table: &Table) -> String {
        let fingerprint = on_the_way(self.fingerprint, 1);
        let rules = self
            .stamp
            .rsplit('_')
            .nth(1)
            .and_then(|rules| rules.parse().ok());
        let elements = self.elements_of_both(table);
        stamp(&fingerprint, self.generation, rules.unwrap_or(0), elements)
    }

    fn stamp_taken_over(&self, table: &Table) -> String {
        let fingerprint = on_the_way(&table.fingerprint, 2);
        let elements = self.elements_of_both(table);
        stamp(&fingerprint, table.generation, table.rules(), elements)
    }
}

/// Sets that stay over a load: what rate-limits the log.
fn stays(sets: &BTreeMap<String, bool>, name: &str, set: &Set) -> bool {
    set.shape.is_dynamic() && sets.contains_key(name)
}

fn restamp(transaction: &mut Transaction<'_>, before: &str, after: &str) {
    transaction.delete_chain(before);
    transaction.add_chain(after, &Chain::default());
}

/// The document that adds a table's sets beside those of another, which no rule asks yet.
fn lay_aside(table: &Table, aside: &Aside<'_>) -> String {
    let mut transaction = Transaction::default();
    for name in table.chains.keys().filter(|name| is_led_to(name)) {
        transaction.add_chain(name, &Chain::default());
    }
    for (name, set) in Aside::sets(table) {
        transaction.add_set(name, set);
    }
    restamp(&mut transaction, aside.stamp, &aside.stamp_laid(table));
    transaction.render()
}

/// Whether elements of maps name the chain.
fn is_led_to(name: &str) -> bool {
    name.starts_with(CLASS_PREFIX) || name.starts_with(TRANSLATION_PREFIX)
}

/// The document that puts in force what was laid aside. What the rules before it ask stays.
fn take_over(table: &Table, aside: &Aside<'_>) -> String {
    let mut transaction = Transaction::default();
    transaction.flush_table();
    for counter in COUNTERS {
        transaction.add_counter(counter);
    }
    for (name, chain) in &table.chains {
        transaction.add_chain(name, chain);
    }
    for (name, set) in &table.sets {
        if set.shape.is_dynamic() && !stays(aside.sets, name, set) {
            transaction.add_set(name, set);
        }
    }
    for (name, chain) in &table.chains {
        transaction.add_rules(name, &chain.rules);
    }
    let (before, after) = (aside.stamp_laid(table), aside.stamp_taken_over(table));
    restamp(&mut transaction, &before, &after);
    transaction.render()
}

/// The document that takes away what was observed and is not of this table.
fn clear(table: &Table, observed: &ObservedFirewall, aside: &Aside<'_>) -> String {
    let mut transaction = Transaction::default();
    for (name, is_map) in &observed.sets {
        if !table
            .sets
            .get(name)
            .is_some_and(|set| stays(aside.sets, name, set))
        {
            transaction.delete_set(name, *is_map);
        }
    }
    for name in &observed.chains {
        if !table.chains.contains_key(name) && name != aside.stamp {
            transaction.delete_chain(name);
        }
    }
    for (name, set) in &table.sets {
        if !table.bank.has(name) && !set.shape.is_dynamic() {
            transaction.add_set(name, set);
        }
    }
    restamp(
        &mut transaction,
        &aside.stamp_taken_over(table),
        &stamp_of(table),
    );
    transaction.render()
}

/// The document that replaces what was observed in one transaction. What rate-limits the log, and
/// the counters, stay.
fn load(table: &Table, observed: Option<&ObservedFirewall>) -> String {
    let mut transaction = Transaction::default();
    transaction.add_table();
    for counter in COUNTERS {
        transaction.add_counter(counter);
    }
    let kept = |name: &String, set: &Set| observed.is_some_and(|seen| stays(&seen.sets, name, set));
    if let Some(observed) = observed {
        transaction.flush_table();
        for (name, is_map) in &observed.sets {
            if !table.sets.get(name).is_some_and(|set| kept(name, set)) {
                transaction.delete_set(name, *is_map);
            }
        }
        for name in &observed.chains {
            if !table.chains.contains_key(name) {
                transaction.delete_chain(name);
            }
        }
    }
    for (name, chain) in &table.chains {
        transaction.add_chain(name, chain);
    }
    for (name, set) in table.sets.iter().filter(|(name, set)| !kept(name, set)) {
        transaction.add_set(name, set);
    }
    for (name, chain) in &table.chains {
        transaction.add_rules(name, &chain.rules);
    }
    transaction.add_chain(&stamp_of(table), &Chain::default());
    transaction.render()
}
