//! The network map: all that one node is told, and nothing it need not know.

use crate::IpProtocol;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};
use weir_overlay::{AddressSet, Generation, GrantId, NodeId, NodeName, NodePublicKey, Tag};

/// A range of ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortRange {
    /// The lowest port.
    pub first: u16,
    /// The highest port.
    pub last: u16,
}

impl PortRange {
    /// Every port. Also what protocols without ports, and all but TCP, UDP and SCTP, need.
    pub const ALL: Self = Self {
        first: 0,
        last: u16::MAX,
    };

    /// One port.
    #[must_use]
    pub const fn single(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }

    /// Whether this is [`Self::ALL`].
    #[must_use]
    pub const fn is_all(&self) -> bool {
        self.first == 0 && self.last == u16::MAX
    }
}

/// One allow rule of the compiled policy, as far as it concerns one node: a row of its packet
/// filter. Traffic from `sources` to `destinations` may start; replies pass by connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Grant {
    /// Names the grant in counters, conntrack marks and flow logs.
    pub id: GrantId,
    /// Where traffic may come from: overlay addresses and approved prefixes.
    pub sources: AddressSet,
    /// Which protocols. Never empty.
    pub protocols: BTreeSet<IpProtocol>,
    /// Where it may go: the node's own addresses and prefixes it serves.
    pub destinations: Vec<Destination>,
    /// Where the policy says so, for people: `acls[2], line 14`.
    #[serde(default)]
    pub origin: String,
}

/// Addresses and the ports on them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Destination {
    /// The addresses.
    pub addresses: AddressSet,
    /// The ports, for protocols that have them. ICMP passes whatever the ports; other protocols
    /// without ports pass only with [`PortRange::ALL`].
    pub ports: PortRange,
}

/// What has become of an advertised route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteState {
    /// Advertised; no admin has approved it. It changes nothing anywhere.
    AwaitingApproval,
    /// Approved, and this node is the primary: traffic goes this way.
    Serving,
    /// Approved; another relay is primary.
    Standby,
    /// An admin said no.
    Rejected,
}

/// A route of a node, and its state.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RouteStatus {
    /// The destination.
    pub prefix: IpNet,
    /// What has become of it.
    pub state: RouteState,
}

/// With which address what is relayed to one route leaves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RouteEgress {
    /// The route. Of several that hold a destination, the longest decides.
    pub route: IpNet,
    /// Whose traffic: overlay addresses; everybody's when there are none. Of several choices for
    /// one source, the first counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sources: Option<AddressSet>,
    /// The address. Without effect when it is of the other family.
    pub address: IpAddr,
}

/// What a node is told of itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SelfNode {
    /// Its id.
    pub id: NodeId,
    /// Its name, unique in the network.
    pub name: NodeName,
    /// The user who owns it; none for a tagged node.
    #[serde(default)]
    pub user: Option<String>,
    /// Its tags.
    #[serde(default)]
    pub tags: BTreeSet<Tag>,
    /// Its overlay addresses, one of each family.
    pub addresses: BTreeSet<IpAddr>,
    /// The routes it advertises and what has become of each, sorted by prefix.
    #[serde(default)]
    pub routes: Vec<RouteStatus>,
    /// With which of the host's addresses what it relays leaves, as an admin chose. What nothing
    /// is said of leaves as the host's own settings say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<RouteEgress>,
    /// Its WireGuard key, as the coordinator has it.
    #[serde(default, skip_serializing_if = "KeyStatus::is_unknown")]
    pub key: KeyStatus,
}

/// What the coordinator has of a node's WireGuard key. All of it is unknown in a map of a
/// coordinator that does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyStatus {
    /// The key that its peers know it by. While a node changes its key, this says which of the two
    /// is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public: Option<NodePublicKey>,
    /// Until when it is good, in seconds since 1970 by the coordinator's clock; none for one that
    /// is good for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<i64>,
    /// Whether that time is over. The node then has no peers, and nobody has it as a peer, until
    /// it is let in again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub expired: bool,
}

