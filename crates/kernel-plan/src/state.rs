//! Desired and observed kernel state.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};
use weir_overlay::{InterfaceName, NodePrivateKey, NodePublicKey};

use crate::{
    DEFAULT_MTU, MAX_MTU, MIN_MTU, WIREGUARD_OVERHEAD,
    firewall::{DesiredFirewall, ObservedFirewall},
};

/// Who carries WireGuard's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WireguardBackend {
    /// The kernel's own WireGuard.
    Kernel,
    /// A userspace process with a TUN device, where the kernel has none.
    Userspace,
}

impl fmt::Display for WireguardBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Userspace => "userspace",
        })
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpFamily {
    /// The family of a prefix.
    #[must_use]
    pub const fn of(prefix: &IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }
}

/// The MTU of the link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkMtu {
    /// What the paths to the peers carry, less what WireGuard adds.
    #[default]
    FromPath,
    /// This one, in bytes.
    Fixed(u32),
}

impl LinkMtu {
    /// In bytes, for paths that carry `path` bytes; [`DEFAULT_MTU`] while no path is known.
    #[must_use]
    pub fn bytes(self, path: Option<u32>) -> u32 {
        match (self, path) {
            (Self::Fixed(bytes), _) => bytes,
            (Self::FromPath, Some(path)) => path
                .saturating_sub(WIREGUARD_OVERHEAD)
                .clamp(MIN_MTU, MAX_MTU),
            (Self::FromPath, None) => DEFAULT_MTU,
        }
    }
}

impl fmt::Display for IpFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The link as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredLink {
    /// Its name.
    pub name: InterfaceName,
    /// Who carries its packets.
    pub backend: WireguardBackend,
    /// Its MTU.
    pub mtu: LinkMtu,
    /// Its addresses, each as a host prefix (`/32`, `/128`): the overlay is reached by routes of
    /// ours, not by what the kernel derives from an address.
    pub addresses: BTreeSet<IpNet>,
}

/// The WireGuard device as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredDevice {
    /// The node's private key.
    pub private_key: NodePrivateKey,
    /// The UDP port it listens on.
    pub listen_port: u16,
    /// The mark on its encrypted packets.
    pub firewall_mark: u32,
}

/// A peer as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredPeer {
    /// What may come from it and is sent to it.
    pub allowed_ips: BTreeSet<IpNet>,
    /// Where it can be reached, when that is fixed.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between keepalives; `None` for none.
    pub keepalive: Option<u16>,
}

/// Where a route of ours leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteTarget {
    /// Through the link.
    Link {
        /// The source address that local programs get: our overlay address of that family.
        source: Option<IpAddr>,
    },
    /// Nowhere: what finds no better route of the same table is refused (`unreachable`). It bears
    /// [`BACKSTOP_METRIC`](crate::BACKSTOP_METRIC), and it does not go with the link.
    Unreachable,
    /// Out of this table: the rules after the one that led here decide (`throw`).
    NextRule,
}

/// A route of ours, with our protocol number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Route {
    /// The table.
    pub table: u32,
    /// Where to.
    pub destination: IpNet,
    /// What becomes of a packet that goes there.
    pub target: RouteTarget,
}

impl Route {
    /// Whether the kernel removes it together with our link.
    #[must_use]
    pub const fn goes_with_the_link(&self) -> bool {
        matches!(self.target, RouteTarget::Link { .. })
    }

    /// Whether the kernel can hold only one of the two: adding one replaces the other.
    #[must_use]
    pub fn has_the_place_of(&self, other: &Self) -> bool {
        let is_backstop = |route: &Self| route.target == RouteTarget::Unreachable;
        (self.table, self.destination) == (other.table, other.destination)
            && is_backstop(self) == is_backstop(other)
    }
}

/// A routing rule of ours: its priority lies in our band. Packets with the tunnel's mark are
/// never looked up by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PolicyRule {
    /// The priority, within our band.
    pub priority: u32,
    /// For IPv4 or IPv6 packets.
    pub family: IpFamily,
    /// The table to look up.
    pub table: u32,
    /// Pass over routes of this prefix length or shorter (`suppress_prefixlength`): 0 leaves the
    /// table's default route out.
    pub suppress_prefix_length: Option<u32>,
}

