//! The coordinator: its server and its commands.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use nix::sys::signal::Signal;
use serde::Deserialize;
use weir_lab::{Node, Output, Spawned, addresses, patient, wait_for};

use crate::{Machine, Transcript};

/// How long the server may take to start, and to end.
const SERVER_DEADLINE: Duration = Duration::from_secs(15);
/// Where the story keeps the policy that it edits.
const POLICY_FILE: &str = "/etc/weir/policy.hujson";

/// An auth key, whole. It is worth nothing outside its lab, and still it is not printed.
#[derive(Clone)]
pub struct AuthKey(String);

impl AuthKey {
    /// A key as somebody typed it.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The key itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AuthKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("AuthKey(..)")
    }
}

#[derive(Deserialize)]
struct CreatedKey {
    key: String,
}

/// The coordinator on a machine.
#[derive(Debug)]
pub struct Coordinator {
    machine: Machine,
    server: Option<Spawned>,
}

impl Coordinator {
    /// Starts `coordinator serve` without any configuration and waits until it answers.
    ///
    /// # Errors
    /// It does not start in time.
    pub fn start(node: &Node, transcript: &Transcript) -> Result<Self> {
        let mut coordinator = Self {
            machine: Machine::new(node, transcript),
            server: None,
        };
        coordinator.serve()?;
        Ok(coordinator)
    }

    /// Starts the server again, on what it stored.
    ///
    /// # Errors
    /// It does not start in time.
    pub fn serve(&mut self) -> Result<()> {
        let server = self.machine.node().spawn(["coordinator", "serve"])?;
        self.machine.transcript().note("coordinator serve started");
        wait_for("the coordinator", patient(SERVER_DEADLINE), || {
            if let Some(status) = server.ended()? {
                anyhow::bail!("it ended with {status} and said:\n{}", server.log()?);
            }
            let nodes = ["coordinator", "nodes", "list", "--json"];
            Ok(self.machine.node().try_run(nodes)?.success().then_some(()))
        })?;
        self.server = Some(server);
        Ok(())
    }

    /// The machine it is on.
    #[must_use]
    pub const fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Where agents of the story's network reach it.
    #[must_use]
    pub fn url() -> String {
        format!("https://{}:8443", addresses::COORDINATOR)
    }

    /// Creates a user.
    ///
    /// # Errors
    /// The command fails.
    pub fn create_user(&self, name: &str) -> Result<()> {
        self.machine
            .must(&format!("coordinator users create {name}"))
            .map(drop)
    }

    /// Creates an auth key; `flags` say for whom, such as `--user alice@example.com`.
    ///
    /// # Errors
    /// The command fails, or prints no key.
    pub fn create_key(&self, flags: &str) -> Result<AuthKey> {
        let command = format!("coordinator keys create {flags} --json");
        // Not through the transcript: the key would be in it.
        let output = self.machine.node().run(command.split_whitespace())?;
        self.machine.transcript().note(&command);
        let created: CreatedKey = serde_json::from_str(&output.stdout)
            .map_err(|_| anyhow!("`{command}` printed no key"))?;
        Ok(AuthKey(created.key))
    }

    /// Saves a policy, and returns the moment the command returned.
    ///
    /// # Errors
    /// The policy is refused.
    pub fn set_policy(&self, text: &str) -> Result<Instant> {
        self.machine.node().write_file(POLICY_FILE, text)?;
        self.machine
            .must(&format!("coordinator policy set {POLICY_FILE}"))?;
        Ok(Instant::now())
    }

    /// Approves routes of a node.
    ///
    /// # Errors
    /// The node does not advertise them.
    pub fn approve(&self, node: &str, prefixes: &str) -> Result<Output> {
        self.machine
            .must(&format!("coordinator routes approve {node} {prefixes}"))
    }

    /// Ends the server with a signal.
    ///
    /// # Errors
    /// It does not run, or does not end in time.
    pub fn stop(&mut self, signal: Signal) -> Result<()> {
        let server = self.server.take().context("no coordinator runs")?;
        server.stop(signal, SERVER_DEADLINE)?;
        self.machine
            .transcript()
            .note(&format!("coordinator ended by {signal}"));
        Ok(())
    }
}
