//! The lab itself: owns the nodes and the logs, and takes everything down again.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Uid;
use tempfile::TempDir;

use crate::node::Starting;
use crate::{Node, error_lines};

/// A small network on this machine. Dropping it ends every node with all that runs in it.
#[derive(Debug)]
pub struct Lab {
    directory: Option<TempDir>,
    nodes: Mutex<Vec<Node>>,
    expected_errors: Mutex<Vec<String>>,
}

impl Lab {
    /// An empty lab.
    ///
    /// # Errors
    /// This process is not root, or there is no place for the logs.
    pub fn new() -> Result<Self> {
        if !Uid::effective().is_root() {
            bail!("the lab makes network namespaces and needs root; run this as root");
        }
        let directory = tempfile::Builder::new()
            .prefix("weir-lab-")
            .tempdir()
            .context("cannot create a directory for the lab's logs")?;
        Ok(Self {
            directory: Some(directory),
            nodes: Mutex::default(),
            expected_errors: Mutex::default(),
        })
    }

    /// Adds a node with no link but `lo`; `name` becomes its host name.
    ///
    /// # Errors
    /// The kernel refuses namespaces, or the name is taken.
    pub fn node(&self, name: &str) -> Result<Node> {
        let [node] = self.nodes([name])?;
        Ok(node)
    }

    /// Adds several nodes, which come up at the same time.
    ///
    /// # Errors
    /// The kernel refuses namespaces, or a name is taken.
    pub fn nodes<const N: usize>(&self, names: [&str; N]) -> Result<[Node; N]> {
        for (position, name) in names.iter().enumerate() {
            let taken = self.all_nodes().iter().any(|node| node.name() == *name);
            if taken || names[..position].contains(name) {
                bail!("there is already a node {name} in this lab");
            }
        }
        let starting = names
            .iter()
            .map(|name| Node::begin(name, self.directory()))
            .collect::<Result<Vec<_>>>()?;
        let ready = starting
            .into_iter()
            .map(Starting::ready)
            .collect::<Result<Vec<_>>>()?;
        self.all_nodes().extend(ready.iter().cloned());
        ready
            .try_into()
            .map_err(|_| anyhow!("some nodes are missing"))
    }

    /// The directory with the logs of every spawned program, gone after a test that passes.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory
            .as_ref()
            .map_or_else(|| Path::new("/nonexistent"), TempDir::path)
    }

    /// Whether this kernel has WireGuard: makes a link of that type in a node of its own.
    ///
    /// # Errors
    /// `ip` cannot be run.
    pub fn kernel_has_wireguard() -> Result<bool> {
        let lab = Self::new()?;
        let probe = lab.node("probe")?;
        Ok(probe
            .try_run(["ip", "link", "add", "probe", "type", "wireguard"])?
            .success())
    }

    /// Asks for kernel WireGuard on behalf of a test that needs it. Where there is none, says so
    /// in one line that shows in the output of a passing test too, and returns false.
    ///
    /// # Errors
    /// `ip` cannot be run.
    pub fn needs_kernel_wireguard(test: &str) -> Result<bool> {
        let present = Self::kernel_has_wireguard()?;
        if !present {
            // The print macros would keep the line to themselves in a test that passes.
            writeln!(
                std::io::stderr(),
                "SKIPPED {test}: this kernel has no WireGuard; `cargo xtask vm -- {test}` runs it"
            )
            .context("cannot print")?;
        }
        Ok(present)
    }

    /// From now on, lines of level ERROR that contain `text` do not fail the test.
    pub fn expect_error(&self, text: &str) {
        let mut expected = self
            .expected_errors
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        expected.push(text.to_owned());
    }

    /// The unexpected lines of level ERROR of all logs, each with the log's name.
    ///
    /// # Errors
    /// A log cannot be read.
    pub fn logged_errors(&self) -> Result<Vec<String>> {
        let expected = self
            .expected_errors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut found = Vec::new();
        let directory = self.directory();
        let mut paths = fs::read_dir(directory)
            .and_then(|entries| {
                entries
                    .map(|entry| Ok(entry?.path()))
                    .collect::<Result<Vec<_>, _>>()
            })
            .with_context(|| format!("cannot list {}", directory.display()))?;
        paths.sort();
        for path in paths {
            let bytes =
                fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let name = path.file_name().unwrap_or_default().display().to_string();
            for line in error_lines(&String::from_utf8_lossy(&bytes)) {
                if !expected.iter().any(|text| line.contains(text)) {
                    found.push(format!("{name}: {line}"));
                }
            }
        }
        Ok(found)
    }

    /// Fails when a program logged an error that nobody expected. Dropping the lab does the same,
    /// by a panic; a program that reports failures itself calls this first.
    ///
    /// # Errors
    /// There is such a line, or a log cannot be read.
    pub fn finish(&self) -> Result<()> {
        let errors = self.logged_errors()?;
        if errors.is_empty() {
            return Ok(());
        }
        // Said once: the drop would otherwise say it again.
        for line in &errors {
            self.expect_error(
                line.split_once(": ")
                    .map_or(line.as_str(), |(_, line)| line),
            );
        }
        bail!("a program logged errors:\n  {}", errors.join("\n  "));
    }

    /// Leaves everything running until a person ends it with Ctrl-C (or SIGTERM), and returns then,
    /// so that the lab can be taken down in order.
    ///
    /// # Errors
    /// The signals cannot be waited for.
    pub fn keep_until_interrupted(&self) -> Result<()> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
        signals.thread_block().context("cannot hold signals back")?;
        let ended = signals.wait().context("cannot wait for a signal");
        // A second one, while the lab is taken down, has its usual effect.
        signals
            .thread_unblock()
            .context("cannot let signals through")?;
        ended.map(drop)
    }

    /// The last lines of every log, for a person who has to find out what went wrong.
    #[must_use]
    pub fn log_tails(&self, lines: usize) -> String {
        let mut paths: Vec<_> = fs::read_dir(self.directory())
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        paths.sort();
        let mut text = String::new();
        for path in paths {
            let log = fs::read(&path).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let all: Vec<_> = log.lines().collect();
            if !all.is_empty() {
                let tail = all[all.len().saturating_sub(lines)..].join("\n    ");
                let name = path.file_name().unwrap_or_default().display().to_string();
                text += &format!("  {name}:\n    {tail}\n");
            }
        }
        text
    }

    fn all_nodes(&self) -> std::sync::MutexGuard<'_, Vec<Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many lines of each log a failed test shows.
const TAIL: usize = 40;

impl Drop for Lab {
    #[expect(
        clippy::print_stderr,
        reason = "what the programs said explains a failed test"
    )]
    fn drop(&mut self) {
        let failing = thread::panicking();
        if failing {
            eprintln!(
                "the last lines of the lab's logs:\n{}",
                self.log_tails(TAIL)
            );
        }
        let outcome = self.finish();
        let nodes = std::mem::take(&mut *self.all_nodes());
        // All at once, so that the ends overlap.
        nodes.iter().for_each(Node::release);
        nodes.iter().for_each(Node::end);
        if !failing && let Err(error) = outcome {
            panic!("{error:#}");
        }
    }
}
