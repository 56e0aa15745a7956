//! Our table, read back: tolerant of what newer versions of nft print.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

use super::{ObservedFirewall, Table, table::LOG_PREFIX};
use crate::Counter;

pub(super) const STAMP: &str = "loaded_";
/// Between the fingerprint and the stage of a table on the way.
const ON_THE_WAY: char = '.';

/// The name of the empty chain that says what the table was loaded from: fingerprint, generation,
/// number of rules, number of set elements. Part of the same transaction as what it describes.
pub(super) fn stamp(fingerprint: &str, generation: u16, rules: usize, elements: usize) -> String {
    format!("{STAMP}{fingerprint}_{generation}_{rules}_{elements}")
}

/// The fingerprint of a table on the way from what this fingerprint names.
pub(super) fn on_the_way(fingerprint: &str, stage: usize) -> String {
    format!("{}{ON_THE_WAY}{stage}", in_force(fingerprint))
}

/// What a table was loaded from whose fingerprint this is, or what it is on the way from.
pub(crate) fn in_force(fingerprint: &str) -> &str {
    let parts = fingerprint.split_once(ON_THE_WAY);
    parts.map_or(fingerprint, |(from, _)| from)
}

fn text(object: &Value, field: &str) -> String {
    object
        .get(field)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn number(object: &Value, field: &str) -> u64 {
    object
        .get(field)
        .and_then(Value::as_u64)
        .unwrap_or_default()
}

/// Our table as an adapter reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableParts {
    /// Its chains.
    pub chains: BTreeSet<String>,
    /// Its sets and maps: names, and whether each is a map. Anonymous ones left out.
    pub sets: BTreeMap<String, bool>,
    /// Its named counters.
    pub counters: BTreeMap<String, Counter>,
    /// How many rules it has.
    pub rules: usize,
    /// How many set elements, those that packets add left out; `None` when it is known that they
    /// are as they were at the last look.
    pub elements: Option<usize>,
    /// Whether somebody else changed the table since the last look.
    pub foreign: bool,
}

impl ObservedFirewall {
    /// Whether it bears the stamp of that table, and looks as it was left.
    #[must_use]
    pub fn is(&self, table: &Table) -> bool {
        self.fingerprint.as_deref() == Some(table.fingerprint())
            && self.generation == table.generation()
    }

    /// The fingerprint of the firewall in force, also of one on the way to the next: what is
    /// allowed beside it, both allow together.
    #[must_use]
    pub fn in_force(&self) -> Option<&str> {
        self.fingerprint.as_deref().map(in_force)
    }

    /// How many elements it has, as its stamp says.
    pub(super) fn elements(&self) -> Option<usize> {
        self.fingerprint.as_ref()?;
        let mut stamps = self
            .chains
            .iter()
            .filter_map(|name| name.strip_prefix(STAMP));
        stamps.next()?.rsplit('_').next()?.parse().ok()
    }

    /// Makes the observation of what was read. The fingerprint is believed only when the table has
    /// as many rules and elements as it was loaded with, and nobody else changed it.
    #[must_use]
    pub fn from_parts(parts: TableParts) -> Self {
        let mut observed = Self {
            fingerprint: None,
            generation: 0,
            chains: parts.chains,
            sets: parts.sets,
            counters: parts.counters,
        };
        let stamps: Vec<_> = observed
            .chains
            .iter()
            .filter_map(|name| name.strip_prefix(STAMP))
            .collect();
        let &[only] = stamps.as_slice() else {
            return observed;
        };
        let fields: Vec<_> = only.split('_').collect();
        if let &[fingerprint, generation, rules, elements] = fields.as_slice() {
            let as_loaded = rules.parse() == Ok(parts.rules)
                && parts
                    .elements
                    .is_none_or(|count| elements.parse() == Ok(count));
            let fingerprint = (as_loaded && !parts.foreign).then(|| fingerprint.to_owned());
            observed.generation = generation.parse().unwrap_or_default();
            observed.fingerprint = fingerprint;
        }
        observed
    }

    /// Reads what `nft -j list table inet weir` printed. What is not understood is left out.
    #[must_use]
    pub fn from_listing(listing: &Value) -> Self {
        let mut parts = TableParts::default();
        let mut elements = 0;
        let objects = listing.get("nftables").and_then(Value::as_array);
        for object in objects.into_iter().flatten() {
            if object.get("rule").is_some() {
                parts.rules += 1;
            } else if let Some(chain) = object.get("chain") {
                parts.chains.insert(text(chain, "name"));
            } else if let Some(counter) = object.get("counter") {
                let value = Counter {
                    packets: number(counter, "packets"),
                    bytes: number(counter, "bytes"),
                };
                parts.counters.insert(text(counter, "name"), value);
            } else if let Some((set, is_map)) = object
                .get("set")
                .map(|set| (set, false))
                .or_else(|| object.get("map").map(|map| (map, true)))
            {
                let name = text(set, "name");
                // Dynamic sets fill and empty by themselves.
                if !name.starts_with(LOG_PREFIX) {
                    let listed = set.get("elem").and_then(Value::as_array);
                    elements += listed.map_or(0, Vec::len);
                }
                parts.sets.insert(name, is_map);
            }
        }
        parts.elements = Some(elements);
        Self::from_parts(parts)
    }
}
