//! The firewall: from grants to one nftables table, and from a listing of it back.

mod change;
mod classes;
mod document;
mod extent;
mod listing;
mod narrow;
mod nat;
mod numbering;
mod ruleset;
mod stages;
mod table;
mod transaction;
mod whole;

pub use change::{FirewallChange, FullLoad, Stage, change, removal};
pub use listing::TableParts;
pub use ruleset::{DENIED_HOST, DENIED_RELAY, DENIED_SPOOFED, DENIED_TO_OVERLAY, GRANTED};
pub use table::Table;

use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};
use weir_overlay::AddressSet;
use weir_protocol::{Grant, RouteEgress};

use crate::Counter;

/// How the source address of forwarded traffic is translated on its way out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceTranslation {
    /// Whether private subnets see the relay's address (`--snat-subnet-routes`). Public
    /// destinations always do: their answers would not come back otherwise.
    pub subnets: bool,
    /// The fixed IPv4 and IPv6 source addresses (`--egress-ip`), one of each family at most;
    /// the address of the outgoing link (masquerade) where there is none.
    pub egress: BTreeSet<IpAddr>,
    /// What single routes say instead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteEgress>,
}

impl Default for SourceTranslation {
    /// Everybody outside sees the address of the outgoing link: what a node does whom nobody told
    /// otherwise.
    fn default() -> Self {
        Self {
            subnets: true,
            egress: BTreeSet::new(),
            routes: Vec::new(),
        }
    }
}

/// What the firewall should say. The default is that of a node without grants and routes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredFirewall {
    /// The node's own overlay addresses.
    pub own_addresses: AddressSet,
    /// What this node relays to: approved routes that it advertises, default routes left out.
    pub served: AddressSet,
    /// Whether it relays to the whole internet as well.
    pub exit: bool,
    /// The grants of its packet filter, in policy order.
    pub grants: Vec<Grant>,
    /// Source translation of what it relays.
    pub translation: SourceTranslation,
    /// The UDP port at which encrypted packets arrive, on a node with routing rules: they get the
    /// tunnel's mark, so that a check of their source (`rp_filter`) asks for the way that the
    /// answers take, which is not the tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel_port: Option<u16>,
    /// What this node reaches through relays: public prefixes, looked up before `main`. A resolver
    /// that binds its packets to the interface of a host route (`IP_UNICAST_IF`, as
    /// systemd-resolved does) would pass the tunnel by; its packets are routed again.
    #[serde(default, skip_serializing_if = "AddressSet::is_empty")]
    pub relayed: AddressSet,
}

/// What this agent loaded last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// What was asked for.
    pub firewall: DesiredFirewall,
    /// The table it became; `None` when an earlier process of this agent loaded it.
    pub table: Option<Arc<Table>>,
}

impl From<DesiredFirewall> for InForce {
    fn from(firewall: DesiredFirewall) -> Self {
        Self {
            firewall,
            table: None,
        }
    }
}

/// Our table as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedFirewall {
    /// The fingerprint that the table carries of what it was loaded from; `None` when it carries
    /// none or does not look as that load left it.
    pub fingerprint: Option<String>,
    /// The firewall generation that marks connections now; 0 when unknown.
    pub generation: u16,
    /// Its chains.
    pub chains: BTreeSet<String>,
    /// Its sets and maps: names, and whether each is a map.
    pub sets: BTreeMap<String, bool>,
    /// Its named counters.
    pub counters: BTreeMap<String, Counter>,
}
