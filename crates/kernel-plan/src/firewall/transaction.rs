//! A libnftables JSON document: what is added to it is carried out in that order, all of it or
//! nothing.

use nftables::schema::SetType;
use serde::{Serialize, Serializer, ser::SerializeSeq};
use serde_json::{Value as Json, json};
use std::fmt::Display;
use weir_overlay::AddressRange;
use weir_protocol::PortRange;

use super::{
    document::{Stmt, go, range},
    nat::translation_chain,
    table::{Chain, Key, Set, Shape, Value},
};
use crate::NFT_TABLE;

const FAMILY: &str = "inet";
/// How long an element of a dynamic set lives after its last use, in seconds.
const DYNAMIC_SECONDS: u32 = 60;

/// How the names of classes' chains and maps begin.
pub(super) const CLASS_PREFIX: &str = "class_";

/// The name of a class's chain.
pub(super) fn class_chain(class: impl Display) -> String {
    format!("{CLASS_PREFIX}{class}")
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verb {
    Add,
    Delete,
    Flush,
}

/// The object of a command: a few fields, and elements or statements that are written as they are.
#[derive(Debug)]
struct Command<'a> {
    verb: Verb,
    kind: &'static str,
    fields: Vec<(&'static str, Json)>,
    elements: Option<Elements<'a>>,
    rule: Option<&'a [Stmt]>,
}

impl Serialize for Command<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map([(self.verb, Kind(self))])
    }
}

struct Kind<'a>(&'a Command<'a>);

impl Serialize for Kind<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map([(self.0.kind, Object(self.0))])
    }
}

struct Object<'a>(&'a Command<'a>);

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in &self.0.fields {
            map.serialize_entry(name, value)?;
        }
        if let Some(elements) = &self.0.elements {
            map.serialize_entry("elem", elements)?;
        }
        if let Some(rule) = self.0.rule {
            map.serialize_entry("expr", rule)?;
        }
        map.end()
    }
}

/// Elements of one set.
#[derive(Debug)]
struct Elements<'a> {
    items: Vec<&'a (Key, Value)>,
    /// Whether only their keys are told: how elements are deleted.
    keys_only: bool,
}

impl Serialize for Elements<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.items.len()))?;
        for (key, value) in &self.items {
            let key = key_json(key);
            if self.keys_only {
                list.serialize_element(&key)?;
                continue;
            }
            match value {
                Value::Present => list.serialize_element(&key)?,
                Value::Grant(id) => list.serialize_element(&(key, id.0))?,
                Value::Class(class) => list.serialize_element(&(key, go(&class_chain(class))))?,
                Value::Translation(number) => {
                    list.serialize_element(&(key, go(&translation_chain(*number))))?;
                }
                Value::Comment(comment) if comment.is_empty() => list.serialize_element(&key)?,
                Value::Comment(comment) => list.serialize_element(
                    &json!({ "elem": { "val": key, "comment": comment.as_ref() } }),
                )?,
            }
        }
        list.end()
    }
}

fn key_json(key: &Key) -> Json {
    let mut parts: Vec<Json> = Vec::new();
    let address = |stretch: &AddressRange| match stretch.single() {
        Some(address) => Json::from(address.to_string()),
        None => json!(range(stretch)),
    };
    parts.extend(key.source.as_ref().map(address));
    parts.extend(key.destination.as_ref().map(address));
    parts.extend(key.protocol.map(|protocol| Json::from(protocol.0)));
    parts.extend(key.ports.map(|PortRange { first, last }| {
        if first == last {
            Json::from(first)
        } else {
            json!({ "range": [first, last] })
        }
    }));
    parts.extend(key.grant.map(|id| Json::from(id.0)));
    match parts.len() {
        // nft takes a concatenation of one for an error.
        1 => parts.remove(0),
        _ => json!({ "concat": parts }),
    }
}

/// A document under construction.
#[derive(Debug, Default)]
pub(super) struct Transaction<'a> {
    commands: Vec<Command<'a>>,
}

