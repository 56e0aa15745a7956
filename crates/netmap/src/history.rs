//! What a node was told, as far as it must be remembered to tell it only the difference.
//!
//! A map is long, and there is one for each node. So none is kept: only a hash of each of its
//! parts, 16 bytes a peer, and for some generations back which parts changed after them. The new
//! map, which is made anyway, has the rest.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    hash::BuildHasher,
};
use weir_overlay::{Generation, NodeId};
use weir_protocol::{MapDelta, NetworkMap, Peer};

/// How many generations back a difference is known.
const MAX_STEPS: usize = 16;
/// How many peers may have changed in all of them together: beyond, a full map is not much longer.
const MAX_CHANGED_PEERS: usize = 256;

/// The maps of one node, newest last, without their content.
///
/// The hasher must be the same for all calls, and its key not known to those whom maps are about:
/// of two parts with one hash the newer one would not be told.
#[derive(Clone, Debug)]
pub struct MapHistory {
    newest: Generation,
    hashes: Hashes,
    /// What changed after each generation that is still known, the oldest first.
    steps: VecDeque<Step>,
}

/// What there is to tell about the newest map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since {
    /// Nothing: it is the one that is held.
    Same,
    /// This changed. May name parts that changed and changed back.
    Changed(Box<MapDelta>),
    /// The generation that is held is not known: too old, of another history or from the future.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Hashes {
    node: u64,
    filter: u64,
    notices: u64,
    /// By id.
    peers: Vec<(NodeId, u64)>,
}

#[derive(Clone, Debug, Default)]
struct Step {
    from: Generation,
    parts: Parts,
}

/// Some parts of a map.
#[derive(Clone, Debug, Default)]
struct Parts {
    node: bool,
    filter: bool,
    notices: bool,
    peers: BTreeSet<NodeId>,
}

impl Hashes {
    fn of(map: &NetworkMap, hasher: &impl BuildHasher) -> Self {
        let peers = map.peers.iter();
        Self {
            node: hasher.hash_one(&map.node),
            filter: hasher.hash_one(&map.filter),
            notices: hasher.hash_one(&map.notices),
            peers: peers
                .map(|(id, peer)| (*id, hasher.hash_one(peer)))
                .collect(),
        }
    }

    /// Replaces the hash of a peer. Says whether it is another one.
    fn set_peer(&mut self, id: NodeId, hash: Option<u64>) -> bool {
        let place = self.peers.binary_search_by_key(&id, |(id, _)| *id);
        match (place, hash) {
            (Ok(at), Some(hash)) => std::mem::replace(&mut self.peers[at].1, hash) != hash,
            (Ok(at), None) => {
                self.peers.remove(at);
                true
            }
            (Err(at), Some(hash)) => {
                self.peers.insert(at, (id, hash));
                true
            }
            (Err(_), None) => false,
        }
    }

    /// The parts that differ.
    fn difference(&self, other: &Self) -> Parts {
        let these: BTreeSet<_> = self.peers.iter().collect();
        let those = other.peers.iter().collect();
        let peers = these.symmetric_difference(&those);
        Parts {
            node: self.node != other.node,
            filter: self.filter != other.filter,
            notices: self.notices != other.notices,
            peers: peers.map(|(id, _)| *id).collect(),
        }
    }
}

impl MapHistory {
    /// Begins with a map.
    #[must_use]
    pub fn new(map: &NetworkMap, hasher: &impl BuildHasher) -> Self {
        Self {
            newest: map.generation,
            hashes: Hashes::of(map, hasher),
            steps: VecDeque::new(),
        }
    }

    /// The number of the newest map.
    #[must_use]
    pub const fn newest(&self) -> Generation {
        self.newest
    }

    /// Remembers a map as the newest one. Its number must be higher than all before, or nothing is
    /// remembered. A map that says what the newest one says keeps that one's number.
    pub fn follow(&mut self, map: &NetworkMap, hasher: &impl BuildHasher) {
        if map.generation <= self.newest {
            return;
        }
        let hashes = Hashes::of(map, hasher);
        if hashes == self.hashes {
            return;
        }
        let parts = self.hashes.difference(&hashes);
        self.hashes = hashes;
        self.step(map.generation, parts);
    }

