//! One thing to do to the kernel.

use ipnet::IpNet;
use std::{collections::BTreeSet, fmt, net::SocketAddr, sync::Arc};
use weir_overlay::NodePublicKey;

use crate::{
    DesiredDevice, PolicyRule, Route, RouteTarget, SysctlKey, WireguardBackend, firewall::Table,
};

/// A change to one peer. Never touches what it does not name: a session survives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerUpdate {
    /// The peer; made when it does not exist.
    pub key: NodePublicKey,
    /// Prefixes to add. The kernel takes each from the peer that had it, in the same operation.
    pub add_allowed_ips: BTreeSet<IpNet>,
    /// Prefixes to take away. No peer has them afterwards; never one that `add_allowed_ips` of the
    /// same step names.
    pub remove_allowed_ips: BTreeSet<IpNet>,
    /// A new endpoint; `None` leaves it, roamed ones too.
    pub endpoint: Option<SocketAddr>,
    /// A new keepalive, in seconds, 0 for none; `None` leaves it.
    pub keepalive: Option<u16>,
}

impl PeerUpdate {
    /// One that changes nothing, but that the peer exists.
    #[must_use]
    pub const fn of(key: NodePublicKey) -> Self {
        Self {
            key,
            add_allowed_ips: BTreeSet::new(),
            remove_allowed_ips: BTreeSet::new(),
            endpoint: None,
            keepalive: None,
        }
    }
}

/// One thing to do to the kernel. Adapters carry it out without choices of their own; doing a step
/// twice is the same as doing it once. (A firewall load is made for what was observed: the second
/// time it may fail, and changes nothing.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Load our firewall table, or change it: one transaction of those that it takes.
    LoadFirewall {
        /// A libnftables JSON document.
        ruleset: String,
        /// What it leaves, for the next change to be a difference; `None` where nobody knows.
        table: Option<Arc<Table>>,
        /// Whether it is a difference to what is loaded.
        difference: bool,
    },
    /// Remove our firewall table.
    DeleteFirewall,
    /// Forget connections whose mark has this value in the bits of `mask`.
    ForgetConnections {
        /// The value.
        mark: u32,
        /// The bits that count.
        mask: u32,
    },
    /// Make the link (for [`WireguardBackend::Userspace`]: start the process, wait until its
    /// control socket answers).
    CreateLink {
        /// Who carries its packets.
        backend: WireguardBackend,
        /// Its MTU, in bytes.
        mtu: u32,
    },
    /// Remove the link, and what is on it.
    DeleteLink,
    /// Set the link's MTU, in bytes.
    SetMtu(u32),
    /// Set the link up.
    SetLinkUp,
    /// Give the link an address.
    AddAddress(IpNet),
    /// Take an address from the link.
    RemoveAddress(IpNet),
    /// Set key, port and mark of the device, leaving its peers.
    ConfigureDevice(DesiredDevice),
    /// Remove peers.
    RemovePeers(BTreeSet<NodePublicKey>),
    /// Make and change peers.
    UpdatePeers(Vec<PeerUpdate>),
    /// Add or replace a route.
    AddRoute(Route),
    /// Remove a route.
    RemoveRoute(Route),
    /// Add a rule.
    AddRule(PolicyRule),
    /// Remove a rule.
    RemoveRule(PolicyRule),
    /// Set a kernel setting.
    SetSysctl {
        /// Which.
        key: SysctlKey,
        /// To what.
        value: String,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = |route: &Route| match route.target {
            RouteTarget::Link { .. } => "",
            RouteTarget::Unreachable => "unreachable ",
            RouteTarget::NextRule => "throw ",
        };
        match self {
            Self::LoadFirewall { difference, .. } => f.write_str(if *difference {
                "load the firewall table's changes"
            } else {
                "load the firewall table"
            }),
            Self::DeleteFirewall => f.write_str("remove the firewall table"),
            Self::ForgetConnections { mark, mask } => {
                write!(f, "forget connections marked {mark:#010x}/{mask:#010x}")
            }
            Self::CreateLink { backend, .. } => write!(f, "create the {backend} WireGuard link"),
            Self::DeleteLink => f.write_str("remove the link"),
            Self::SetMtu(mtu) => write!(f, "set the link's MTU to {mtu}"),
            Self::SetLinkUp => f.write_str("set the link up"),
            Self::AddAddress(address) => write!(f, "add address {address}"),
            Self::RemoveAddress(address) => write!(f, "remove address {address}"),
            Self::ConfigureDevice(device) => {
                write!(
                    f,
                    "set the WireGuard key and listen port {}",
                    device.listen_port
                )
            }
            Self::RemovePeers(keys) => write!(f, "remove {} peers", keys.len()),
            Self::UpdatePeers(updates) => write!(f, "update {} peers", updates.len()),
            Self::AddRoute(route) => {
                let (kind, to) = (kind(route), route.destination);
                write!(f, "add {kind}route {to} in table {}", route.table)
            }
            Self::RemoveRoute(route) => {
                let (kind, to) = (kind(route), route.destination);
                write!(f, "remove {kind}route {to} from table {}", route.table)
            }
            Self::AddRule(rule) => write!(f, "add {} rule {}", rule.family, rule.priority),
            Self::RemoveRule(rule) => {
                write!(f, "remove {} rule {}", rule.family, rule.priority)
            }
            Self::SetSysctl { key, value } => write!(f, "set {key} to {value}"),
        }
    }
}
