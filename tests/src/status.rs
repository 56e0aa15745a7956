//! What `agent status --json` says, as far as the story asks.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

/// The answer of `agent status --json`. Fields that the story does not ask about are left out.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// `up` or `down`.
    pub state: String,
    /// The node itself, once it was told what it is.
    pub node: Option<NodeItself>,
    /// The connection to the coordinator.
    pub coordinator: Option<Connection>,
    /// What an admin was asked, while the machine is not let in.
    #[serde(default)]
    pub approval: Option<Approval>,
    /// The maps.
    pub map: Maps,
    /// The WireGuard in use, when up.
    pub wireguard: Option<Wireguard>,
    /// The nodes it may talk to.
    pub peers: Vec<Peer>,
    /// The routes it advertises.
    pub advertised: Vec<AdvertisedRoute>,
    /// The routes of others.
    pub available: Vec<AvailableRoute>,
    /// The firewall's counters.
    pub counters: BTreeMap<String, Counter>,
    /// The exit that was chosen.
    pub exit_node: Option<ExitNode>,
    /// What somebody else changed and was put back, the newest last.
    pub repairs: Vec<Repair>,
    /// What the host itself sees to be wrong.
    pub warnings: Vec<String>,
}

/// What an admin was asked.
#[derive(Clone, Debug, Deserialize)]
pub struct Approval {
    /// `waiting`, `denied`, `expired` or `failed`.
    pub state: String,
    /// Where the admin decides.
    pub url: String,
    /// What the admin knows the machine by.
    pub fingerprint: String,
}

/// The exit that was chosen.
#[derive(Clone, Debug, Deserialize)]
pub struct ExitNode {
    /// Whether the network map has it.
    pub available: bool,
}

/// What somebody else changed and was put back.
#[derive(Clone, Debug, Deserialize)]
pub struct Repair {
    /// What was found.
    pub found: Vec<String>,
    /// Who was seen to do it.
    pub by: Vec<Author>,
    /// How long it took.
    pub seconds: f64,
}

/// A process.
#[derive(Clone, Debug, Deserialize)]
pub struct Author {
    /// Its number.
    pub process: u32,
    /// Its name.
    pub name: Option<String>,
}

/// The node itself.
#[derive(Clone, Debug, Deserialize)]
pub struct NodeItself {
    /// Its name.
    pub name: String,
    /// Its overlay addresses.
    pub addresses: Vec<String>,
}

/// The connection to the coordinator.
#[derive(Clone, Debug, Deserialize)]
pub struct Connection {
    /// Whether the map stream is open.
    pub connected: bool,
}

/// Which map is held, and which one the kernel conforms to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Maps {
    /// The map held.
    pub held: Option<u64>,
    /// The map in force.
    pub applied: Option<u64>,
}

/// Which WireGuard carries the packets.
#[derive(Clone, Debug, Deserialize)]
pub struct Wireguard {
    /// The kernel's, or the userspace process.
    pub backend: Backend,
    /// The node's public key.
    pub public_key: String,
}

/// Who carries WireGuard's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The kernel's own WireGuard.
    Kernel,
    /// A userspace process.
    Userspace,
}

impl Backend {
    /// The kind of link that `ip -d link` shows for it.
    #[must_use]
    pub const fn link_kind(self) -> &'static str {
        match self {
            Self::Kernel => "wireguard",
            Self::Userspace => "tun",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Kernel => "kernel",
            Self::Userspace => "userspace",
        })
    }
}

/// Another node.
#[derive(Clone, Debug, Deserialize)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its WireGuard key.
    pub public_key: String,
    /// Its overlay addresses.
    pub addresses: Vec<String>,
    /// Seconds since the last handshake.
    pub handshake_age: Option<u64>,
    /// Bytes received from it.
    pub received_bytes: u64,
    /// Bytes sent to it.
    pub sent_bytes: u64,
}

/// A route that the node advertises.
#[derive(Clone, Debug, Deserialize)]
pub struct AdvertisedRoute {
    /// The destination.
    pub prefix: String,
    /// What has become of it.
    pub state: String,
}

/// A route of another node.
#[derive(Clone, Debug, Deserialize)]
pub struct AvailableRoute {
    /// The destination.
    pub prefix: String,
    /// The node that serves it.
    pub via: String,
}

/// A counter of the firewall.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Counter {
    /// Packets counted.
    pub packets: u64,
}

impl Status {
    /// Whether the node takes part, and its kernel conforms to the map that it holds.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.state == "up" && self.map.held.is_some() && self.map.held == self.map.applied
    }

    /// The node's IPv4 address in the overlay.
    #[must_use]
    pub fn overlay_ipv4(&self) -> Option<&str> {
        let addresses = self.node.iter().flat_map(|node| &node.addresses);
        addresses
            .map(String::as_str)
            .find(|text| text.contains('.'))
    }

    /// The peer of this name.
    #[must_use]
    pub fn peer(&self, name: &str) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.name == name)
    }

    /// The packets that a counter of the firewall has seen; 0 when there is no such counter.
    #[must_use]
    pub fn packets(&self, counter: &str) -> u64 {
        self.counters
            .get(counter)
            .copied()
            .unwrap_or_default()
            .packets
    }
}