    /// Remembers a map as the newest one that says something else of these peers only: what it says
    /// of each, or that it is there no more. Numbers are as with [`Self::follow`].
    pub fn follow_peers<'a>(
        &mut self,
        generation: Generation,
        peers: impl IntoIterator<Item = (NodeId, Option<&'a Peer>)>,
        hasher: &impl BuildHasher,
    ) {
        if generation <= self.newest {
            return;
        }
        let mut parts = Parts::default();
        for (id, peer) in peers {
            let hash = peer.map(|peer| hasher.hash_one(peer));
            if self.hashes.set_peer(id, hash) {
                parts.peers.insert(id);
            }
        }
        if !parts.peers.is_empty() {
            self.step(generation, parts);
        }
    }

    /// Like [`Self::since`] without the newest map, where nothing but peers changed since: `peer`
    /// gives what that map says of one. Unknown also where more changed; then [`Self::since`] tells.
    #[must_use]
    pub fn peers_since(&self, held: Generation, peer: impl Fn(NodeId) -> Option<Peer>) -> Since {
        if held == self.newest {
            return Since::Same;
        }
        let Some(first) = self.steps.iter().position(|step| step.from == held) else {
            return Since::Unknown;
        };
        let steps = || self.steps.iter().skip(first).map(|step| &step.parts);
        if steps().any(|parts| parts.node || parts.filter || parts.notices) {
            return Since::Unknown;
        }
        let mut delta = MapDelta {
            from: held,
            to: self.newest,
            node: None,
            peers_changed: BTreeMap::new(),
            peers_removed: BTreeSet::new(),
            filter: None,
            notices: None,
        };
        for id in steps().flat_map(|parts| &parts.peers) {
            match peer(*id) {
                Some(peer) => drop(delta.peers_changed.insert(*id, peer)),
                None => drop(delta.peers_removed.insert(*id)),
            }
        }
        Since::Changed(Box::new(delta))
    }

    /// How many peers are remembered: what a history takes in memory grows with them, by 16 bytes
    /// each.
    #[must_use]
    pub const fn peers(&self) -> usize {
        self.hashes.peers.len()
    }

    /// Gives the newest map another number, for an agent that holds a higher one.
    pub fn renumber(&mut self, generation: Generation) {
        if generation > self.newest {
            self.step(generation, Parts::default());
        }
    }

    /// Takes over the number under which an agent holds a map that says the same. Only a history
    /// that has just begun does; others have a number of their own that was told.
    pub fn adopt(&mut self, held: Generation) {
        if self.steps.is_empty() && held < self.newest {
            self.newest = held;
        }
    }

    /// What there is to tell to whoever holds this generation. `map` is the newest one, under the
    /// number that it has here.
    #[must_use]
    pub fn since(&self, held: Generation, map: &NetworkMap) -> Since {
        if held == self.newest {
            return Since::Same;
        }
        let Some(first) = self.steps.iter().position(|step| step.from == held) else {
            return Since::Unknown;
        };
        let steps = || self.steps.iter().skip(first).map(|step| &step.parts);
        let peers: BTreeSet<_> = steps().flat_map(|parts| &parts.peers).copied().collect();
        let present = |id: &NodeId| Some((*id, map.peers.get(id)?.clone()));
        Since::Changed(Box::new(MapDelta {
            from: held,
            to: self.newest,
            node: steps().any(|parts| parts.node).then(|| map.node.clone()),
            peers_changed: peers.iter().filter_map(present).collect(),
            peers_removed: peers
                .iter()
                .filter(|id| !map.peers.contains_key(id))
                .copied()
                .collect(),
            filter: steps()
                .any(|parts| parts.filter)
                .then(|| map.filter.clone()),
            notices: steps()
                .any(|parts| parts.notices)
                .then(|| map.notices.clone()),
        }))
    }

    fn step(&mut self, to: Generation, parts: Parts) {
        let from = std::mem::replace(&mut self.newest, to);
        self.steps.push_back(Step { from, parts });
        let mut room = MAX_CHANGED_PEERS;
        let newest_first = self.steps.iter().rev().take(MAX_STEPS);
        let fits = newest_first.take_while(|step| {
            let left = room.checked_sub(step.parts.peers.len());
            room = left.unwrap_or_default();
            left.is_some()
        });
        // The last change is always known: it is what a connected agent is told.
        let kept = fits.count().max(1);
        self.steps.drain(..self.steps.len() - kept);
    }
}
