//! What somebody with root on a client can do: force packets into the tunnel.

use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use weir_lab::{patient, wait_until};

use crate::Agent;

/// How long the agent may take to put its peers right again.
const REPAIR_DEADLINE: Duration = Duration::from_secs(10);

/// A destination forced into a client's tunnel to the relay, behind the back of its agent.
#[derive(Debug)]
pub(super) struct Forced<'agent> {
    agent: &'agent Agent,
    destination: &'agent str,
}

impl<'agent> Forced<'agent> {
    /// Freezes the agent, which would repair what follows, adds `destination` to what WireGuard
    /// sends to the relay, and a route into the tunnel.
    ///
    /// # Errors
    /// A command fails.
    pub(super) fn into_tunnel(agent: &'agent Agent, destination: &'agent str) -> Result<Self> {
        let status = agent.status()?;
        let relay = status
            .peer("relay")
            .with_context(|| format!("{} does not know the relay", agent.name()))?;
        let forced = Self { agent, destination };
        agent.signal(Signal::SIGSTOP)?;
        let allowed = forced.allowed_ips(&relay.public_key)?;
        let machine = agent.machine();
        machine.must(&format!(
            "wg set weir0 peer {} allowed-ips {},{destination}",
            relay.public_key,
            allowed.join(",")
        ))?;
        machine.must(&format!("ip route add {destination} dev weir0"))?;
        Ok(forced)
    }

    /// What WireGuard sends to a peer.
    fn allowed_ips(&self, key: &str) -> Result<Vec<String>> {
        let all = self.agent.machine().must("wg show weir0 allowed-ips")?;
        let line = all
            .stdout
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .context("WireGuard does not know the relay")?;
        Ok(line.split_whitespace().map(str::to_owned).collect())
    }

    /// Removes the route and wakes the agent; returns how long it took to put its peers right.
    ///
    /// # Errors
    /// A command fails, or the agent does not repair its peers.
    pub(super) fn undo(self) -> Result<Duration> {
        let status = format!("ip route del {} dev weir0", self.destination);
        self.agent.machine().must(&status)?;
        self.agent.signal(Signal::SIGCONT)?;
        let what = format!(
            "{} to take {} out of WireGuard",
            self.agent.name(),
            self.destination
        );
        wait_until(&what, patient(REPAIR_DEADLINE), || {
            let all = self
                .agent
                .machine()
                .node()
                .run(["wg", "show", "weir0", "allowed-ips"])?;
            Ok(!all
                .stdout
                .split_whitespace()
                .any(|word| word == self.destination))
        })
    }
}