impl KeyStatus {
    fn is_unknown(&self) -> bool {
        *self == Self::default()
    }
}

/// Another node that this one may talk to or hear from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Peer {
    /// Its id.
    pub id: NodeId,
    /// Its name, unique in the network.
    pub name: NodeName,
    /// The user who owns it; none for a tagged node.
    #[serde(default)]
    pub user: Option<String>,
    /// Its tags.
    #[serde(default)]
    pub tags: BTreeSet<Tag>,
    /// Its WireGuard key.
    pub node_key: NodePublicKey,
    /// Its overlay addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// The approved routes that this node may reach through it, default routes included. The
    /// agent decides which of them to take (`--accept-routes`, `--exit-node`).
    #[serde(default)]
    pub routes: BTreeSet<IpNet>,
    /// Approved prefixes behind this peer from which it may send packets to us without source
    /// translation (return traffic of a route we serve). Part of its allowed IPs.
    #[serde(default)]
    pub source_prefixes: BTreeSet<IpNet>,
    /// Where its WireGuard can be reached, when it has a fixed way in.
    #[serde(default)]
    pub endpoint: Option<SocketAddr>,
}

/// All that one node is told. Its number only grows; two maps of one number are equal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkMap {
    /// The number of this map.
    pub generation: Generation,
    /// The node itself.
    pub node: SelfNode,
    /// The nodes it may talk to or hear from.
    #[serde(default)]
    pub peers: BTreeMap<NodeId, Peer>,
    /// Its packet filter: what may come in from the overlay. Empty means nothing. In policy order;
    /// where two grants allow the same packet, the first one counts it.
    #[serde(default)]
    pub filter: Vec<Grant>,
    /// What the agent should tell its user, such as that no policy is set.
    #[serde(default)]
    pub notices: Vec<String>,
}

/// What a map says, its number aside: SHA-256 of its JSON, in hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MapDigest(String);

impl NetworkMap {
    /// The digest of what it says. `None` when it cannot be written as JSON, which no map that
    /// was ever sent is like.
    #[must_use]
    pub fn digest(&self) -> Option<MapDigest> {
        let content = (&self.node, &self.peers, &self.filter, &self.notices);
        let json = serde_json::to_vec(&content).ok()?;
        let digest = Sha256::digest(json);
        Some(MapDigest(
            digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        ))
    }
}

/// The difference between two maps of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapDelta {
    /// The map it must be applied to. To any other, it must not.
    pub from: Generation,
    /// The number of the map that results.
    pub to: Generation,
    /// The node itself, when something about it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<SelfNode>,
    /// Peers that are new or changed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub peers_changed: BTreeMap<NodeId, Peer>,
    /// Peers that are gone.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub peers_removed: BTreeSet<NodeId>,
    /// The whole new packet filter, when it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Vec<Grant>>,
    /// The new notices, when they changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notices: Option<Vec<String>>,
}

/// Asks for the map stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapRequest {
    /// The generation the agent holds, if any; the coordinator may then send only the difference.
    #[serde(default)]
    pub held: Option<Generation>,
    /// The digest of that map. A coordinator that has forgotten the generation, or is another one
    /// of the same network, sees by it that the map is still right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<MapDigest>,
}

/// One line of the map stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum StreamMessage {
    /// A whole map. Always the first message, unless the agent already holds the newest.
    Full {
        /// The map.
        map: Box<NetworkMap>,
    },
    /// What changed since the map or delta before.
    Delta {
        /// The changes.
        delta: Box<MapDelta>,
    },
    /// Nothing changed; the coordinator lives.
    Heartbeat {
        /// The newest generation for this node.
        generation: Generation,
    },
    /// The coordinator is about to stop, and ends the stream. It is the last message.
    Closing {
        /// When to connect again, in milliseconds from now: each agent is told another time, so
        /// that they do not come back all at once.
        reconnect_in_ms: u64,
    },
}
