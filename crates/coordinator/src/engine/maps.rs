//! The network as it is now, what each node was told of it, and those who wait for news.
//!
//! No map is kept. Whoever follows a node's map has it made when there is room to send it, of the
//! network as it is then; what is remembered of the maps before is their [`MapHistory`].

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::RandomState,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::sync::watch;
use weir_netmap::{LiveNetwork, MapHistory, NetworkChange, Since, Touched};
use weir_overlay::{Generation, NodeId};
use weir_policy::Policy;
use weir_protocol::{MapDelta, MapRequest, NetworkMap, StreamMessage};

/// How many peers are remembered of all maps together, at 16 bytes each: 256 MiB. In a network
/// where ten thousand nodes see each other they would be six times as many.
const MAX_REMEMBERED: usize = 16 << 20;
/// Maps of up to so many peers are always remembered: 16 KiB a node.
const ALWAYS_REMEMBERED: usize = 1024;

/// Locks are taken in the order of the fields, and what was told of a node last.
#[derive(Debug)]
pub(crate) struct Maps {
    now: RwLock<Now>,
    nodes: Mutex<BTreeMap<NodeId, Arc<Told>>>,
    /// The peers in all histories.
    remembered: AtomicUsize,
    max_remembered: usize,
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
    heard: Mutex<Heard>,
}

#[derive(Debug, Default)]
struct Heard {
    /// The number of the newest map.
    newest: Option<Generation>,
    /// The maps that are remembered. Without them the next change is told as a whole map.
    history: Option<MapHistory>,
    /// What may be otherwise than in the newest of these.
    unread: Unread,
}

#[derive(Debug)]
enum Unread {
    /// What the map says of these peers.
    Peers(BTreeSet<NodeId>),
    /// Anything.
    Whole,
}

