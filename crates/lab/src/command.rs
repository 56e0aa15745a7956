//! Running programs in a node: with a deadline, or in the background with a log.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::{Node, patient, program_directory, wait_for};

/// How long a command may take unless it says otherwise.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(20);

/// How often a running command is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(3);

/// What a command left behind.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output, with what is not UTF-8 replaced.
    pub stdout: String,
    /// Its standard error, likewise.
    pub stderr: String,
    /// How long it ran.
    pub elapsed: Duration,
}

impl Output {
    /// Whether it ended with status 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// Both outputs, for an assertion that does not care which one it was.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// A command to run in a node.
#[derive(Debug)]
#[must_use = "a command does nothing until it is run, asked for its output or spawned"]
pub struct NodeCommand<'node> {
    node: &'node Node,
    argv: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    stdin: Option<String>,
    deadline: Duration,
}

impl<'node> NodeCommand<'node> {
    pub(crate) fn new(node: &'node Node, argv: Vec<OsString>) -> Self {
        Self {
            node,
            argv,
            environment: Vec::new(),
            stdin: None,
            deadline: DEFAULT_DEADLINE,
        }
    }

    /// Sets an environment variable.
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((key.into(), value.into()));
        self
    }

    /// Gives the command this text to read; without it, its standard input is empty.
    pub fn stdin(mut self, text: impl Into<String>) -> Self {
        self.stdin = Some(text.into());
        self
    }

    /// Sets the deadline (20 s by default), which [`patient`] stretches in emulation.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs the command and expects it to succeed.
    ///
    /// # Errors
    /// It cannot be started, fails (the error holds what it said), or misses its deadline.
    pub fn run(self) -> Result<Output> {
        let described = self.described();
        let output = self.output()?;
        if !output.success() {
            return Err(anyhow!("{}", output.text().trim()))
                .with_context(|| format!("{described} ended with {}", output.status));
        }
        Ok(output)
    }

    /// Runs the command and returns what came of it, success or not.
    ///
    /// # Errors
    /// It cannot be started or misses its deadline.
    pub fn output(self) -> Result<Output> {
        // Files, not pipes: a daemon that the command leaves behind may hold a pipe open for ever.
        let mut stdout = tempfile::tempfile().context("cannot create a file for the output")?;
        let mut stderr = tempfile::tempfile().context("cannot create a file for the errors")?;
        let deadline = patient(self.deadline);
        let started = Instant::now();
        let mut child = self.start(
            stdout.try_clone().context("cannot share the output file")?,
            stderr.try_clone().context("cannot share the error file")?,
        )?;
        let status = wait_with_deadline(&mut child, deadline)
            .with_context(|| format!("cannot wait for {}", self.described()))?;
        let elapsed = started.elapsed();
        let Some(status) = status else {
            // Gone already is as good as killed.
            let _ = killpg(pid_of(&child), Signal::SIGKILL);
            let _ = child.wait();
            let said = format!("{}{}", read_back(&mut stdout)?, read_back(&mut stderr)?);
            bail!(
                "{} did not end within {deadline:?}; it said: {}",
                self.described(),
                said.trim()
            );
        };
        let (stdout, stderr) = (read_back(&mut stdout)?, read_back(&mut stderr)?);
        Ok(Output {
            status,
            stdout,
            stderr,
            elapsed,
        })
    }

    /// Starts the command in the background, with its output in a log file.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(self) -> Result<Spawned> {
        let program = self.argv.first().map(PathBuf::from).unwrap_or_default();
        let short = program
            .file_name()
            .unwrap_or_default()
            .display()
            .to_string();
        let path = self.node.new_log(&short);
        let log =
            File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let child = self.start(log.try_clone().context("cannot share the log file")?, log)?;
        Ok(Spawned {
            described: self.described(),
            log: path,
            pid: child.id(),
            child: Mutex::new(child),
        })
    }

    fn start(&self, stdout: File, stderr: File) -> Result<Child> {
        let mut command = Command::new("nsenter");
        command
            .args(["-t", &self.node.pid().to_string(), "-n", "-m", "-u", "--"])
            .args(&self.argv)
            .env("PATH", search_path()?)
            // What the tests are run with is not what a person on that machine has set.
            .env_remove("RUST_BACKTRACE")
            .env_remove("RUST_LOG")
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0);
        match &self.stdin {
            None => command.stdin(Stdio::null()),
            Some(text) => {
                let mut file =
                    tempfile::tempfile().context("cannot create a file for the input")?;
                file.write_all(text.as_bytes())
                    .and_then(|()| file.seek(SeekFrom::Start(0)))
                    .context("cannot write the input")?;
                command.stdin(file)
            }
        };
        command
            .spawn()
            .with_context(|| format!("cannot start {}", self.described()))
    }

    fn described(&self) -> String {
        let words: Vec<_> = self
            .argv
            .iter()
            .map(|part| part.display().to_string())
            .collect();
        format!("`{}` in {}", words.join(" "), self.node.name())
    }
}

