//! What agents do with what coordinators tell them.

use super::World;
use crate::engine::{Next, simulation::agent::Stream};
use std::collections::BTreeSet;
use weir_overlay::{Generation, NodeId};
use weir_protocol::{MapRequest, StreamMessage};

impl World {
    /// An agent goes to a coordinator: with what it holds, or without, or with a lie.
    pub(super) async fn connect(&mut self, id: NodeId, number: usize) {
        let agent = self.agents.get_mut(&id).unwrap();
        agent.stream = None;
        let mut request = agent.request();
        if self.random.below(40) == 0 {
            request = MapRequest {
                held: Some(Generation(u64::MAX)),
                ..request
            };
        }
        let one = self.coordinators[number].as_ref().unwrap();
        self.set_clocks(one.wrong_by);
        let Ok(wants_number) = one.engine.wants_number(&request).await else {
            // It hears that the database does not answer, and goes elsewhere.
            return;
        };
        if wants_number && self.random.below(4) > 0 {
            // Otherwise the coordinator takes too long, and goes on with what it has.
            self.publish(number).await;
        }
        let one = self.coordinators[number].as_ref().unwrap();
        let agent = self.agents.get_mut(&id);
        if let Some(agent) = agent {
            agent.came_at = self.now;
            agent.stream = Some(Stream {
                coordinator: number,
                follower: one.engine.maps.follow(id, request),
                _connected: one.presence.connect(id),
            });
        }
    }

    /// An agent reads what there is, and makes its kernel what the newest map says; others do not,
    /// and miss what is in between.
    pub(super) fn read(&mut self, id: NodeId) {
        let agent = self.agents.get_mut(&id).unwrap();
        let before = agent.peers();
        let Some(stream) = &mut agent.stream else {
            return;
        };
        let published = self.coordinators[stream.coordinator]
            .as_ref()
            .unwrap()
            .published;
        let held = agent.map.as_ref().map(|map| map.generation);
        let mut spoken = 0;
        let mut taken = true;
        loop {
            match stream.follower.next() {
                Next::Message(StreamMessage::Full { map }) => {
                    // As the ledger does: what is older is not believed.
                    taken = held <= Some(map.generation);
                    if taken {
                        agent.map = Some(*map);
                    } else {
                        *self.seen.entry("older maps refused").or_default() += 1;
                    }
                }
                Next::Message(StreamMessage::Delta { delta }) => {
                    assert!(delta.from < delta.to);
                    let map = agent
                        .map
                        .as_mut()
                        .filter(|map| map.generation == delta.from);
                    match map {
                        Some(map) => weir_netmap::apply(map, &delta).unwrap(),
                        None => {
                            agent.wants_whole = true;
                            agent.stream = None;
                            return;
                        }
                    }
                }
                Next::Message(StreamMessage::Heartbeat { generation }) => {
                    assert_eq!(agent.map.as_ref().unwrap().generation, generation);
                }
                Next::Message(StreamMessage::Closing { .. }) => panic!("nobody stops"),
                Next::Gone => panic!("it was not deleted"),
                Next::Nothing => break,
            }
            spoken += 1;
        }
        assert!(spoken <= 1, "one message is enough");
        if !taken {
            agent.stream = None;
            return;
        }
        let Some(map) = agent.map.clone() else {
            // The coordinator has not heard of the node yet.
            return;
        };
        let (version, expiry) = (agent.version, agent.expiry);
        let known = self
            .told
            .entry((id, map.generation))
            .or_insert_with(|| map.clone());
        assert_eq!(*known, map, "one number, two maps");
        self.explain(id, &map, version.max(published), expiry);
        let dies = self.random.below(8) == 0;
        let at = if dies {
            self.random.below(6)
        } else {
            usize::MAX
        };
        let agent = &self.agents[&id];
        agent.make(at);
        let allowed: BTreeSet<_> = map.peers.values().map(|peer| peer.node_key).collect();
        let now = agent.peers();
        assert!(
            now.iter()
                .all(|peer| allowed.contains(peer) || before.contains(peer)),
            "the kernel speaks to somebody whom no map names"
        );
        assert!(dies || now == allowed);
    }
}