impl Default for Unread {
    fn default() -> Self {
        Self::Peers(BTreeSet::new())
    }
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
            remembered: AtomicUsize::new(0),
            max_remembered: MAX_REMEMBERED,
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
        lock(&told.heard).newest
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
        self.mark(&touched);
        touched.nodes().collect()
    }

    /// Makes changes that take long. Until it is done, maps are made of the network before. Only
    /// one caller may change the network.
    pub(crate) fn apply_slowly(
        &self,
        changes: Vec<NetworkChange>,
        generation: Generation,
    ) -> BTreeSet<NodeId> {
        if let [NetworkChange::Policy(policy)] = changes.as_slice() {
            return self.replace_policy(policy, generation);
        }
        let mut network = self.now().network.clone();
        let touched = apply(&mut network, changes);
        let mut now = self.now_mut();
        now.generation = generation;
        let before = std::mem::replace(&mut now.network, network);
        self.mark(&touched);
        drop(now);
        // Taking down a large network takes a while, too: not while others wait.
        drop(before);
        touched.nodes().collect()
    }

    fn replace_policy(&self, policy: &Arc<Policy>, generation: Generation) -> BTreeSet<NodeId> {
        let mut prepared = self.now().network.prepare(Arc::clone(policy));
        let mut now = self.now_mut();
        now.generation = generation;
        let touched = now.network.put_in_force(&mut prepared);
        self.mark(&touched);
        drop(now);
        // As above.
        drop(prepared);
        touched.nodes().collect()
    }

    /// Notes what of the maps may differ, before anybody can make one of the network that was
    /// changed.
    fn mark(&self, touched: &Touched) {
        let nodes = lock(&self.nodes);
        for told in touched.whole.iter().filter_map(|id| nodes.get(id)) {
            lock(&told.heard).unread = Unread::Whole;
        }
        for (viewer, peers) in &touched.peers {
            if let Some(told) = nodes.get(viewer)
                && let Unread::Peers(unread) = &mut lock(&told.heard).unread
            {
                unread.extend(peers);
            }
        }
    }

    /// A history of `before` peers is one of `after` now.
    fn count(&self, before: usize, after: usize) {
        // Only ever a measure of memory: nothing else follows its order.
        self.remembered.fetch_add(after, Ordering::Relaxed);
        self.remembered.fetch_sub(before, Ordering::Relaxed);
    }

    fn has_room_for(&self, history: &MapHistory) -> bool {
        history.peers() <= ALWAYS_REMEMBERED
            || self.remembered.load(Ordering::Relaxed) <= self.max_remembered
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
                let history = lock(&told.heard).history.take();
                self.count(size(history.as_ref()), 0);
                told.news.send_replace(News::Gone);
            }
        }
    }

    /// Follows the map of a node, from the one that its agent says it holds.
    pub(crate) fn follow(self: &Arc<Self>, node: NodeId, request: MapRequest) -> Follower {
        let told = Arc::clone(lock(&self.nodes).entry(node).or_insert_with(|| {
            Arc::new(Told {
                news: watch::Sender::new(News::Touched),
                heard: Mutex::default(),
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

fn apply(network: &mut LiveNetwork, changes: Vec<NetworkChange>) -> Touched {
    let mut touched = Touched::default();
    for change in changes {
        touched.merge(network.apply(change));
    }
    touched
}

fn size(history: Option<&MapHistory>) -> usize {
    history.map_or(0, MapHistory::peers)
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
        let (maps, told) = (Arc::clone(&self.maps), Arc::clone(&self.told));
        let now = maps.now();
        let mut heard = lock(&told.heard);
        let before = size(heard.history.as_ref());
        let next = match self.news_of_peers(&now, &mut heard) {
            Some(next) => next,
            None => self.news_of_all(&now, &mut heard),
        };
        drop(now);
        maps.count(before, size(heard.history.as_ref()));
        if let Some(history) = heard.history.take_if(|own| !maps.has_room_for(own)) {
            tracing::debug!(node = %self.node, "too many maps to remember this one");
            maps.count(history.peers(), 0);
        }
        next
    }

    /// What there is to say, where nothing but some peers may differ from what the agent has: then
    /// the map need not be made.
    fn news_of_peers(&mut self, now: &Now, heard: &mut Heard) -> Option<Next> {
        let (Some(sent), Some(history)) = (self.sent, &mut heard.history) else {
            return None;
        };
        let Unread::Peers(unread) = &mut heard.unread else {
            return None;
        };
        let peer = |id| now.network.peer(self.node, id);
        let unread = std::mem::take(unread);
        let peers: Vec<_> = unread.iter().map(|id| (*id, peer(*id))).collect();
        let peers = peers.iter().map(|(id, peer)| (*id, peer.as_ref()));
        history.follow_peers(now.generation, peers, &self.maps.hasher);
        let next = match history.peers_since(sent, peer) {
            Since::Same => Next::Nothing,
            Since::Changed(delta) => Next::Message(StreamMessage::Delta { delta }),
            Since::Unknown => return None,
        };
        self.sent = Some(history.newest());
        heard.newest = self.sent;
        Some(next)
    }

    fn news_of_all(&mut self, now: &Now, heard: &mut Heard) -> Next {
        let hasher = &self.maps.hasher;
        let Some(mut map) = now.network.map(self.node, now.generation) else {
            // It was enrolled a moment ago, or deleted: news of either are on their way.
            heard.unread = Unread::Whole;
            return Next::Nothing;
        };
        heard.unread = Unread::default();
        let is_new = heard.history.is_none();
        let history = match &mut heard.history {
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
                // A number may have been told that is remembered no more.
                let is_new = is_new && heard.newest.is_none();
                Some(first(history, held, request, map, made_as, is_new))
            }
        };
        self.sent = Some(history.newest());
        heard.newest = self.sent;
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

#[cfg(test)]
mod tests {
    use super::*;
    use weir_netmap::{KeyLife, NetworkState, Node, apply};
    use weir_overlay::NodePublicKey;
    use weir_protocol::HostInfo;

    const HUB: NodeId = NodeId(1);
    /// More than are always remembered.
    const NODES: u64 = 1100;
    const SPOKES_TO_HUB: &str = r#"{
        "tagOwners": { "tag:spoke": [], "tag:hub": [] },
        "acls": [{ "action": "accept", "src": ["tag:spoke"], "dst": ["tag:hub:443"] }],
    }"#;

    fn node(id: NodeId, name: &str) -> Node {
        let mut key = [7; 32];
        key[8..16].copy_from_slice(&id.0.to_le_bytes());
        let [.., high, low] = id.0.to_be_bytes();
        let tag = if id == HUB { "tag:hub" } else { "tag:spoke" };
        Node {
            id,
            name: name.parse().unwrap(),
            user: None,
            tags: [tag.parse().unwrap()].into(),
            node_key: NodePublicKey::from_bytes(key),
            addresses: [[100, 64, high, low].into()].into(),
            created: 0,
            host: HostInfo::default(),
            decisions: BTreeMap::new(),
            observed_address: None,
            key_life: KeyLife::Unlimited,
            healthy: true,
            egress: BTreeMap::new(),
        }
    }

    /// A hub whom all others talk to, and room to remember so many peers.
    fn hub(max_remembered: usize) -> Arc<Maps> {
        let ids = (1..=NODES).map(NodeId);
        let state = NetworkState {
            nodes: ids
                .map(|id| (id, node(id, &format!("n{}", id.0))))
                .collect(),
            ..NetworkState::default()
        };
        let policy = Policy::parse(SPOKES_TO_HUB).unwrap();
        let maps = Maps::new(LiveNetwork::new(state, policy.into()), Generation(3));
        Arc::new(Maps {
            max_remembered,
            ..maps
        })
    }

    fn rename(maps: &Maps, generation: u64, id: NodeId, name: &str) {
        let change = NetworkChange::Node(Box::new(node(id, name)));
        let touched = maps.apply(vec![change], Generation(generation));
        maps.tell(&touched);
    }

    fn message(follower: &mut Follower) -> StreamMessage {
        let Next::Message(message) = follower.next() else {
            panic!("a message was expected");
        };
        message
    }

    fn full_map(follower: &mut Follower) -> NetworkMap {
        let StreamMessage::Full { map } = message(follower) else {
            panic!("a full map was expected");
        };
        *map
    }

    fn delta(follower: &mut Follower) -> MapDelta {
        let StreamMessage::Delta { delta } = message(follower) else {
            panic!("a delta was expected");
        };
        *delta
    }

    #[test]
    fn a_hub_is_told_of_one_peer_and_so_is_who_comes_back_to_it() {
        let maps = hub(MAX_REMEMBERED);
        let mut follower = maps.follow(HUB, MapRequest::default());
        let mut held = full_map(&mut follower);
        let first = held.clone();
        for (generation, name) in [(4, "a"), (5, "b")] {
            rename(&maps, generation, NodeId(9), name);
            let delta = delta(&mut follower);
            assert_eq!(delta.peers_changed.len(), 1);
            apply(&mut held, &delta).unwrap();
        }
        assert_eq!(follower.next(), Next::Nothing);
        let now = maps
            .ask(|network| network.map(HUB, held.generation))
            .unwrap();
        assert_eq!(held, now);
        // The hub's own name and a peer's are told together.
        rename(&maps, 6, NodeId(9), "c");
        rename(&maps, 7, HUB, "hub");
        let both = delta(&mut follower);
        assert_eq!((both.peers_changed.len(), both.node.is_some()), (1, true));
        // An older map is known as well.
        let request = MapRequest {
            held: Some(first.generation),
            digest: None,
        };
        let mut held = first;
        apply(&mut held, &delta(&mut maps.follow(HUB, request))).unwrap();
        let now = maps
            .ask(|network| network.map(HUB, held.generation))
            .unwrap();
        assert_eq!(held, now);
    }

    #[test]
    fn who_is_not_remembered_is_told_whole_maps() {
        let maps = hub(0);
        let mut follower = maps.follow(HUB, MapRequest::default());
        full_map(&mut follower);
        assert_eq!(maps.remembered.load(Ordering::Relaxed), 0);
        assert_eq!(maps.newest_of(HUB), Some(Generation(3)));
        rename(&maps, 4, NodeId(9), "a");
        assert_eq!(full_map(&mut follower).generation, Generation(4));
        assert_eq!(follower.next(), Next::Nothing);
        // Short maps are remembered nevertheless.
        let mut spoke = maps.follow(NodeId(9), MapRequest::default());
        full_map(&mut spoke);
        assert_eq!(maps.remembered.load(Ordering::Relaxed), 1);
        rename(&maps, 5, HUB, "hub");
        assert_eq!(delta(&mut spoke).peers_changed.len(), 1);
        maps.tell(&maps.apply(vec![NetworkChange::Left(NodeId(9))], Generation(6)));
        assert_eq!(maps.remembered.load(Ordering::Relaxed), 0);
    }
}
