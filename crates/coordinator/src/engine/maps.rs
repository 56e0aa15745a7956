//! The network as it is now, what each node was told of it, and those who wait for news.
//!
//! No map is kept. Whoever follows a node's map has it made when there is room to send it, of the
//! network as it is then; what is remembered of the maps before is their [`MapHistory`].

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::RandomState,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};
use tokio::sync::watch;
use weir_netmap::{LiveNetwork, MapHistory, NetworkChange, Since};
use weir_overlay::{Generation, NodeId};
use weir_protocol::{MapDelta, MapRequest, NetworkMap, StreamMessage};

#[derive(Debug)]
pub(crate) struct Maps {
    now: RwLock<Now>,
    nodes: Mutex<BTreeMap<NodeId, Arc<Told>>>,
    /// Keyed at random, so that nobody can make two parts of a map look alike.
    hasher: RandomState,
}

#[derive(Debug)]
struct Now {
    network: LiveNetwork,
    /// The number that maps made of it get, unless they say what an older one says.
    generation: Generation,
}

/// What one node was told.
#[derive(Debug)]
struct Told {
    news: watch::Sender<News>,
    history: Mutex<Option<MapHistory>>,
}

/// What those who follow a node's map are woken with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// The map may be another one.
    Touched,
    /// The node was deleted.
    Gone,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves the contents whole: every change of them is one call.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Maps {
    pub(crate) fn new(network: LiveNetwork, generation: Generation) -> Self {
        Self {
            now: RwLock::new(Now {
                network,
                generation,
            }),
            nodes: Mutex::default(),
            hasher: RandomState::new(),
        }
    }

    fn now(&self) -> RwLockReadGuard<'_, Now> {
        self.now.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_mut(&self) -> RwLockWriteGuard<'_, Now> {
        self.now.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the network as it is now. Changes wait meanwhile.
    pub(crate) fn ask<T>(&self, question: impl FnOnce(&LiveNetwork) -> T) -> T {
        question(&self.now().network)
    }

    /// The number of the newest maps.
    pub(crate) fn generation(&self) -> Generation {
        self.now().generation
    }

    /// The number of the newest map that a node was told, since the coordinator was started.
    pub(crate) fn newest_of(&self, node: NodeId) -> Option<Generation> {
        let told = Arc::clone(lock(&self.nodes).get(&node)?);
        let history = lock(&told.history);
        history.as_ref().map(MapHistory::newest)
    }

    /// Makes changes at once. Gives those whom they may concern.
    pub(crate) fn apply(
        &self,
        changes: Vec<NetworkChange>,
        generation: Generation,
    ) -> BTreeSet<NodeId> {
        let mut now = self.now_mut();
        let touched = apply(&mut now.network, changes);
        now.generation = generation;
        touched
    }

    /// Makes changes that take long. Until it is done, maps are made of the network before. Only
    /// one caller may change the network.
    pub(crate) fn apply_slowly(
        &self,
        changes: Vec<NetworkChange>,
        generation: Generation,
    ) -> BTreeSet<NodeId> {
        let mut network = self.now().network.clone();
        let touched = apply(&mut network, changes);
        let mut now = self.now_mut();
        now.generation = generation;
        let before = std::mem::replace(&mut now.network, network);
        drop(now);
        // Taking down a large network takes a while, too: not while others wait.
        drop(before);
        touched
    }

    /// Wakes those who follow the maps of these nodes.
    pub(crate) fn tell(&self, touched: &BTreeSet<NodeId>) {
        let now = self.now();
        let mut nodes = lock(&self.nodes);
        for id in touched {
            if now.network.state().nodes.contains_key(id) {
                if let Some(told) = nodes.get(id) {
                    told.news.send_replace(News::Touched);
                }
            } else if let Some(told) = nodes.remove(id) {
                told.news.send_replace(News::Gone);
            }
        }
    }

    /// Follows the map of a node, from the one that its agent says it holds.
    pub(crate) fn follow(self: &Arc<Self>, node: NodeId, request: MapRequest) -> Follower {
        let told = Arc::clone(lock(&self.nodes).entry(node).or_insert_with(|| {
            Arc::new(Told {
                news: watch::Sender::new(News::Touched),
                history: Mutex::default(),
            })
        }));
        Follower {
            maps: Arc::clone(self),
            node,
            news: told.news.subscribe(),
            told,
            request,
            sent: None,
        }
    }
}

