//! Our table, read back: tolerant of what newer versions of nft print.

use serde_json::Value;

use super::{ObservedFirewall, Table};
use crate::Counter;

const STAMP: &str = "loaded_";

/// The name of the empty chain that says what the table was loaded from: fingerprint, generation,
/// number of rules, number of set elements. Part of the same transaction as what it describes.
pub(super) fn stamp(fingerprint: &str, generation: u16, rules: usize, elements: usize) -> String {
    format!("{STAMP}{fingerprint}_{generation}_{rules}_{elements}")
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

impl ObservedFirewall {
    /// Whether it bears the stamp of that table, and looks as it was left.
    #[must_use]
    pub fn is(&self, table: &Table) -> bool {
        self.fingerprint.as_deref() == Some(table.fingerprint())
            && self.generation == table.generation()
    }

    /// Reads what `nft -j list table inet weir` printed. What is not understood is left out. The
    /// fingerprint is believed only when the table has as many rules and elements as it was loaded
    /// with.
    #[must_use]
    pub fn from_listing(listing: &Value) -> Self {
        let mut observed = Self::default();
        let (mut rules, mut elements) = (0_usize, 0_usize);
        let objects = listing.get("nftables").and_then(Value::as_array);
        for object in objects.into_iter().flatten() {
            if object.get("rule").is_some() {
                rules += 1;
            } else if let Some(chain) = object.get("chain") {
                observed.chains.insert(text(chain, "name"));
            } else if let Some(counter) = object.get("counter") {
                let value = Counter {
                    packets: number(counter, "packets"),
                    bytes: number(counter, "bytes"),
                };
                observed.counters.insert(text(counter, "name"), value);
            } else if let Some((set, is_map)) = object
                .get("set")
                .map(|set| (set, false))
                .or_else(|| object.get("map").map(|map| (map, true)))
            {
                let name = text(set, "name");
                // Dynamic sets fill and empty by themselves.
                if !name.starts_with("log_") {
                    elements += set
                        .get("elem")
                        .and_then(Value::as_array)
                        .map_or(0, Vec::len);
                }
                observed.sets.insert(name, is_map);
            }
        }
        let stamps: Vec<_> = observed
            .chains
            .iter()
            .filter_map(|name| name.strip_prefix(STAMP))
            .collect();
        if let &[only] = stamps.as_slice() {
            let parts: Vec<_> = only.split('_').collect();
            if let &[fingerprint, generation, loaded_rules, loaded_elements] = parts.as_slice() {
                observed.generation = generation.parse().unwrap_or_default();
                if loaded_rules.parse() == Ok(rules) && loaded_elements.parse() == Ok(elements) {
                    observed.fingerprint = Some(fingerprint.to_owned());
                }
            }
        }
        observed
    }
}