/// A kernel setting, as in `/proc/sys` with `/` for the dots of interface names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SysctlKey(pub String);

impl SysctlKey {
    /// `net/ipv4/ip_forward`.
    #[must_use]
    pub fn ipv4_forwarding() -> Self {
        Self("net/ipv4/ip_forward".to_owned())
    }

    /// `net/ipv6/conf/all/forwarding`.
    #[must_use]
    pub fn ipv6_forwarding() -> Self {
        Self("net/ipv6/conf/all/forwarding".to_owned())
    }

    /// `net/ipv4/conf/all/src_valid_mark`: whether the check of a packet's source heeds its mark.
    #[must_use]
    pub fn validate_marks() -> Self {
        Self("net/ipv4/conf/all/src_valid_mark".to_owned())
    }

    /// `net/ipv6/conf/LINK/accept_ra`.
    #[must_use]
    pub fn accept_router_advertisements(link: &str) -> Self {
        Self(format!("net/ipv6/conf/{link}/accept_ra"))
    }
}

impl fmt::Display for SysctlKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The kernel as it should be: only what is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredState {
    /// The link.
    pub link: DesiredLink,
    /// The WireGuard device on it.
    pub device: DesiredDevice,
    /// Its peers.
    pub peers: BTreeMap<NodePublicKey, DesiredPeer>,
    /// Our routes.
    pub routes: BTreeSet<Route>,
    /// Our rules.
    pub rules: BTreeSet<PolicyRule>,
    /// Settings we need, and their values.
    pub sysctls: BTreeMap<SysctlKey, String>,
    /// The firewall.
    pub firewall: DesiredFirewall,
}

/// What an adapter is asked to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Our link's name.
    pub interface: InterfaceName,
    /// The settings to read.
    pub sysctls: BTreeSet<SysctlKey>,
    /// The addresses whose paths count for the link's MTU; none when it is fixed.
    pub paths: BTreeSet<IpAddr>,
}

/// What kind of link bears our name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkKind {
    /// The kernel's WireGuard.
    Wireguard,
    /// A TUN device: of our userspace WireGuard when it answers on its control socket.
    Tun,
    /// Anything else: not ours.
    Other(String),
}

/// The link as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedLink {
    /// Its kind.
    pub kind: LinkKind,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Its addresses, link-local ones left out.
    pub addresses: BTreeSet<IpNet>,
}

/// A peer as it is. Several parts of one peer that the kernel sent are one here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedPeer {
    /// What may come from it and is sent to it.
    pub allowed_ips: BTreeSet<IpNet>,
    /// Where it was last heard, or was told to be.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between keepalives; `None` for none.
    pub keepalive: Option<u16>,
    /// Seconds since the last handshake; `None` when there was none.
    pub handshake_age: Option<u64>,
    /// Bytes received from it.
    pub received_bytes: u64,
    /// Bytes sent to it.
    pub sent_bytes: u64,
}

/// The WireGuard device as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedDevice {
    /// The public half of its key; `None` when it has no key.
    pub public_key: Option<NodePublicKey>,
    /// The UDP port it listens on.
    pub listen_port: u16,
    /// The mark on its encrypted packets.
    pub firewall_mark: u32,
    /// Its peers.
    pub peers: BTreeMap<NodePublicKey, ObservedPeer>,
}

/// The kernel as it is: only what is ours, and the settings asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedState {
    /// The link that bears our name, if any.
    pub link: Option<ObservedLink>,
    /// The WireGuard device on it, when it is one.
    pub device: Option<ObservedDevice>,
    /// Routes with our protocol number, in any table.
    pub routes: BTreeSet<Route>,
    /// Rules with a priority in our band.
    pub rules: BTreeSet<PolicyRule>,
    /// The settings asked for; `None` for those that this kernel does not have.
    pub sysctls: BTreeMap<SysctlKey, Option<String>>,
    /// Our table, if it is there.
    pub firewall: Option<ObservedFirewall>,
    /// The smallest MTU among the paths asked for, in bytes; `None` when there is none of them.
    pub path_mtu: Option<u32>,
}
