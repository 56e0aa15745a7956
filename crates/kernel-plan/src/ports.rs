//! The calls that the reconciler makes on the kernel, and what it learns of the host.

use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::{IpAddr, SocketAddr},
};

use weir_protocol::IpProtocol;

use crate::{Change, LinkKind, ObservedState, Scope, Step};

/// Why the kernel did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation}: {reason}")]
pub struct KernelError {
    /// What was to be done, such as [`Step`]'s text or `read the routes`.
    pub operation: String,
    /// The kernel's (or nft's) own words, and what to do where that is known.
    pub reason: String,
    /// The error number, where there is one.
    pub errno: Option<i32>,
}

/// Packets and bytes counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// How many source ports an egress address has towards one destination: those that the kernel
/// gives connections from ports above 1023 (`nf_nat_l4proto_unique_tuple`: 1024 to 65535).
pub const NAT_PORTS: u32 = 64_512;

/// Source ports in use by connections that leave with one address for one destination. When
/// [`NAT_PORTS`] are, new connections there fail.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortUse {
    /// The address they leave with.
    pub egress: IpAddr,
    /// Their protocol.
    pub protocol: IpProtocol,
    /// Where they go.
    pub destination: SocketAddr,
    /// How many.
    pub ports: u32,
}

/// What is known of a link by our name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkFact {
    /// There is none.
    Absent,
    /// There is one.
    Present(LinkKind),
}

/// Whether our UDP port can be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortFact {
    /// It is free.
    Free,
    /// Another socket has it.
    Taken,
}

/// What `up` must know of the host before it changes anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// Whether this process may administer the network (`CAP_NET_ADMIN`).
    pub may_administer: bool,
    /// Whether the kernel has WireGuard.
    pub kernel_wireguard: bool,
    /// Whether `/dev/net/tun` can be opened.
    pub tun: bool,
    /// Whether IPv6 is enabled.
    pub ipv6: bool,
    /// The version that `nft --version` prints; the reason in words when it cannot be run.
    pub nft: Result<String, String>,
    /// The link by our name.
    pub link: LinkFact,
    /// The UDP port.
    pub port: PortFact,
    /// The host's unicast addresses, loopback, link-local and our own link's left out.
    pub addresses: BTreeSet<IpAddr>,
    /// Whether the forwarding settings can be written: the reason in words when not, by setting.
    pub unwritable_sysctls: BTreeMap<String, String>,
    /// Links that learn their IPv6 default route from router advertisements (`accept_ra` 1):
    /// turning forwarding on would stop that.
    pub autoconfigured_links: BTreeSet<String>,
    /// Links by name, with the addresses of the networks they are connected to.
    pub connected_networks: BTreeMap<String, Vec<ipnet::IpNet>>,
}

/// The kernel, as the reconciler sees it.
pub trait Kernel: Send + Sync {
    /// Reads what is ours, and the settings asked for. One consistent look is not possible; a
    /// change in between is seen by the next pass.
    ///
    /// # Errors
    /// [`KernelError`] naming what could not be read.
    fn observe(
        &self,
        scope: &Scope,
    ) -> impl Future<Output = Result<ObservedState, KernelError>> + Send;

    /// Carries out one step.
    ///
    /// # Errors
    /// [`KernelError`] naming the step.
    fn apply(
        &self,
        scope: &Scope,
        step: &Step,
    ) -> impl Future<Output = Result<(), KernelError>> + Send;

    /// Waits until the kernel says that something changed which may be ours, or until that is
    /// found by comparing where the kernel does not say so: a hint to look again. May wake for
    /// nothing, and for our own changes; safe to cancel.
    fn changed(&self) -> impl Future<Output = Change> + Send;

    /// Takes the hints that have come so far, without waiting for more. What they tell of happened
    /// before the next look, which sees it.
    fn pending_changes(&self) -> impl Future<Output = BTreeSet<Change>> + Send;
}
