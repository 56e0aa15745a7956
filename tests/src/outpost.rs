//! The smallest network: a host and a coordinator.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, anyhow, ensure};
use weir_lab::{HostSnapshot, Lab, Output, TOUCHED_SYSCTLS, addresses};

use crate::{Agent, AuthKey, Coordinator, Transcript};

/// Where the tests keep the auth key of the host.
const KEY_FILE: &str = "/etc/weir/auth.key";
/// What shows that a program printed its own data structures instead of a sentence.
const DEBUG_MARKS: [&str; 8] = [
    "Error {",
    "Some(",
    "Err(",
    "Os {",
    "kind:",
    "panicked",
    "RUST_BACKTRACE",
    "\\n",
];

/// What the tests of one process share: starting a coordinator for each takes longer than most of
/// them do. It ends with the process.
static CENTRE: Mutex<Option<Arc<Centre>>> = Mutex::new(None);

/// The coordinator, and the switch that every host is connected to.
#[derive(Debug)]
struct Centre {
    coordinator: Coordinator,
    transcript: Transcript,
    hosts: AtomicU8,
    lab: Lab,
}

impl Centre {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let transcript = Transcript::default();
        let node = lab.node("coordinator")?;
        node.bridge("lan", &[])?;
        // Left to itself, a bridge takes another address with each port, and neighbours lose it.
        node.ip("link set lan address 02:00:00:00:00:01")?;
        node.address("lan", &format!("{}/24", addresses::COORDINATOR))?;
        Ok(Self {
            coordinator: Coordinator::start(&node, &transcript)?,
            transcript,
            hosts: AtomicU8::new(0),
            lab,
        })
    }

    fn shared() -> Result<Arc<Self>> {
        let mut centre = CENTRE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(centre) = centre.as_ref() {
            return Ok(Arc::clone(centre));
        }
        Ok(Arc::clone(centre.insert(Arc::new(Self::new()?))))
    }
}

/// A host at a coordinator, for whatever must be refused.
#[derive(Debug)]
pub struct Outpost {
    /// The host's agent, not started.
    pub host: Agent,
    centre: Arc<Centre>,
}

impl Outpost {
    /// Adds a host to the coordinator's network.
    ///
    /// # Errors
    /// Something cannot be built or started.
    pub fn new() -> Result<Self> {
        let centre = Centre::shared()?;
        let number = centre.hosts.fetch_add(1, Ordering::Relaxed) + 1;
        let host = centre.lab.node(&format!("host-{number}"))?;
        let switch = centre.coordinator.machine().node();
        let port = format!("port{number}");
        centre.lab.connect((switch, &port), (&host, "eth0"))?;
        switch.ip(&format!("link set {port} master lan"))?;
        host.ip(&format!(
            "address add 198.51.100.{}/24 dev eth0\nroute add default via 198.51.100.1",
            100 + number
        ))?;
        Ok(Self {
            host: Agent::new(&host, &centre.transcript),
            centre,
        })
    }

    /// The coordinator.
    #[must_use]
    pub fn coordinator(&self) -> &Coordinator {
        &self.centre.coordinator
    }

    /// Lets programs log lines with this text as errors.
    pub fn expect_error(&self, text: &str) {
        self.centre.lab.expect_error(text);
    }

    /// Fails when a program logged an error.
    ///
    /// # Errors
    /// There is such a line.
    pub fn finish(self) -> Result<()> {
        self.centre.lab.finish()
    }

    /// A fresh one-off key for a relay.
    ///
    /// # Errors
    /// The coordinator makes none.
    pub fn key(&self) -> Result<AuthKey> {
        self.centre.coordinator.create_key("--tags tag:relay")
    }

    /// Gives the host this key, and returns the flags with which it joins.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn joining_with(&self, key: &AuthKey) -> Result<String> {
        self.host
            .machine()
            .node()
            .write_file(KEY_FILE, key.reveal())?;
        Ok(format!(
            "--coordinator={} --auth-key=file:{KEY_FILE}",
            Coordinator::url()
        ))
    }

    /// What the host looks like now.
    ///
    /// # Errors
    /// A command cannot be run.
    pub fn look(&self) -> Result<HostSnapshot> {
        HostSnapshot::take(self.host.machine().node(), TOUCHED_SYSCTLS)
    }

    /// Types `agent up` with these flags; it must be refused in one sentence with these words, and
    /// change nothing.
    ///
    /// # Errors
    /// It was not refused, not well, or something changed.
    pub fn refuses(&self, flags: &str, words: &[&str]) -> Result<()> {
        let before = self.look()?;
        let state = self.host.status()?.state;
        let output = self.host.machine().type_in(&format!("agent up {flags}"))?;
        one_sentence(&output, words)?;
        let after = self.look()?;
        if let Some(difference) = before.difference(&after) {
            return Err(anyhow!(
                "the refused command changed the host:\n{difference}"
            ));
        }
        let now = self.host.status()?.state;
        ensure!(now == state, "the node was {state} before and is {now} now");
        Ok(())
    }
}

/// Checks that a command failed, and said why in one sentence with these words.
///
/// # Errors
/// It did not.
pub fn one_sentence(output: &Output, words: &[&str]) -> Result<()> {
    ensure!(!output.success(), "it succeeded: {}", output.text());
    ensure!(output.stdout.is_empty(), "it printed: {}", output.stdout);
    let said = output.stderr.trim_end();
    let sentence = said
        .strip_prefix("agent: ")
        .or(said.strip_prefix("error: "));
    ensure!(
        sentence.is_some_and(|sentence| !sentence.is_empty()) && said.lines().count() == 1,
        "this is not one sentence of the agent:\n{said}"
    );
    for mark in DEBUG_MARKS {
        ensure!(
            !said.contains(mark),
            "this is not for people ({mark}):\n{said}"
        );
    }
    for word in words {
        ensure!(said.contains(word), "\"{word}\" is missing in:\n{said}");
    }
    Ok(())
}
