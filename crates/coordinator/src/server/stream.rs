//! The map stream of one node: its newest map, then what changes.

use crate::{
    clock,
    engine::{Follower, Next},
    presence::Connected,
};
use axum::body::Bytes;
use futures_util::stream::{self, Stream};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};
use weir_protocol::{HEARTBEAT_SECONDS, StreamMessage};

const HEARTBEAT: Duration = Duration::from_secs(HEARTBEAT_SECONDS);
/// The longest that an agent waits for its turn to be told its first map, below the silence after
/// which it gives up itself.
const FIRST_MAP_DEADLINE: Duration = Duration::from_secs(2 * HEARTBEAT_SECONDS);
/// The shortest time after which agents come back to a coordinator that stops: a restart.
const RECONNECT_FIRST_MS: u64 = 500;
/// The longest.
const RECONNECT_LAST_MS: u64 = 10_000;

/// What a stream is made of.
#[derive(Debug)]
pub(super) struct Source {
    /// The node's map.
    pub(super) maps: Follower,
    /// Lets only so many agents be told their first map at a time.
    pub(super) first_maps: Arc<Semaphore>,
    /// Turns true when the coordinator stops.
    pub(super) stopping: watch::Receiver<bool>,
    /// Marks the node as connected while the stream lives.
    pub(super) connected: Connected,
}

struct State {
    source: Source,
    heartbeat: tokio::time::Interval,
    /// The turn to be told the first map, kept until that has left.
    turn: Option<OwnedSemaphorePermit>,
    ends: bool,
}

/// Lines of JSON, one message each. A line is made when the connection has room for it, of the
/// network as it is then: a slow reader misses what was in between.
pub(super) fn lines(source: Source) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let state = State {
        source,
        heartbeat,
        turn: None,
        ends: false,
    };
    stream::unfold(state, |mut state| async move {
        let message = state.next().await?;
        let line = match serde_json::to_vec(&message) {
            Ok(mut line) => {
                line.push(b'\n');
                line
            }
            Err(error) => {
                tracing::error!(%error, "cannot write a map as JSON; the stream ends");
                return None;
            }
        };
        Some((Ok(Bytes::from(line)), state))
    })
}

impl State {
    /// The next message; none when the node was deleted or the coordinator stops.
    async fn next(&mut self) -> Option<StreamMessage> {
        // Called again, so the line before has left.
        self.turn = None;
        if self.ends {
            return None;
        }
        if self.source.maps.sent().is_none() {
            let turn = Arc::clone(&self.source.first_maps).acquire_owned();
            self.turn = timeout(FIRST_MAP_DEADLINE, turn).await.ok()?.ok();
        }
        loop {
            if *self.source.stopping.borrow() {
                self.ends = true;
                return Some(self.closing());
            }
            match self.source.maps.next() {
                Next::Message(message) => {
                    self.heartbeat.reset();
                    return Some(message);
                }
                Next::Nothing => {}
                Next::Gone => return None,
            }
            tokio::select! {
                () = self.source.maps.changed() => {}
                stopping = self.source.stopping.changed() => stopping.ok()?,
                _ = self.heartbeat.tick() => {
                    // Whom this coordinator still knows nothing of was deleted before it could, or
                    // is better told by another one: without an answer its agent comes again.
                    let generation = self.source.maps.sent()?;
                    return Some(StreamMessage::Heartbeat { generation });
                }
            }
        }
    }

