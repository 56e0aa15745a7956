//! How an agent makes its next map of the one it holds.

use weir_overlay::Generation;

use crate::{MapDelta, NetworkMap};

/// The delta is for another map than the one held. The agent asks for a full map then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the change is for map {needed}, but map {held} is held")]
pub struct WrongGeneration {
    /// The map that is held.
    pub held: Generation,
    /// The map that the delta is for.
    pub needed: Generation,
}

/// Makes the old map the new one.
///
/// # Errors
/// [`WrongGeneration`] when the delta starts from another map; the map is then unchanged.
pub fn apply_delta(map: &mut NetworkMap, delta: &MapDelta) -> Result<(), WrongGeneration> {
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
