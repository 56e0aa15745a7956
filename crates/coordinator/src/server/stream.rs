//! The map stream of one node: its newest map, then what changes.

use crate::{engine::Current, presence::Connected};
use axum::body::Bytes;
use futures_util::stream::{self, Stream};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at},
};
use weir_overlay::Generation;
use weir_protocol::{HEARTBEAT_SECONDS, NetworkMap, StreamMessage};

const HEARTBEAT: Duration = Duration::from_secs(HEARTBEAT_SECONDS);

/// What a stream is made of.
#[derive(Debug)]
pub(super) struct Source {
    /// The node's newest map.
    pub(super) maps: watch::Receiver<Current>,
    /// The generation that the agent says it holds.
    pub(super) held: Option<Generation>,
    /// Turns true when the coordinator stops.
    pub(super) stopping: watch::Receiver<bool>,
    /// Marks the node as connected while the stream lives.
    pub(super) connected: Connected,
}

struct State {
    maps: watch::Receiver<Current>,
    held: Option<Generation>,
    stopping: watch::Receiver<bool>,
    _connected: Connected,
    /// What the agent has after the last message.
    sent: Option<Arc<NetworkMap>>,
    heartbeat: tokio::time::Interval,
}

/// Lines of JSON, one message each. A line is made when the connection has room for it, of the
/// newest map there is then: a slow reader misses what was in between.
pub(super) fn lines(source: Source) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let state = State {
        maps: source.maps,
        held: source.held,
        stopping: source.stopping,
        _connected: source.connected,
        sent: None,
        heartbeat,
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
        loop {
            if *self.stopping.borrow() {
                return None;
            }
            let newest = match &*self.maps.borrow_and_update() {
                Current::Map(map) => Some(Arc::clone(map)),
                Current::Pending => None,
                Current::Gone => return None,
            };
            if let Some(message) = newest.and_then(|newest| self.message(newest)) {
                self.heartbeat.reset();
                return Some(message);
            }
            tokio::select! {
                changed = self.maps.changed() => changed.ok()?,
                stopping = self.stopping.changed() => stopping.ok()?,
                _ = self.heartbeat.tick() => {
                    if let Some(sent) = &self.sent {
                        return Some(StreamMessage::Heartbeat { generation: sent.generation });
                    }
                }
            }
        }
    }

    /// What to say about the newest map; none when the agent has it.
    fn message(&mut self, newest: Arc<NetworkMap>) -> Option<StreamMessage> {
        let generation = newest.generation;
        let message = match &self.sent {
            None if self.held == Some(generation) => StreamMessage::Heartbeat { generation },
            None => full(&newest),
            Some(sent) if sent.generation == generation => return None,
            Some(sent) => match weir_netmap::delta(sent, &newest) {
                Some(delta) => StreamMessage::Delta {
                    delta: Box::new(delta),
                },
                // Only the number changed. The agent must hear of it all the same.
                None => full(&newest),
            },
        };
        self.sent = Some(newest);
        Some(message)
    }
}

fn full(map: &Arc<NetworkMap>) -> StreamMessage {
    StreamMessage::Full {
        map: Box::new(NetworkMap::clone(map)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::Presence;
    use futures_util::StreamExt;
    use std::collections::{BTreeMap, BTreeSet};
    use weir_overlay::NodeId;
    use weir_protocol::SelfNode;

    fn map(generation: u64, notice: &str) -> Current {
        Current::Map(Arc::new(NetworkMap {
            generation: Generation(generation),
            node: SelfNode {
                id: NodeId(1),
                name: "relay".parse().unwrap(),
                user: None,
                tags: BTreeSet::new(),
                addresses: BTreeSet::new(),
                routes: Vec::new(),
            },
            peers: BTreeMap::new(),
            filter: Vec::new(),
            notices: vec![notice.to_owned()],
        }))
    }

    struct Ends {
        maps: watch::Sender<Current>,
        stopping: watch::Sender<bool>,
    }

    fn open(
        held: Option<u64>,
    ) -> (
        Ends,
        std::pin::Pin<Box<impl Stream<Item = Result<Bytes, Infallible>>>>,
    ) {
        let (maps, maps_seen) = watch::channel(Current::Pending);
        let (stopping, stopping_seen) = watch::channel(false);
        let lines = lines(Source {
            maps: maps_seen,
            held: held.map(Generation),
            stopping: stopping_seen,
            connected: Presence::new(std::time::Instant::now()).connect(NodeId(1)),
        });
        (Ends { maps, stopping }, Box::pin(lines))
    }

    fn read(line: Option<Result<Bytes, Infallible>>) -> StreamMessage {
        let Ok(line) = line.unwrap();
        assert_eq!(line.last(), Some(&b'\n'));
        serde_json::from_slice(&line).unwrap()
    }

    #[tokio::test]
    async fn a_slow_reader_gets_one_delta_to_the_newest_map() {
        let (ends, mut lines) = open(None);
        ends.maps.send_replace(map(3, "a"));
        let first = read(lines.next().await);
        assert!(matches!(first, StreamMessage::Full { map } if map.generation == Generation(3)));
        for generation in 4..=9 {
            ends.maps
                .send_replace(map(generation, &generation.to_string()));
        }
        let StreamMessage::Delta { delta } = read(lines.next().await) else {
            panic!("a delta was expected");
        };
        assert_eq!((delta.from, delta.to), (Generation(3), Generation(9)));
        assert_eq!(delta.notices, Some(vec!["9".to_owned()]));
    }

    #[tokio::test(start_paused = true)]
    async fn who_holds_the_newest_map_hears_a_heartbeat_at_once_and_again() {
        let (ends, mut lines) = open(Some(3));
        ends.maps.send_replace(map(3, "a"));
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
        let (ends, mut lines) = open(None);
        ends.maps.send_replace(map(3, "a"));
        read(lines.next().await);
        ends.maps.send_replace(Current::Gone);
        assert!(lines.next().await.is_none());
    }

    #[tokio::test]
    async fn streams_end_when_the_coordinator_stops() {
        let (ends, mut lines) = open(None);
        ends.stopping.send_replace(true);
        assert!(lines.next().await.is_none());
    }
}