/// A program that runs in a node, in the background. Dropping it kills the program (not what
/// the program itself left behind: that goes with the node).
pub struct Spawned {
    described: String,
    log: PathBuf,
    pid: u32,
    child: Mutex<Child>,
}

impl fmt::Debug for Spawned {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Spawned")
            .field("program", &self.described)
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

impl Spawned {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The file with its standard output and standard error.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// What it has written so far.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn log(&self) -> Result<String> {
        let bytes =
            fs::read(&self.log).with_context(|| format!("cannot read {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Its exit status, when it has ended.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn ended(&self) -> Result<Option<ExitStatus>> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child
            .try_wait()
            .with_context(|| format!("cannot look at {}", self.described))
    }

    /// Waits until the log has a line with `text`, and returns that line.
    ///
    /// # Errors
    /// The deadline passed (it is stretched in emulation), or the program ended without saying it.
    pub fn wait_for_log(&self, text: &str, deadline: Duration) -> Result<String> {
        let what = format!("{text:?} in the log of {}", self.described);
        let found = wait_for(&what, patient(deadline), || {
            // Asked first: what it wrote before its end is in the log read afterwards.
            let ended = self.ended()?;
            let log = self.log()?;
            match (log.lines().find(|line| line.contains(text)), ended) {
                (Some(line), _) => Ok(Some(line.to_owned())),
                (None, Some(status)) => bail!("it ended with {status} and said:\n{log}"),
                (None, None) => Ok(None),
            }
        });
        found.with_context(|| format!("log file: {}", self.log.display()))
    }

    /// Sends a signal to the program.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        // Asking first reaps it, so that the id cannot be somebody else's by now.
        if let Some(status) = child.try_wait().context("cannot look at the program")? {
            bail!("{} has already ended with {status}", self.described);
        }
        kill(pid_of(&child), signal).with_context(|| format!("cannot signal {}", self.described))
    }

    /// Sends a signal and waits for the end.
    ///
    /// # Errors
    /// The program had ended before, or does not end within the deadline (stretched in emulation).
    pub fn stop(&self, signal: Signal, deadline: Duration) -> Result<ExitStatus> {
        self.signal(signal)?;
        self.wait(deadline)
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// The program does not end within the deadline (stretched in emulation).
    pub fn wait(&self, deadline: Duration) -> Result<ExitStatus> {
        let deadline = patient(deadline);
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        wait_with_deadline(&mut child, deadline)
            .with_context(|| format!("cannot wait for {}", self.described))?
            .with_context(|| format!("{} did not end within {deadline:?}", self.described))
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Both fail only when it is gone already.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Waits for a child; none when the deadline passed.
pub(crate) fn wait_with_deadline(
    child: &mut Child,
    deadline: Duration,
) -> std::io::Result<Option<ExitStatus>> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if started.elapsed() >= deadline {
            return Ok(None);
        }
        thread::sleep(POLL_INTERVAL);
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

fn read_back(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))
        .and_then(|_| file.read_to_end(&mut bytes))
        .context("cannot read the output back")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The search path in a node: the programs under test first, as if they were installed.
fn search_path() -> Result<OsString> {
    let mut path = program_directory()?.into_os_string();
    path.push(":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    Ok(path)
}
