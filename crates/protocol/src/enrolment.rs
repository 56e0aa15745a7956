//! Joining the network, and what an agent says of itself afterwards.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
};
use weir_overlay::{Generation, NodeId, NodeName, NodePublicKey, Tag};

/// What an agent tells of its host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostInfo {
    /// What the host calls itself; the coordinator makes a unique node name of it.
    pub hostname: String,
    /// The agent's version.
    pub version: String,
    /// The operating system and kernel, for people: `Debian GNU/Linux 12, Linux 6.1.0`.
    #[serde(default)]
    pub os: String,
    /// The UDP port that its WireGuard listens on.
    pub listen_port: u16,
    /// The host's own unicast addresses. When the address that the coordinator sees is among
    /// them, the host is not behind NAT, and that address is its endpoint.
    #[serde(default)]
    pub addresses: BTreeSet<IpAddr>,
    /// The endpoint that the admin fixed with `--endpoint`.
    #[serde(default)]
    pub endpoint: Option<SocketAddr>,
    /// The routes it advertises.
    #[serde(default)]
    pub advertised_routes: BTreeSet<IpNet>,
}

/// Joins the network, or renews what the coordinator knows of a machine that already has. Signed
/// by the machine key that it enrols.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterRequest {
    /// The auth key's secret text. Not needed by a machine that is enrolled already.
    #[serde(default)]
    pub auth_key: Option<String>,
    /// The node's WireGuard key.
    pub node_key: NodePublicKey,
    /// Tags asked for; the auth key must carry them, or its user own them.
    #[serde(default)]
    pub tags: BTreeSet<Tag>,
    /// The host.
    pub host: HostInfo,
    /// Asks to be let in anew, though the machine is in: the auth key is used, and the time of the
    /// node's key begins again. What expired needs no such word.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reauthenticate: bool,
}

impl fmt::Debug for RegisterRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisterRequest")
            .field("auth_key", &self.auth_key.as_ref().map(|_| "[redacted]"))
            .field("node_key", &self.node_key)
            .field("tags", &self.tags)
            .field("host", &self.host)
            .field("reauthenticate", &self.reauthenticate)
            .finish()
    }
}

/// The machine is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterResponse {
    /// The node's id.
    pub node_id: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Its overlay addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Whether it was enrolled by this request (and not known before).
    pub enrolled: bool,
}

/// Tells what changed on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateRequest {
    /// The host as it is now.
    pub host: HostInfo,
}

/// Tells which map is in force on the host, and what could not be done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportRequest {
    /// The map that was applied.
    pub generation: Generation,
    /// What failed, item by item. Empty when all is as the map says.
    #[serde(default)]
    pub failures: Vec<ItemFailure>,
}

/// Leaves the network: the node of the machine that signs this is deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaveRequest {}

/// Says that the node goes down because somebody wants it to. An ephemeral one is deleted at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownRequest {}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownResponse {
    /// Whether the node was ephemeral, and is deleted.
    #[serde(default)]
    pub deleted: bool,
}

/// One thing that could not be done to the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemFailure {
    /// What was to be done: `add route 8.8.8.8/32`.
    pub item: String,
    /// Why it could not: `Operation not permitted (EPERM)`.
    pub reason: String,
}
