//! From "something changed" to news for each node that it concerns.
//!
//! One task owns the network. Whoever changes the store says so with [`Engine::changed`]; the task
//! reads what was changed, changes the network by it, and wakes those whose maps may differ: what
//! a change costs is what it touches. While the task is at work changes gather, and are made
//! together. Maps are made by those who send them (`maps`), so that a slow reader misses versions
//! in between and never makes a queue grow.

mod changes;
mod expiry;
mod housekeeping;
mod maps;
mod policy;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub(crate) use maps::{Follower, Maps, Next};
pub(crate) use policy::PolicyInForce;

use crate::{
    api::PolicyStatus,
    clock::{self, SteadyClock},
    cluster::Role,
    metrics::NetworkFigures,
    presence::Presence,
    snapshot,
    store::{Changes, Store, StoreError},
};
use changes::{Read, is_relay};
use expiry::Expiries;
use ipnet::IpNet;
use policy::Offered;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::watch,
    task::{JoinError, JoinHandle, spawn_blocking},
    time::Instant,
};
use weir_netmap::{LiveNetwork, NetworkChange};
use weir_overlay::{Generation, NodeId};
use weir_policy::Policy;
use weir_protocol::{MapRequest, RouteStatus};

/// How often the task looks by itself: for relays that went away, for what is to be forgotten.
const TICK: Duration = Duration::from_secs(5);
/// The longest that a change waits to be published before its author is told that it is stored.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(5);
/// The first and the longest pause after the store failed.
const RETRY: std::ops::RangeInclusive<u64> = 100..=5_000;

/// The hand that others hold of the task.
#[derive(Debug)]
pub(crate) struct Engine {
    store: Store,
    wanted: watch::Sender<u64>,
    done: watch::Receiver<u64>,
    policy: watch::Receiver<Arc<PolicyInForce>>,
    maps: Arc<Maps>,
    /// Whether a new number for maps is wanted, even if nothing changed.
    number_wanted: Arc<AtomicBool>,
    offered: Offered,
    /// The revision that the network was read at last.
    at_revision: Arc<AtomicU64>,
    figures: Arc<NetworkFigures>,
}

/// Why the network was not brought up to what is stored.
#[derive(Debug, thiserror::Error)]
enum PublishError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the task that compiles the network broke off")]
    Compile(#[from] JoinError),
}

