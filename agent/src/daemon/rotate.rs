//! `rotate-key`: another WireGuard key for the same node.
//!
//! The new key is on disk before the coordinator hears of it, beside the old one. Which of the two
//! is in force is said by the network map, which reaches this node and its peers at the same time;
//! so a crash at any moment leaves both sides with keys that fit.

use anyhow::{Context, Result, bail};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tracing::info;
use weir_overlay::NodePublicKey;
use weir_protocol::RegisterRequest;

use super::{agent::Agent, host::Host, session::host_now};
use crate::{
    control::{NodeState, RotateReport},
    coordinator::Client,
};

/// How long the coordinator may take to take the key over.
const REGISTER_DEADLINE: Duration = Duration::from_secs(15);
/// How long the map that says so may take to come and to be in force.
const MAP_DEADLINE: Duration = Duration::from_secs(30);

impl<H: Host> Agent<H> {
    /// Gives the node another WireGuard key.
    ///
    /// # Errors
    /// A node that is not up, a coordinator that is not there or says no: then the old key stays in
    /// force until the coordinator says otherwise.
    pub(crate) async fn rotate_key(self: &Arc<Self>) -> Result<RotateReport> {
        let _only_one = self.one_command.lock().await;
        let saved = self.state().saved.clone();
        if saved.state != NodeState::Up {
            bail!("the node is down: run `agent up` first, and then again");
        }
        let enrolment = saved.enrolment.context("this machine is in no network")?;
        let urls = enrolment.coordinator.0;
        let urls = urls.context("this machine is in no network")?;
        let host = host_now(self).await.context("cannot look at this host")?;
        let (keys, before) = {
            let mut state = self.state();
            let before = state.keys.node.public();
            state.keys = state.keys.with_next(&self.directory)?;
            (state.keys.clone(), before)
        };
        let next = keys.newest().public();
        let client = Client::new(urls, enrolment.pin, keys.machine)?;
        let request = RegisterRequest {
            auth_key: None,
            node_key: next,
            tags: [].into(),
            host,
            reauthenticate: false,
        };
        client
            .register(&request, REGISTER_DEADLINE)
            .await
            .context("the key in force stays so; `agent rotate-key` tries again")?;
        self.key_is_in_force(next).await?;
        info!(key = %next, "the node has another key");
        Ok(RotateReport {
            before,
            after: next,
        })
    }

    /// Waits until the map names this key and the kernel has it.
    async fn key_is_in_force(&self, key: NodePublicKey) -> Result<()> {
        let deadline = Instant::now() + MAP_DEADLINE;
        let mut status = self.reconciler.status();
        loop {
            let held = {
                let state = self.state();
                let is_named = state.keys.node.public() == key;
                state
                    .ledger
                    .map()
                    .map(|map| map.generation)
                    .filter(|_| is_named)
            };
            let applied = status.borrow_and_update().applied;
            if held.is_some() && applied >= held {
                return Ok(());
            }
            // The map may come without a pass that has anything to say.
            let change = tokio::time::timeout(Duration::from_millis(100), status.changed());
            if matches!(change.await, Ok(Err(_))) || Instant::now() >= deadline {
                bail!(
                    "the coordinator has the new key, but its network map is not in force here \
                     yet: look at `agent status`"
                );
            }
        }
    }
}
