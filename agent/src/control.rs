//! What the commands and the daemon say to each other over the unix socket: one JSON object a
//! line each way.
//!
//! Pure. `--json` prints these same objects, so their field names are an interface.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};
use weir_diagnosis::{Checks, Target, TracedPacket};
use weir_kernel_plan::{Counter, WireguardBackend};
use weir_overlay::{Generation, InterfaceName, NodeName, NodePublicKey, Tag, TrafficClass};
use weir_protocol::{ItemFailure, Pin, RouteState, RouteStatus};

use crate::{secret::SecretText, settings::Change};

/// The version of this conversation.
pub(crate) const VERSION: u32 = 1;
/// The longest request line, in bytes.
pub(crate) const MAX_REQUEST: usize = 1 << 20;
/// The longest answer line, in bytes: a status with ten thousand peers takes a tenth of it.
pub(crate) const MAX_RESPONSE: usize = 64 << 20;

/// A request or an answer with its version.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Envelope<T> {
    /// The version of the conversation.
    pub(crate) version: u32,
    /// The agent's version, for people.
    pub(crate) agent: String,
    /// The request or answer.
    pub(crate) body: T,
}

impl<T> Envelope<T> {
    /// Wraps a body.
    pub(crate) fn new(body: T) -> Self {
        Self {
            version: VERSION,
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            body,
        }
    }
}

/// Only the version of an envelope, whatever is in it.
#[derive(Debug, Deserialize)]
pub(crate) struct AnyEnvelope {
    /// The version of the conversation.
    pub(crate) version: u32,
    /// The agent's version, for people.
    #[serde(default)]
    pub(crate) agent: String,
}

/// What a command asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request {
    /// Go up, or change the settings while up.
    Up(Box<UpRequest>),
    /// Change settings, up or down.
    Set(Box<UpRequest>),
    /// Go down.
    Down {
        /// How long it may take, in seconds.
        timeout: Option<u64>,
    },
    /// Say how things stand.
    Status,
    /// Say which version the daemon is.
    Version,
    /// Leave the network for good.
    Logout {
        /// Whether the coordinator need not hear of it.
        force: bool,
    },
    /// Give the node another WireGuard key.
    RotateKey,
    /// Say whether the host is fit to take part.
    Doctor,
    /// Say why a connection passes, or where it stops.
    Explain(Box<ExplainRequest>),
}

/// What `explain` asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExplainRequest {
    /// Where the connection would go to.
    pub(crate) target: Target,
    /// The node that opens it, by name or address; this one when there is none.
    pub(crate) from: Option<String>,
    /// How long to wait for a real packet to follow, in seconds.
    #[serde(default)]
    pub(crate) trace: Option<u64>,
}

/// What `up` and `set` ask.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UpRequest {
    /// The settings mentioned.
    pub(crate) change: Change,
    /// The auth key given.
    pub(crate) auth_key: Option<SecretText>,
    /// The coordinator's pin.
    #[serde(default)]
    pub(crate) pin: Option<Pin>,
    /// How long it may take, in seconds.
    pub(crate) timeout: Option<u64>,
    /// Whether the machine is to be let in again, though it is in.
    #[serde(default)]
    pub(crate) reauthenticate: bool,
    /// Whether settings left out go back to their defaults.
    pub(crate) reset: bool,
    /// Whether routes that would cut something off are taken all the same.
    pub(crate) force: bool,
}

/// What the daemon answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Response {
    /// It is up.
    Up(Box<UpReport>),
    /// Saved; it is down and stays so.
    Saved,
    /// An admin is to let this machine in first. Nothing of the host was changed, and it goes up by
    /// itself then.
    Waiting(ApprovalReport),
    /// It is down.
    Down(DownReport),
    /// How things stand.
    Status(Box<StatusReport>),
    /// The daemon's version.
    Version {
        /// Such as `0.1.0`.
        version: String,
    },
    /// It left the network.
    LoggedOut(LogoutReport),
    /// The node has another WireGuard key.
    KeyRotated(RotateReport),
    /// Whether the host is fit to take part.
    Doctor(Checks),
    /// Why a connection passes, or where it stops.
    Explained(Box<ExplainReport>),
    /// No: what is wrong and what to do. Nothing was changed, unless it says so.
    Refused {
        /// Sentences for a person, one a line.
        message: String,
    },
}

