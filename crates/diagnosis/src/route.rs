//! Where the kernel sends a packet.

use ipnet::IpNet;
use std::net::IpAddr;

/// What the kernel answers when it is asked for the way to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteAnswer {
    /// It goes out.
    Out(RouteOut),
    /// It is for this host itself.
    Local,
    /// It goes nowhere; the kernel's words.
    Nowhere(String),
}

/// A way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteOut {
    /// The link.
    pub link: String,
    /// The next hop, when there is one.
    pub gateway: Option<IpAddr>,
    /// The source address that local programs get.
    pub source: Option<IpAddr>,
    /// The table that decided; none when the kernel does not tell.
    pub table: Option<u32>,
    /// The route that decided.
    pub matched: Option<IpNet>,
}

impl RouteAnswer {
    /// The way out, if there is one.
    #[must_use]
    pub const fn out(&self) -> Option<&RouteOut> {
        match self {
            Self::Out(out) => Some(out),
            Self::Local | Self::Nowhere(_) => None,
        }
    }
}

/// A routing rule, ours or not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleSeen {
    /// Lower ones are asked first.
    pub priority: u32,
    /// Whether it is for IPv4.
    pub ipv4: bool,
    /// The table it looks up; none when it does something else.
    pub table: Option<u32>,
}
