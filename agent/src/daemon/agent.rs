//! The daemon's state, and what happens to a network map on its way to the kernel.

use anyhow::{Context, Result};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;
use tracing::{error, info, warn};
use weir_kernel_plan::desired_state;
use weir_overlay::Generation;
use weir_protocol::{ItemFailure, NetworkMap, StreamMessage, apply_delta};
use weir_reconcile::{Goal, Ledger, LedgerError, ReconcilerHandle, StateDirectory, Target, chain};

use super::{
    approval::Waiting,
    host::Host,
    keys::Keys,
    saved::Saved,
    session::Session,
    status::{self, Connection, Looked},
    warnings::lost_addresses,
};
use crate::{
    control::{NodeState, StatusReport},
    coordinator::now,
};

/// How long `status` waits for counters that are fresh.
const LOOK_DEADLINE: Duration = Duration::from_secs(5);

/// The held map is not the one that a change is for: only a full one helps.
#[derive(Debug)]
pub(crate) struct FullMapNeeded;

/// Everything that the daemon's tasks share.
#[derive(Debug)]
pub(crate) struct Agent<H> {
    /// The host's kernel.
    pub(crate) host: Arc<H>,
    /// The state directory.
    pub(crate) directory: StateDirectory,
    /// The settings file.
    pub(crate) config: PathBuf,
    /// Makes the kernel what it should be.
    pub(crate) reconciler: ReconcilerHandle,
    /// The connection to the coordinator, for `status`.
    pub(crate) connection: watch::Sender<Connection>,
    /// One command at a time changes anything.
    pub(crate) one_command: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

/// What changes.
#[derive(Debug)]
pub(crate) struct State {
    /// The settings.
    pub(crate) saved: Saved,
    /// The last good map.
    pub(crate) ledger: Ledger,
    /// What is wrong with the ledger.
    pub(crate) ledger_problem: Option<ItemFailure>,
    /// The goal that ends with the node down.
    pub(crate) going_down: Option<u64>,
    /// The task that talks to the coordinator.
    pub(crate) session: Option<Session>,
    /// The host's keys; others after `logout`.
    pub(crate) keys: Keys,
    /// What is waited for of an admin.
    pub(crate) waiting: Waiting,
}

impl<H: Host> Agent<H> {
    /// Opens what is on disk.
    ///
    /// # Errors
    /// The file that cannot be read.
    pub(crate) fn open(
        host: Arc<H>,
        directory: StateDirectory,
        config: PathBuf,
        reconciler: ReconcilerHandle,
    ) -> Result<Arc<Self>> {
        let keys = Keys::open(&directory)?;
        let saved = Saved::open(&directory).with_context(|| {
            format!(
                "the saved settings cannot be used: remove {} and run `agent up` again",
                directory.path_of("settings.json").display()
            )
        })?;
        let opened = Ledger::open(directory.clone())?;
        let ledger_problem = opened.damaged.map(|aside| {
            warn!(aside = %aside.display(), "the ledger was damaged and is set aside");
            ItemFailure {
                item: "read the ledger".to_owned(),
                reason: format!(
                    "it was damaged and is now {}; the coordinator sends the map again",
                    aside.display()
                ),
            }
        });
        Ok(Arc::new(Self {
            host,
            directory,
            config,
            reconciler,
            connection: watch::Sender::new(Connection::default()),
            one_command: tokio::sync::Mutex::new(()),
            state: Mutex::new(State {
                saved,
                ledger: opened.ledger,
                ledger_problem,
                going_down: None,
                session: None,
                keys,
                waiting: Waiting::default(),
            }),
        }))
    }

    /// The state; held only for moments, never over a wait.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host's keys. Not to be asked for while the state is held.
    pub(crate) fn keys(&self) -> Keys {
        self.state().keys.clone()
    }

    /// Goes on where the daemon before this one stopped: the kernel from the ledger at once, the
    /// coordinator beside it.
    pub(crate) fn go_on(self: &Arc<Self>) {
        let saved = self.state().saved.clone();
        match (saved.state, &saved.applied) {
            (NodeState::Up, Some(_)) => {
                if let Some(generation) = self.pursue_ledger() {
                    info!(%generation, "starting with the network map from the ledger");
                }
                self.resume_session();
            }
            (NodeState::GoingDown, Some(applied)) => {
                info!("going on going down");
                let interface = applied.settings.interface.0.clone();
                let goal = self.reconciler.pursue(Goal::Down(interface));
                self.state().going_down = Some(goal);
            }
            (NodeState::Up | NodeState::GoingDown | NodeState::Down, _) => {
                info!("down; `agent up` starts");
            }
        }
        self.resume_waiting();
    }

    /// Makes the kernel what the ledger's map and the settings say. Gives the map's number.
    pub(crate) fn pursue_ledger(&self) -> Option<Generation> {
        self.pursue().map(|(generation, _)| generation)
    }