    /// Tells the agent when to come back: a millisecond for each agent, in random order.
    fn closing(&self) -> StreamMessage {
        let agents = u64::try_from(self.source.connected.online()).unwrap_or(u64::MAX);
        let spread = agents.clamp(RECONNECT_FIRST_MS, RECONNECT_LAST_MS - RECONNECT_FIRST_MS);
        let random = clock::random::<8>().map_or(0, u64::from_le_bytes);
        StreamMessage::Closing {
            reconnect_in_ms: RECONNECT_FIRST_MS + random % spread,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{engine::Maps, presence::Presence};
    use futures_util::StreamExt;
    use std::collections::{BTreeMap, BTreeSet};
    use weir_netmap::{LiveNetwork, NetworkChange, NetworkState, Node};
    use weir_overlay::{Generation, NodeId, NodePublicKey};
    use weir_policy::Policy;
    use weir_protocol::{HostInfo, MapRequest, NetworkMap};

    const NODE: NodeId = NodeId(1);

    fn node(name: &str) -> Node {
        Node {
            id: NODE,
            name: name.parse().unwrap(),
            user: None,
            tags: BTreeSet::new(),
            node_key: NodePublicKey::from_bytes([1; 32]),
            key_life: weir_netmap::KeyLife::Unlimited,
            addresses: BTreeSet::new(),
            created: 0,
            host: HostInfo::default(),
            decisions: BTreeMap::new(),
            egress: BTreeMap::new(),
            observed_address: None,
            healthy: true,
        }
    }

    struct Ends {
        maps: Arc<Maps>,
        stopping: watch::Sender<bool>,
    }

    type Lines = std::pin::Pin<Box<dyn Stream<Item = Result<Bytes, Infallible>>>>;

    impl Ends {
        /// One node whose map is number 3.
        fn new() -> Self {
            let state = NetworkState {
                nodes: [(NODE, node("a"))].into(),
                ..NetworkState::default()
            };
            let network = LiveNetwork::new(state, Policy::empty().into());
            Self {
                maps: Arc::new(Maps::new(network, Generation(3))),
                stopping: watch::Sender::new(false),
            }
        }

        fn open(&self, request: MapRequest) -> Lines {
            Box::pin(lines(Source {
                maps: self.maps.follow(NODE, request),
                first_maps: Arc::new(Semaphore::new(1)),
                stopping: self.stopping.subscribe(),
                connected: Presence::new(Instant::now()).connect(NODE),
            }))
        }

        fn change(&self, generation: u64, change: NetworkChange) {
            let touched = self.maps.apply(vec![change], Generation(generation));
            self.maps.tell(&touched);
        }

        fn rename(&self, generation: u64, name: &str) {
            self.change(generation, NetworkChange::Node(Box::new(node(name))));
        }
    }

    fn read(line: Option<Result<Bytes, Infallible>>) -> StreamMessage {
        let Ok(line) = line.unwrap();
        assert_eq!(line.last(), Some(&b'\n'));
        serde_json::from_slice(&line).unwrap()
    }

    async fn full(lines: &mut Lines) -> NetworkMap {
        let StreamMessage::Full { map } = read(lines.next().await) else {
            panic!("a full map was expected");
        };
        *map
    }

    fn holding(map: &NetworkMap) -> MapRequest {
        MapRequest {
            held: Some(map.generation),
            digest: map.digest(),
        }
    }

    #[tokio::test]
    async fn a_slow_reader_gets_one_delta_to_the_newest_map() {
        let ends = Ends::new();
        let mut lines = ends.open(MapRequest::default());
        assert_eq!(full(&mut lines).await.generation, Generation(3));
        for generation in 4..=9 {
            ends.rename(generation, &format!("n{generation}"));
        }
        let StreamMessage::Delta { delta } = read(lines.next().await) else {
            panic!("a delta was expected");
        };
        assert_eq!((delta.from, delta.to), (Generation(3), Generation(9)));
        assert_eq!(delta.node.unwrap().name.as_str(), "n9");
    }

    #[tokio::test]
    async fn who_comes_back_is_told_the_difference() {
        let ends = Ends::new();
        let mut lines = ends.open(MapRequest::default());
        let held = full(&mut lines).await;
        drop(lines);
        ends.rename(4, "b");
        ends.rename(5, "c");
        // The digest is not asked for: the generation is known.
        let mut request = holding(&held);
        request.digest = None;
        let mut lines = ends.open(request);
        let StreamMessage::Delta { delta } = read(lines.next().await) else {
            panic!("a delta was expected");
        };
        assert_eq!((delta.from, delta.to), (Generation(3), Generation(5)));
        let mut map = held;
        weir_netmap::apply(&mut map, &delta).unwrap();
        assert_eq!(map.node.name.as_str(), "c");
    }

    #[tokio::test]
    async fn a_coordinator_that_was_restarted_knows_a_map_by_what_it_says() {
        let held = full(&mut Ends::new().open(MapRequest::default())).await;
        let restarted = Ends::new();
        restarted.rename(7, "b");
        restarted.rename(8, "a");
        let first = read(restarted.open(holding(&held)).next().await);
        let generation = held.generation;
        assert_eq!(first, StreamMessage::Heartbeat { generation });
        // What it does not know, or what is no longer so, is told whole.
        let mut unknown = holding(&held);
        unknown.digest = None;
        let other = Ends::new();
        other.rename(7, "b");
        for request in [unknown, holding(&held)] {
            let map = full(&mut other.open(request)).await;
            assert_eq!(map.generation, Generation(7));
        }
    }

    #[tokio::test]
    async fn a_generation_of_the_future_gets_the_whole_map() {
        let ends = Ends::new();
        let mut held = full(&mut ends.open(MapRequest::default())).await;
        held.generation = Generation(u64::MAX);
        let map = full(&mut ends.open(holding(&held))).await;
        assert_eq!(map.generation, Generation(3));
    }

    #[tokio::test(start_paused = true)]
    async fn who_holds_the_newest_map_hears_a_heartbeat_at_once_and_again() {
        let ends = Ends::new();
        let held = full(&mut ends.open(MapRequest::default())).await;
        let mut lines = ends.open(holding(&held));
        let start = Instant::now();
        for seconds in [0, HEARTBEAT_SECONDS, 2 * HEARTBEAT_SECONDS] {
            let message = read(lines.next().await);
            let expected = StreamMessage::Heartbeat {
                generation: Generation(3),
            };
            assert_eq!(message, expected);
            assert_eq!(start.elapsed().as_secs(), seconds);
        }
    }

    #[tokio::test]
    async fn the_stream_of_a_deleted_node_ends() {
        let ends = Ends::new();
        let mut lines = ends.open(MapRequest::default());
        full(&mut lines).await;
        ends.change(4, NetworkChange::Left(NODE));
        assert!(lines.next().await.is_none());
    }

    #[tokio::test]
    async fn agents_are_told_when_to_come_back_to_a_coordinator_that_stops() {
        let ends = Ends::new();
        let mut lines = ends.open(MapRequest::default());
        ends.stopping.send_replace(true);
        let StreamMessage::Closing { reconnect_in_ms } = read(lines.next().await) else {
            panic!("it is stopping");
        };
        assert!((RECONNECT_FIRST_MS..RECONNECT_LAST_MS).contains(&reconnect_in_ms));
        assert!(lines.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn first_maps_are_told_in_turn() {
        let ends = Ends::new();
        let turns = Arc::new(Semaphore::new(1));
        let open = || -> Lines {
            Box::pin(lines(Source {
                maps: ends.maps.follow(NODE, MapRequest::default()),
                first_maps: Arc::clone(&turns),
                stopping: ends.stopping.subscribe(),
                connected: Presence::new(Instant::now()).connect(NODE),
            }))
        };
        let (mut one, mut other) = (open(), open());
        full(&mut one).await;
        // The first one's map has not left yet.
        let waits = timeout(Duration::from_secs(1), other.next()).await;
        assert!(waits.is_err());
        let (next, map) = tokio::join!(one.next(), full(&mut other));
        assert!(matches!(read(next), StreamMessage::Heartbeat { .. }));
        assert_eq!(map.generation, Generation(3));
    }
}
