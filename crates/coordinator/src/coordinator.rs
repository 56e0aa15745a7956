//! What every request handler shares.

use crate::{
    accounts::Passwords,
    clock,
    cluster::{Cluster, Role},
    engine::Engine,
    enrolment::Approvals,
    group_commit::GroupCommit,
    metrics::Metrics,
    presence::Presence,
    replay::ReplayCache,
    store::{CoordinatorRow, Store, StoreError},
};
use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use weir_protocol::Pin;

/// What a coordinator is known by.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Where agents are told to reach it.
    pub url: String,
    /// Where it listens.
    pub listen: SocketAddr,
    /// The pin of its key.
    pub pin: Pin,
    /// Since when it runs, in seconds since 1970.
    pub started: i64,
}

/// The running coordinator.
#[derive(Debug)]
pub(crate) struct Coordinator {
    /// What it remembers.
    pub store: Store,
    /// What makes the maps.
    pub engine: Engine,
    /// Who is connected.
    pub presence: Arc<Presence>,
    /// Which signatures were accepted.
    pub replay: ReplayCache,
    /// Where it is left that they were.
    pub signatures: GroupCommit,
    /// Where it is left what nodes report.
    pub reports: GroupCommit,
    /// What is counted where requests are answered.
    pub metrics: Arc<Metrics>,
    /// What checks the passwords of admins.
    pub passwords: Passwords,
    /// Who waits for an admin to let them in.
    pub approvals: Approvals,
    /// What it is known by.
    pub identity: Identity,
    /// Where its key is, and room for files.
    pub state_dir: PathBuf,
    /// What the other coordinators on the database know it as.
    pub member: CoordinatorRow,
    stopping: AtomicBool,
    _cluster: Option<Cluster>,
}

impl Coordinator {
    /// Puts the parts together and makes the first maps. The task ends once the coordinator is
    /// dropped.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn start(
        store: Store,
        identity: Identity,
        state_dir: PathBuf,
        member: CoordinatorRow,
    ) -> Result<(Arc<Self>, JoinHandle<()>), StoreError> {
        let accepted = store
            .read()
            .await?
            .accepted_signatures(clock::now())
            .await?;
        let presence = Presence::new(Instant::now());
        let role = match store.is_shared() {
            true => Role::Follower,
            false => Role::Alone,
        };
        let (role, seen) = watch::channel(role);
        let (engine, task) = Engine::start(store.clone(), Arc::clone(&presence), seen).await?;
        let cluster = Cluster::start(&store, member.clone(), &presence, role, engine.nudge());
        let coordinator = Self {
            signatures: GroupCommit::start(store.clone()),
            reports: GroupCommit::start(store.clone()),
            store,
            engine,
            presence,
            replay: ReplayCache::new(accepted),
            metrics: Arc::default(),
            passwords: Passwords::default(),
            approvals: Approvals::default(),
            stopping: AtomicBool::new(false),
            identity,
            state_dir,
            member,
            _cluster: cluster,
        };
        Ok((Arc::new(coordinator), task))
    }

    /// Says that it stops: whoever spreads requests over several coordinators sends no more.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.approvals.look();
    }

    /// Whether it stops.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}
