//! Who is connected, and who was lately.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};
use weir_overlay::NodeId;

/// How long a node may be away before another relay takes its routes over. An agent that restarts,
/// or loses its connection and finds it again, stays primary.
pub(crate) const GRACE: Duration = Duration::from_secs(15);

#[derive(Debug, Default)]
struct State {
    /// Open map streams of each connected node.
    streams: BTreeMap<NodeId, usize>,
    /// When the last stream of a node closed.
    left: BTreeMap<NodeId, Instant>,
    /// Nodes that were heard of, and when last (in seconds since 1970), until this is stored.
    to_store: BTreeMap<NodeId, i64>,
    /// The nodes that are connected to other coordinators.
    elsewhere: BTreeSet<NodeId>,
}

/// The connected nodes.
#[derive(Debug)]
pub(crate) struct Presence {
    state: Mutex<State>,
    started: Instant,
    changed: Notify,
}

impl Presence {
    /// Nobody is connected yet.
    #[must_use]
    pub(crate) fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            started: now,
            changed: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the maps whole: every change of them is one call.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A map stream of this node is open for as long as the answer lives.
    #[must_use]
    pub(crate) fn connect(self: &Arc<Self>, node: NodeId) -> Connected {
        let mut state = self.lock();
        *state.streams.entry(node).or_default() += 1;
        state.left.remove(&node);
        state.to_store.insert(node, crate::clock::now());
        drop(state);
        self.changed.notify_one();
        Connected {
            presence: Arc::clone(self),
            node,
        }
    }

    /// Whether a map stream of this node is open, here or at another coordinator.
    #[must_use]
    pub(crate) fn is_online(&self, node: NodeId) -> bool {
        let state = self.lock();
        state.streams.contains_key(&node) || state.elsewhere.contains(&node)
    }

    /// How many nodes are connected, here or to another coordinator.
    #[must_use]
    pub(crate) fn online(&self) -> usize {
        let state = self.lock();
        let here = |node: &&NodeId| state.streams.contains_key(node);
        state.streams.len() + state.elsewhere.len() - state.elsewhere.iter().filter(here).count()
    }

    /// The nodes that are connected here.
    #[must_use]
    pub(crate) fn connected(&self) -> BTreeSet<NodeId> {
        self.lock().streams.keys().copied().collect()
    }

    /// Takes over who is connected to other coordinators.
    pub(crate) fn set_elsewhere(&self, nodes: BTreeSet<NodeId>) {
        self.lock().elsewhere = nodes;
    }

    /// Which of `nodes`, all that there are, are not there and have not been for longer than
    /// [`GRACE`]. Right after a start nobody is absent: the nodes must find back first.
    #[must_use]
    pub(crate) fn absent(&self, nodes: &BTreeSet<NodeId>, now: Instant) -> BTreeSet<NodeId> {
        let mut state = self.lock();
        state.left.retain(|node, _| nodes.contains(node));
        nodes
            .iter()
            .filter(|node| !state.streams.contains_key(node))
            .filter(|node| {
                let since = state.left.get(node).copied().unwrap_or(self.started);
                now.saturating_duration_since(since) > GRACE
            })
            .copied()
            .collect()
    }

    /// A node was heard of, at this time in seconds since 1970.
    pub(crate) fn seen(&self, node: NodeId, now: i64) {
        self.lock().to_store.insert(node, now);
    }

    /// Nodes that were heard of since the last call, and when last, in seconds since 1970.
    #[must_use]
    pub(crate) fn take_seen(&self) -> BTreeMap<NodeId, i64> {
        std::mem::take(&mut self.lock().to_store)
    }

    /// Waits until a node comes or leaves.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// One open map stream.
#[derive(Debug)]
pub(crate) struct Connected {
    presence: Arc<Presence>,
    node: NodeId,
}

impl Connected {
    /// How many nodes are connected.
    pub(crate) fn online(&self) -> usize {
        self.presence.online()
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut state = self.presence.lock();
        let open = state.streams.get(&self.node).copied().unwrap_or_default();
        if open > 1 {
            state.streams.insert(self.node, open - 1);
            return;
        }
        state.streams.remove(&self.node);
        state.left.insert(self.node, Instant::now());
        state.to_store.insert(self.node, crate::clock::now());
        drop(state);
        self.presence.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_absent_only_after_the_grace() {
        let start = Instant::now();
        let presence = Presence::new(start);
        let (here, never) = (NodeId(1), NodeId(2));
        let both = BTreeSet::from([here, never]);
        let first = presence.connect(here);
        let second = presence.connect(here);
        assert!(presence.absent(&both, start).is_empty());
        drop(first);
        assert!(presence.is_online(here));
        let later = start + GRACE * 2;
        assert_eq!(presence.absent(&both, later), [never].into());
        drop(second);
        assert!(!presence.is_online(here));
        assert!(
            presence
                .absent(&[here].into(), Instant::now() + GRACE / 2)
                .is_empty()
        );
        assert_eq!(
            presence.absent(&[here].into(), Instant::now() + GRACE * 2),
            [here].into()
        );
        assert!(presence.take_seen().contains_key(&here));
        assert!(presence.take_seen().is_empty());
    }
}
