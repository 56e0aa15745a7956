//! Waiting for an admin: this machine has no auth key, and has asked to be let in.
//!
//! Nothing of the host is changed meanwhile. What was asked for is on disk, so that a daemon that is
//! started again waits on; the coordinator knows the machine by its key and keeps its request.

use serde::{Deserialize, Serialize};
use std::{pin::Pin as Pinned, sync::Arc, time::Duration};
use tokio::{task::AbortHandle, time::Instant};
use tracing::{info, warn};
use weir_protocol::{ApprovalAnswer, ApprovalRequest, ErrorCode, machine_fingerprint};
use weir_reconcile::Backoff;

use super::{agent::Agent, host::Host, up::Strangers};
use crate::{
    control::{ApprovalReport, ApprovalState, Response, UpRequest},
    coordinator::{Client, ClientError, now},
    settings::SettingCommand,
};

/// How long the coordinator is asked to hold an answer back while nobody has decided.
const HOLD_SECONDS: u64 = 20;
/// How long such an answer may take.
const HOLD_DEADLINE: Duration = Duration::from_secs(35);
/// An answer that comes sooner was not held back; then there is a pause before the next question.
const SOON: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(15);
/// How long after an approval it is tried to go up, while the coordinator cannot be reached.
const TRY_SECONDS: i64 = 300;

/// What is waited for, and done then: kept on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asking {
    /// The command that is carried out once the machine is in.
    pub(crate) request: UpRequest,
    /// Whether it was `set` and not `up`.
    pub(crate) is_set: bool,
    /// Until when an admin may decide, in seconds since 1970.
    pub(crate) until: i64,
}

impl Asking {
    const fn command(&self) -> SettingCommand {
        if self.is_set {
            SettingCommand::Set
        } else {
            SettingCommand::Up {
                reset: self.request.reset,
            }
        }
    }
}

/// A request that the coordinator has taken.
#[derive(Debug)]
pub(super) struct Asked {
    /// Speaks to that coordinator.
    pub(super) client: Client,
    /// What was asked for.
    pub(super) request: ApprovalRequest,
    /// Where an admin decides.
    pub(super) url: String,
    /// For how many seconds.
    pub(super) seconds: u64,
}

/// An admin said no.
#[derive(Debug, thiserror::Error)]
#[error(
    "an admin denied this machine: it stays out. In {minutes} min `agent up` can ask again; with an \
     auth key (--auth-key) it can join at once"
)]
pub(super) struct Denied {
    /// After how long it can ask again.
    pub(super) minutes: u64,
}

impl Denied {
    /// From seconds.
    pub(super) const fn for_seconds(seconds: u64) -> Self {
        Self {
            minutes: seconds.div_ceil(60),
        }
    }
}

/// How the request stands, and the task that waits.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// For `status`.
    pub(crate) report: Option<ApprovalReport>,
    task: Option<AbortHandle>,
}

impl Waiting {
    /// What waits now.
    pub(super) fn task(&self) -> Option<AbortHandle> {
        self.task.clone()
    }

    /// Waits no more.
    pub(crate) fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        self.report = None;
    }
}

impl<H: Host> Agent<H> {
    /// Waits for an admin beside all else, in the place of whatever was waited for before.
    ///
    /// # Errors
    /// Settings that cannot be saved.
    pub(super) fn wait_for_admin(
        self: &Arc<Self>,
        asked: Asked,
        asking: &Asking,
    ) -> anyhow::Result<ApprovalReport> {
        let report = ApprovalReport {
            state: ApprovalState::Waiting,
            url: asked.url.clone(),
            fingerprint: machine_fingerprint(&self.keys().machine.public()),
            until: asking.until,
            problem: None,
        };
        let mut state = self.state();
        let mut next = state.saved.clone();
        next.asking = Some(asking.clone());
        next.write(&self.directory)?;
        state.saved = next;
        state.waiting.report = Some(report.clone());
        let waiting = tokio::spawn(Arc::clone(self).follow_request(asked, asking.clone()));
        state.waiting.task = Some(waiting.abort_handle());
        info!(
            url = report.url,
            fingerprint = report.fingerprint,
            "waiting for an admin to let this machine in"
        );
        Ok(report)
    }

    /// Waits no more, and neither does the next daemon.
    ///
    /// # Errors
    /// Settings that cannot be saved.
    pub(super) fn ask_no_more(&self) -> anyhow::Result<()> {
        let mut state = self.state();
        if state.saved.asking.is_some() {
            let mut next = state.saved.clone();
            next.asking = None;
            next.write(&self.directory)?;
            state.saved = next;
        }
        Ok(())
    }

    /// Goes on waiting where the daemon before this one stopped.
    pub(super) fn resume_waiting(self: &Arc<Self>) {
        let asking = self.state().saved.asking.clone();
        let Some(asking) = asking else {
            return;
        };
        info!("going on waiting for an admin to let this machine in");
        let waiting = tokio::spawn(Arc::clone(self).carry_on(asking));
        self.state().waiting.task = Some(waiting.abort_handle());
    }

