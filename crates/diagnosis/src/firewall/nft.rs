//! Reads what `nft -j list table` prints, tolerantly: what is not understood makes a judgement
//! uncertain, and never wrong.

use serde_json::Value;
use std::collections::BTreeMap;

use super::model::{
    Base, Chain, Condition, Family, Field, Hook, Item, Manager, Rule, Table, Values, Verdict,
};

/// The tables of a listing. Tables that see no packets of IP, such as those of bridges, are left
/// out.
pub(super) fn tables(listing: &Value) -> Vec<Table> {
    let objects: Vec<&Value> = listing
        .get("nftables")
        .and_then(Value::as_array)
        .map(|objects| objects.iter().collect())
        .unwrap_or_default();
    let of_kind = |kind: &'static str| objects.iter().filter_map(move |object| object.get(kind));
    let mut tables: BTreeMap<(Family, String), Table> = BTreeMap::new();
    for table in of_kind("table") {
        if let Some(family) = family(table) {
            let name = text(table, "name");
            let empty = Table {
                family,
                name: name.clone(),
                manager: Manager::Nft,
                chains: BTreeMap::new(),
            };
            tables.insert((family, name), empty);
        }
    }
    let sets: BTreeMap<(Family, String, String), &Value> = of_kind("set")
        .chain(of_kind("map"))
        .filter_map(|set| Some(((family(set)?, text(set, "table"), text(set, "name")), set)))
        .collect();
    for chain in of_kind("chain") {
        let Some(family) = family(chain) else {
            continue;
        };
        if let Some(table) = tables.get_mut(&(family, text(chain, "table"))) {
            let read = Chain {
                base: base(chain),
                rules: Vec::new(),
            };
            table.chains.insert(text(chain, "name"), read);
        }
    }
    for rule in of_kind("rule") {
        let Some(family) = family(rule) else { continue };
        let name = text(rule, "table");
        let set = |set: &str| sets.get(&(family, name.clone(), set.to_owned())).copied();
        let statements = rule.get("expr").and_then(Value::as_array);
        let items: Vec<Item> = statements
            .into_iter()
            .flatten()
            .filter_map(|statement| item(statement, &set))
            .collect();
        let is_compat = statements
            .into_iter()
            .flatten()
            .any(|statement| statement.get("xt").is_some());
        if let Some(table) = tables.get_mut(&(family, name.clone())) {
            if is_compat {
                table.manager = Manager::IptablesNft;
            }
            if let Some(chain) = table.chains.get_mut(&text(rule, "chain")) {
                chain.rules.push(Rule {
                    handle: rule.get("handle").and_then(Value::as_u64),
                    text: None,
                    items,
                });
            }
        }
    }
    tables.into_values().collect()
}

/// Gives rules the text that `nft -a list table` prints of them, by their handles. Handles are
/// unique in a table, chains and sets included.
pub(super) fn add_texts(table: &mut Table, printed: &str) {
    let texts: BTreeMap<u64, &str> = printed
        .lines()
        .filter_map(|line| line.rsplit_once(" # handle "))
        .filter(|(text, _)| !text.ends_with('{'))
        .filter_map(|(text, handle)| Some((handle.trim().parse().ok()?, text.trim())))
        .collect();
    for rule in table.chains.values_mut().flat_map(|chain| &mut chain.rules) {
        let text = rule.handle.and_then(|handle| texts.get(&handle));
        rule.text = text.map(|text| (*text).to_owned());
    }
}

