//! Stages of a long command: a heading and the time of each, and the tests they counted.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::say;

/// Tests that passed and failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl Tally {
    /// Adds what a line such as `test result: ok. 3 passed; 0 failed; …` reports.
    pub(crate) fn read(&mut self, line: &str) {
        let Some((_, counts)) = line.split_once("test result: ") else {
            return;
        };
        let count = |what: &str| {
            counts.split([';', '.']).find_map(|part| {
                part.trim()
                    .strip_suffix(what)
                    .and_then(|number| number.trim().parse::<u64>().ok())
            })
        };
        self.passed += count("passed").unwrap_or(0);
        self.failed += count("failed").unwrap_or(0);
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// The stages run so far.
#[derive(Debug)]
pub(crate) struct Stages {
    started: Instant,
    tally: Tally,
    lines: Vec<String>,
    failures: Vec<String>,
}

impl Stages {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            tally: Tally::default(),
            lines: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Runs a stage; a failure is kept for the end, and returned as false.
    pub(crate) fn stage(&mut self, title: &str, work: impl FnOnce() -> Result<Tally>) -> bool {
        say::heading(title);
        let started = Instant::now();
        let outcome = work();
        let seconds = started.elapsed().as_secs_f64();
        match outcome {
            Ok(tally) => {
                self.tally.add(tally);
                self.lines.push(format!("{seconds:7.1} s  ok      {title}"));
                say::line(&format!("    {title}: ok, {seconds:.1} s"));
                true
            }
            Err(error) => {
                if let Some(TestsFailed(tally)) = error.downcast_ref() {
                    self.tally.add(*tally);
                }
                self.lines.push(format!("{seconds:7.1} s  FAILED  {title}"));
                self.failures.push(title.to_owned());
                say::error(&format!("{title}: {error:#}"));
                false
            }
        }
    }

    /// Prints the summary.
    pub(crate) fn finish(self) -> Result<()> {
        say::heading("Summary");
        for line in &self.lines {
            say::line(line);
        }
        let minutes = self.started.elapsed().as_secs_f64() / 60.0;
        say::line(&format!("{minutes:7.1} min in all"));
        say::line(&format!(
            "{} passed, {} failed",
            self.tally.passed, self.tally.failed
        ));
        if self.failures.is_empty() {
            return Ok(());
        }
        bail!("failed: {}", self.failures.join("; "))
    }
}

/// Some tests failed, or a test program ended badly: the counts survive the failure.
#[derive(Debug)]
pub(crate) struct TestsFailed(pub(crate) Tally);

impl std::fmt::Display for TestsFailed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.failed {
            0 => write!(
                formatter,
                "a test program did not end well; see its output above"
            ),
            1 => write!(formatter, "1 test failed; see its output above"),
            failed => write!(formatter, "{failed} tests failed; see their output above"),
        }
    }
}

impl std::error::Error for TestsFailed {}

/// Runs a command that must succeed, with its output shown as it comes.
pub(crate) fn must_succeed(command: &mut Command) -> Result<()> {
    let described = described(command);
    let status = command
        .status()
        .with_context(|| format!("cannot run {described}"))?;
    if !status.success() {
        bail!("{described} ended with {status}");
    }
    Ok(())
}

/// Runs a command that runs tests, shows its output as it comes, and counts.
pub(crate) fn run_tests(command: &mut Command) -> Result<Tally> {
    let described = described(command);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {described}"))?;
    let output = child
        .stdout
        .take()
        .context("the tests have no standard output")?;
    let tally = show_and_count(output)?;
    let status = child
        .wait()
        .with_context(|| format!("cannot wait for {described}"))?;
    if !status.success() {
        return Err(TestsFailed(tally).into());
    }
    Ok(tally)
}

/// Shows the output of tests as it comes, and counts.
pub(crate) fn show_and_count(output: impl std::io::Read) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    while reader
        .read_until(b'\n', &mut line)
        .context("cannot read the tests' output")?
        > 0
    {
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches(['\n', '\r']);
        tally.read(text);
        say::line(text);
        line.clear();
    }
    Ok(tally)
}

fn described(command: &Command) -> String {
    let mut words = vec![command.get_program().display().to_string()];
    words.extend(command.get_args().map(|word| word.display().to_string()));
    format!("`{}`", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_only_result_lines() {
        let mut tally = Tally::default();
        tally.read("running 3 tests");
        tally.read("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out");
        tally.read("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured");
        assert_eq!(
            tally,
            Tally {
                passed: 13,
                failed: 2
            }
        );
    }

    #[test]
    fn a_failed_stage_keeps_its_counts() {
        let mut stages = Stages::new();
        assert!(stages.stage("good", || Ok(Tally {
            passed: 3,
            failed: 0
        })));
        assert!(!stages.stage("bad", || {
            Err(TestsFailed(Tally {
                passed: 1,
                failed: 2,
            })
            .into())
        }));
        assert_eq!(
            stages.tally,
            Tally {
                passed: 4,
                failed: 2
            }
        );
        assert_eq!(stages.finish().unwrap_err().to_string(), "failed: bad");
    }
}
