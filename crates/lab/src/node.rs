//! A node: a machine of the lab, as its holder process.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};

use crate::command::{NodeCommand, Output, Spawned, wait_with_deadline};
use crate::hold::READY;
use crate::{patient, program};

/// How long a node may take to come up, and to go.
const HOLDER_DEADLINE: Duration = Duration::from_secs(10);

/// A machine of the lab. Clones are handles to the same machine; it lives as long as its
/// [`Lab`](crate::Lab).
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    pid: u32,
    logs: PathBuf,
    spawned: AtomicU32,
    holder: Mutex<Option<Child>>,
}

impl fmt::Debug for Node {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Node")
            .field("name", &self.inner.name)
            .field("pid", &self.inner.pid)
            .finish_non_exhaustive()
    }
}

impl Node {
    /// Starts a node without waiting for it; logs go to `logs`.
    pub(crate) fn begin(name: &str, logs: &Path) -> Result<Starting> {
        let errors = logs.join(format!("{name}.holder.log"));
        let error_log =
            File::create(&errors).with_context(|| format!("cannot create {}", errors.display()))?;
        let mut holder = Command::new(program("weir-lab-host")?)
            .args(["hold", name])
            .arg(logs)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(error_log)
            // Ctrl-C must not kill the holder before it has cleaned up.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start the node {name}"))?;
        let output = holder
            .stdout
            .take()
            .context("the holder has no standard output")?;
        let (sender, first_line) = mpsc::sync_channel(1);
        thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(output).read_line(&mut line);
            // The receiver is gone when the deadline has passed.
            let _ = sender.send(read.map(|_| line));
        });
        let node = Self {
            inner: Arc::new(Inner {
                name: name.to_owned(),
                pid: holder.id(),
                logs: logs.to_owned(),
                spawned: AtomicU32::new(0),
                holder: Mutex::new(Some(holder)),
            }),
        };
        Ok(Starting {
            node,
            first_line,
            errors,
        })
    }

    /// The node's name, which is also its host name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The holder's process id: `nsenter -t PID -n -m -u` enters the node.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.inner.pid
    }

    /// The command with which a person looks around in the node.
    #[must_use]
    pub fn enter_command(&self) -> String {
        format!("nsenter -t {} -n -m -u", self.pid())
    }

    /// Prepares a command in the node, for those that need more than [`run`](Self::run) offers.
    pub fn command<S: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = S>) -> NodeCommand<'_> {
        NodeCommand::new(
            self,
            argv.into_iter()
                .map(|part| part.as_ref().to_owned())
                .collect(),
        )
    }

    /// Runs a command in the node and expects it to succeed.
    ///
    /// # Errors
    /// It cannot be started, fails (the error holds what it said), or misses its deadline.
    pub fn run<S: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = S>) -> Result<Output> {
        self.command(argv).run()
    }

    /// Runs a command in the node and returns what came of it, success or not.
    ///
    /// # Errors
    /// It cannot be started or misses its deadline.
    pub fn try_run<S: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = S>) -> Result<Output> {
        self.command(argv).output()
    }

    /// Starts a program in the node; its output goes to a log file, and it is killed on drop.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn<S: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = S>) -> Result<Spawned> {
        self.command(argv).spawn()
    }

    /// Runs `nft -f -` in the node.
    ///
    /// # Errors
    /// nft refused the ruleset.
    pub fn nft(&self, ruleset: &str) -> Result<()> {
        self.command(["nft", "-f", "-"])
            .stdin(ruleset)
            .run()
            .map(drop)
    }

    /// The value of a sysctl such as `net.ipv4.ip_forward`, as this node sees it.
    ///
    /// # Errors
    /// There is no such sysctl.
    pub fn sysctl(&self, key: &str) -> Result<String> {
        let value = self.run(["cat", &sysctl_path(key)])?;
        Ok(value.stdout.trim_end().to_owned())
    }

    /// Sets a sysctl in this node.
    ///
    /// # Errors
    /// There is no such sysctl, or it refuses the value.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.set_sysctls(&[(key, value)])
    }

    /// Sets several sysctls in this node.
    ///
    /// # Errors
    /// There is no such sysctl, or it refuses the value.
    pub fn set_sysctls(&self, settings: &[(impl AsRef<str>, &str)]) -> Result<()> {
        let mut script = String::from("set -e\n");
        for (key, value) in settings {
            script += &format!("echo '{value}' > '{}'\n", sysctl_path(key.as_ref()));
        }
        self.run(["sh", "-c", &script]).map(drop)
    }

    /// The path under which the host sees a file of the node.
    #[must_use]
    pub fn host_path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        let root = PathBuf::from(format!("/proc/{}/root", self.pid()));
        root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Writes a file of the node, with the directories above it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_file(&self, path: impl AsRef<Path>, text: &str) -> Result<()> {
        let path = self.host_path(path);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
        }
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads a file of the node.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read_file(&self, path: impl AsRef<Path>) -> Result<String> {
        let path = self.host_path(path);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// A new log file for a program of this node.
    pub(crate) fn new_log(&self, program: &str) -> PathBuf {
        let number = self.inner.spawned.fetch_add(1, Ordering::Relaxed);
        self.inner
            .logs
            .join(format!("{}-{number:02}-{program}.log", self.name()))
    }

    /// Tells the holder that the lab is over, without waiting.
    pub(crate) fn release(&self) {
        let mut holder = self
            .inner
            .holder
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(holder) = holder.as_mut() {
            drop(holder.stdin.take());
        }
    }

    /// Waits until nothing of the node is left.
    pub(crate) fn end(&self) {
        self.inner.end();
    }
}

/// A node that may not be ready yet.
pub(crate) struct Starting {
    node: Node,
    first_line: mpsc::Receiver<std::io::Result<String>>,
    errors: PathBuf,
}

impl Starting {
    /// Waits until the node is ready.
    pub(crate) fn ready(self) -> Result<Node> {
        let line = self.first_line.recv_timeout(patient(HOLDER_DEADLINE));
        if matches!(&line, Ok(Ok(line)) if line.trim_end() == READY) {
            return Ok(self.node);
        }
        let reason = fs::read_to_string(&self.errors).unwrap_or_default();
        Err(anyhow!("{}", reason.trim()))
            .with_context(|| format!("the node {} did not come up", self.node.name()))
    }
}

impl Inner {
    fn end(&self) {
        let mut holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut holder) = holder.take() {
            drop(holder.stdin.take());
            if !matches!(
                wait_with_deadline(&mut holder, patient(HOLDER_DEADLINE)),
                Ok(Some(_))
            ) {
                // Both fail only when the holder is gone already.
                let _ = holder.kill();
                let _ = holder.wait();
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.end();
    }
}

fn sysctl_path(key: &str) -> String {
    format!("/proc/sys/{}", key.replace('.', "/"))
}
