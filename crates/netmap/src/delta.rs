//! What changed between two maps of one node, and how a change is applied.

use std::collections::BTreeSet;
use weir_overlay::Generation;
use weir_protocol::{MapDelta, NetworkMap};

/// The delta is for another map than the one held. The agent asks for a full map then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the change is for map {needed}, but map {held} is held")]
pub struct WrongGeneration {
    /// The map that is held.
    pub held: Generation,
    /// The map that the delta is for.
    pub needed: Generation,
}

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

/// Makes the old map the new one.
///
/// # Errors
/// [`WrongGeneration`] when the delta starts from another map; the map is then unchanged.
pub fn apply(map: &mut NetworkMap, delta: &MapDelta) -> Result<(), WrongGeneration> {
    if map.generation != delta.from {
        return Err(WrongGeneration {
            held: map.generation,
            needed: delta.from,
        });
    }
    map.generation = delta.to;
    if let Some(node) = &delta.node {
        map.node = node.clone();
    }
    for id in &delta.peers_removed {
        map.peers.remove(id);
    }
    for (id, peer) in &delta.peers_changed {
        map.peers.insert(*id, peer.clone());
    }
    if let Some(filter) = &delta.filter {
        map.filter.clone_from(filter);
    }
    if let Some(notices) = &delta.notices {
        map.notices.clone_from(notices);
    }
    Ok(())
}