fn apply(network: &mut LiveNetwork, changes: Vec<NetworkChange>) -> BTreeSet<NodeId> {
    let mut touched = BTreeSet::new();
    for change in changes {
        touched.append(&mut network.apply(change));
    }
    touched
}

/// Follows the map of one node: all that is kept of an agent that is connected.
#[derive(Debug)]
pub(crate) struct Follower {
    maps: Arc<Maps>,
    node: NodeId,
    news: watch::Receiver<News>,
    told: Arc<Told>,
    request: MapRequest,
    /// The number of the map that the agent has after the last message.
    sent: Option<Generation>,
}

/// What there is to say to an agent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Next {
    /// This.
    Message(StreamMessage),
    /// Nothing at present.
    Nothing,
    /// Nothing ever again: the node was deleted.
    Gone,
}

impl Follower {
    /// The number of the map that the agent has after the last message.
    pub(crate) const fn sent(&self) -> Option<Generation> {
        self.sent
    }

    /// Waits until the map may be another one.
    pub(crate) async fn changed(&mut self) {
        // The sender is held in `told`.
        self.news.changed().await.ok();
    }

    /// What there is to say now. The agent is taken to hear it.
    pub(crate) fn next(&mut self) -> Next {
        if *self.news.borrow_and_update() == News::Gone {
            return Next::Gone;
        }
        let hasher = &self.maps.hasher;
        let mut history = lock(&self.told.history);
        let now = self.maps.now();
        let Some(mut map) = now.network.map(self.node, now.generation) else {
            // It was enrolled a moment ago, or deleted: news of either are on their way.
            return Next::Nothing;
        };
        drop(now);
        let is_new = history.is_none();
        let history = match &mut *history {
            Some(history) => {
                history.follow(&map, hasher);
                history
            }
            none => none.insert(MapHistory::new(&map, hasher)),
        };
        let made_as = std::mem::replace(&mut map.generation, history.newest());
        let message = match (self.sent, self.request.held) {
            (Some(sent), _) => match history.since(sent, &map) {
                Since::Same => None,
                Since::Changed(delta) => Some(StreamMessage::Delta { delta }),
                Since::Unknown => Some(full(map)),
            },
            (None, None) => Some(full(map)),
            (None, Some(held)) => {
                let request = &self.request;
                Some(first(history, held, request, map, made_as, is_new))
            }
        };
        self.sent = Some(history.newest());
        message.map_or(Next::Nothing, Next::Message)
    }
}

/// The first message to an agent that holds a map. `made_as` is the number that a map made now
/// may have; `is_new` is whether nobody was told of the map's number yet.
fn first(
    history: &mut MapHistory,
    held: Generation,
    request: &MapRequest,
    mut map: NetworkMap,
    made_as: Generation,
    is_new: bool,
) -> StreamMessage {
    match history.since(held, &map) {
        Since::Same => return StreamMessage::Heartbeat { generation: held },
        Since::Changed(delta) => return StreamMessage::Delta { delta },
        Since::Unknown => {}
    }
    if held > history.newest() {
        // Given by another coordinator of this network, which may have come further. An agent
        // never goes back to a lower number.
        history.renumber(made_as);
        map.generation = history.newest();
    }
    // A number of the future is one of another history.
    let is_known = held <= history.newest() && request.digest.is_some();
    if !is_known || request.digest != map.digest() {
        return full(map);
    }
    // Given before a restart, or by another coordinator; it is still right.
    if is_new {
        history.adopt(held);
    }
    let to = history.newest();
    if held == to {
        return StreamMessage::Heartbeat { generation: held };
    }
    StreamMessage::Delta {
        delta: Box::new(MapDelta {
            from: held,
            to,
            node: None,
            peers_changed: BTreeMap::new(),
            peers_removed: BTreeSet::new(),
            filter: None,
            notices: None,
        }),
    }
}

fn full(map: NetworkMap) -> StreamMessage {
    StreamMessage::Full { map: Box::new(map) }
}
