//! From "something changed" to a new map for each node that it concerns.
//!
//! One task owns the maps. It is level-triggered: whoever changes the store says so with
//! [`Engine::changed`], and the task reads everything again, makes the maps, numbers those that
//! differ and publishes them. A reader holds a watch on its node's newest map and nothing else, so
//! a slow one misses versions in between and never makes a queue grow.

mod housekeeping;
mod maps;
mod numbering;
mod policy;
#[cfg(test)]
mod tests;

pub(crate) use maps::Current;
pub(crate) use policy::PolicyInForce;

use crate::{
    clock,
    cluster::Role,
    presence::Presence,
    snapshot,
    store::{Store, StoreError},
};
use maps::{Maps, Published};
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::JoinHandle};
use weir_netmap::Network;
use weir_overlay::NodeId;
use weir_protocol::NetworkMap;

/// How often the task looks by itself: for relays that went away, for what is to be forgotten.
const TICK: Duration = Duration::from_secs(5);
/// The longest that a change waits to be published before its author is told that it is stored.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(5);
/// The first and the longest pause after the store failed.
const RETRY: std::ops::RangeInclusive<u64> = 100..=5_000;

/// The hand that others hold of the task.
#[derive(Debug)]
pub(crate) struct Engine {
    wanted: watch::Sender<u64>,
    done: watch::Receiver<u64>,
    policy: watch::Receiver<Arc<PolicyInForce>>,
    maps: Arc<Maps>,
}

impl Engine {
    /// Makes all maps once and starts the task. It ends when the last handle is dropped.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn start(
        store: Store,
        presence: Arc<Presence>,
        role: watch::Receiver<Role>,
    ) -> Result<(Self, JoinHandle<()>), StoreError> {
        let (wanted, wanted_seen) = watch::channel(0);
        let (done_sender, done) = watch::channel(0);
        let (policy_sender, policy) = watch::channel(Arc::default());
        let maps = Arc::new(Maps::load(&store).await?);
        let mut task = Task {
            store,
            presence,
            maps: Arc::clone(&maps),
            policy: policy_sender,
            absent: BTreeSet::new(),
            published: None,
            role,
            leads_since: clock::now(),
        };
        task.publish().await?;
        let running = tokio::spawn(task.run(wanted_seen, done_sender));
        let engine = Self {
            wanted,
            done,
            policy,
            maps,
        };
        Ok((engine, running))
    }

    /// Says that the store changed, and waits until the maps follow it.
    pub(crate) async fn changed(&self) {
        let mut number = 0;
        self.wanted.send_modify(|wanted| {
            *wanted += 1;
            number = *wanted;
        });
        let mut done = self.done.clone();
        let published = done.wait_for(|done| *done >= number);
        if tokio::time::timeout(PUBLISH_DEADLINE, published)
            .await
            .is_err()
        {
            tracing::warn!("a change is stored but not published yet; it will be");
        }
    }

    /// For those who learn that the store was changed by somebody else.
    #[must_use]
    pub(crate) fn nudge(&self) -> Nudge {
        Nudge(self.wanted.clone())
    }

    /// The newest map of a node.
    #[must_use]
    pub(crate) fn map(&self, node: NodeId) -> Option<Arc<NetworkMap>> {
        self.maps.newest(node)
    }

    /// Follows the maps of a node.
    #[must_use]
    pub(crate) fn subscribe(&self, node: NodeId) -> watch::Receiver<Current> {
        self.maps.subscribe(node)
    }

    /// The policy in force.
    #[must_use]
    pub(crate) fn policy(&self) -> Arc<PolicyInForce> {
        Arc::clone(&self.policy.borrow())
    }
}

/// Has the engine look, without waiting for it.
#[derive(Clone, Debug)]
pub(crate) struct Nudge(watch::Sender<u64>);

impl Nudge {
    /// The store may have changed.
    pub(crate) fn look(&self) {
        self.0.send_modify(|wanted| *wanted += 1);
    }
}

struct Task {
    store: Store,
    presence: Arc<Presence>,
    maps: Arc<Maps>,
    policy: watch::Sender<Arc<PolicyInForce>>,
    /// The absent nodes that the newest maps were made with.
    absent: BTreeSet<NodeId>,
    /// The revision of the network that the newest maps were made of.
    published: Option<u64>,
    /// What this coordinator may do for all.
    role: watch::Receiver<Role>,
    /// Since when, in seconds since 1970.
    leads_since: i64,
}

impl Task {
    async fn run(mut self, mut wanted: watch::Receiver<u64>, done: watch::Sender<u64>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let look = tokio::select! {
                changed = wanted.changed() => {
                    // The last handle was dropped.
                    if changed.is_err() {
                        return;
                    }
                    true
                }
                () = self.presence.changed(), if !self.store.is_shared() => self.absence_changed(),
                _ = tick.tick() => {
                    self.keep_house().await || self.absence_changed()
                }
            };
            if look {
                let number = *wanted.borrow_and_update();
                self.publish_until_it_works().await;
                done.send_replace(number);
            }
        }
    }

    /// Whether others are absent than the newest maps were made with. Where several coordinators
    /// share a database, that is a change of the network like any other.
    fn absence_changed(&self) -> bool {
        !self.store.is_shared()
            && self.presence.absent(&self.maps.nodes(), Instant::now()) != self.absent
    }

    /// The store may be busy or its disk full for a while. Nodes keep the maps they have.
    async fn publish_until_it_works(&mut self) {
        let mut pause = *RETRY.start();
        while let Err(error) = self.publish().await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot make the network maps; nodes keep those they have; trying again"
            );
            let jitter = clock::random::<1>().map_or(0, |[byte]| u64::from(byte) * pause / 512);
            tokio::time::sleep(Duration::from_millis(pause / 2 + jitter)).await;
            pause = (pause * 2).min(*RETRY.end());
        }
    }

    /// Reads everything and publishes what differs.
    async fn publish(&mut self) -> Result<(), StoreError> {
        while let Published::Outdated = self.publish_once().await? {}
        Ok(())
    }

    async fn publish_once(&mut self) -> Result<Published, StoreError> {
        let mut tx = self.store.read().await?;
        let revision = tx.revision().await?;
        // Whoever shares the database hears of its own changes a second time.
        if self.store.is_shared() && self.published == Some(revision) {
            return Ok(Published::Newest);
        }
        let mut state = snapshot::read(&mut tx).await?;
        let in_force = Arc::clone(&self.policy.borrow());
        let in_force = policy::newest_valid(&mut tx, &in_force, &state.directory()).await?;
        self.absent = match self.store.is_shared() {
            true => tx.absent_nodes().await?,
            false => {
                let nodes = state.nodes.keys().copied().collect();
                self.presence.absent(&nodes, Instant::now())
            }
        };
        drop(tx);
        snapshot::mark_absent(&mut state, &self.absent);
        let network = Network::new(&state, &in_force.policy);
        let published = self
            .maps
            .publish(&self.store, &state, &network, revision)
            .await?;
        if let Published::Newest = published {
            self.published = Some(revision);
            self.policy.send_replace(Arc::new(in_force));
        }
        Ok(published)
    }

    async fn keep_house(&mut self) -> bool {
        if self.role.has_changed().unwrap_or(false) {
            self.leads_since = clock::now();
        }
        let role = *self.role.borrow_and_update();
        let (store, presence) = (&self.store, &self.presence);
        match housekeeping::run(store, presence, role, self.leads_since, clock::now()).await {
            Ok(changed) => changed,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot store who was seen when; trying again in {TICK:?}"
                );
                false
            }
        }
    }
}
