//! A packet of ours, and what a ruleset makes of it.

use std::{collections::BTreeSet, fmt, net::IpAddr};
use weir_protocol::IpProtocol;

use super::model::{
    Chain, Condition, Family, Field, Hook, Item, Manager, Rule, Table, Values, Verdict,
};

/// How deep the kernel lets chains call each other (`NFT_JUMP_STACK_SIZE`, netfilter/nf_tables.h).
const MAX_DEPTH: usize = 16;

/// A packet on its way by some hooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// What it is, for people: `from the tunnel to 8.8.8.8`.
    pub what: String,
    /// The hooks it comes by, in order.
    pub hooks: Vec<Hook>,
    /// The link it came by.
    pub input: Option<String>,
    /// The link it leaves by.
    pub output: Option<String>,
    /// Its source.
    pub source: IpAddr,
    /// Its destination.
    pub destination: IpAddr,
    /// Its protocol.
    pub protocol: IpProtocol,
    /// Its source port; none when it may be any.
    pub source_port: Option<u16>,
    /// Its destination port; none when it may be any.
    pub destination_port: Option<u16>,
    /// Whether it is the first of its connection; a reply otherwise.
    pub new: bool,
}

/// The place in somebody else's ruleset where a packet is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The family of the table.
    pub family: Family,
    /// The table.
    pub table: String,
    /// What it is managed with.
    pub manager: Manager,
    /// The base chain that the packet came in by.
    pub base: String,
    /// Where the kernel calls that chain.
    pub hook: Hook,
    /// The chain that drops it.
    pub chain: String,
    /// The rule: its number in the chain from 1 on, its handle and its text. `None` for the chain's
    /// policy.
    pub rule: Option<(usize, Option<u64>, Option<String>)>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "table {} {}, chain {}",
            self.family, self.table, self.chain
        )?;
        match &self.rule {
            None => f.write_str(", its policy"),
            Some((number, handle, text)) => {
                match handle {
                    Some(handle) => write!(f, ", rule {number} (handle {handle})")?,
                    None => write!(f, ", rule {number}")?,
                }
                match text {
                    Some(text) => write!(f, ": {text}"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// What a ruleset does to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It lets it pass.
    Passes,
    /// It drops it here.
    Drops(Place),
    /// It may drop it here: something on the way is not understood.
    MayDrop(Place),
}

/// What becomes of a packet in a chain.
enum Fate {
    Accepted,
    Dropped(usize, String),
    Returned,
}

struct Walk<'a> {
    table: &'a Table,
    packet: &'a Packet,
    /// Whether something that is not understood may have decided otherwise.
    in_doubt: bool,
    /// Where it may be dropped.
    doubtful: Option<(String, Option<usize>)>,
}

/// What these tables do to a packet. A drop that is certain is named before one that may be.
pub(super) fn judge(tables: &[Table], packet: &Packet) -> Judgement {
    let mut doubtful = None;
    for hook in &packet.hooks {
        let mut bases: Vec<_> = tables
            .iter()
            .filter(|table| table.family.sees(packet.source.is_ipv4()))
            .flat_map(|table| {
                let chains = table.chains.iter();
                chains.filter_map(move |(name, chain)| Some((table, name, chain.base?, chain)))
            })
            .filter(|(_, _, base, _)| base.hook == *hook)
            .collect();
        bases.sort_by_key(|(_, _, base, _)| base.priority);
        for (table, name, base, chain) in bases {
            let mut walk = Walk {
                table,
                packet,
                in_doubt: false,
                doubtful: None,
            };
            let dropped = match walk.chain(name, chain, 0) {
                Fate::Accepted => None,
                Fate::Dropped(number, chain) => Some((chain, Some(number))),
                Fate::Returned => base.drops.then(|| (name.clone(), None)),
            };
            let place = |(chain, number): (String, Option<usize>)| Place {
                family: table.family,
                table: table.name.clone(),
                manager: table.manager,
                base: name.clone(),
                hook: *hook,
                rule: number.map(|number| {
                    let rule = table
                        .chains
                        .get(&chain)
                        .and_then(|chain| chain.rules.get(number));
                    let (handle, text) = rule
                        .map(|rule| (rule.handle, rule.text.clone()))
                        .unwrap_or_default();
                    (number + 1, handle, text)
                }),
                chain,
            };
            match (dropped, walk.in_doubt) {
                (Some(at), false) => return Judgement::Drops(place(at)),
                (Some(at), true) => doubtful = doubtful.or(Some(place(at))),
                (None, _) => doubtful = doubtful.or(walk.doubtful.map(place)),
            }
        }
    }
    doubtful.map_or(Judgement::Passes, Judgement::MayDrop)
}

impl Walk<'_> {
    fn chain(&mut self, name: &str, chain: &Chain, depth: usize) -> Fate {
        for (number, rule) in chain.rules.iter().enumerate() {
            match self.rule(name, number, rule, depth) {
                Some(Fate::Returned) => return Fate::Returned,
                Some(fate) => return fate,
                None => {}
            }
        }
        Fate::Returned
    }

    /// What a rule decides; `None` when the next one is asked.
    fn rule(&mut self, name: &str, number: usize, rule: &Rule, depth: usize) -> Option<Fate> {
        let mut certain = true;
        for item in &rule.items {
            let verdict = match item {
                Item::Match(condition) => match self.packet.meets(condition) {
                    Some(true) => continue,
                    Some(false) => return None,
                    None => {
                        certain = false;
                        continue;
                    }
                },
                Item::Verdict(verdict) => verdict,
                Item::VerdictMap { field, entries } => {
                    let Some(entries) = entries else {
                        self.in_doubt = true;
                        return None;
                    };
                    let mut chosen = None;
                    for (values, verdict) in entries {
                        match self.packet.has(*field, values) {
                            Some(true) => {
                                chosen = Some(verdict);
                                break;
                            }
                            Some(false) => {}
                            None => self.in_doubt = true,
                        }
                    }
                    match chosen {
                        Some(verdict) => verdict,
                        None => continue,
                    }
                }
            };
            return self.verdict(verdict, name, number, certain, depth);
        }
        None
    }

    fn verdict(
        &mut self,
        verdict: &Verdict,
        name: &str,
        number: usize,
        certain: bool,
        depth: usize,
    ) -> Option<Fate> {
        let target = match verdict {
            Verdict::Accept if certain => return Some(Fate::Accepted),
            Verdict::Return if certain => return Some(Fate::Returned),
            Verdict::Drop if certain => return Some(Fate::Dropped(number, name.to_owned())),
            Verdict::Drop => {
                let place = (name.to_owned(), Some(number));
                self.doubtful.get_or_insert(place);
                return None;
            }
            Verdict::Accept | Verdict::Return | Verdict::Unknown => {
                self.in_doubt = true;
                return None;
            }
            Verdict::Jump(target) | Verdict::Goto(target) => target,
        };
        let Some(chain) = self.table.chains.get(target).filter(|_| depth < MAX_DEPTH) else {
            self.in_doubt = true;
            return None;
        };
        let fate = self.chain(target, chain, depth + 1);
        match (fate, certain) {
            (Fate::Returned, true) if matches!(verdict, Verdict::Goto(_)) => Some(Fate::Returned),
            (Fate::Returned, _) => None,
            (fate, true) => Some(fate),
            (Fate::Dropped(number, chain), false) => {
                self.doubtful.get_or_insert((chain, Some(number)));
                None
            }
            (Fate::Accepted, false) => {
                self.in_doubt = true;
                None
            }
        }
    }
}

impl Packet {
    /// Whether a condition holds; `None` when that is not known.
    fn meets(&self, condition: &Condition) -> Option<bool> {
        match condition {
            Condition::Unknown => None,
            Condition::Is {
                field,
                negated,
                values,
            } => match (self.has(*field, values), self.lacks(*field)) {
                // A field that a packet does not have makes the rule not apply, either way.
                (_, true) => Some(false),
                (found, false) => found.map(|found| found != *negated),
            },
        }
    }

    /// Whether the packet has no such field.
    fn lacks(&self, field: Field) -> bool {
        match field {
            Field::SourcePort(of) | Field::DestinationPort(of) => {
                !self.protocol.has_ports() || of.is_some_and(|of| of != self.protocol.0)
            }
            Field::InputLink
            | Field::OutputLink
            | Field::Source
            | Field::Destination
            | Field::Protocol
            | Field::NetworkFamily
            | Field::ConnectionState
            | Field::ConnectionStatus
            | Field::ConnectionDirection => false,
        }
    }

    fn has(&self, field: Field, values: &Values) -> Option<bool> {
        let found = match field {
            Field::InputLink => values.word(self.input.as_deref().unwrap_or_default()),
            Field::OutputLink => values.word(self.output.as_deref().unwrap_or_default()),
            Field::Source => values.address(self.source),
            Field::Destination => values.address(self.destination),
            Field::Protocol => {
                values.number(u64::from(self.protocol.0))
                    || values.names(&protocol_names(self.protocol))
            }
            Field::NetworkFamily => {
                let (number, name) = if self.source.is_ipv4() {
                    (2, "ipv4")
                } else {
                    (10, "ipv6")
                };
                values.number(number) || values.word(name)
            }
            Field::SourcePort(_) => values.port(self.source_port)?,
            Field::DestinationPort(_) => values.port(self.destination_port)?,
            Field::ConnectionState => values.word(if self.new { "new" } else { "established" }),
            // Destinations of ours are never translated; of other things that happen, more is not
            // known.
            Field::ConnectionStatus => {
                if values.words.iter().any(|word| word != "dnat") {
                    return None;
                }
                false
            }
            Field::ConnectionDirection => values.word(if self.new { "original" } else { "reply" }),
        };
        if !found && values.others {
            None
        } else {
            Some(found)
        }
    }
}

fn protocol_names(protocol: IpProtocol) -> BTreeSet<&'static str> {
    match protocol {
        IpProtocol::ICMP => ["icmp"].into(),
        IpProtocol::TCP => ["tcp"].into(),
        IpProtocol::UDP => ["udp"].into(),
        IpProtocol::ICMPV6 => ["icmpv6", "ipv6-icmp"].into(),
        IpProtocol::SCTP => ["sctp"].into(),
        IpProtocol(_) => BTreeSet::new(),
    }
}

impl Values {
    fn word(&self, word: &str) -> bool {
        self.words
            .iter()
            .any(|pattern| match pattern.strip_suffix('*') {
                Some(start) => word.starts_with(start),
                None => word == pattern,
            })
    }

    fn names(&self, names: &BTreeSet<&str>) -> bool {
        names.iter().any(|name| self.word(name))
    }

    fn address(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|range| range.contains(address))
    }

    fn number(&self, number: u64) -> bool {
        self.numbers
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&number))
    }

    /// As [`Self::number`]; a port that may be any is in all ports, and may be in some.
    fn port(&self, port: Option<u16>) -> Option<bool> {
        match port {
            Some(port) => Some(self.number(u64::from(port))),
            None if self.numbers.contains(&(0, u64::from(u16::MAX))) => Some(true),
            None => None,
        }
    }
}
