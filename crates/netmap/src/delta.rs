//! What changed between two maps of one node.

use std::collections::BTreeSet;
use weir_protocol::{MapDelta, NetworkMap};

/// The difference from `old` to `new`. `None` when they differ at most in their generation: then
/// there is nothing to tell, and the node may keep the older number.
#[must_use]
pub fn delta(old: &NetworkMap, new: &NetworkMap) -> Option<MapDelta> {
    let changed = |is: bool| is.then_some(());
    let delta = MapDelta {
        from: old.generation,
        to: new.generation,
        node: changed(old.node != new.node).map(|()| new.node.clone()),
        peers_changed: new
            .peers
            .iter()
            .filter(|(id, peer)| old.peers.get(id) != Some(peer))
            .map(|(id, peer)| (*id, peer.clone()))
            .collect(),
        peers_removed: old
            .peers
            .keys()
            .filter(|id| !new.peers.contains_key(id))
            .copied()
            .collect::<BTreeSet<_>>(),
        filter: changed(old.filter != new.filter).map(|()| new.filter.clone()),
        notices: changed(old.notices != new.notices).map(|()| new.notices.clone()),
    };
    let is_empty = delta.node.is_none()
        && delta.peers_changed.is_empty()
        && delta.peers_removed.is_empty()
        && delta.filter.is_none()
        && delta.notices.is_none();
    (!is_empty).then_some(delta)
}