fn text(object: &Value, field: &str) -> String {
    object
        .get(field)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn family(object: &Value) -> Option<Family> {
    match object.get("family").and_then(Value::as_str)? {
        "ip" => Some(Family::Ip),
        "ip6" => Some(Family::Ip6),
        "inet" => Some(Family::Inet),
        _ => None,
    }
}

/// Only chains of type `filter` are there to drop; in those of other types a rule may, and their
/// first packets alone would be judged.
fn base(chain: &Value) -> Option<Base> {
    if chain.get("type").and_then(Value::as_str)? != "filter" {
        return None;
    }
    let hook = match chain.get("hook").and_then(Value::as_str)? {
        "prerouting" => Hook::Prerouting,
        "input" => Hook::Input,
        "forward" => Hook::Forward,
        "output" => Hook::Output,
        "postrouting" => Hook::Postrouting,
        _ => return None,
    };
    Some(Base {
        hook,
        priority: chain.get("prio").and_then(Value::as_i64).unwrap_or(0),
        drops: chain.get("policy").and_then(Value::as_str) == Some("drop"),
    })
}

fn verdict(statement: &Value) -> Option<Verdict> {
    let object = statement.as_object()?;
    let target = |field: &str| {
        object
            .get(field)
            .and_then(|jump| jump.get("target"))
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let (keyword, _) = object.iter().next()?;
    match keyword.as_str() {
        "accept" => Some(Verdict::Accept),
        "drop" | "reject" => Some(Verdict::Drop),
        "return" => Some(Verdict::Return),
        "jump" => target("jump").map(Verdict::Jump),
        "goto" => target("goto").map(Verdict::Goto),
        "queue" | "tproxy" | "synproxy" => Some(Verdict::Unknown),
        _ => None,
    }
}

fn item<'a>(statement: &Value, set: &impl Fn(&str) -> Option<&'a Value>) -> Option<Item> {
    if let Some(decided) = verdict(statement) {
        return Some(Item::Verdict(decided));
    }
    if let Some(found) = statement.get("match") {
        return Some(Item::Match(condition(found, set)));
    }
    if let Some(map) = statement.get("vmap") {
        return Some(verdict_map(map, set));
    }
    if let Some(foreign) = statement.get("xt") {
        // Which match or target is not told; both `iptables-save` and a later rule may tell.
        let is_target = foreign.get("type").and_then(Value::as_str) == Some("target");
        let name = foreign.get("name").and_then(Value::as_str);
        return match (is_target, name) {
            (true, Some("REJECT")) => Some(Item::Verdict(Verdict::Drop)),
            (true, Some("NFQUEUE")) => Some(Item::Verdict(Verdict::Unknown)),
            (true, _) | (false, Some("comment")) => None,
            (false, _) => Some(Item::Match(Condition::Unknown)),
        };
    }
    // Rates are limits and not kinds of packets: they may be reached or not.
    let limits = ["limit", "quota", "ct count", "meter", "flow"];
    let is_limit = limits.iter().any(|name| statement.get(name).is_some());
    is_limit.then_some(Item::Match(Condition::Unknown))
}

fn condition<'a>(found: &Value, set: &impl Fn(&str) -> Option<&'a Value>) -> Condition {
    let operator = found.get("op").and_then(Value::as_str).unwrap_or("==");
    let field = found.get("left").and_then(field);
    let (Some(field), Some(right)) = (field, found.get("right")) else {
        return Condition::Unknown;
    };
    let negated = match operator {
        "==" | "in" => false,
        "!=" => true,
        _ => return Condition::Unknown,
    };
    let mut values = Values::default();
    read_values(right, set, &mut values);
    Condition::Is {
        field,
        negated,
        values,
    }
}

fn verdict_map<'a>(map: &Value, set: &impl Fn(&str) -> Option<&'a Value>) -> Item {
    let field = map.get("key").and_then(field);
    let data = map.get("data");
    let named = data
        .and_then(Value::as_str)
        .and_then(|name| name.strip_prefix('@'));
    let elements = match named {
        // A map without elements is listed without the word.
        Some(name) => set(name).map(|map| map.get("elem").and_then(Value::as_array)),
        None => data.map(|data| data.get("set").and_then(Value::as_array)),
    };
    let entries = elements.and_then(|elements| {
        let mut entries = Vec::new();
        for element in elements.into_iter().flatten() {
            let pair = element.as_array()?;
            let &[key, decided] = &pair.iter().collect::<Vec<_>>()[..] else {
                return None;
            };
            let mut values = Values::default();
            read_values(key, set, &mut values);
            entries.push((values, verdict(decided)?));
        }
        Some(entries)
    });
    match field {
        Some(field) => Item::VerdictMap { field, entries },
        None => Item::VerdictMap {
            field: Field::Protocol,
            entries: None,
        },
    }
}

