//! The newest map of each node, its number, and those who wait for the next.

use super::numbering::{Numbered, number};
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
    /// Up to which number the maps of other coordinators on the same database are known.
    seen: Mutex<Generation>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves the maps whole: every change of them is one call.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Maps {
    pub(super) async fn load(store: &Store) -> Result<Self, StoreError> {
        // With other coordinators about, what is stored may change until the first maps are made.
        let stored = match store.is_shared() {
            false => store.read().await?.stored_maps().await?,
            true => Vec::new(),
        };
        Ok(Self {
            watches: Mutex::default(),
            seen: Mutex::default(),
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

    /// Makes the map of each node; numbers and publishes those that differ.
    pub(super) async fn publish(
        &self,
        store: &Store,
        state: &NetworkState,
        network: &Network<'_>,
        revision: u64,
    ) -> Result<Published, StoreError> {
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
        let seen = *lock(&self.seen);
        let numbered = number(store, revision, seen, changed, |node| self.newest(node)).await?;
        let (Numbered::Maps(changed), seen) = numbered else {
            return Ok(Published::Outdated);
        };
        *lock(&self.seen) = seen;
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
        Ok(Published::Newest)
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

/// Whether what was published is what there is.
pub(super) enum Published {
    /// As far as this coordinator knows.
    Newest,
    /// Nothing was: another coordinator has seen a newer network.
    Outdated,
}

enum Known {
    /// It is the newest published one.
    Published,
    /// It was the newest one before a restart.
    Stored(Generation),
}

/// Of the content only: the generation must be zero.
pub(super) fn digest(map: &NetworkMap) -> Result<String, StoreError> {
    let json =
        serde_json::to_vec(map).map_err(|source| StoreError::Json("a network map", source))?;
    Ok(hexadecimal(&Sha256::digest(json)))
}
