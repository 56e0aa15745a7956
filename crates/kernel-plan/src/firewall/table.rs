//! Our table as data: chains of rules, and sets and maps with their elements. What is compiled, and
//! what two of are compared.

use nftables::{
    schema::SetType,
    types::{NfChainType, NfHook},
};
use std::{collections::BTreeMap, fmt, sync::Arc};
use weir_overlay::{AddressRange, GrantId};
use weir_protocol::{IpProtocol, PortRange};

use super::document::Stmt;

/// What an element is found by. Each set uses the parts that its type has, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) source: Option<AddressRange>,
    pub(super) destination: Option<AddressRange>,
    pub(super) protocol: Option<IpProtocol>,
    pub(super) ports: Option<PortRange>,
    pub(super) grant: Option<GrantId>,
}

/// What an element says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// That it is there.
    Present,
    /// The grant that allows it, for the connection's mark.
    Grant(GrantId),
    /// The class of a source: its chain.
    Class(u32),
    /// The chain that gives a connection its source address.
    Translation(u32),
    /// Where the policy says so.
    Comment(Arc<str>),
}

/// What a set holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Stretches of addresses.
    Addresses(SetType),
    /// The grants in force, with comments: the legend of the marks in the maps.
    Legend,
    /// From a key to the mark of the grant that allows it.
    Marks {
        key: &'static [SetType],
        interval: bool,
    },
    /// From a source to the chain of its class.
    Classes { key: SetType, interval: bool },
    /// Filled by rules, as packets come; at most so many elements.
    Dynamic { key: SetType, size: u32 },
}

impl Shape {
    /// Whether the kernel, and not we, says what is in it.
    pub(super) const fn is_dynamic(self) -> bool {
        matches!(self, Self::Dynamic { .. })
    }

    pub(super) const fn is_map(self) -> bool {
        matches!(self, Self::Marks { .. } | Self::Classes { .. })
    }
}

/// A set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) shape: Shape,
    /// Sorted by key, each key once.
    pub(super) elements: Vec<(Key, Value)>,
}

/// Where a base chain hooks in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hook {
    pub(super) kind: NfChainType,
    pub(super) hook: NfHook,
    pub(super) priority: i32,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    /// For base chains.
    pub(super) hook: Option<Hook>,
    pub(super) rules: Vec<Vec<Stmt>>,
}

/// How sets are named: a table that takes the place of another whole has names of its own, so that
/// both are there while one leads to the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Bank {
    #[default]
    First,
    Second,
}

impl Bank {
    /// How names of sets of the two families end.
    pub(super) const fn suffixes(self) -> [&'static str; 2] {
        match self {
            Self::First => ["4", "6"],
            Self::Second => ["4b", "6b"],
        }
    }

    /// Whether a set's name is one of this bank's.
    pub(super) fn has(self, name: &str) -> bool {
        let ends = self.suffixes().iter().any(|suffix| name.ends_with(suffix));
        ends && !name.starts_with(LOG_PREFIX)
    }
}

/// How names of sets begin that rules fill, for log lines.
pub(super) const LOG_PREFIX: &str = "log_";

/// A compiled firewall: what our table holds, or shall hold.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Table {
    pub(super) fingerprint: String,
    pub(super) generation: u16,
    pub(super) bank: Bank,
    /// Names the grants that the classes were made of: see
    /// [`fingerprint_of_grants`](super::extent::fingerprint_of_grants).
    pub(super) classes: String,
    /// Like the sets, shared with the tables before and after, where nothing changed.
    pub(super) chains: BTreeMap<String, Arc<Chain>>,
    pub(super) sets: BTreeMap<String, Arc<Set>>,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("fingerprint", &self.fingerprint)
            .field("generation", &self.generation)
            .field("rules", &self.rules())
            .field("elements", &self.elements())
            .finish_non_exhaustive()
    }
}

impl Table {
    /// What it was made from: see [`DesiredFirewall::fingerprint`](super::DesiredFirewall::fingerprint).
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The same of the firewall that is in force with it: its own, or that which it is on the way
    /// from.
    #[must_use]
    pub fn in_force(&self) -> &str {
        super::listing::in_force(&self.fingerprint)
    }

    /// The firewall generation that it marks connections with.
    #[must_use]
    pub const fn generation(&self) -> u16 {
        self.generation
    }

    /// How many rules it has.
    #[must_use]
    pub fn rules(&self) -> usize {
        self.chains.values().map(|chain| chain.rules.len()).sum()
    }

    /// How many set elements it has, those that rules add left out.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.sets.values().map(|set| set.elements.len()).sum()
    }

    pub(super) fn base_chain(
        &mut self,
        name: &str,
        kind: NfChainType,
        hook: NfHook,
        priority: i32,
    ) {
        let chain = self.chains.entry(name.to_owned()).or_default();
        Arc::make_mut(chain).hook = Some(Hook {
            kind,
            hook,
            priority,
        });
    }

    pub(super) fn chain(&mut self, name: &str) {
        self.chains.entry(name.to_owned()).or_default();
    }

    pub(super) fn rule(&mut self, chain: &str, rule: Vec<Stmt>) {
        let chain = self.chains.entry(chain.to_owned()).or_default();
        Arc::make_mut(chain).rules.push(rule);
    }

    /// A set; of elements with the same key the first stays.
    pub(super) fn set(&mut self, name: &str, shape: Shape, mut elements: Vec<(Key, Value)>) {
        elements.sort_by_key(|(key, _)| *key);
        elements.dedup_by_key(|(key, _)| *key);
        let set = Arc::new(Set { shape, elements });
        self.sets.insert(name.to_owned(), set);
    }

    /// A set of address stretches of one family.
    pub(super) fn interval_set(&mut self, name: &str, key: SetType, ranges: &[AddressRange]) {
        let element = |range: &AddressRange| {
            let key = Key {
                source: Some(*range),
                ..Key::default()
            };
            (key, Value::Present)
        };
        let elements = ranges.iter().map(element).collect();
        self.set(name, Shape::Addresses(key), elements);
    }

    pub(super) fn dynamic_set(&mut self, name: &str, key: SetType, size: u32) {
        self.set(name, Shape::Dynamic { key, size }, Vec::new());
    }
}