fn field(left: &Value) -> Option<Field> {
    if let Some(key) = left.get("meta").and_then(|meta| meta.get("key")) {
        return match key.as_str()? {
            "iifname" | "iif" => Some(Field::InputLink),
            "oifname" | "oif" => Some(Field::OutputLink),
            "l4proto" => Some(Field::Protocol),
            "nfproto" => Some(Field::NetworkFamily),
            _ => None,
        };
    }
    if let Some(ct) = left.get("ct") {
        return match (ct.get("key")?.as_str()?, ct.get("dir")) {
            ("state", None) => Some(Field::ConnectionState),
            ("direction", None) => Some(Field::ConnectionDirection),
            ("status", None) => Some(Field::ConnectionStatus),
            _ => None,
        };
    }
    let payload = left.get("payload")?;
    let part = payload.get("field").and_then(Value::as_str)?;
    let of = match payload.get("protocol").and_then(Value::as_str)? {
        "ip" | "ip6" => {
            return match part {
                "saddr" => Some(Field::Source),
                "daddr" => Some(Field::Destination),
                "protocol" | "nexthdr" => Some(Field::Protocol),
                _ => None,
            };
        }
        "tcp" => Some(6),
        "udp" => Some(17),
        "sctp" => Some(132),
        "th" => None,
        _ => return None,
    };
    match part {
        "sport" => Some(Field::SourcePort(of)),
        "dport" => Some(Field::DestinationPort(of)),
        _ => None,
    }
}

fn read_values<'a>(value: &Value, set: &impl Fn(&str) -> Option<&'a Value>, values: &mut Values) {
    if let Some(number) = value.as_u64() {
        values.numbers.push((number, number));
    } else if let Some(word) = value.as_str() {
        if let Some(name) = word.strip_prefix('@') {
            match set(name) {
                Some(named) => {
                    let elements = named.get("elem").and_then(Value::as_array);
                    for element in elements.into_iter().flatten() {
                        read_values(element, set, values);
                    }
                }
                None => values.others = true,
            }
        } else {
            read_word(word, values);
        }
    } else if let Some(list) = value
        .as_array()
        .or(value.get("set").and_then(Value::as_array))
    {
        for one in list {
            read_values(one, set, values);
        }
    } else if let Some(one) = value.get("elem").and_then(|element| element.get("val")) {
        read_values(one, set, values);
    } else if let Some(prefix) = value.get("prefix") {
        let address = prefix.get("addr").and_then(Value::as_str);
        let length = prefix.get("len").and_then(Value::as_u64);
        let written = address
            .zip(length)
            .map(|(address, length)| format!("{address}/{length}"));
        read_range(written, values);
    } else if let Some([first, last]) = value
        .get("range")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
    {
        match (
            first.as_u64().zip(last.as_u64()),
            first.as_str().zip(last.as_str()),
        ) {
            (Some(numbers), _) => values.numbers.push(numbers),
            (None, Some((first, last))) => read_range(Some(format!("{first}-{last}")), values),
            (None, None) => values.others = true,
        }
    } else {
        values.others = true;
    }
}

fn read_range(written: Option<String>, values: &mut Values) {
    match written.and_then(|written| written.parse().ok()) {
        Some(range) => values.addresses.push(range),
        None => values.others = true,
    }
}

fn read_word(word: &str, values: &mut Values) {
    match word.parse() {
        Ok(range) => values.addresses.push(range),
        Err(_) => values.words.push(word.to_owned()),
    }
}
