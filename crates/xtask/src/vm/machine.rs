//! One run of the emulated machine.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};

use super::{Image, quoted};
use crate::say;
use crate::stages::{Tally, show_and_count};

/// The second program of the machine.
const GUEST: &str = include_str!("guest.sh");

/// How long the machine may take from power to the job (measured: 10 to 20 s on two busy cores).
const BOOT_DEADLINE: Duration = Duration::from_secs(180);
/// How long it may take to power off after the job.
const POWER_OFF_DEADLINE: Duration = Duration::from_secs(60);
/// The directory of a run: this and the id of its process.
const RUN: &str = "run-";
/// How the names of files begin that hold what a running program printed.
pub(super) const UNFINISHED: &str = "output-";
/// How often to look.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// What the machine does before it powers off.
#[derive(Debug)]
pub(crate) struct Job {
    /// A shell script; its status is the job's.
    pub(crate) script: String,
}

/// A machine that is ready to boot.
#[derive(Debug)]
pub(crate) struct Machine<'image> {
    image: &'image Image,
    /// Shared with the machine: the job goes in, status and logs come out.
    shared: PathBuf,
}

impl<'image> Machine<'image> {
    /// A machine with a directory of its own, so that several can run at the same time.
    pub(crate) fn new(image: &'image Image, directory: &Path) -> Result<Self> {
        remove_left_behind(directory);
        let shared = directory.join(format!("{RUN}{}", process::id()));
        fs::create_dir_all(&shared)
            .with_context(|| format!("cannot create {}", shared.display()))?;
        Ok(Self { image, shared })
    }

    /// Boots and runs the job with its output shown; its status, and the tests it counted.
    pub(crate) fn run(&self, job: &Job, deadline: Duration) -> Result<(i32, Tally)> {
        // The console is for people: without this, it would end each line twice.
        self.write_job(&format!("stty raw -echo\nexec < /dev/null\n{}", job.script))?;
        let mut child = self
            .qemu("stdio,id=console,signal=on")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start qemu-system-x86_64")?;
        let output = child.stdout.take().context("qemu has no standard output")?;
        let reader = thread::spawn(move || show_and_count(output));
        let ended = self.supervise(&mut child, deadline);
        if ended.is_err() {
            // It may have ended in this moment; then there is nothing to kill.
            let _ = child.kill();
        }
        child.wait().context("cannot wait for qemu")?;
        let tally = reader
            .join()
            .map_err(|_| anyhow!("the reader of the output failed"))??;
        ended.with_context(|| {
            format!(
                "what had not ended printed:\n{}\nthe machine's kernel log ends with:\n{}",
                self.unfinished(),
                self.kernel_log_tail()
            )
        })?;
        Ok((self.status()?, tally))
    }

    /// Boots and lets a person work in the machine.
    pub(crate) fn shell(&self, job: &Job) -> Result<()> {
        self.write_job(&job.script)?;
        let status = self
            .qemu("stdio,id=console,signal=off")
            .status()
            .context("cannot start qemu-system-x86_64")?;
        if !status.success() {
            bail!("qemu ended with {status}");
        }
        self.status().map(drop)
    }

    fn write_job(&self, script: &str) -> Result<()> {
        let modules = quoted(&self.image.modules.display().to_string());
        for (name, text) in [
            ("settings.sh", format!("modules={modules}\n").as_str()),
            ("guest.sh", GUEST),
            ("job.sh", script),
        ] {
            let path = self.shared.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    fn qemu(&self, console: &str) -> Command {
        // Should this process be killed, so is the machine.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        command.args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]);
        command.args(["-machine", "q35", "-accel", "tcg,thread=multi,tb-size=512"]);
        // Five-level page tables cost much in emulation and are of no use in so small a machine.
        command.args(["-cpu", "max,la57=off", "-smp", "2", "-m", "3072"]);
        command.arg("-kernel").arg(&self.image.kernel);
        command.arg("-initrd").arg(&self.image.initramfs);
        command.args([
            "-append",
            "console=ttyS0 loglevel=6 panic=-1 mitigations=off nokaslr",
        ]);
        command
            .arg("-serial")
            .arg(format!("file:{}", self.kernel_log().display()));
        command.args(["-device", "virtio-serial-pci", "-chardev", console]);
        command.args([
            "-device",
            "virtconsole,chardev=console",
            "-device",
            "virtio-rng-pci",
        ]);
        // The host's file systems are many; the machine sees one.
        let host = "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap";
        command.args([
            "-fsdev",
            host,
            "-device",
            "virtio-9p-pci,fsdev=host,mount_tag=host",
        ]);
        let run = format!(
            "local,id=run,path={},security_model=none",
            self.shared.display()
        );
        command.args([
            "-fsdev",
            &run,
            "-device",
            "virtio-9p-pci,fsdev=run,mount_tag=run",
        ]);
        command
    }

    /// Waits for the machine's end, with a deadline for each part.
    fn supervise(&self, child: &mut Child, deadline: Duration) -> Result<()> {
        let started = Instant::now();
        let mut booted = false;
        let mut finished = None;
        loop {
            if child.try_wait().context("cannot look at qemu")?.is_some() {
                return Ok(());
            }
            if !booted && self.shared.join("ready").exists() {
                booted = true;
                say::line(&format!(
                    "booted in {:.1} s",
                    started.elapsed().as_secs_f64()
                ));
            }
            if finished.is_none() && self.shared.join("status").exists() {
                finished = Some(Instant::now());
            }
            if !booted && started.elapsed() > BOOT_DEADLINE {
                bail!(
                    "the machine did not boot within {} s",
                    BOOT_DEADLINE.as_secs()
                );
            }
            if finished.is_none() && started.elapsed() > deadline {
                bail!(
                    "the run did not end within {} minutes",
                    deadline.as_secs() / 60
                );
            }
            if finished.is_some_and(|since| since.elapsed() > POWER_OFF_DEADLINE) {
                // The job is done and its status known: what is left is only emulation.
                child.kill().context("cannot stop qemu")?;
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// What the job left in a file of its first directory.
    pub(crate) fn left(&self, name: &str) -> Result<String> {
        let path = self.shared.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// The job's status.
    fn status(&self) -> Result<i32> {
        let path = self.shared.join("status");
        let text = fs::read_to_string(&path).with_context(|| {
            format!(
                "the machine ended without a status; its kernel log ends with:\n{}",
                self.kernel_log_tail()
            )
        })?;
        text.trim()
            .parse()
            .with_context(|| format!("{} holds no number", path.display()))
    }

    /// What programs printed that were still running.
    fn unfinished(&self) -> String {
        let entries = fs::read_dir(&self.shared).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().display().to_string());
        let names: BTreeSet<_> = names.filter(|name| name.starts_with(UNFINISHED)).collect();
        names.iter().flat_map(|name| self.left(name)).collect()
    }

    fn kernel_log(&self) -> PathBuf {
        self.shared.join("kernel.log")
    }

    fn kernel_log_tail(&self) -> String {
        let log = fs::read(self.kernel_log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

/// Removes the directories of runs that were killed.
fn remove_left_behind(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().display().to_string();
        if let Some(process) = name.strip_prefix(RUN)
            && !Path::new("/proc").join(process).exists()
        {
            // Another run may be at it as well.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        // What was worth keeping is in the error by now.
        let _ = fs::remove_dir_all(&self.shared);
    }
}
