//! The smallest network: a host and its coordinator on one wire.

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

/// A host and its coordinator, for whatever must be refused.
#[derive(Debug)]
pub struct Outpost {
    /// The host's agent, not started.
    pub host: Agent,
    /// The coordinator.
    pub coordinator: Coordinator,
    /// What was typed.
    pub transcript: Transcript,
    /// The machines.
    pub lab: Lab,
}

impl Outpost {
    /// Builds the network and starts the coordinator.
    ///
    /// # Errors
    /// Something cannot be built or started.
    pub fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let transcript = Transcript::default();
        let (centre, host) = (lab.node("coordinator")?, lab.node("host")?);
        lab.connect((&centre, "eth0"), (&host, "eth0"))?;
        centre.address("eth0", &format!("{}/24", addresses::COORDINATOR))?;
        host.ip("address add 198.51.100.11/24 dev eth0\nroute add default via 198.51.100.1")?;
        Ok(Self {
            host: Agent::new(&host, &transcript),
            coordinator: Coordinator::start(&centre, &transcript)?,
            transcript,
            lab,
        })
    }

    /// A fresh one-off key for a relay.
    ///
    /// # Errors
    /// The coordinator makes none.
    pub fn key(&self) -> Result<AuthKey> {
        self.coordinator.create_key("--tags tag:relay")
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
