//! The agent of one machine: its configuration, its daemon, its commands.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use weir_lab::{Node, Output, Spawned, patient, wait_for};

use crate::{AuthKey, Machine, Status, Transcript};

/// The agent's own command that carries packets where the kernel has no WireGuard.
pub const USERSPACE_WIREGUARD: &str = "userspace-wireguard";
/// How long the daemon may take to start, and to end.
const DAEMON_DEADLINE: Duration = Duration::from_secs(10);
/// How long a node may take to reach what it was told.
const SETTLE_DEADLINE: Duration = Duration::from_secs(10);

/// The agent on a machine.
#[derive(Debug)]
pub struct Agent {
    machine: Machine,
    daemon: Option<Spawned>,
}

impl Agent {
    /// The agent of a node; nothing runs yet.
    #[must_use]
    pub fn new(node: &Node, transcript: &Transcript) -> Self {
        Self {
            machine: Machine::new(node, transcript),
            daemon: None,
        }
    }

    /// The machine it is on.
    #[must_use]
    pub const fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The machine's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.machine.name()
    }

    /// Writes `/etc/weir/agent.toml` and the auth key that it names.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn configure(&self, coordinator: &str, key: &AuthKey) -> Result<()> {
        let node = self.machine.node();
        node.write_file("/etc/weir/auth.key", key.reveal())?;
        self.machine.must("chmod 600 /etc/weir/auth.key")?;
        node.write_file(
            "/etc/weir/agent.toml",
            &format!("coordinator = \"{coordinator}\"\nauth_key = \"file:/etc/weir/auth.key\"\n"),
        )
    }

    /// Starts the daemon and waits until it answers.
    ///
    /// # Errors
    /// It does not start in time.
    pub fn start(&mut self) -> Result<()> {
        self.start_by("agent daemon")
    }

    /// Starts the daemon by a command of one's own, such as `setpriv … agent daemon`, and waits
    /// until it answers.
    ///
    /// # Errors
    /// It does not start in time.
    pub fn start_by(&mut self, command: &str) -> Result<()> {
        // A daemon that was killed leaves its socket behind: what counts is an answer.
        let daemon = self.machine.node().spawn(command.split_whitespace())?;
        self.note(&format!("{command} started"));
        let what = format!("the daemon on {}", self.name());
        let answered = wait_for(&what, patient(DAEMON_DEADLINE), || {
            if let Some(status) = daemon.ended()? {
                bail!("it ended with {status} and said:\n{}", daemon.log()?);
            }
            Ok(self.status().ok())
        });
        answered.with_context(|| format!("see {}", daemon.log_path().display()))?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// The running daemon.
    ///
    /// # Errors
    /// It was not started.
    pub fn daemon(&self) -> Result<&Spawned> {
        self.daemon
            .as_ref()
            .with_context(|| format!("no daemon was started on {}", self.name()))
    }

    /// Ends the daemon with a signal.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn stop(&mut self, signal: Signal) -> Result<()> {
        let daemon = self
            .daemon
            .take()
            .with_context(|| format!("no daemon runs on {}", self.name()))?;
        daemon.stop(signal, DAEMON_DEADLINE)?;
        self.note(&format!("agent daemon ended by {signal}"));
        Ok(())
    }

    /// Sends the daemon a signal that does not end it.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.daemon()?.signal(signal)?;
        self.note(&format!("{signal} sent to the agent daemon"));
        Ok(())
    }

    /// Types `agent up` with these flags and expects it to succeed.
    ///
    /// # Errors
    /// It was refused, or failed.
    pub fn up(&self, flags: &str) -> Result<Output> {
        self.machine.must(format!("agent up {flags}").trim_end())
    }

    /// Types `agent status --json`.
    ///
    /// # Errors
    /// The daemon does not answer, or not in the form that is expected.
    pub fn status(&self) -> Result<Status> {
        let command = ["agent", "status", "--json"];
        let output = self.machine.node().try_run(command)?;
        serde_json::from_str(&output.stdout)
            .with_context(|| format!("agent status on {} said: {}", self.name(), output.text()))
    }

    /// Waits until the status is as it should be, and returns it. `what` completes the sentence
    /// "waited for …".
    ///
    /// # Errors
    /// The deadline (stretched in emulation) passed; the error has the last status.
    pub fn wait_for_status(
        &self,
        what: &str,
        deadline: Duration,
        mut is_so: impl FnMut(&Status) -> bool,
    ) -> Result<Status> {
        let mut last = None;
        let found = wait_for(what, patient(deadline), || {
            let status = self.status()?;
            let so = is_so(&status);
            last = Some(status.clone());
            Ok(so.then_some(status))
        });
        found.with_context(|| format!("the last status of {}: {last:?}", self.name()))
    }

    /// Waits until the kernel conforms to the map that the agent holds.
    ///
    /// # Errors
    /// The deadline (stretched in emulation) passed.
    pub fn settled(&self) -> Result<Status> {
        let what = format!("{} to conform to its map", self.name());
        self.wait_for_status(&what, SETTLE_DEADLINE, Status::is_settled)
    }

    /// The packets that a counter of the firewall has seen, as `agent status` tells.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn packets(&self, counter: &str) -> Result<u64> {
        Ok(self.status()?.packets(counter))
    }

    fn note(&self, text: &str) {
        let name = self.name();
        self.machine.transcript().note(&format!("{name}: {text}"));
    }
}