impl<'a> Transaction<'a> {
    fn push(&mut self, verb: Verb, kind: &'static str, fields: Vec<(&'static str, Json)>) {
        self.commands.push(Command {
            verb,
            kind,
            fields,
            elements: None,
            rule: None,
        });
    }

    fn named(name: &str) -> Vec<(&'static str, Json)> {
        let mut fields = in_table();
        fields.push(("name", name.into()));
        fields
    }

    pub(super) fn add_table(&mut self) {
        self.push(Verb::Add, "table", table());
    }

    pub(super) fn flush_table(&mut self) {
        self.push(Verb::Flush, "table", table());
    }

    pub(super) fn delete_table(&mut self) {
        self.push(Verb::Delete, "table", table());
    }

    /// A named counter; one that exists keeps its value.
    pub(super) fn add_counter(&mut self, name: &str) {
        self.push(Verb::Add, "counter", Self::named(name));
    }

    /// A chain without its rules; of a base chain the policy is accept, since packets that are not
    /// ours pass by.
    pub(super) fn add_chain(&mut self, name: &str, chain: &Chain) {
        let mut fields = Self::named(name);
        if let Some(hook) = chain.hook {
            fields.push(("type", json!(hook.kind)));
            fields.push(("hook", json!(hook.hook)));
            fields.push(("prio", hook.priority.into()));
            fields.push(("policy", "accept".into()));
        }
        self.push(Verb::Add, "chain", fields);
    }

    pub(super) fn flush_chain(&mut self, name: &str) {
        self.push(Verb::Flush, "chain", Self::named(name));
    }

    pub(super) fn delete_chain(&mut self, name: &str) {
        self.push(Verb::Delete, "chain", Self::named(name));
    }

    pub(super) fn add_rules(&mut self, chain: &str, rules: &'a [Vec<Stmt>]) {
        for rule in rules {
            let mut fields = in_table();
            fields.push(("chain", chain.into()));
            self.commands.push(Command {
                verb: Verb::Add,
                kind: "rule",
                fields,
                elements: None,
                rule: Some(rule),
            });
        }
    }

    /// A set with its elements.
    pub(super) fn add_set(&mut self, name: &str, set: &'a Set) {
        let mut fields = Self::named(name);
        fields.extend(declaration(set.shape));
        let elements = (!set.elements.is_empty()).then(|| Elements {
            items: set.elements.iter().collect(),
            keys_only: false,
        });
        self.commands.push(Command {
            verb: Verb::Add,
            kind: set_kind(set.shape.is_map()),
            fields,
            elements,
            rule: None,
        });
    }

    pub(super) fn delete_set(&mut self, name: &str, is_map: bool) {
        self.push(Verb::Delete, set_kind(is_map), Self::named(name));
    }

    pub(super) fn add_elements(&mut self, set: &str, items: Vec<&'a (Key, Value)>) {
        self.elements(Verb::Add, set, items);
    }

    pub(super) fn delete_elements(&mut self, set: &str, items: Vec<&'a (Key, Value)>) {
        self.elements(Verb::Delete, set, items);
    }

    fn elements(&mut self, verb: Verb, set: &str, items: Vec<&'a (Key, Value)>) {
        if items.is_empty() {
            return;
        }
        self.commands.push(Command {
            verb,
            kind: "element",
            fields: Self::named(set),
            elements: Some(Elements {
                items,
                keys_only: matches!(verb, Verb::Delete),
            }),
            rule: None,
        });
    }

    /// The document as nft reads it.
    pub(super) fn render(&self) -> String {
        #[derive(Serialize)]
        struct Document<'a> {
            nftables: &'a [Command<'a>],
        }
        let document = Document {
            nftables: &self.commands,
        };
        // Maps with text keys and derived serialisers: there is nothing that could fail.
        serde_json::to_string(&document).unwrap_or_default()
    }
}

fn table() -> Vec<(&'static str, Json)> {
    vec![("family", FAMILY.into()), ("name", NFT_TABLE.into())]
}

fn in_table() -> Vec<(&'static str, Json)> {
    vec![("family", FAMILY.into()), ("table", NFT_TABLE.into())]
}

const fn set_kind(is_map: bool) -> &'static str {
    if is_map { "map" } else { "set" }
}

fn declaration(shape: Shape) -> Vec<(&'static str, Json)> {
    let interval = |fields: &mut Vec<(&'static str, Json)>, interval: bool| {
        if interval {
            fields.push(("flags", json!(["interval"])));
        }
    };
    let mut fields = Vec::new();
    match shape {
        Shape::Addresses(key) => {
            fields.push(("type", json!(key)));
            interval(&mut fields, true);
        }
        Shape::Legend => fields.push(("type", json!(SetType::Mark))),
        Shape::Marks {
            key,
            interval: ranges,
        } => {
            fields.push(("type", json!(key)));
            fields.push(("map", json!(SetType::Mark)));
            interval(&mut fields, ranges);
        }
        Shape::Classes {
            key,
            interval: ranges,
        } => {
            fields.push(("type", json!(key)));
            fields.push(("map", "verdict".into()));
            interval(&mut fields, ranges);
        }
        // nft 1.0.6 refuses the flag `dynamic` in JSON, and sets it by itself when a rule updates
        // the set.
        Shape::Dynamic { key, size } => {
            fields.push(("type", json!(key)));
            fields.push(("size", size.into()));
            fields.push(("flags", json!(["timeout"])));
            fields.push(("timeout", DYNAMIC_SECONDS.into()));
        }
    }
    fields
}
