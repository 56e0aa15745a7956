//! Reads what `iptables-save` prints: nft tells of some iptables rules only that they are there.

use super::model::{
    Base, Chain, Condition, Family, Field, Hook, Item, Manager, Rule, Table, Values, Verdict,
};
use std::collections::BTreeMap;

/// The tables in what `iptables-save` or `ip6tables-save` printed.
pub(super) fn tables(save: &str, family: Family, manager: Manager) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for line in save.lines() {
        if let Some(name) = line.strip_prefix('*') {
            tables.push(Table {
                family,
                name: name.trim().to_owned(),
                manager,
                chains: BTreeMap::new(),
            });
            continue;
        }
        let Some(table) = tables.last_mut() else {
            continue;
        };
        if let Some(chain) = line.strip_prefix(':') {
            let mut words = chain.split_whitespace();
            let (Some(name), Some(policy)) = (words.next(), words.next()) else {
                continue;
            };
            let read = Chain {
                base: base(&table.name, name, policy),
                rules: Vec::new(),
            };
            table.chains.insert(name.to_owned(), read);
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let words = words(rule);
            let mut words = words.iter().map(String::as_str);
            if let Some(name) = words.next() {
                let items = items(words);
                let read = Rule {
                    handle: None,
                    text: Some(format!("-A {rule}")),
                    items,
                };
                table
                    .chains
                    .entry(name.to_owned())
                    .or_default()
                    .rules
                    .push(read);
            }
        }
    }
    tables
}

/// What drops is in these; the priorities are those of iptables (`NF_IP_PRI_*`).
fn base(table: &str, chain: &str, policy: &str) -> Option<Base> {
    let priority = match table {
        "raw" => -300,
        "mangle" => -150,
        "filter" => 0,
        "security" => 50,
        _ => return None,
    };
    let hook = match chain {
        "PREROUTING" => Hook::Prerouting,
        "INPUT" => Hook::Input,
        "FORWARD" => Hook::Forward,
        "OUTPUT" => Hook::Output,
        "POSTROUTING" => Hook::Postrouting,
        _ => return None,
    };
    Some(Base {
        hook,
        priority,
        drops: policy == "DROP",
    })
}

/// The words of a line; quotes hold a word together.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => quoted = !quoted,
            '\\' if quoted => word.extend(characters.next()),
            ' ' if !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            _ => word.push(character),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

fn items<'a>(mut words: impl Iterator<Item = &'a str>) -> Vec<Item> {
    let mut items = Vec::new();
    let mut negated = false;
    while let Some(word) = words.next() {
        if word == "!" {
            negated = true;
            continue;
        }
        let not = std::mem::take(&mut negated);
        let mut is = |field, read: fn(&str) -> Values| {
            let value = words.next().unwrap_or_default();
            items.push(Item::Match(Condition::Is {
                field,
                negated: not,
                values: read(value),
            }));
        };
        match word {
            "-s" | "--source" => is(Field::Source, addresses),
            "-d" | "--destination" => is(Field::Destination, addresses),
            "-i" | "--in-interface" => is(Field::InputLink, link),
            "-o" | "--out-interface" => is(Field::OutputLink, link),
            "-p" | "--protocol" => is(Field::Protocol, protocol),
            "--dport" | "--dports" | "--destination-port" => {
                is(Field::DestinationPort(None), ports)
            }
            "--sport" | "--sports" | "--source-port" => is(Field::SourcePort(None), ports),
            "--ctstate" | "--state" => is(Field::ConnectionState, states),
            "--ctstatus" => is(Field::ConnectionStatus, states),
            "--ctdir" => is(Field::ConnectionDirection, states),
            // What these bring along is told by their own options.
            "-m" => match words.next() {
                Some("tcp" | "udp" | "sctp" | "multiport" | "conntrack" | "state" | "comment") => {}
                _ => items.push(Item::Match(Condition::Unknown)),
            },
            "--comment" => {
                words.next();
            }
            "-j" | "-g" => {
                let target = words.next().unwrap_or_default();
                items.extend(target_item(target, word == "-g"));
                // What follows are options of the target.
                return items;
            }
            // An option of a module that is not known, and its value; the module itself has made
            // the rule uncertain. An option of a known one that is not, does.
            option if option.starts_with("--") => items.push(Item::Match(Condition::Unknown)),
            _ => {}
        }
    }
    items
}

fn target_item(target: &str, goto: bool) -> Option<Item> {
    // Targets that do something to the packet and let the next rule decide.
    const GO_ON: [&str; 14] = [
        "LOG", "NFLOG", "ULOG", "MARK", "CONNMARK", "TCPMSS", "CT", "NOTRACK", "TRACE", "AUDIT",
        "SET", "DSCP", "TOS", "CLASSIFY",
    ];
    Some(Item::Verdict(match target {
        "ACCEPT" => Verdict::Accept,
        "DROP" | "REJECT" => Verdict::Drop,
        "RETURN" => Verdict::Return,
        "NFQUEUE" | "QUEUE" | "TPROXY" | "SYNPROXY" => Verdict::Unknown,
        other if GO_ON.contains(&other) => return None,
        chain if goto => Verdict::Goto(chain.to_owned()),
        chain => Verdict::Jump(chain.to_owned()),
    }))
}

fn addresses(text: &str) -> Values {
    let mut values = Values::default();
    for one in text.split(',') {
        match one.parse() {
            Ok(range) => values.addresses.push(range),
            Err(_) => values.others = true,
        }
    }
    values
}

fn link(text: &str) -> Values {
    let pattern = match text.strip_suffix('+') {
        Some(start) => format!("{start}*"),
        None => text.to_owned(),
    };
    Values {
        words: vec![pattern],
        ..Values::default()
    }
}

fn protocol(text: &str) -> Values {
    match text.parse() {
        Ok(number) => Values {
            numbers: vec![(number, number)],
            ..Values::default()
        },
        Err(_) => Values {
            words: vec![text.to_owned()],
            ..Values::default()
        },
    }
}

fn ports(text: &str) -> Values {
    let mut values = Values::default();
    for one in text.split(',') {
        let (first, last) = one.split_once(':').unwrap_or((one, one));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) => values.numbers.push((first, last)),
            _ => values.others = true,
        }
    }
    values
}

fn states(text: &str) -> Values {
    Values {
        words: text.split(',').map(str::to_ascii_lowercase).collect(),
        ..Values::default()
    }
}
