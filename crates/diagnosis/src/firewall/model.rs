//! Other programs' rulesets, as far as they decide whether a packet passes.

use std::{collections::BTreeMap, fmt};
use weir_overlay::AddressRange;

/// The packets that a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Both.
    Inet,
}

impl Family {
    /// Whether packets of this kind come by.
    #[must_use]
    pub const fn sees(self, ipv4: bool) -> bool {
        match self {
            Self::Ip => ipv4,
            Self::Ip6 => !ipv4,
            Self::Inet => true,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
        })
    }
}

/// The program that a table is managed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Manager {
    /// `nft`, or a program that speaks to the kernel itself.
    Nft,
    /// `iptables` on top of nftables.
    IptablesNft,
    /// `iptables` as it was before nftables: nft does not see it.
    IptablesLegacy,
}

/// Where in the kernel a base chain is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// Everything that arrives, before it is routed.
    Prerouting,
    /// What is for this host.
    Input,
    /// What goes through this host.
    Forward,
    /// What this host sends.
    Output,
    /// Everything that leaves, after it is routed.
    Postrouting,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        })
    }
}

/// A table of somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: String,
    /// What it is managed with.
    pub manager: Manager,
    /// Its chains by name.
    pub chains: BTreeMap<String, Chain>,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where it is called, when the kernel calls it.
    pub base: Option<Base>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// How the kernel calls a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// Where.
    pub hook: Hook,
    /// Lower ones are called first.
    pub priority: i64,
    /// Whether what no rule decides is dropped.
    pub drops: bool,
}

/// A rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// The kernel's number of it, unique in its table; none in old iptables.
    pub handle: Option<u64>,
    /// Its text as its manager prints it, where that is known.
    pub text: Option<String>,
    /// What it does, in order.
    pub items: Vec<Item>,
}

/// A part of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// Goes on only where this holds.
    Match(Condition),
    /// Decides.
    Verdict(Verdict),
    /// Decides by what a field is; goes on where no value fits.
    VerdictMap {
        /// The field.
        field: Field,
        /// Values, and what follows from each; `None` when the map is not understood.
        entries: Option<Vec<(Values, Verdict)>>,
    },
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passes this base chain.
    Accept,
    /// It is gone, with or without an answer.
    Drop,
    /// Back to the chain that jumped here.
    Return,
    /// To another chain, and back.
    Jump(String),
    /// To another chain for good.
    Goto(String),
    /// Not known, as for a packet that is handed to a program.
    Unknown,
}

/// A property of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The name of the link it came by.
    InputLink,
    /// The name of the link it leaves by.
    OutputLink,
    /// The source address.
    Source,
    /// The destination address.
    Destination,
    /// The protocol above IP.
    Protocol,
    /// The family: 2 for IPv4, 10 for IPv6 (`NFPROTO_*`).
    NetworkFamily,
    /// The source port, of a packet of this protocol; of any with ports without one.
    SourcePort(Option<u8>),
    /// The destination port.
    DestinationPort(Option<u8>),
    /// The state of its connection, such as `new`.
    ConnectionState,
    /// What happened to its connection, such as `dnat`.
    ConnectionStatus,
    /// The direction in its connection: `original` or `reply`.
    ConnectionDirection,
}

/// Values that a field may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values {
    /// Words; a `*` at the end stands for anything.
    pub words: Vec<String>,
    /// Addresses.
    pub addresses: Vec<AddressRange>,
    /// Numbers, both ends included.
    pub numbers: Vec<(u64, u64)>,
    /// Whether there are others, which are not understood.
    pub others: bool,
}

/// A condition of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// A field has (or, negated, has not) one of these values.
    Is {
        /// The field.
        field: Field,
        /// Whether it must have none of them.
        negated: bool,
        /// The values.
        values: Values,
    },
    /// One that is not understood: it may hold or not.
    Unknown,
}