    /// As [`Self::pursue_ledger`]; gives the goal's number as well.
    pub(crate) fn pursue(&self) -> Option<(Generation, u64)> {
        let mut state = self.state();
        // A map that comes in while the node goes down must not bring it up again.
        if state.saved.state != NodeState::Up {
            return None;
        }
        let settings = state.saved.applied.as_ref()?.node_settings();
        let State { ledger, keys, .. } = &mut *state;
        let map = ledger.map()?;
        if let Err(error) = keys.follow(map, &self.directory) {
            warn!("the new key is in force, but not in its place on disk: {error:#}");
        }
        let target = Target {
            generation: map.generation,
            state: desired_state(map, &settings, keys.node.clone()),
        };
        let generation = target.generation;
        Some((
            generation,
            self.reconciler.pursue(Goal::Up(Arc::new(target))),
        ))
    }

    /// Starts talking to the coordinator again, if the node is up and nobody does.
    pub(crate) fn resume_session(self: &Arc<Self>) {
        let mut state = self.state();
        if state.session.is_some() || state.saved.state != NodeState::Up {
            return;
        }
        match Session::resume(self, &state.saved, &state.keys) {
            Ok(session) => state.session = session,
            Err(error) => error!("cannot talk to the coordinator: {error:#}"),
        }
    }

    /// Takes a message of the map stream, as far as the kernel.
    ///
    /// # Errors
    /// [`FullMapNeeded`].
    pub(crate) fn take_message(&self, message: StreamMessage) -> Result<(), FullMapNeeded> {
        let map = match message {
            StreamMessage::Heartbeat { .. } | StreamMessage::Closing { .. } => return Ok(()),
            StreamMessage::Full { map } => *map,
            StreamMessage::Delta { delta } => {
                let held = self.state().ledger.map().cloned();
                let mut map = held.ok_or(FullMapNeeded)?;
                apply_delta(&mut map, &delta).map_err(|_| FullMapNeeded)?;
                map
            }
        };
        if self.commit(map) {
            self.pursue();
        }
        Ok(())
    }

    /// The coordinator says that this node is not in the network: it speaks to nobody any more and
    /// lets nothing pass, until a coordinator says otherwise. A chosen exit stays closed.
    pub(crate) fn shut_out(&self) {
        let shut = self.state().ledger.shut_out();
        let is_news = shut.as_ref().is_ok_and(|is_news| *is_news);
        if let Err(error) = &shut {
            warn!(
                error = chain(error),
                "nothing passes any more, but that is not on disk"
            );
        }
        if is_news || shut.is_err() {
            warn!(
                "this node is not in the network any more: it has no peers and lets nothing pass"
            );
            self.pursue();
        }
    }

    /// Has a map in the ledger. True when it is to be acted on.
    fn commit(&self, map: NetworkMap) -> bool {
        let mut state = self.state();
        let generation = map.generation;
        let committed = state.ledger.commit(map);
        state.ledger_problem = committed.as_ref().err().map(|error| ItemFailure {
            item: format!("take network map {generation}"),
            reason: chain(error),
        });
        match committed {
            Ok(is_new) => is_new,
            // What it takes away must be gone, disk or no disk.
            Err(error @ LedgerError::Disk(_)) => {
                warn!(
                    error = chain(&error),
                    "the map is in force, but not on disk"
                );
                true
            }
            Err(error @ (LedgerError::Older { .. } | LedgerError::Conflict { .. })) => {
                warn!(error = chain(&error), "a network map was not taken");
                false
            }
        }
    }

    /// How things stand, with fresh counters when the node is up.
    pub(crate) async fn status(&self) -> StatusReport {
        let up = self.state().saved.state == NodeState::Up;
        let kernel = if up {
            self.reconciler.look(LOOK_DEADLINE).await
        } else {
            self.reconciler.status().borrow().clone()
        };
        let connection = self.connection.borrow().clone();
        let relays = self
            .state()
            .saved
            .applied
            .as_ref()
            .is_some_and(|applied| !applied.node_settings().advertised.is_empty());
        let ports = if up && relays {
            self.host.ports_in_use().await.unwrap_or_else(|error| {
                warn!(%error, "the ports in use cannot be counted");
                Vec::new()
            })
        } else {
            Vec::new()
        };
        let lost = if up && relays {
            self.lost_addresses().await
        } else {
            Vec::new()
        };
        let state = self.state();
        let mut report = status::report(
            &state.saved,
            state.ledger.map(),
            &kernel,
            &connection,
            Looked { ports, now: now() },
            state.ledger_problem.as_ref(),
            &state.keys.node,
        );
        report.approval.clone_from(&state.waiting.report);
        report.warnings.extend(lost);
        report
    }

    /// A sentence for each address that was chosen for what this host relays and that it has not.
    async fn lost_addresses(&self) -> Vec<String> {
        let Some(applied) = self.state().saved.applied.clone() else {
            return Vec::new();
        };
        let settings = applied.node_settings();
        let port = settings.listen_port;
        let facts = match self.host.facts(&settings.interface, port).await {
            Ok(facts) => facts,
            Err(error) => {
                warn!(%error, "the host's addresses cannot be read");
                return Vec::new();
            }
        };
        let state = self.state();
        let map = state.ledger.map();
        map.map(|map| lost_addresses(map, &settings, &facts.addresses))
            .unwrap_or_default()
    }
}
