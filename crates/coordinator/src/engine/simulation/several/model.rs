//! The model: each version that the database ever had, and what agents hold compared with it.

use super::{COORDINATORS, World};
use crate::{
    engine::{housekeeping::EPHEMERAL_STAYS_SECONDS, simulation::NOW},
    presence::GRACE,
    snapshot,
};
use weir_netmap::{KeyLife, Network, NetworkState};
use weir_overlay::NodeId;
use weir_policy::Policy;
use weir_protocol::NetworkMap;

/// What the database had once.
pub(super) struct Version {
    pub(super) revision: u64,
    pub(super) state: NetworkState,
    pub(super) policy: Policy,
}

impl World {
    /// Takes over what the database has now.
    pub(super) async fn look(&mut self) {
        let mut tx = self.truth.read().await.unwrap();
        let revision = tx.revision().await.unwrap();
        let mut state = snapshot::read(&mut tx, NOW).await.unwrap();
        let newest = tx.newest_policies(1).await.unwrap();
        for id in tx.absent_nodes().await.unwrap() {
            let node = state.nodes.get_mut(&id).unwrap();
            node.healthy = node.host.advertised_routes.is_empty();
        }
        drop(tx);
        if let Some(last) = self.versions.last() {
            assert!(revision >= last.revision, "what was committed is gone");
            if revision == last.revision {
                assert!(
                    state.nodes == last.state.nodes,
                    "the network changed and its revision did not"
                );
                if state.primaries == last.state.primaries {
                    return;
                }
            }
        }
        let policy = newest.first().map(|row| Policy::parse(&row.text).unwrap());
        let now = self.now;
        self.agents.retain(|id, agent| {
            let is_there = state.nodes.contains_key(id);
            let stayed_away = now - agent.came_at > EPHEMERAL_STAYS_SECONDS;
            assert!(
                is_there || agent.is_deleted || stayed_away,
                "node {id} was forgotten too soon"
            );
            is_there
        });
        self.versions.push(Version {
            revision,
            state,
            policy: policy.unwrap_or_else(Policy::empty),
        });
    }

    /// Finds what the map is of: some version of the network, none that is older than `version`.
    pub(super) fn explain(&mut self, id: NodeId, map: &NetworkMap, version: usize, expiry: usize) {
        for expiry in expiry..self.expiries.len() {
            for version in version..self.versions.len() {
                let given = self.model(version, expiry).map(id, map.generation);
                if given.as_ref() == Some(map) {
                    let agent = self.agents.get_mut(&id).unwrap();
                    (agent.version, agent.expiry) = (version, expiry);
                    return;
                }
            }
        }
        let newest = self.versions.len() - 1;
        let given = self.model(newest, self.expiries.len() - 1);
        panic!(
            "no version of the network from {version} to {newest} gives node {id} this map: \
             {map:#?}\nthe newest gives {:#?}",
            given.map(id, map.generation)
        );
    }

    /// Everything works again, and all get there.
    pub(super) async fn quiet_down(&mut self) {
        for number in 0..COORDINATORS {
            self.heal(number);
            if self.coordinators[number].is_none() {
                self.start(number).await;
            }
            self.finish(number).await;
        }
        tokio::time::advance(GRACE * 2).await;
        self.running += GRACE * 2;
        self.now += 30;
        self.expiries.push(self.now);
        let ids: Vec<_> = self.agents.keys().copied().collect();
        for id in ids {
            let number = self.random.below(COORDINATORS);
            self.connect(id, number).await;
        }
        // Rounds until nobody has anything left to say.
        for round in 0.. {
            let before = self.versions.len();
            for number in 0..COORDINATORS {
                self.beat(number).await;
                self.publish(number).await;
            }
            if self.versions.len() == before && round > 2 {
                break;
            }
            assert!(round < 20, "the coordinators never agree");
        }
        let ids: Vec<_> = self.agents.keys().copied().collect();
        let newest = (self.versions.len() - 1, self.expiries.len() - 1);
        for id in ids {
            for attempt in 0.. {
                self.read(id);
                if self.agents[&id].stream.is_some() {
                    break;
                }
                assert!(attempt < 5, "node {id} gets no map that it can take");
                let number = self.random.below(COORDINATORS);
                self.connect(id, number).await;
            }
            let agent = &self.agents[&id];
            let held = agent.map.clone().expect("it was told nothing");
            let model = self.model(newest.0, newest.1);
            let model = model.map(id, held.generation);
            assert_eq!(Some(&held), model.as_ref(), "node {id} is not up to date");
            let agent = &self.agents[&id];
            agent.make(usize::MAX);
            assert!(agent.conforms(&held));
        }
        let mut tx = self.truth.read().await.unwrap();
        for (revision, text) in &self.policies {
            let stored = tx.policy(*revision).await.unwrap();
            assert_eq!(
                stored.unwrap().text,
                *text,
                "an acknowledged policy is lost"
            );
        }
    }

    /// A version of the network with the keys that had expired by then, made anew once.
    fn model(&mut self, version: usize, expiry: usize) -> &Network<'static> {
        let (versions, expiries) = (&self.versions, &self.expiries);
        self.models.entry((version, expiry)).or_insert_with(|| {
            let version = &versions[version];
            let mut state = version.state.clone();
            for node in state.nodes.values_mut() {
                node.key_life = KeyLife::at(node.key_life.end(), expiries[expiry]);
            }
            // A network borrows what it is made of, which is asked for until the run ends.
            let state = Box::leak(Box::new(state));
            Network::new(state, Box::leak(Box::new(version.policy.clone())))
        })
    }
}
