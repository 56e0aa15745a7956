//! A small nft: what a table's forward chain does with a packet.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::table::{Table, key};

/// Which way a packet goes, as connection tracking tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// As the connection's first packet.
    Original,
    /// As its answer.
    Reply,
}

/// A forwarded packet.
#[derive(Clone, Debug)]
pub struct ForwardedPacket {
    /// The link it came from.
    pub from_link: String,
    /// The link it goes to.
    pub to_link: String,
    /// Its source.
    pub source: IpAddr,
    /// Its destination.
    pub destination: IpAddr,
    /// Its protocol's number.
    pub protocol: u8,
    /// Its ports, for TCP, UDP and SCTP.
    pub ports: Option<(u16, u16)>,
    /// Its direction.
    pub direction: Direction,
    /// Its connection's mark; 0 for a new one.
    pub mark: u32,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Whether it passed.
    pub accepted: bool,
    /// The mark its connection has afterwards.
    pub mark: u32,
}

#[derive(Clone, Debug, PartialEq)]
enum Datum {
    Address(IpAddr),
    Number(u64),
    Text(String),
    Several(Vec<Self>),
}

enum Next {
    Rule,
    Chain,
    Return,
    Accept,
    Drop,
}

struct Walk<'a> {
    table: &'a Table,
    packet: &'a ForwardedPacket,
    mark: u32,
}

impl Table {
    /// What the chain `forward` does with a packet. Panics where it meets what it does not know: a
    /// test must not pass because of that.
    pub(super) fn judge(&self, packet: &ForwardedPacket) -> Judged {
        let mut walk = Walk {
            table: self,
            packet,
            mark: packet.mark,
        };
        let accepted = !matches!(walk.chain("forward"), Next::Drop);
        Judged {
            accepted,
            mark: walk.mark,
        }
    }
}