    /// Asks how the request stands until it is decided.
    // A box, because what is carried out then may wait anew.
    fn follow_request(
        self: Arc<Self>,
        asked: Asked,
        asking: Asking,
    ) -> Pinned<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            let mut backoff = Backoff::new(FIRST_PAUSE, LAST_PAUSE);
            let request = ApprovalRequest {
                wait_seconds: HOLD_SECONDS,
                ..asked.request
            };
            let client = asked.client;
            while now() < asking.until {
                let started = Instant::now();
                match client.approval(&request, HOLD_DEADLINE).await {
                    Ok(ApprovalAnswer::Pending { .. }) => {
                        self.note_waiting(&asking, None);
                        if started.elapsed() >= SOON {
                            backoff.reset();
                            continue;
                        }
                    }
                    Ok(ApprovalAnswer::Approved) => return self.carry_on(asking).await,
                    Ok(ApprovalAnswer::Denied { again_in_seconds }) => {
                        let denied = Denied::for_seconds(again_in_seconds).to_string();
                        return self.give_up(&asking, ApprovalState::Denied, denied).await;
                    }
                    Ok(ApprovalAnswer::Expired) => break,
                    Err(error) if is_final(&error) => {
                        let failed = ApprovalState::Failed;
                        return self.give_up(&asking, failed, error.to_string()).await;
                    }
                    Err(error) => {
                        self.note_waiting(&asking, Some(error.to_string()));
                        client.move_on();
                    }
                }
                tokio::time::sleep(backoff.next_wait()).await;
            }
            self.give_up(&asking, ApprovalState::Expired, expired())
                .await;
        })
    }

    /// Carries out what was waited for: the machine is in, or asks again after a restart.
    fn carry_on(self: Arc<Self>, asking: Asking) -> Pinned<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            let mut backoff = Backoff::new(FIRST_PAUSE, LAST_PAUSE);
            // What was approved in its last second is carried out after it.
            let until = asking.until.max(now()).saturating_add(TRY_SECONDS);
            let was_late = now() >= asking.until;
            loop {
                let tried = {
                    let _only_one = self.one_command.lock().await;
                    if self.state().saved.asking.as_ref() != Some(&asking) {
                        return;
                    }
                    // A request that nobody decided in time is not made again by itself.
                    let strangers = match was_late {
                        true => Strangers::StayOut,
                        false => Strangers::Ask,
                    };
                    let request = asking.request.clone();
                    self.change_now(asking.command(), request, strangers).await
                };
                let error = match tried {
                    Ok(Response::Waiting(_)) => return,
                    Ok(_) => {
                        info!("an admin let this machine in");
                        return;
                    }
                    Err(error) => error,
                };
                if error.downcast_ref::<Denied>().is_some() {
                    let denied = ApprovalState::Denied;
                    return self.give_up(&asking, denied, error.to_string()).await;
                }
                let of_coordinator = error.downcast_ref::<ClientError>();
                if was_late && of_coordinator.is_some_and(ClientError::is_not_enrolled) {
                    let late = ApprovalState::Expired;
                    return self.give_up(&asking, late, expired()).await;
                }
                let problem = format!("{error:#}");
                if of_coordinator.is_none_or(is_final) || now() >= until {
                    let failed = ApprovalState::Failed;
                    return self.give_up(&asking, failed, problem).await;
                }
                self.note_waiting(&asking, Some(problem));
                tokio::time::sleep(backoff.next_wait()).await;
            }
        })
    }

    fn note_waiting(&self, asking: &Asking, problem: Option<String>) {
        let mut state = self.state();
        let fingerprint = machine_fingerprint(&state.keys.machine.public());
        let report = state.waiting.report.get_or_insert_with(|| ApprovalReport {
            state: ApprovalState::Waiting,
            url: String::new(),
            fingerprint,
            until: asking.until,
            problem: None,
        });
        if report.problem != problem {
            if let Some(problem) = &problem {
                warn!(
                    problem,
                    "waiting for an admin, and cannot ask how it stands"
                );
            }
            report.problem = problem;
        }
    }

    /// Says how it ended. A command that came meanwhile is not spoilt.
    async fn give_up(&self, asking: &Asking, ended: ApprovalState, problem: String) {
        let _only_one = self.one_command.lock().await;
        if self.state().saved.asking.as_ref() != Some(asking) {
            return;
        }
        warn!(problem, "this machine was not let in");
        self.note_waiting(asking, Some(problem));
        if let Some(report) = &mut self.state().waiting.report {
            report.state = ended;
        }
        if let Err(error) = self.ask_no_more() {
            warn!("a daemon that is started again will ask again: {error:#}");
        }
    }
}

fn expired() -> String {
    "no admin decided in time: run `agent up` to ask again".to_owned()
}

/// Whether asking again is of no use.
const fn is_final(error: &ClientError) -> bool {
    match error {
        ClientError::Refused(problem) => !matches!(
            problem.code,
            ErrorCode::Unavailable
                | ErrorCode::TooManyRequests
                | ErrorCode::Internal
                | ErrorCode::StorageFull
        ),
        ClientError::Unreachable { .. }
        | ClientError::Deadline { .. }
        | ClientError::Closing(_)
        | ClientError::WrongPin { .. }
        | ClientError::Untrusted { .. }
        | ClientError::NotACoordinator { .. } => false,
        ClientError::Setup(_) => true,
    }
}