impl Engine {
    /// Reads and compiles the network and starts the task. It ends when the last handle is
    /// dropped.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn start(
        store: Store,
        presence: Arc<Presence>,
        role: watch::Receiver<Role>,
    ) -> Result<(Self, JoinHandle<()>), StoreError> {
        let (engine, mut task, wanted, done) = Self::prepare(store, presence, role).await?;
        task.publish_until_it_works().await;
        Ok((engine, tokio::spawn(task.run(wanted, done))))
    }

    /// Reads and compiles the network. Nobody works on it yet.
    async fn prepare(
        store: Store,
        presence: Arc<Presence>,
        role: watch::Receiver<Role>,
    ) -> Result<(Self, Task, watch::Receiver<u64>, watch::Sender<u64>), StoreError> {
        drop(store.take_changes());
        let mut clock = SteadyClock::new(clock::reading());
        let (revision, state, in_force, generation) = loop {
            let mut tx = store.read().await?;
            let revision = tx.revision().await?;
            let state = snapshot::read(&mut tx, clock.now(clock::reading())).await?;
            let none = (PolicyInForce::default(), Offered::default());
            let in_force = policy::newest_valid(&mut tx, &none.0, &none.1).await?;
            drop(tx);
            // What was stored last may not have been told to anybody: it needs a number of its own.
            if let Some(generation) = next_number(&store, revision).await? {
                break (revision, state, in_force, generation);
            }
        };
        let primaries = state.primaries.clone();
        let network = LiveNetwork::new(state, Arc::clone(&in_force.policy));
        let maps = Arc::new(Maps::new(network, generation));
        let (wanted, wanted_seen) = watch::channel(0);
        let (done_sender, done) = watch::channel(0);
        let (policy_sender, policy) = watch::channel(Arc::new(in_force));
        let number_wanted = Arc::default();
        let offered = Offered::default();
        let at_revision = Arc::new(AtomicU64::new(0));
        let figures: Arc<NetworkFigures> = Arc::default();
        let relays = maps.ask(|network| {
            let nodes = network.state().nodes.values();
            nodes
                .filter(|node| is_relay(node))
                .map(|node| node.id)
                .collect()
        });
        let expiries = maps.ask(|network| Expiries::of(network.state().nodes.values()));
        let task = Task {
            store: store.clone(),
            presence,
            maps: Arc::clone(&maps),
            policy: policy_sender,
            number_wanted: Arc::clone(&number_wanted),
            offered: offered.clone(),
            at_revision: Arc::clone(&at_revision),
            figures: Arc::clone(&figures),
            clock,
            expiries,
            relays,
            absent: BTreeSet::new(),
            primaries,
            unread: Changes::default(),
            untold: BTreeSet::new(),
            revision,
            role,
            leads_since: clock::now(),
        };
        let engine = Self {
            store,
            wanted,
            done,
            policy,
            maps,
            number_wanted,
            offered,
            at_revision,
            figures,
        };
        Ok((engine, task, wanted_seen, done_sender))
    }

    /// Says that the store changed, and waits until the network follows it.
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

    /// Follows the map of a node.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn follow(
        &self,
        node: NodeId,
        request: MapRequest,
    ) -> Result<Follower, StoreError> {
        if self.wants_number(&request).await? {
            self.changed().await;
        }
        Ok(self.maps.follow(node, request))
    }

    /// Whether the network must be looked at again, because the map that an agent holds is newer
    /// than it.
    async fn wants_number(&self, request: &MapRequest) -> Result<bool, StoreError> {
        let Some(held) = request.held.filter(|held| *held > self.maps.generation()) else {
            return Ok(false);
        };
        // Not of the future: given by another coordinator on the same database.
        let is_known = held <= self.store.read().await?.newest_generation().await?;
        if is_known {
            self.number_wanted.store(true, Ordering::Relaxed);
        }
        Ok(is_known)
    }

    /// The number of the newest map that a node was told, since the coordinator was started.
    #[must_use]
    pub(crate) fn generation(&self, node: NodeId) -> Option<Generation> {
        self.maps.newest_of(node)
    }

    /// The routes that a node advertises and what has become of each.
    #[must_use]
    pub(crate) fn routes(&self, node: NodeId) -> Vec<RouteStatus> {
        self.maps.ask(|network| network.network().routes(node))
    }

    /// Asks the network, if it is that of a revision. It stays so for as long as the caller keeps
    /// the network from being changed.
    #[must_use]
    pub(crate) fn ask_at<T>(
        &self,
        revision: u64,
        question: impl FnOnce(&LiveNetwork) -> T,
    ) -> Option<T> {
        let is_now = self.at_revision.load(Ordering::Acquire) == revision;
        is_now.then(|| self.maps.ask(question))
    }

    /// A policy that is about to be stored, so that its text need not be read again.
    pub(crate) fn offer_policy(&self, text: &str, policy: Arc<Policy>) {
        self.offered.set(text, policy);
    }

    /// What was measured.
    pub(crate) fn figures(&self) -> &NetworkFigures {
        &self.figures
    }

    /// The policy in force.
    #[must_use]
    pub(crate) fn policy(&self) -> Arc<PolicyInForce> {
        Arc::clone(&self.policy.borrow())
    }

    /// The revision of the policy in force, and what is noteworthy about it now.
    #[must_use]
    pub(crate) fn policy_status(&self) -> PolicyStatus {
        let in_force = self.policy();
        let policy = &in_force.policy;
        let warnings = self
            .maps
            .ask(|network| policy.warnings(network.directory()));
        PolicyStatus {
            warnings: warnings.iter().map(ToString::to_string).collect(),
            ..in_force.status.clone()
        }
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

/// Takes a number that no map has yet, for maps of this revision of the network. None when another
/// coordinator has told of a newer one: an agent that comes from there must not be told what was
/// before under a number that is higher.
async fn next_number(store: &Store, revision: u64) -> Result<Option<Generation>, StoreError> {
    let mut tx = store.write().await?;
    if store.is_shared() {
        if tx.numbered_revision().await? > revision {
            return Ok(None);
        }
        tx.set_numbered_revision(revision).await?;
    }
    let generation = tx.newest_generation().await?.next();
    tx.set_newest_generation(generation).await?;
    tx.commit().await?;
    Ok(Some(generation))
}

/// Whether the network is now what is stored.
enum Made {
    /// As far as this coordinator knows.
    Newest,
    /// Another coordinator has told of a newer one.
    Outdated,
}

struct Task {
    store: Store,
    presence: Arc<Presence>,
    maps: Arc<Maps>,
    policy: watch::Sender<Arc<PolicyInForce>>,
    number_wanted: Arc<AtomicBool>,
    offered: Offered,
    at_revision: Arc<AtomicU64>,
    figures: Arc<NetworkFigures>,
    /// What keys of nodes expire by.
    clock: SteadyClock,
    /// The keys that will.
    expiries: Expiries,
    /// The nodes that advertise routes.
    relays: BTreeSet<NodeId>,
    /// Those of them that are absent, as the network was last made with.
    absent: BTreeSet<NodeId>,
    /// The primaries as they are stored.
    primaries: BTreeMap<IpNet, NodeId>,
    /// What was changed and is not in the network yet.
    unread: Changes,
    /// Who may have another map and was not woken yet.
    untold: BTreeSet<NodeId>,
    /// The revision that was read last.
    revision: u64,
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
            let wait = self.expiries.wait(self.clock.now(clock::reading()));
            let look = tokio::select! {
                changed = wanted.changed() => {
                    // The last handle was dropped.
                    if changed.is_err() {
                        return;
                    }
                    true
                }
                () = self.presence.changed(), if !self.store.is_shared() => self.absence_changed(),
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {
                    self.keys_expired()
                }
                _ = tick.tick() => {
                    self.keep_house().await | self.absence_changed() | self.keys_expired()
                }
            };
            if look {
                let number = *wanted.borrow_and_update();
                self.publish_until_it_works().await;
                done.send_replace(number);
            }
        }
    }

    /// Has the nodes whose keys have expired read again. Says whether there are any.
    fn keys_expired(&mut self) -> bool {
        let now = self.clock.now(clock::reading());
        let before = self.unread.nodes.len();
        self.unread.nodes.extend(self.expiries.due(now));
        self.unread.nodes.len() > before
    }

    /// Whether others are absent than the network was made with. Where several coordinators share a
    /// database, that is a change of the network like any other.
    fn absence_changed(&self) -> bool {
        !self.store.is_shared() && self.presence.absent(&self.relays, Instant::now()) != self.absent
    }

    /// The store may be busy or its disk full for a while. Nodes keep the maps they have.
    async fn publish_until_it_works(&mut self) {
        let mut pause = *RETRY.start();
        while let Err(error) = self.publish().await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot bring the network maps up to date; nodes keep those they have; trying again"
            );
            let jitter = clock::random::<1>().map_or(0, |[byte]| u64::from(byte) * pause / 512);
            tokio::time::sleep(Duration::from_millis(pause / 2 + jitter)).await;
            pause = (pause * 2).min(*RETRY.end());
        }
    }

    /// Reads what was changed, and tells those whom it concerns. Can be repeated when it fails.
    async fn publish(&mut self) -> Result<(), PublishError> {
        while let Made::Outdated = self.make_newest().await? {}
        self.store_primaries().await?;
        self.maps.tell(&std::mem::take(&mut self.untold));
        Ok(())
    }

    /// Brings the network up to what is stored.
    async fn make_newest(&mut self) -> Result<Made, PublishError> {
        self.unread.merge(self.store.take_changes());
        let in_force = Arc::clone(&self.policy.borrow());
        let mut tx = self.store.read().await?;
        let revision = tx.revision().await?;
        // What was changed since the first look; some of it may be of a later revision than is read.
        let mut late = self.store.take_changes();
        if !self.store.is_shared() && self.misses(revision, &late) {
            // Nobody else changes anything: it is about to be told.
            self.store.settle().await?;
            late.merge(self.store.take_changes());
        }
        self.unread.everything |= self.misses(revision, &late);
        self.unread.merge(late.clone());
        let mut read = {
            let now = self.clock.now(clock::reading());
            Read::of(&self.unread, &in_force, &self.offered, &mut tx, now).await?
        };
        if self.store.machines_are_behind(revision) {
            let nodes = tx.nodes().await?;
            let routes = tx.routes().await?;
            tx.keep_machines(&nodes, &routes).await?;
        }
        let asked = self.relays.iter().copied().chain(read.nodes()).collect();
        let mut absent = match self.store.is_shared() {
            true => tx.absent_nodes().await?,
            false => self.presence.absent(&asked, Instant::now()),
        };
        drop(tx);
        if let Some(primaries) = read.primaries.take() {
            self.primaries = primaries;
        }
        let policy = read.policy.clone();
        let changes = self
            .maps
            .ask(|network| read.changes(network, &self.relays, &absent));
        if self.number_wanted.load(Ordering::Relaxed) || !changes.is_empty() {
            if let Made::Outdated = self.make(changes, revision).await? {
                return Ok(Made::Outdated);
            }
            self.number_wanted.store(false, Ordering::Relaxed);
        }
        let is_read = late.revisions.last().is_some_and(|last| *last <= revision);
        self.unread = match is_read {
            true => Changes::default(),
            false => late,
        };
        self.revision = revision;
        self.at_revision.store(revision, Ordering::Release);
        absent.retain(|node| self.relays.contains(node));
        self.absent = absent;
        if let Some(policy) = policy {
            self.policy.send_replace(Arc::new(policy));
        }
        Ok(Made::Newest)
    }

    /// Whether a revision since the one that was read last was made by somebody else.
    fn misses(&self, revision: u64, late: &Changes) -> bool {
        let known = [&self.unread.revisions, &late.revisions];
        (self.revision + 1..=revision).any(|one| known.iter().all(|own| !own.contains(&one)))
    }

    /// Changes the network.
    async fn make(
        &mut self,
        changes: Vec<NetworkChange>,
        revision: u64,
    ) -> Result<Made, PublishError> {
        // Stored before anybody sees it, so that no number is ever given twice.
        let Some(generation) = next_number(&self.store, revision).await? else {
            return Ok(Made::Outdated);
        };
        for change in &changes {
            self.expiries.follow(change);
            match change {
                NetworkChange::Node(node) if is_relay(node) => drop(self.relays.insert(node.id)),
                NetworkChange::Node(node) => drop(self.relays.remove(&node.id)),
                NetworkChange::Left(id) => drop(self.relays.remove(id)),
                NetworkChange::Users(_) | NetworkChange::Policy(_) => {}
            }
        }
        let number = changes.len();
        let mut policies = changes.iter();
        let took = match policies.any(|change| matches!(change, NetworkChange::Policy(_))) {
            true => &self.figures.policy,
            false => &self.figures.other,
        };
        let started = Instant::now();
        let mut touched = if changes::take_long(&changes) {
            let maps = Arc::clone(&self.maps);
            spawn_blocking(move || maps.apply_slowly(changes, generation)).await?
        } else {
            self.maps.apply(changes, generation)
        };
        took.note(started.elapsed());
        self.figures
            .changes
            .add(u64::try_from(number).unwrap_or(u64::MAX));
        tracing::info!(%generation, changes = number, nodes = touched.len(), "the network changed");
        self.untold.append(&mut touched);
        Ok(Made::Newest)
    }

    /// Stores which relay each route is reached through before anybody is told.
    async fn store_primaries(&mut self) -> Result<(), StoreError> {
        let now = self.maps.ask(|network| network.state().primaries.clone());
        if now == self.primaries {
            return Ok(());
        }
        let mut tx = self.store.write().await?;
        for route in self.primaries.keys().chain(now.keys()) {
            if self.primaries.get(route) != now.get(route) {
                tx.set_primary(route, now.get(route).copied()).await?;
            }
        }
        tx.commit().await?;
        self.primaries = now;
        Ok(())
    }

    async fn keep_house(&mut self) -> bool {
        // As with keys, nobody is forgotten because a clock jumped.
        let now = self.clock.now(clock::reading());
        let ahead = clock::now().saturating_sub(now);
        if self.role.has_changed().unwrap_or(false) {
            self.leads_since = now;
        }
        let role = *self.role.borrow_and_update();
        let (store, presence) = (&self.store, &self.presence);
        match housekeeping::run(store, presence, role, self.leads_since, now, ahead).await {
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
