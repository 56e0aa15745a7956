//! The firewall table, as far as a listing of it tells what was loaded.

use std::collections::BTreeMap;

use nix::errno::Errno;
use serde_json::{Value, json};
use weir_kernel_plan::firewall::ObservedFirewall;

/// Chains, sets, maps and counters by kind and name; rules by chain.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    objects: BTreeMap<(String, String), Value>,
    rules: Vec<Value>,
}

impl Table {
    /// Carries out a libnftables document on a table that may be there already: all of it, or
    /// nothing and the error that nft would get.
    pub(super) fn load(before: Option<Self>, document: &str) -> Result<Self, Errno> {
        let document: Value = serde_json::from_str(document).map_err(|_| Errno::EINVAL)?;
        let commands = document["nftables"].as_array().ok_or(Errno::EINVAL)?;
        let mut table = before;
        for command in commands {
            let (verb, object) = only_member(command).ok_or(Errno::EINVAL)?;
            if verb == "metainfo" {
                continue;
            }
            let (kind, object) = only_member(object).ok_or(Errno::EINVAL)?;
            match (verb, kind) {
                ("add", "table") => {
                    table.get_or_insert_default();
                }
                ("delete", "table") => {
                    table.take().ok_or(Errno::ENOENT)?;
                }
                _ => table
                    .as_mut()
                    .ok_or(Errno::ENOENT)?
                    .carry_out(verb, kind, object)?,
            }
        }
        table.ok_or(Errno::EINVAL)
    }

    fn carry_out(&mut self, verb: &str, kind: &str, object: &Value) -> Result<(), Errno> {
        let name = object["name"].as_str().unwrap_or_default().to_owned();
        match (verb, kind) {
            ("flush", "table") => self.rules.clear(),
            ("flush", "chain") => self.rules.retain(|rule| rule["chain"] != name.as_str()),
            ("add" | "delete", "element") => {
                let set = self
                    .objects
                    .iter_mut()
                    .find(|((kind, set), _)| matches!(kind.as_str(), "set" | "map") && *set == name)
                    .map(|(_, set)| set)
                    .ok_or(Errno::ENOENT)?;
                change_elements(set, verb == "add", object)?;
            }
            ("add", "rule") => {
                let chain = object["chain"].as_str().unwrap_or_default().to_owned();
                if !self.objects.contains_key(&("chain".to_owned(), chain)) {
                    return Err(Errno::ENOENT);
                }
                self.rules.push(object.clone());
            }
            ("add", "chain" | "counter" | "set" | "map") => {
                // What exists stays: a counter keeps its value, a set its elements.
                self.objects
                    .entry((kind.to_owned(), name))
                    .or_insert_with(|| object.clone());
            }
            ("delete", "chain" | "counter" | "set" | "map") => {
                self.objects
                    .remove(&(kind.to_owned(), name))
                    .ok_or(Errno::ENOENT)?;
            }
            _ => return Err(Errno::EOPNOTSUPP),
        }
        Ok(())
    }

    pub(super) fn rules_of<'a>(&'a self, chain: &'a str) -> impl Iterator<Item = &'a Value> {
        self.rules.iter().filter(move |rule| rule["chain"] == chain)
    }

    pub(super) fn elements_of(&self, set: &str) -> &[Value] {
        ["set", "map"]
            .into_iter()
            .find_map(|kind| self.objects.get(&(kind.to_owned(), set.to_owned())))
            .and_then(|set| set["elem"].as_array())
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    /// A rule that we did not load.
    pub(super) fn add_foreign_rule(&mut self) {
        self.rules
            .push(json!({ "chain": "forward", "expr": [{ "accept": null }] }));
    }

    pub(super) fn observed(&self) -> ObservedFirewall {
        let objects = self
            .objects
            .iter()
            .map(|((kind, _), object)| json!({ kind: object }));
        let rules = self.rules.iter().map(|rule| json!({ "rule": rule }));
        let listing = objects.chain(rules).collect::<Vec<_>>();
        ObservedFirewall::from_listing(&json!({ "nftables": listing }))
    }
}

/// The key of an element: alone, with its value, or with a comment.
pub(super) fn key(element: &Value) -> &Value {
    let pair = element.as_array().and_then(|pair| pair.first());
    let element = pair.unwrap_or(element);
    element
        .get("elem")
        .map_or(element, |commented| &commented["val"])
}

fn change_elements(set: &mut Value, add: bool, change: &Value) -> Result<(), Errno> {
    let changed = change["elem"].as_array().ok_or(Errno::EINVAL)?;
    let set = set.as_object_mut().ok_or(Errno::EINVAL)?;
    let elements = set.entry("elem").or_insert_with(|| json!([]));
    let elements = elements.as_array_mut().ok_or(Errno::EINVAL)?;
    for element in changed {
        let at = elements.iter().position(|old| key(old) == key(element));
        match (add, at) {
            (true, None) => elements.push(element.clone()),
            // The same again is no error; another value is.
            (true, Some(at)) if elements.get(at) == Some(element) => {}
            (true, Some(_)) => return Err(Errno::EEXIST),
            (false, Some(at)) => {
                elements.remove(at);
            }
            (false, None) => return Err(Errno::ENOENT),
        }
    }
    Ok(())
}

pub(super) fn only_member(value: &Value) -> Option<(&str, &Value)> {
    value
        .as_object()?
        .iter()
        .next()
        .map(|(name, value)| (name.as_str(), value))
}
