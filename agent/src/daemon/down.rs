//! `down`: the host as it was before `up`.

use anyhow::Result;
use std::{sync::Arc, time::Duration};
use tracing::{info, warn};
use weir_reconcile::{Goal, Status};

use super::{agent::Agent, host::Host, saved::Saved, status::Connection};
use crate::{
    control::{DownReport, NodeState},
    coordinator::Client,
};

/// How long the coordinator may take to hear that the node is down.
const GOODBYE_DEADLINE: Duration = Duration::from_secs(3);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

impl<H: Host> Agent<H> {
    /// Takes everything of ours out of the kernel and stops talking to the coordinator.
    ///
    /// # Errors
    /// Settings that cannot be saved: without that, a restart would bring the node up again.
    pub(crate) async fn down(self: &Arc<Self>, timeout: Option<u64>) -> Result<DownReport> {
        let _only_one = self.one_command.lock().await;
        self.ask_no_more()?;
        self.state().waiting.stop();
        let may_be_told = self.connection.borrow().problem.is_none();
        let saved = self.state().saved.clone();
        let interface = {
            let mut state = self.state();
            let applied = match (state.saved.state, state.saved.applied.clone()) {
                (NodeState::Up | NodeState::GoingDown, Some(applied)) => applied,
                (NodeState::Up | NodeState::GoingDown | NodeState::Down, _) => {
                    return Ok(DownReport {
                        was_down: true,
                        ..DownReport::default()
                    });
                }
            };
            let mut next = state.saved.clone();
            next.state = NodeState::GoingDown;
            next.write(&self.directory)?;
            state.saved = next;
            state.session = None;
            state.ledger_problem = None;
            applied.settings.interface.0
        };
        self.connection.send_replace(Connection::default());
        let goal = self.reconciler.pursue(Goal::Down(interface));
        self.state().going_down = Some(goal);
        let deadline = timeout.map_or(DEFAULT_TIMEOUT, Duration::from_secs);
        let Some(status) = self.reconciler.passed(goal, deadline).await else {
            anyhow::bail!(
                "it takes longer than {} s; it goes on, `agent status` shows how it stands",
                deadline.as_secs()
            );
        };
        self.note_if_down(&status)?;
        // Behind the way down, which must not wait for anybody.
        let deleted = may_be_told && self.say_goodbye(&saved).await;
        Ok(DownReport {
            was_down: false,
            deleted,
            steps: status.steps,
            failures: status.failures,
        })
    }

    /// Tells the coordinator that the node went down on purpose. Says whether that was the end of it,
    /// as it is of an ephemeral node. A coordinator that does not hear it forgets such a node later.
    async fn say_goodbye(&self, saved: &Saved) -> bool {
        let Some(enrolment) = saved.enrolment.clone() else {
            return false;
        };
        let Some(urls) = enrolment.coordinator.0 else {
            return false;
        };
        let told = match Client::new(urls, enrolment.pin, self.keys().machine) {
            Ok(client) => client.down(GOODBYE_DEADLINE).await,
            Err(error) => Err(error),
        };
        match told {
            Ok(response) => response.deleted,
            Err(error) => {
                info!(%error, "the coordinator was not told that this node is down");
                false
            }
        }
    }

    /// Notes that the node is down once the kernel says so, now or after retries.
    ///
    /// # Errors
    /// Settings that cannot be saved; a restart then goes down again, which changes nothing.
    pub(crate) fn note_if_down(&self, status: &Status) -> Result<()> {
        let mut state = self.state();
        let reached = state.going_down.is_some_and(|goal| status.goal >= goal);
        if !reached || !status.failures.is_empty() || state.saved.state != NodeState::GoingDown {
            return Ok(());
        }
        let mut next = state.saved.clone();
        next.state = NodeState::Down;
        next.applied = None;
        next.write(&self.directory)?;
        state.saved = next;
        state.going_down = None;
        info!("down");
        Ok(())
    }

    /// Watches for a way down that took retries. Never ends.
    pub(crate) async fn watch_way_down(&self) {
        let mut status = self.reconciler.status();
        while status.changed().await.is_ok() {
            let now = status.borrow_and_update().clone();
            if let Err(error) = self.note_if_down(&now) {
                warn!("down, but the settings cannot be saved: {error:#}");
            }
        }
    }
}
