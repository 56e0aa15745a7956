//! What a benchmark found, for people and for programs.

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use std::{
    fs,
    io::{self, Write as _},
    thread,
    time::Duration,
};

/// All figures of a benchmark.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) name: &'static str,
    /// What it ran on.
    pub(crate) machine: String,
    pub(crate) figures: Vec<Figure>,
}

/// One figure.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    /// What was measured, and how the yardstick was.
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// The straightforward way's value, in the same unit.
    pub(crate) yardstick: Option<f64>,
    /// How many times the yardstick is greater.
    pub(crate) ratio: Option<f64>,
    /// What it should be.
    pub(crate) aim: Option<String>,
    /// Whether it is.
    pub(crate) met: Option<bool>,
}

impl Figure {
    pub(crate) fn new(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            what: what.into(),
            value,
            unit,
            yardstick: None,
            ratio: None,
            aim: None,
            met: None,
        }
    }

    /// A duration in milliseconds.
    pub(crate) fn time(what: impl Into<String>, value: Duration) -> Self {
        Self::new(what, milliseconds(value), "ms")
    }

    /// With a value that it should stay below.
    pub(crate) fn below(self, aim: f64) -> Self {
        Self {
            aim: Some(format!("< {aim} {}", self.unit)),
            met: Some(self.value < aim),
            ..self
        }
    }

    /// With the straightforward way's value, and how many times that should be greater.
    pub(crate) fn against(self, yardstick: f64, aim: f64) -> Self {
        let ratio = yardstick / self.value;
        Self {
            yardstick: Some(yardstick),
            ratio: Some(ratio),
            aim: Some(format!(">= {aim} times the yardstick")),
            met: Some(ratio >= aim),
            ..self
        }
    }
}

impl Figure {
    /// With another way's value, and how many times that this one may be at most.
    pub(crate) fn at_most(self, yardstick: f64, times: f64) -> Self {
        Self {
            yardstick: Some(yardstick),
            ratio: Some(yardstick / self.value),
            aim: Some(format!("<= {times} of the yardstick")),
            met: Some(self.value <= times * yardstick),
            ..self
        }
    }
}

pub(crate) const fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The most memory that this process had so far, in MiB.
pub(crate) fn peak_memory() -> Result<f64> {
    memory("VmHWM:")
}

/// The memory that this process has now, in MiB.
pub(crate) fn resident_memory() -> Result<f64> {
    memory("VmRSS:")
}

fn memory(name: &str) -> Result<f64> {
    let status =
        fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib: f64 = kib
        .and_then(|kib| kib.trim().parse().ok())
        .with_context(|| format!("/proc/self/status does not tell the memory ({name})"))?;
    Ok(kib / 1024.0)
}

/// The processor and how many there are.
pub(crate) fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split_once(':'));
    let model = model.map_or("unknown processor", |(_, model)| model.trim());
    let count = thread::available_parallelism().map_or(1, usize::from);
    format!("{count} x {model}, {}", std::env::consts::ARCH)
}

/// The time that this thread has spent on a processor so far: what it waited for one, because the
/// machine is shared, is left out.
pub(crate) fn processor_time() -> Result<Duration> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    let time = time.context("cannot read the clock of this thread")?;
    Ok(Duration::from(time))
}

impl Report {
    /// Prints to standard output, as far as anybody reads that.
    pub(crate) fn print(&self, json: bool) -> Result<()> {
        let text = if json {
            serde_json::to_string(self).context("cannot write JSON")? + "\n"
        } else {
            self.table()
        };
        match io::stdout().write_all(text.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(error).context("cannot write to standard output")
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn table(&self) -> String {
        let mut lines = vec![format!("{} on {}\n", self.name, self.machine)];
        for figure in &self.figures {
            let met = match figure.met {
                Some(true) => "met",
                Some(false) => "NOT MET",
                None => "",
            };
            lines.push(format!(
                "{:>12.3} {:<6} {:<32} {met:<8} {}",
                figure.value,
                figure.unit,
                figure.aim.as_deref().unwrap_or_default(),
                figure.what
            ));
            if let (Some(yardstick), Some(ratio)) = (figure.yardstick, figure.ratio) {
                lines.push(format!(
                    "{yardstick:>12.3} {:<6} {:<32} {:<8} the yardstick: {ratio:.1} times as much",
                    figure.unit, "", ""
                ));
            }
        }
        lines.join("\n") + "\n"
    }
}
