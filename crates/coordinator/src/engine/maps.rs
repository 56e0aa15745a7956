//! The newest map of each node, its number, and those who wait for the next.

use crate::{
    clock::hexadecimal,
    store::{Store, StoreError, StoredMap},
};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;
use weir_netmap::{Network, NetworkState};
use weir_overlay::{Generation, NodeId};
use weir_protocol::NetworkMap;

/// What there is for a node now.
#[derive(Clone, Debug, Default)]
pub(crate) enum Current {
    /// No map yet: the node was enrolled a moment ago.
    #[default]
    Pending,
    /// Its newest map.
    Map(Arc<NetworkMap>),
    /// The node was deleted.
    Gone,
}

#[derive(Debug)]
pub(super) struct Maps {
    watches: Mutex<BTreeMap<NodeId, watch::Sender<Current>>>,
    /// Numbers and digests of the maps of before a restart, until the first maps are made.
    stored: Mutex<BTreeMap<NodeId, StoredMap>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves the maps whole: every change of them is one call.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Maps {
    pub(super) async fn load(store: &Store) -> Result<Self, StoreError> {
        let stored = store.read().await?.stored_maps().await?;
        Ok(Self {
            watches: Mutex::default(),
            stored: Mutex::new(stored.into_iter().map(|map| (map.node, map)).collect()),
        })
    }

    pub(super) fn nodes(&self) -> BTreeSet<NodeId> {
        lock(&self.watches).keys().copied().collect()
    }

    pub(super) fn newest(&self, node: NodeId) -> Option<Arc<NetworkMap>> {
        match &*lock(&self.watches).get(&node)?.borrow() {
            Current::Map(map) => Some(Arc::clone(map)),
            Current::Pending | Current::Gone => None,
        }
    }

    pub(super) fn subscribe(&self, node: NodeId) -> watch::Receiver<Current> {
        lock(&self.watches).entry(node).or_default().subscribe()
    }

    /// Makes the map of each node; numbers, stores and publishes those that differ. The number is
    /// stored before anybody sees it, so that no number is ever given twice.
    pub(super) async fn publish(
        &self,
        store: &Store,
        state: &NetworkState,
        network: &Network<'_>,
    ) -> Result<(), StoreError> {
        let mut unchanged = Vec::new();
        let mut changed = Vec::new();
        for id in state.nodes.keys() {
            let Some(map) = network.map(*id, Generation::default()) else {
                continue;
            };
            match self.number_of_equal(&map)? {
                Some(Known::Published) => {}
                Some(Known::Stored(generation)) => unchanged.push(NetworkMap { generation, ..map }),
                None => changed.push(map),
            }
        }
        if !changed.is_empty() {
            let mut tx = store.write().await?;
            let generation = tx.newest_generation().await?.next();
            tx.set_newest_generation(generation).await?;
            for map in &mut changed {
                let digest = digest(map)?;
                map.generation = generation;
                let stored = StoredMap {
                    node: map.node.id,
                    generation,
                    digest,
                };
                tx.set_stored_map(&stored).await?;
            }
            tx.commit().await?;
            tracing::info!(%generation, nodes = changed.len(), "published new network maps");
        }
        lock(&self.stored).clear();
        let mut watches = lock(&self.watches);
        for map in unchanged.into_iter().chain(changed) {
            let watch = watches.entry(map.node.id).or_default();
            watch.send_replace(Current::Map(Arc::new(map)));
        }
        watches.retain(|id, watch| {
            let stays = state.nodes.contains_key(id);
            if !stays {
                watch.send_replace(Current::Gone);
            }
            stays
        });
        Ok(())
    }

    /// Where a map of this content (its own generation aside) is known from.
    fn number_of_equal(&self, map: &NetworkMap) -> Result<Option<Known>, StoreError> {
        let id = map.node.id;
        if let Some(newest) = self.newest(id) {
            let same = weir_netmap::delta(&newest, map).is_none();
            return Ok(same.then_some(Known::Published));
        }
        let Some(stored) = lock(&self.stored).get(&id).cloned() else {
            return Ok(None);
        };
        Ok((stored.digest == digest(map)?).then_some(Known::Stored(stored.generation)))
    }
}

enum Known {
    /// It is the newest published one.
    Published,
    /// It was the newest one before a restart.
    Stored(Generation),
}

/// Of the content only: the generation must be zero.
fn digest(map: &NetworkMap) -> Result<String, StoreError> {
    let json =
        serde_json::to_vec(map).map_err(|source| StoreError::Json("a network map", source))?;
    Ok(hexadecimal(&Sha256::digest(json)))
}