impl Walk<'_> {
    fn chain(&mut self, name: &str) -> Next {
        let table = self.table;
        for rule in table.rules_of(name) {
            match self.rule(rule) {
                Next::Rule => {}
                Next::Return | Next::Chain => return Next::Return,
                verdict @ (Next::Accept | Next::Drop) => return verdict,
            }
        }
        Next::Return
    }

    fn rule(&mut self, rule: &Value) -> Next {
        for statement in rule["expr"].as_array().into_iter().flatten() {
            let Some((kind, body)) = super::table::only_member(statement) else {
                panic!("not a statement: {statement}");
            };
            match kind {
                "match" => {
                    if !self.matches(body) {
                        return Next::Rule;
                    }
                }
                "mangle" => match self.value(&body["value"]) {
                    Some(Datum::Number(mark)) => {
                        self.mark = u32::try_from(mark).unwrap_or_default();
                    }
                    None => return Next::Rule,
                    Some(other) => panic!("a mark of {other:?}"),
                },
                "vmap" => {
                    let found = self.value(&body["key"]).and_then(|key| {
                        self.element(body["data"].as_str().unwrap_or_default(), &key)
                    });
                    let Some(verdict) = found else {
                        return Next::Rule;
                    };
                    return self.verdict(&verdict);
                }
                "counter" | "log" | "set" => {}
                _ => return self.verdict(statement),
            }
        }
        Next::Rule
    }

    fn verdict(&mut self, statement: &Value) -> Next {
        let Some((kind, body)) = super::table::only_member(statement) else {
            panic!("not a verdict: {statement}");
        };
        let target = body["target"].as_str().unwrap_or_default();
        match kind {
            "accept" => Next::Accept,
            "drop" => Next::Drop,
            "return" => Next::Return,
            "goto" => match self.chain(target) {
                Next::Return | Next::Rule | Next::Chain => Next::Chain,
                verdict @ (Next::Accept | Next::Drop) => verdict,
            },
            "jump" => match self.chain(target) {
                Next::Return | Next::Rule | Next::Chain => Next::Rule,
                verdict @ (Next::Accept | Next::Drop) => verdict,
            },
            _ => panic!("unknown statement: {statement}"),
        }
    }

    fn matches(&self, body: &Value) -> bool {
        let Some(left) = self.value(&body["left"]) else {
            return false;
        };
        let same = self.fits(&left, &body["right"]);
        match body["op"].as_str() {
            Some("==" | "in") => same,
            Some("!=") => !same,
            other => panic!("unknown operator {other:?}"),
        }
    }

    /// What an expression is for this packet; `None` where the packet has no such thing.
    fn value(&self, expression: &Value) -> Option<Datum> {
        if let Some(number) = expression.as_u64() {
            return Some(Datum::Number(number));
        }
        let (kind, body) = super::table::only_member(expression)?;
        let packet = self.packet;
        let text = |text: &str| Some(Datum::Text(text.to_owned()));
        match (kind, body["key"].as_str().or(body["field"].as_str())) {
            ("meta", Some("iifname")) => text(&packet.from_link),
            ("meta", Some("oifname")) => text(&packet.to_link),
            ("meta", Some("l4proto")) => Some(Datum::Number(packet.protocol.into())),
            ("meta", Some("nfproto")) => text(if packet.source.is_ipv4() {
                "ipv4"
            } else {
                "ipv6"
            }),
            ("ct", Some("mark")) => Some(Datum::Number(self.mark.into())),
            ("ct", Some("direction")) => text(match packet.direction {
                Direction::Original => "original",
                Direction::Reply => "reply",
            }),
            ("ct", Some("state")) => text(match packet.direction {
                Direction::Original => "new",
                Direction::Reply => "established",
            }),
            ("payload", Some(field)) => {
                let header = body["protocol"].as_str()?;
                if (header == "ip" && packet.source.is_ipv6())
                    || (header == "ip6" && packet.source.is_ipv4())
                {
                    return None;
                }
                match field {
                    "saddr" => Some(Datum::Address(packet.source)),
                    "daddr" => Some(Datum::Address(packet.destination)),
                    "sport" => Some(Datum::Number(packet.ports?.0.into())),
                    "dport" => Some(Datum::Number(packet.ports?.1.into())),
                    _ => panic!("unknown field {field}"),
                }
            }
            ("concat", _) => {
                let parts = body.as_array()?.iter().map(|part| self.value(part));
                Some(Datum::Several(parts.collect::<Option<_>>()?))
            }
            ("&" | "|", _) => {
                let (Datum::Number(one), Datum::Number(other)) =
                    (self.value(&body[0])?, self.value(&body[1])?)
                else {
                    panic!("bits of something else: {expression}");
                };
                Some(Datum::Number(if kind == "&" {
                    one & other
                } else {
                    one | other
                }))
            }
            ("map", _) => {
                let key = self.value(&body["key"])?;
                let found = self.element(body["data"].as_str()?, &key)?;
                Some(Datum::Number(found.as_u64()?))
            }
            _ => panic!("unknown expression: {expression}"),
        }
    }

    /// What a map has for a key.
    fn element(&self, map: &str, wanted: &Datum) -> Option<Value> {
        let elements = self.table.elements_of(map.strip_prefix('@')?);
        let found = elements.iter().find(|item| self.fits(wanted, key(item)))?;
        found.get(1).cloned()
    }

    fn fits(&self, value: &Datum, pattern: &Value) -> bool {
        if let Some(set) = pattern.as_str().and_then(|text| text.strip_prefix('@')) {
            let elements = self.table.elements_of(set);
            return elements.iter().any(|item| self.fits(value, key(item)));
        }
        match (value, pattern) {
            (Datum::Text(text), Value::String(pattern)) => text == pattern,
            (Datum::Address(address), Value::String(pattern)) => {
                pattern.parse() == Ok::<IpAddr, _>(*address)
            }
            (Datum::Number(number), Value::Number(pattern)) => pattern.as_u64() == Some(*number),
            (_, Value::Array(any)) => any.iter().any(|pattern| self.fits(value, pattern)),
            (_, Value::Object(_)) => self.fits_one_of(value, pattern),
            _ => panic!("cannot compare {value:?} with {pattern}"),
        }
    }

    fn fits_one_of(&self, value: &Datum, pattern: &Value) -> bool {
        let Some((kind, body)) = super::table::only_member(pattern) else {
            panic!("unknown pattern {pattern}");
        };
        match (kind, value) {
            ("set", _) => self.fits(value, body),
            ("prefix", Datum::Address(address)) => {
                let length = body["len"]
                    .as_u64()
                    .and_then(|length| u8::try_from(length).ok());
                let first: Option<IpAddr> = body["addr"].as_str().and_then(|at| at.parse().ok());
                let net = first
                    .zip(length)
                    .and_then(|(first, length)| IpNet::new(first, length).ok());
                net.is_some_and(|net| net.contains(address))
            }
            ("range", Datum::Address(address)) => {
                let end = |at: usize| body[at].as_str().and_then(|at| at.parse::<IpAddr>().ok());
                end(0) <= Some(*address) && Some(*address) <= end(1)
            }
            ("range", Datum::Number(number)) => {
                body[0].as_u64() <= Some(*number) && Some(*number) <= body[1].as_u64()
            }
            ("concat", Datum::Several(parts)) => {
                let patterns = body.as_array().map(Vec::as_slice).unwrap_or_default();
                parts.len() == patterns.len()
                    && parts
                        .iter()
                        .zip(patterns)
                        .all(|(part, pattern)| self.fits(part, pattern))
            }
            _ => panic!("cannot compare {value:?} with {pattern}"),
        }
    }
}