/// What `up` did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UpReport {
    /// The node's name.
    pub(crate) name: NodeName,
    /// Its overlay addresses.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Where the coordinator is.
    pub(crate) coordinator: String,
    /// Whether this machine was new to the coordinator.
    pub(crate) enrolled: bool,
    /// The WireGuard in use.
    pub(crate) wireguard: WireguardReport,
    /// What was done to the host, a sentence each.
    pub(crate) host: Vec<String>,
    /// The routes it advertises.
    pub(crate) routes: Vec<RouteStatus>,
    /// What the coordinator wants to be known.
    pub(crate) notices: Vec<String>,
    /// What could not be done, and is tried again.
    pub(crate) failures: Vec<ItemFailure>,
}

/// What an admin was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ApprovalReport {
    /// How it stands.
    pub(crate) state: ApprovalState,
    /// Where an admin decides; empty while that is not known again after a restart.
    pub(crate) url: String,
    /// What the admin knows this machine's key by.
    pub(crate) fingerprint: String,
    /// Until when an admin can decide, in seconds since 1970.
    pub(crate) until: i64,
    /// Why it cannot be asked how it stands, or why it ended.
    pub(crate) problem: Option<String>,
}

/// How it stands with what an admin was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ApprovalState {
    /// Nobody has decided.
    Waiting,
    /// An admin said no.
    Denied,
    /// Nobody decided in time.
    Expired,
    /// It was not possible to go up, or to wait on.
    Failed,
}

/// Which WireGuard carries the packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireguardReport {
    /// The kernel's, or the userspace process.
    pub(crate) backend: WireguardBackend,
    /// Why it is not the kernel's.
    pub(crate) reason: Option<String>,
    /// The interface.
    pub(crate) interface: InterfaceName,
    /// The UDP port.
    pub(crate) listen_port: u16,
    /// The interface's MTU in bytes, once it was seen.
    pub(crate) mtu: Option<u32>,
    /// The node's public key.
    pub(crate) public_key: NodePublicKey,
}

/// What `down` did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DownReport {
    /// Whether there was nothing to do.
    pub(crate) was_down: bool,
    /// Whether the node was ephemeral, and the coordinator has deleted it.
    #[serde(default)]
    pub(crate) deleted: bool,
    /// What was done to the host, in words.
    pub(crate) steps: Vec<String>,
    /// What could not be done, and is tried again.
    pub(crate) failures: Vec<ItemFailure>,
}

/// What `logout` did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogoutReport {
    /// The coordinator that it left.
    pub(crate) coordinator: String,
    /// Why the coordinator was not told; none when it was, or knew it already.
    pub(crate) untold: Option<String>,
}

/// What `rotate-key` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RotateReport {
    /// The public key that the node had.
    pub(crate) before: NodePublicKey,
    /// The one that it has.
    pub(crate) after: NodePublicKey,
}

/// Whether the node takes part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum NodeState {
    /// It does.
    Up,
    /// It is on its way down.
    GoingDown,
    /// It does not.
    #[default]
    Down,
}

/// How things stand.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct StatusReport {
    /// The daemon's version.
    pub(crate) version: String,
    /// Up or down.
    pub(crate) state: NodeState,
    /// The node, once it was told what it is.
    pub(crate) node: Option<NodeReport>,
    /// The coordinator, once there is one.
    pub(crate) coordinator: Option<CoordinatorReport>,
    /// What an admin was asked, while this machine is not let in, or how that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) approval: Option<ApprovalReport>,
    /// The maps.
    pub(crate) map: MapReport,
    /// The WireGuard in use, when up.
    pub(crate) wireguard: Option<WireguardReport>,
    /// The other nodes that this one may talk to or hear from, by name.
    pub(crate) peers: Vec<PeerReport>,
    /// The routes it advertises.
    pub(crate) advertised: Vec<RouteStatus>,
    /// The routes of others that it uses, and those it could use.
    pub(crate) available: Vec<AvailableRoute>,
    /// The firewall's counters, by name.
    pub(crate) counters: BTreeMap<String, Counter>,
    /// The source ports in use on a relay, by egress address and destination: the most first, and
    /// not more than twenty.
    pub(crate) ports: Vec<PortReport>,
    /// What the reconciler did since the daemon started.
    pub(crate) reconciler: weir_reconcile::Counters,
    /// The exit that was chosen with `--exit-node`.
    pub(crate) exit_node: Option<ExitReport>,
    /// What somebody else changed and the reconciler put back, the newest last: the last ones.
    #[serde(default)]
    pub(crate) repairs: Vec<weir_reconcile::Repair>,
    /// What the coordinator wants to be known.
    pub(crate) notices: Vec<String>,
    /// What this host itself sees to be wrong.
    pub(crate) warnings: Vec<String>,
    /// What could not be done, and is tried again.
    pub(crate) failures: Vec<ItemFailure>,
}

