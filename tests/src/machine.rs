//! A node of the lab, with every command typed in it written down.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use weir_lab::{Node, Output, patient};

use crate::Transcript;

/// A machine that people type on.
#[derive(Clone, Debug)]
pub struct Machine {
    node: Node,
    transcript: Transcript,
}

impl Machine {
    /// The machine that a node is.
    #[must_use]
    pub fn new(node: &Node, transcript: &Transcript) -> Self {
        Self {
            node: node.clone(),
            transcript: transcript.clone(),
        }
    }

    /// The node.
    #[must_use]
    pub const fn node(&self) -> &Node {
        &self.node
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.node.name()
    }

    /// Where commands are written down.
    #[must_use]
    pub const fn transcript(&self) -> &Transcript {
        &self.transcript
    }

    /// Types a command, whose words hold no spaces, and returns what came of it, success or not.
    ///
    /// # Errors
    /// It cannot be started or misses its deadline.
    pub fn type_in(&self, command: &str) -> Result<Output> {
        let output = self.node.try_run(command.split_whitespace())?;
        self.transcript.record(self.name(), command, &output);
        Ok(output)
    }

    /// Types a command and expects it to succeed.
    ///
    /// # Errors
    /// As [`type_in`](Self::type_in), and when it fails.
    pub fn must(&self, command: &str) -> Result<Output> {
        let output = self.type_in(command)?;
        if output.success() {
            return Ok(output);
        }
        let (place, said) = (self.name(), output.text());
        Err(anyhow!(
            "`{command}` on {place} ended with {}: {}",
            output.status,
            said.trim()
        ))
    }

    /// Id and command line of every process on this machine, its holder included.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn processes(&self) -> Result<Vec<(u32, String)>> {
        let namespace = |pid: &str| fs::metadata(format!("/proc/{pid}/ns/net"));
        let own = namespace(&self.node.pid().to_string())
            .with_context(|| format!("{} is gone", self.name()))?
            .ino();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").context("cannot list processes")? {
            let name = entry.context("cannot list processes")?.file_name();
            let name = name.to_string_lossy();
            let Ok(pid) = name.parse() else { continue };
            // One that ends meanwhile has no namespace any more.
            if namespace(&name).is_ok_and(|namespace| namespace.ino() == own) {
                let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                found.push((pid, String::from_utf8_lossy(&command).replace('\0', " ")));
            }
        }
        Ok(found)
    }

    /// Asks the server at `place` over TCP which address it sees; none when there is no answer.
    ///
    /// # Errors
    /// The client program cannot be run.
    pub fn ask_tcp(&self, place: &str, wait: Duration) -> Result<Option<String>> {
        self.ask("tcp", place, wait)
    }

    /// Asks the server at `place` over UDP which address it sees; none when there is no answer.
    ///
    /// # Errors
    /// The client program cannot be run.
    pub fn ask_udp(&self, place: &str, wait: Duration) -> Result<Option<String>> {
        self.ask("udp", place, wait)
    }

    fn ask(&self, protocol: &str, place: &str, wait: Duration) -> Result<Option<String>> {
        let seconds = patient(wait).as_secs_f64();
        let command = format!("weir-lab-host {protocol} {place} --timeout {seconds:.2}");
        let output = self.type_in(&command)?;
        let seen = output
            .stdout
            .strip_prefix("you are ")
            .and_then(|seen| seen.trim().rsplit_once(':'))
            .map(|(address, _)| address.to_owned());
        Ok(seen)
    }
}
