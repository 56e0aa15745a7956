//! `ipsets`: named sets of addresses, made of entries that add and remove.

use super::{
    Resolver,
    selectors::{Refusal, addresses},
};
use crate::syntax::Text;
use std::collections::{BTreeMap, BTreeSet};
use weir_overlay::{AddressRange, AddressSet};

/// How deep sets may lie in each other.
const MAX_DEPTH: usize = 100;
/// How many ranges may be looked at to make all sets.
const MAX_SET_WORK: usize = 5_000_000;

impl Resolver<'_, '_, '_> {
    pub(super) fn ip_sets(&mut self, sets: Vec<(Text, Vec<Text>)>) {
        let mut written = BTreeMap::new();
        for (name, entries) in sets {
            if name.value.strip_prefix("ipset:").is_none_or(str::is_empty) {
                let message = format!(
                    "ipsets[{:?}]: names of sets must start with \"ipset:\"",
                    name.value
                );
                let help = Some(format!("write \"ipset:{}\"", name.value));
                self.findings.error(&name.span, message, help);
            } else {
                written.insert(name.value, entries);
            }
        }
        for name in written.keys() {
            self.ip_set(name, &written, &mut BTreeSet::new());
        }
    }

    /// Reads a set, and first those that it is made of. `open` are those that wait for this one.
    fn ip_set(
        &mut self,
        name: &str,
        written: &BTreeMap<String, Vec<Text>>,
        open: &mut BTreeSet<String>,
    ) -> AddressSet {
        if let Some(known) = self.ip_sets.get(name) {
            return known.clone();
        }
        open.insert(name.to_owned());
        let mut set = AddressSet::empty();
        // What is added or removed in a row is so at once.
        let mut row: (bool, Vec<AddressRange>) = (true, Vec::new());
        for entry in written.get(name).into_iter().flatten() {
            let (adds, operand) = operation(&entry.value);
            let found = if open.contains(operand) {
                let help = "leave one of them out".to_owned();
                Err(Refusal::new(
                    format!("{operand:?} is made of {name:?} itself"),
                    Some(help),
                ))
            } else if written.contains_key(operand) && open.len() >= MAX_DEPTH {
                let message = format!("sets may lie {MAX_DEPTH} deep in each other");
                Err(Refusal::new(message, None))
            } else if written.contains_key(operand) {
                Ok(self.ip_set(operand, written, open))
            } else {
                self.member_of_set(operand, written)
            };
            let found = found.and_then(|found| {
                let parts = set.ranges().len() + row.1.len();
                let work = found.ranges().len() + if row.0 == adds { 0 } else { parts };
                self.set_work = self.set_work.saturating_add(work);
                match self.set_work > MAX_SET_WORK {
                    true => Err(Refusal::new("the sets have too many addresses", None)),
                    false => Ok(found),
                }
            });
            match found {
                Ok(found) => {
                    if row.0 != adds {
                        set = apply(&set, std::mem::replace(&mut row, (adds, Vec::new())));
                    }
                    row.1.extend_from_slice(found.ranges());
                }
                Err(refusal) => {
                    let message = format!("ipsets[{name:?}]: {}", refusal.message);
                    self.findings.error(&entry.span, message, refusal.help);
                }
            }
        }
        let set = apply(&set, row);
        open.remove(name);
        self.ip_sets.insert(name.to_owned(), set.clone());
        set
    }

    fn member_of_set(
        &self,
        text: &str,
        written: &BTreeMap<String, Vec<Text>>,
    ) -> Result<AddressSet, Refusal> {
        let host = text.strip_prefix("host:").unwrap_or(text);
        if let Some(prefix) = self.hosts.get(host) {
            return Ok([*prefix].into_iter().collect());
        }
        addresses(text).map_err(|error| {
            let names = written.keys().map(String::as_str);
            let names = names.chain(self.host_names.iter().map(String::as_str));
            let help = self
                .findings
                .suggestions
                .did_you_mean(text, names)
                .unwrap_or_else(|| {
                    "write an address, a prefix, a range, a name of hosts or another set, with \
                 \"add \" or \"remove \" in front"
                        .to_owned()
                });
            Refusal::new(error.to_string(), Some(help))
        })
    }
}

/// The set with the ranges, or without them.
fn apply(set: &AddressSet, (adds, ranges): (bool, Vec<AddressRange>)) -> AddressSet {
    let operand = AddressSet::from(ranges);
    match adds {
        true => set.union(&operand),
        false => set.difference(&operand),
    }
}

/// Whether an entry adds (which needs no word) or removes, and what.
fn operation(entry: &str) -> (bool, &str) {
    let word = |word: &str| entry.strip_prefix(word)?.strip_prefix(' ').map(str::trim);
    match (word("add"), word("remove")) {
        (Some(operand), _) => (true, operand),
        (None, Some(operand)) => (false, operand),
        (None, None) => (true, entry),
    }
}
