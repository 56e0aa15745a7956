//! What the coordinator knows of the network.

use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};
use weir_overlay::{NodeId, NodeName, NodePublicKey, Tag, UserId};
use weir_policy::{Directory, NodeSelector, PolicyNode, Posture, User};
use weir_protocol::HostInfo;

/// What an admin said about a route. A route without a decision awaits one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteDecision {
    /// Yes.
    Approved,
    /// No.
    Rejected,
}

/// The addresses that an admin chose for one route of a relay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EgressChoice {
    /// What the traffic of some leaves with. The first that stands for a node decides.
    pub by_selector: BTreeMap<NodeSelector, IpAddr>,
    /// What all other traffic leaves with; what the relay itself says when there is none.
    pub address: Option<IpAddr>,
}

/// Until when a node's key is good, in seconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyLife {
    /// For ever.
    #[default]
    Unlimited,
    /// Until then.
    Until(i64),
    /// It was until then, which is over: nobody has the node as a peer.
    Over(i64),
}

impl KeyLife {
    /// What a time of expiry means now.
    #[must_use]
    pub const fn at(expires: Option<i64>, now: i64) -> Self {
        match expires {
            None => Self::Unlimited,
            Some(time) if time <= now => Self::Over(time),
            Some(time) => Self::Until(time),
        }
    }

    /// Whether it is over.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Over(_))
    }

    /// When it is or was over, if ever.
    #[must_use]
    pub const fn end(self) -> Option<i64> {
        match self {
            Self::Unlimited => None,
            Self::Until(time) | Self::Over(time) => Some(time),
        }
    }
}

/// A node of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its name, unique in the network.
    pub name: NodeName,
    /// The user who owns it. Without effect on a tagged node: tags replace the user.
    pub user: Option<UserId>,
    /// Its tags.
    pub tags: BTreeSet<Tag>,
    /// Its WireGuard key.
    pub node_key: NodePublicKey,
    /// Until when that is good.
    pub key_life: KeyLife,
    /// Its overlay addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// When it was enrolled, in seconds since 1970. Of two relays for one prefix, the older one
    /// goes first; the smaller id among equals.
    pub created: i64,
    /// What its agent tells of the host, advertised routes among it.
    pub host: HostInfo,
    /// Decisions on routes, advertised now or not: a route that is withdrawn and advertised again
    /// need not be approved again.
    pub decisions: BTreeMap<IpNet, RouteDecision>,
    /// With which of its host's addresses traffic leaves, by route. Choices outlive their route as
    /// decisions do.
    pub egress: BTreeMap<IpNet, EgressChoice>,
    /// The address that its agent's requests come from, if it was seen.
    pub observed_address: Option<IpAddr>,
    /// Whether it can be expected to carry traffic: its agent is connected, or was so a moment
    /// ago. Only decides between relays of one prefix, so it is safe to be slow to say no.
    pub healthy: bool,
}

impl Node {
    /// The routes that it advertises and an admin approved, default routes included.
    pub fn approved_routes(&self) -> impl Iterator<Item = IpNet> {
        self.host
            .advertised_routes
            .iter()
            .copied()
            .filter(|route| self.decisions.get(route) == Some(&RouteDecision::Approved))
    }

    /// What a policy sees of it, with the routes that an admin approved.
    pub(crate) fn as_policy_node(&self) -> PolicyNode {
        PolicyNode {
            user: self.user,
            tags: self.tags.clone(),
            addresses: self.addresses.clone(),
            approved_routes: self.approved_routes().collect(),
            posture: posture(&self.host),
        }
    }

    /// Where its WireGuard can be reached: the endpoint that the admin fixed, or else the address
    /// its agent is seen at, when that is the host's own. Another one belongs to a NAT gateway,
    /// where nothing can be said about the port.
    #[must_use]
    pub fn endpoint(&self) -> Option<SocketAddr> {
        let host = &self.host;
        host.endpoint.or_else(|| {
            self.observed_address
                .filter(|address| host.listen_port != 0 && host.addresses.contains(address))
                .map(|address| SocketAddr::new(address, host.listen_port))
        })
    }
}

/// The whole network, as the coordinator's store has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkState {
    /// The users.
    pub users: BTreeMap<UserId, User>,
    /// The nodes.
    pub nodes: BTreeMap<NodeId, Node>,
    /// The relay that each subnet route was last reached through. It stays the primary as long as
    /// it serves the route and no other relay is healthier; without an entry, the oldest is chosen.
    pub primaries: BTreeMap<IpNet, NodeId>,
}

impl NetworkState {
    /// What a policy is compiled against.
    #[must_use]
    pub fn directory(&self) -> Directory {
        Directory {
            users: self.users.values().cloned().collect(),
            nodes: self
                .nodes
                .iter()
                .filter(|(_, node)| !node.key_life.is_over())
                .map(|(id, node)| (*id, node.as_policy_node()))
                .collect(),
            ..Directory::default()
        }
    }

    /// The name of the user who owns a node; none for a tagged one.
    pub(crate) fn owner(&self, node: &Node) -> Option<String> {
        let user = node.user.filter(|_| node.tags.is_empty())?;
        self.users.get(&user).map(|user| user.name.clone())
    }
}

/// What an agent tells of its host, as postures ask for it. The text for people ends with the
/// kernel: `Debian GNU/Linux 12, Linux 6.1.0`.
fn posture(host: &HostInfo) -> Posture {
    let kernel = host.os.rsplit(", ").next().unwrap_or_default();
    let (os, os_version) = match kernel.split_once(' ') {
        Some((os, version)) => (os, Some(version.to_owned())),
        None => (kernel, None),
    };
    Posture {
        os: (!os.is_empty()).then(|| os.to_ascii_lowercase()),
        os_version,
        weir_version: (!host.version.is_empty()).then(|| host.version.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_what_its_agent_tells() {
        let host = |os: &str| HostInfo {
            os: os.to_owned(),
            version: "0.1.0".to_owned(),
            ..HostInfo::default()
        };
        let debian = posture(&host("Debian GNU/Linux 12, Linux 6.1.0-18-amd64"));
        assert_eq!(debian.os.as_deref(), Some("linux"));
        assert_eq!(debian.os_version.as_deref(), Some("6.1.0-18-amd64"));
        assert_eq!(debian.weir_version.as_deref(), Some("0.1.0"));
        assert_eq!(posture(&host("")).os, None);
    }
}
