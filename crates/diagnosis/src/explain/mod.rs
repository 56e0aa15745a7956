//! Why a connection passes, or where it stops: checks in the order in which its first packet
//! meets what they are about.
//!
//! From where the question is asked, not everything can be seen: a client does not know the
//! packet filter of the relay, and the relay does not know the client's routing. So there are two
//! lists: `here.rs` for what this host sends, `through.rs` for what another node sends to or
//! through this one. What the other side must say is [`Outcome::Unknown`](crate::Outcome), with
//! the command to ask it.

mod here;
mod shared;
#[cfg(test)]
mod tests;
mod through;

pub use here::explain_from_here;
pub(crate) use shared::seconds;
pub use through::explain_from_node;
pub(crate) use through::through;

use std::{collections::BTreeSet, net::IpAddr};
use weir_kernel_plan::{DesiredState, ObservedState};
use weir_overlay::Generation;
use weir_protocol::{ItemFailure, NetworkMap, Peer};

use crate::{Checks, OtherFirewalls, Remedy, RouteAnswer, RuleSeen, Target};

/// What is known of this node without looking for this question.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The network map that is held.
    pub map: &'a NetworkMap,
    /// What map and settings ask of the kernel.
    pub desired: &'a DesiredState,
    /// The kernel, as last seen.
    pub observed: Option<&'a ObservedState>,
    /// The map that the kernel conforms to.
    pub in_force: Option<Generation>,
    /// What could not be done.
    pub failures: &'a [ItemFailure],
    /// What is wrong with the connection to the coordinator.
    pub disconnected: Option<&'a str>,
}

/// What was looked at for this question.
#[derive(Clone, Debug)]
pub struct HostView {
    /// Where the kernel sends the packet. From another node: as one that came out of the tunnel.
    pub outward: RouteAnswer,
    /// Where it sends the answers; only asked for the packets of another node.
    pub back: Option<RouteAnswer>,
    /// The routing rules, ours and others.
    pub rules: BTreeSet<RuleSeen>,
    /// Whether the host forwards packets of this family; none when it cannot be read.
    pub forwarding: Option<bool>,
    /// The host's addresses, without those of our link.
    pub addresses: BTreeSet<IpAddr>,
    /// Other programs' firewalls.
    pub others: OtherFirewalls,
}

/// The other node that sends.
#[derive(Clone, Copy, Debug)]
pub enum Sender<'a> {
    /// One that this node is told of.
    Known(&'a Peer),
    /// One that it is not told of, as it was named.
    Unknown(&'a str),
}

/// Whose address it is, by the map.
#[must_use]
pub fn owner(map: &NetworkMap, address: IpAddr) -> Option<&Peer> {
    map.peers
        .values()
        .find(|peer| peer.addresses.contains(&address))
}

/// A peer by its name or address.
#[must_use]
pub fn find_peer<'a>(map: &'a NetworkMap, node: &str) -> Option<&'a Peer> {
    let address: Option<IpAddr> = node.parse().ok();
    map.peers.values().find(|peer| {
        peer.name.as_str() == node
            || address.is_some_and(|address| peer.addresses.contains(&address))
    })
}

/// The overlay addresses of the node with this name, this one included.
#[must_use]
pub fn addresses_of<'a>(map: &'a NetworkMap, name: &str) -> Option<&'a BTreeSet<IpAddr>> {
    if map.node.name.as_str() == name {
        return Some(&map.node.addresses);
    }
    map.peers
        .values()
        .find(|peer| peer.name.as_str() == name)
        .map(|peer| &peer.addresses)
}

/// The checks when the destination's name is not known.
#[must_use]
pub fn unresolved(target: &Target, reason: &str) -> Checks {
    let mut checks = Checks::default();
    checks.failed(
        "name",
        format!(
            "{} is neither a node that this one knows nor a name that this host's resolver knows: \
             {reason}",
            target.host
        ),
        [
            Remedy::here("agent status"),
            Remedy::here(format!("getent hosts {}", target.host)),
        ],
    );
    checks
}
