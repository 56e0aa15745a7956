//! The numbers of network maps.
//!
//! A number is stored before anybody sees it, so that none is ever given twice. Where several
//! coordinators make the same maps of the same database, the first numbers each map and the others
//! take its number over; and none numbers what it made of a network that is older than what was
//! numbered already. So an agent that goes from one coordinator to another finds a map with the
//! same number or a newer one, or refuses an older one until that coordinator has caught up.

use super::maps::digest;
use crate::store::{Store, StoreError, StoredMap};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use weir_overlay::{Generation, NodeId};
use weir_protocol::NetworkMap;

/// What became of maps that were to be numbered.
pub(super) enum Numbered {
    /// Each has its number.
    Maps(Vec<NetworkMap>),
    /// Another coordinator has numbered maps of a newer network.
    Outdated,
}

/// Numbers `changed`, which were made of `revision` of the network and have no number yet. Up to
/// `seen`, what other coordinators numbered is known; `newest` is the newest map of a node here.
/// The numbers up to which is known are returned too.
pub(super) async fn number(
    store: &Store,
    revision: u64,
    seen: Generation,
    mut changed: Vec<NetworkMap>,
    newest: impl Fn(NodeId) -> Option<Arc<NetworkMap>>,
) -> Result<(Numbered, Generation), StoreError> {
    let shared = store.is_shared();
    if changed.is_empty() && (!shared || store.read().await?.newest_generation().await? <= seen) {
        return Ok((Numbered::Maps(changed), seen));
    }
    let mut tx = store.write().await?;
    let mut others: BTreeMap<NodeId, StoredMap> = BTreeMap::new();
    if shared {
        if tx.numbered_revision().await? > revision {
            return Ok((Numbered::Outdated, seen));
        }
        others = tx
            .maps_after(seen)
            .await?
            .into_iter()
            .map(|map| (map.node, map))
            .collect();
        // What has not changed here may have changed and changed back elsewhere.
        let listed: BTreeSet<_> = changed.iter().map(|map| map.node.id).collect();
        let unlisted = others.values().filter(|map| !listed.contains(&map.node));
        let behind = unlisted.filter_map(|stored| {
            let map = newest(stored.node).filter(|map| map.generation < stored.generation)?;
            Some(NetworkMap {
                generation: Generation::default(),
                ..NetworkMap::clone(&map)
            })
        });
        changed.extend(behind);
    }
    let mut given = None;
    for map in &mut changed {
        let digest = digest(map)?;
        let node = map.node.id;
        if let Some(same) = others.get(&node).filter(|map| map.digest == digest) {
            map.generation = same.generation;
            continue;
        }
        let generation = match given {
            Some(generation) => generation,
            None => tx.newest_generation().await?.next(),
        };
        given = Some(generation);
        map.generation = generation;
        let stored = StoredMap {
            node,
            generation,
            digest,
        };
        tx.set_stored_map(&stored).await?;
    }
    if let Some(generation) = given {
        tx.set_newest_generation(generation).await?;
        tracing::info!(%generation, nodes = changed.len(), "publishing new network maps");
    }
    if shared {
        tx.set_numbered_revision(revision).await?;
    }
    let seen = tx.newest_generation().await?;
    tx.commit().await?;
    Ok((Numbered::Maps(changed), seen))
}
