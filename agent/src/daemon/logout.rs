//! `logout`: the node is gone at the coordinator, its keys are gone here, and the host is as it was.

use anyhow::{Context, Result, bail};
use std::{sync::Arc, time::Duration};
use tracing::info;

use super::{
    agent::Agent,
    host::Host,
    keys::{self, Keys},
    saved::Saved,
};
use crate::{control::LogoutReport, coordinator::Client};

/// How long the coordinator may take to let the node go.
const LEAVE_DEADLINE: Duration = Duration::from_secs(15);

impl<H: Host> Agent<H> {
    /// Leaves the network for good. With `force` also when the coordinator cannot be told.
    ///
    /// # Errors
    /// A machine that is in no network, a coordinator that cannot be told, a host that cannot be
    /// put back: then the keys are kept, and `logout` can be tried again.
    pub(crate) async fn logout(self: &Arc<Self>, force: bool) -> Result<LogoutReport> {
        let enrolment = self.state().saved.enrolment.clone();
        let enrolment =
            enrolment.context("this machine is in no network: there is nothing to log out of")?;
        let urls = enrolment
            .coordinator
            .0
            .context("this machine is in no network: there is nothing to log out of")?;
        let coordinator = urls.to_string();
        let client = Client::new(urls, enrolment.pin, self.keys().machine)?;
        let untold = match client.leave(LEAVE_DEADLINE).await {
            Ok(()) => None,
            // An admin was faster.
            Err(error) if error.is_not_enrolled() => None,
            Err(error) if force => Some(error.to_string()),
            Err(error) => bail!(
                "{error}; nothing was changed: try again, or let an admin delete the node and pass \
                 --force"
            ),
        };
        let down = self.down(None).await?;
        if let Some(failure) = down.failures.first() {
            bail!(
                "cannot {}: {}; the keys are kept: `agent logout --force` tries again",
                failure.item,
                failure.reason
            );
        }
        let _only_one = self.one_command.lock().await;
        keys::forget(&self.directory)?;
        let fresh = Keys::open(&self.directory)?;
        let mut state = self.state();
        state.ledger.forget()?;
        let next = Saved {
            explicit: state.saved.explicit.clone(),
            ..Saved::default()
        };
        next.write(&self.directory)?;
        state.saved = next;
        state.keys = fresh;
        info!("logged out");
        Ok(LogoutReport {
            coordinator,
            untold,
        })
    }
}
