//! What admins and machines ask coordinators to change.

use super::{HOUR, World};
use crate::{
    engine::{
        Next,
        simulation::{
            POLICIES, ROUTES, TAGS,
            agent::{Agent, key},
        },
    },
    store::{Decision, NewNode, StoreError, Tx},
};
use ipnet::IpNet;
use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
};
use weir_overlay::{MachinePrivateKey, NodeId};
use weir_protocol::HostInfo;

impl World {
    /// A coordinator is asked to change something. What it says is what happened.
    pub(super) async fn ask(
        &mut self,
        number: usize,
        change: impl AsyncFnOnce(&mut Tx) -> Result<(), StoreError>,
    ) -> bool {
        let one = self.coordinators[number].as_ref().unwrap();
        let (store, wrong_by) = (one.store.clone(), one.wrong_by);
        self.set_clocks(wrong_by);
        let before = self.versions.len() - 1;
        let work = async {
            let mut tx = store.write().await?;
            change(&mut tx).await?;
            tx.commit().await
        };
        let result = work.await;
        let revision = self.versions[before].revision;
        self.look().await;
        let changed = self.versions.last().unwrap().revision > revision;
        match &result {
            Ok(()) => self.note("changes"),
            Err(error) if changed => {
                assert!(error.is_unavailable(), "{error}");
                self.note("changes of which the answer was lost");
            }
            Err(error) => {
                assert!(error.is_unavailable() || error.is_full(), "{error}");
                self.note("changes that failed");
            }
        }
        // The one who was asked looks at once; the others when they hear of it, or by themselves.
        if result.is_ok() {
            self.begin_to_publish(number);
        }
        for other in self.alive() {
            if changed && self.random.below(2) == 0 {
                self.begin_to_publish(other);
            }
        }
        result.is_ok()
    }

    pub(super) fn new_node(&mut self) -> NewNode {
        self.enrolled += 1;
        self.keys += 1;
        let (machine, node_key) = (self.enrolled, key(self.keys).public());
        let mut bytes = [9; 32];
        bytes[8..16].copy_from_slice(&machine.to_le_bytes());
        let lives = self.random.below(4) == 0;
        NewNode {
            machine_key: MachinePrivateKey::from_bytes(bytes).public(),
            node_key,
            name: format!("n{machine}").parse().unwrap(),
            user: None,
            tags: [self.random.pick(&TAGS).parse().unwrap()].into(),
            ephemeral: self.random.below(5) == 0,
            ipv4: Ipv4Addr::from_bits(0x6440_0000 + u32::try_from(machine).unwrap()),
            ipv6: Ipv6Addr::from_bits((0xfd77_6569_7200_u128 << 80) + u128::from(machine)),
            host: HostInfo::default(),
            observed_address: [203, 0, 113, 7].into(),
            created_at: self.now,
            key_expires_at: lives.then_some(self.now + HOUR),
        }
    }

    /// So many are in before anything fails.
    pub(super) async fn enrol_first(&mut self, agents: usize) {
        let mut tx = self.truth.write().await.unwrap();
        for _ in 0..agents {
            let node = self.new_node();
            let id = tx.insert_node(&node).await.unwrap();
            let agent = Agent {
                came_at: self.now,
                ..Agent::default()
            };
            self.agents.insert(id, agent);
        }
        tx.commit().await.unwrap();
        self.look().await;
    }

    pub(super) async fn enrol(&mut self, number: usize) {
        let node = self.new_node();
        let mut given = None;
        self.ask(number, async |tx| {
            given = Some(tx.insert_node(&node).await?);
            Ok(())
        })
        .await;
        // Its agent may not have heard that it is in; then it asks again, and is.
        if let Some(id) = given.filter(|id| {
            let newest = self.versions.last().unwrap();
            newest.state.nodes.contains_key(id)
        }) {
            let agent = Agent {
                came_at: self.now,
                ..Agent::default()
            };
            self.agents.insert(id, agent);
        }
    }

    pub(super) async fn delete(&mut self, id: NodeId, number: usize) {
        let agent = self.agents.get_mut(&id).unwrap();
        agent.is_deleted = true;
        let stream = agent.stream.take();
        let is_gone = self.ask(number, async |tx| tx.delete_node(id).await).await;
        let Some(mut stream) = stream.filter(|_| is_gone) else {
            return;
        };
        let coordinator = stream.coordinator;
        if self.random.below(3) == 0 {
            // Whoever serves it tells it, as soon as it knows.
            self.heal(coordinator);
            self.publish(coordinator).await;
            let is_known = stream.follower.sent().is_some();
            let next = stream.follower.next();
            assert!(next == Next::Gone || !is_known, "{next:?}");
            self.note("streams that ended with their node");
        }
    }

    pub(super) async fn set_policy(&mut self, number: usize) {
        let text = self.random.pick(&POLICIES);
        let now = self.now;
        let mut revision = 0;
        let stored = self
            .ask(number, async |tx| {
                revision = tx.insert_policy(text, "a test", "", now).await?;
                Ok(())
            })
            .await;
        if stored {
            self.policies.insert(revision, text);
        }
    }

    /// Something about a node changes.
    pub(super) async fn change(&mut self, id: NodeId, number: usize) {
        let route: IpNet = self.random.pick(&ROUTES).parse().unwrap();
        let kind = self.random.below(7);
        let tags = [self.random.pick(&TAGS).parse().unwrap()].into();
        let port = u16::try_from(self.random.below(60_000)).unwrap();
        let routes = self.random.pick(&[BTreeSet::new(), [route].into()]);
        let decision = match self.random.below(3) {
            0 => Decision::Rejected,
            _ => Decision::Approved,
        };
        let now = self.now;
        self.keys += 1;
        let node_key = key(self.keys).public();
        self.ask(number, async |tx| match kind {
            0 => tx.set_node_tags(id, &tags).await,
            1 => {
                let row = tx.node(id).await?.unwrap();
                let host = HostInfo {
                    endpoint: Some(([203, 0, 113, 9], port).into()),
                    ..row.host
                };
                let address = [203, 0, 113, 9].into();
                tx.update_node_host(id, &row.name, &host, address).await
            }
            2 => tx.set_node_key(id, &node_key).await,
            3 => tx.set_advertised(id, &routes).await,
            4 => tx.set_key_expiry(id, Some(now + 2 * HOUR)).await,
            _ => {
                for known in tx.routes_of(id).await? {
                    tx.set_decision(id, &known.prefix, Some(decision), now)
                        .await?;
                }
                Ok(())
            }
        })
        .await;
    }
}
