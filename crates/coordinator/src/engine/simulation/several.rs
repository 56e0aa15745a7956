//! Several coordinators on one database, each with a clock of its own and a database that is away,
//! full, or loses its answers; agents that move from one to the other, each with a kernel in
//! memory. What the coordinators do goes one transaction at a time, in an order that is drawn from
//! the seed, so that a seed repeats what it did.
//!
//! The model is the database itself: each version that it ever had, with the network made anew of
//! it. An agent holds what one of these gives it, never an older one than before, and the newest
//! once all is quiet. What was not committed is in none of them.

mod agents;
mod changes;
mod faults;
mod model;
mod work;

use self::{
    model::Version,
    work::{Work, beat, keep_house, publish},
};
use super::{NOW, Random, agent::Agent, directory, setting};
use crate::{
    clock::pretended::{self, Clocks},
    cluster::{Member, Role},
    engine::{Engine, Task},
    presence::Presence,
    store::{CommitFault, CoordinatorRow, Database, Faults, Store},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tempfile::TempDir;
use tokio::{sync::watch, time::Instant};
use weir_netmap::Network;
use weir_overlay::{Generation, NodeId};
use weir_protocol::{NetworkMap, Pin as KeyPin};

const COORDINATORS: usize = 3;
const HOUR: i64 = 3600;

struct Coordinator {
    store: Store,
    faults: Arc<Faults>,
    presence: Arc<Presence>,
    engine: Engine,
    task: Work<Task>,
    member: Work<Member>,
    /// By how much its host's clock is wrong, in seconds.
    wrong_by: i64,
    /// The version of the network that was the newest when it last began to publish, and the one
    /// that what it has published is no older than.
    began_at: usize,
    published: usize,
    // What `run` would hold.
    _ends: (watch::Receiver<u64>, watch::Sender<u64>),
}

struct World {
    random: Random,
    _directory: TempDir,
    /// The database as it is, without faults.
    truth: Store,
    coordinators: Vec<Option<Coordinator>>,
    agents: BTreeMap<NodeId, Agent>,
    /// How many nodes and keys there ever were.
    enrolled: u64,
    keys: u64,
    versions: Vec<Version>,
    /// The networks that were made of them, by version and expiry.
    models: BTreeMap<(usize, usize), Network<'static>>,
    /// When the versions' keys expire: at the start, and at each moment when one did.
    expiries: Vec<i64>,
    told: BTreeMap<(NodeId, Generation), NetworkMap>,
    now: i64,
    running: Duration,
    policies: BTreeMap<u64, &'static str>,
    /// What happened, for who reads of a failure.
    seen: BTreeMap<&'static str, u64>,
}

impl World {
    async fn new(seed: u64, agents: usize) -> Self {
        let directory = directory();
        let database = Database::File(directory.path().join("a.db"));
        let truth = Store::open(&database).await.unwrap();
        let mut world = Self {
            random: Random(seed),
            _directory: directory,
            truth,
            coordinators: Vec::new(),
            agents: BTreeMap::new(),
            enrolled: 0,
            keys: 0,
            versions: Vec::new(),
            models: BTreeMap::new(),
            expiries: vec![NOW],
            told: BTreeMap::new(),
            now: NOW,
            running: Duration::from_secs(1_000),
            policies: BTreeMap::new(),
            seen: BTreeMap::new(),
        };
        world.look().await;
        world.enrol_first(agents / 2).await;
        for number in 0..COORDINATORS {
            world.coordinators.push(None);
            world.start(number).await;
        }
        world
    }

    fn note(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// Sets the clocks that code on the host of a coordinator sees.
    fn set_clocks(&self, wrong_by: i64) {
        pretended::set(Clocks {
            wall: self.now + wrong_by,
            running: self.running,
            database: self.now,
        });
    }

    async fn start(&mut self, number: usize) {
        self.set_clocks(0);
        let (store, faults) = self.truth.beside();
        let presence = Presence::new(Instant::now());
        let (role, seen) = watch::channel(Role::Follower);
        let started = Engine::prepare(store.clone(), Arc::clone(&presence), seen).await;
        let (engine, task, wanted, done) = started.unwrap();
        let row = CoordinatorRow {
            id: format!("{number}-{}", self.random.below(1 << 30)),
            url: format!("https://{number}.example.com"),
            pin: KeyPin::of_public_key_info(b"key"),
        };
        let member = Member::new(&store, row, &presence, role, engine.nudge()).unwrap();
        self.look().await;
        let newest = self.versions.len() - 1;
        self.coordinators[number] = Some(Coordinator {
            store,
            faults,
            presence,
            engine,
            task: Work::Idle(task),
            member: Work::Idle(member),
            wrong_by: 0,
            began_at: newest,
            published: newest,
            _ends: (wanted, done),
        });
        self.publish(number).await;
    }

    /// Kills a coordinator in whatever it does.
    fn kill(&mut self, number: usize) {
        let Some(killed) = self.coordinators[number].take() else {
            return;
        };
        killed.faults.lose_lead();
        for agent in self.agents.values_mut() {
            agent.stream.take_if(|stream| stream.coordinator == number);
        }
    }

    fn alive(&self) -> Vec<usize> {
        let all = self.coordinators.iter().enumerate();
        all.filter_map(|(number, one)| one.as_ref().map(|_| number))
            .collect()
    }

    /// Lets a coordinator do one transaction of what it is at work on.
    async fn go_on(&mut self, number: usize, member: bool) {
        let Some(wrong_by) = self.coordinators[number].as_ref().map(|one| one.wrong_by) else {
            return;
        };
        self.set_clocks(wrong_by);
        let newest = self.versions.len() - 1;
        let one = self.coordinators[number].as_mut().unwrap();
        if member {
            one.member.go_on(&one.faults).await;
        } else if one.task.go_on(&one.faults).await == Some(true) {
            one.published = one.began_at.min(newest);
        }
        self.look().await;
    }

    fn begin_to_publish(&mut self, number: usize) {
        let newest = self.versions.len() - 1;
        if let Some(one) = &mut self.coordinators[number]
            && matches!(one.task, Work::Idle(_))
        {
            one.began_at = newest;
            one.task.begin(publish);
        }
    }

    /// Has a coordinator finish what it is at work on.
    async fn finish(&mut self, number: usize) {
        while let Some(one) = &self.coordinators[number] {
            match (&one.task, &one.member) {
                (Work::Busy(_), _) => self.go_on(number, false).await,
                (_, Work::Busy(_)) => self.go_on(number, true).await,
                _ => return,
            }
        }
    }

    async fn publish(&mut self, number: usize) {
        self.finish(number).await;
        self.begin_to_publish(number);
        self.finish(number).await;
    }

    async fn beat(&mut self, number: usize) {
        self.finish(number).await;
        if let Some(one) = &mut self.coordinators[number] {
            one.member.begin(beat);
        }
        self.finish(number).await;
    }

    /// One thing happens.
    async fn step(&mut self, agents: usize) {
        let alive = self.alive();
        if alive.is_empty() {
            return self.start(0).await;
        }
        let number = self.random.pick(&alive);
        let known: Vec<_> = self.agents.keys().copied().collect();
        if known.len() < 3.min(agents) {
            return self.enrol(number).await;
        }
        let id = self.random.pick(&known);
        match self.random.below(32) {
            0..6 => self.connect(id, number).await,
            6..12 => self.read(id),
            12 => self.agents.get_mut(&id).unwrap().stream = None,
            13 if known.len() < agents => self.enrol(number).await,
            14 if known.len() * 3 > agents * 2 => self.delete(id, number).await,
            15 => self.time_passes().await,
            16 => self.set_policy(number).await,
            17 | 18 => self.fault(number).await,
            19..22 => self.begin_to_publish(number),
            22 => {
                let one = self.coordinators[number].as_mut().unwrap();
                one.member.begin(beat);
            }
            23 => {
                let one = self.coordinators[number].as_mut().unwrap();
                one.task.begin(keep_house);
            }
            _ => self.change(id, number).await,
        }
        for _ in 0..self.random.below(6) {
            let number = self.random.pick(&self.alive());
            let member = self.random.below(4) == 0;
            self.go_on(number, member).await;
        }
    }
}

#[tokio::test]
async fn the_number_of_a_change_that_was_undone_is_anothers() {
    let directory = directory();
    let database = Database::File(directory.path().join("a.db"));
    let truth = Store::open(&database).await.unwrap();
    let (one, faults) = truth.beside();
    for fault in [CommitFault::Lost, CommitFault::AnswerLost] {
        drop(one.take_changes());
        faults.fail_next_commit(fault);
        let mut tx = one.write().await.unwrap();
        tx.insert_user(&format!("{fault:?}"), NOW).await.unwrap();
        assert!(tx.commit().await.unwrap_err().is_unavailable());
        // What another one changes under that number must be read.
        let changes = one.take_changes();
        assert!(changes.users && changes.revisions.is_empty(), "{changes:?}");
    }
}

/// Names the seed of the run that fails.
struct OfSeed(u64);

impl Drop for OfSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "to repeat it: WEIR_SIMULATION_SEED={} WEIR_SIMULATION_RUNS=1",
                self.0
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn several_coordinators_with_faults_tell_what_the_database_has() {
    // Time passes only when a step says so: it stands still while a blocking task runs.
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    tokio::task::spawn_blocking(move || stopped.recv());
    let steps = setting("WEIR_SIMULATION_STEPS", 250);
    let agents = usize::try_from(setting("WEIR_SIMULATION_AGENTS", 12)).unwrap();
    let first = setting("WEIR_SIMULATION_SEED", 1);
    let mut seen = BTreeMap::<_, u64>::new();
    for seed in first..first + setting("WEIR_SIMULATION_RUNS", 3) {
        let of_seed = OfSeed(seed);
        let mut world = World::new(seed, agents).await;
        for _ in 0..steps {
            world.step(agents).await;
        }
        world.quiet_down().await;
        for (what, number) in world.seen {
            *seen.entry(what).or_default() += number;
        }
        drop(of_seed);
    }
    println!("{seen:#?}");
    drop(stop);
}
