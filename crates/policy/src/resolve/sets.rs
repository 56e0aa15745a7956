//! `ipsets`: named sets of addresses, made of entries that add and remove.

use super::{
    Resolver,
    selectors::{Refusal, addresses},
};
use crate::{suggest::did_you_mean, syntax::Text};
use std::collections::{BTreeMap, BTreeSet};
use weir_overlay::AddressSet;

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
        for entry in written.get(name).into_iter().flatten() {
            let (adds, operand) = operation(&entry.value);
            let operand = if let Some(circle) = written.keys().find(|set| *set == operand)
                && open.contains(circle)
            {
                let help = "leave one of them out".to_owned();
                Err(Refusal::new(
                    format!("{operand:?} is made of {name:?} itself"),
                    Some(help),
                ))
            } else if written.contains_key(operand) {
                Ok(self.ip_set(operand, written, open))
            } else {
                self.member_of_set(operand, written)
            };
            match operand {
                Ok(operand) if adds => set = set.union(&operand),
                Ok(operand) => set = set.difference(&operand),
                Err(refusal) => {
                    let message = format!("ipsets[{name:?}]: {}", refusal.message);
                    self.findings.error(&entry.span, message, refusal.help);
                }
            }
        }
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
            let help = did_you_mean(text, names).unwrap_or_else(|| {
                "write an address, a prefix, a range, a name of hosts or another set, with \
                 \"add \" or \"remove \" in front"
                    .to_owned()
            });
            Refusal::new(error.to_string(), Some(help))
        })
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