/// The source ports that connections take which leave with one address for one destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PortReport {
    /// The address they leave with.
    pub(crate) egress: IpAddr,
    /// `tcp`, `udp` or `sctp`.
    pub(crate) protocol: String,
    /// Where they go.
    pub(crate) destination: SocketAddr,
    /// How many are in use.
    pub(crate) ports: u32,
    /// How many there are.
    pub(crate) available: u32,
}

/// The exit that was chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExitReport {
    /// As it was named: a node's name or overlay address.
    pub(crate) name: String,
    /// Whether the network map has it. While it does not, internet traffic is refused.
    pub(crate) available: bool,
    /// Whether directly connected networks are reached directly.
    pub(crate) lan_access: bool,
}

/// The node itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeReport {
    /// Its name.
    pub(crate) name: NodeName,
    /// The user who owns it.
    pub(crate) user: Option<String>,
    /// Its tags.
    pub(crate) tags: BTreeSet<Tag>,
    /// Its overlay addresses.
    pub(crate) addresses: BTreeSet<IpAddr>,
}

/// The connection to the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CoordinatorReport {
    /// Where it is.
    pub(crate) url: String,
    /// Whether its map stream is open.
    pub(crate) connected: bool,
    /// Why not, when it is known.
    pub(crate) problem: Option<String>,
}

/// Which map the node holds, and which one the kernel conforms to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MapReport {
    /// The map held.
    pub(crate) held: Option<Generation>,
    /// The map that the kernel conforms to.
    pub(crate) applied: Option<Generation>,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PeerReport {
    /// Its name.
    pub(crate) name: NodeName,
    /// The user who owns it.
    pub(crate) user: Option<String>,
    /// Its tags.
    pub(crate) tags: BTreeSet<Tag>,
    /// Its overlay addresses.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Its WireGuard key.
    pub(crate) public_key: NodePublicKey,
    /// Where its packets come from or go to.
    pub(crate) endpoint: Option<SocketAddr>,
    /// Seconds since the last handshake; none when there was none.
    pub(crate) handshake_age: Option<u64>,
    /// Bytes received from it.
    pub(crate) received_bytes: u64,
    /// Bytes sent to it.
    pub(crate) sent_bytes: u64,
    /// The routes it serves that this node may use.
    pub(crate) routes: BTreeSet<IpNet>,
}

/// A route of another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AvailableRoute {
    /// The destination.
    pub(crate) prefix: IpNet,
    /// What kind of traffic takes it.
    pub(crate) class: TrafficClass,
    /// The node that serves it.
    pub(crate) via: NodeName,
    /// What this host does with it.
    #[serde(rename = "use")]
    pub(crate) usage: RouteUse,
}

/// What this host does with a route of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RouteUse {
    /// It is in the kernel's tables.
    Installed,
    /// It should be, and is not (yet).
    Missing,
    /// It is not taken: `--accept-routes=false`, or another exit node, or none.
    NotAccepted,
}

/// Why a connection passes, or where it stops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExplainReport {
    /// The node that opens it, as it is named.
    pub(crate) from: String,
    /// Where it goes to, as it was asked.
    pub(crate) target: Target,
    /// The address that this is; none when the name is not known.
    pub(crate) address: Option<IpAddr>,
    /// What was looked at, in the order in which a packet meets it.
    pub(crate) checks: Checks,
    /// A real packet and its answer, followed through every table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) trace: Vec<TracedPacket>,
}

/// Whether any of the routes still waits for an admin.
pub(crate) fn any_awaits_approval(routes: &[RouteStatus]) -> bool {
    routes
        .iter()
        .any(|route| route.state == RouteState::AwaitingApproval)
}
