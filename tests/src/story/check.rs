//! Checks: what was expected, what was observed.

use std::fmt::Display;
use std::time::Duration;

use anyhow::Result;
use weir_lab::Output;

use super::Narrator;

/// One thing that must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What must hold, as a sentence.
    pub name: String,
    /// What was expected.
    pub expected: String,
    /// What was observed.
    pub observed: String,
    /// Whether it holds.
    pub passed: bool,
}

/// A check that does not hold ends the story.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the check \"{}\" failed: expected {}, observed {}", .0.name, .0.expected, .0.observed)]
pub struct CheckFailed(pub Check);

/// Something that was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// The value with its unit.
    pub value: String,
}

/// What came of a step.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// Its number, from 1.
    pub number: usize,
    /// Its title.
    pub title: &'static str,
    /// What was checked. All of it holds.
    pub checks: Vec<Check>,
    /// What was measured.
    pub figures: Vec<Figure>,
    /// How long the step took.
    pub elapsed: Duration,
}

/// Tells a step to the narrator and remembers what was checked and measured.
pub struct Teller<'narrator> {
    narrator: &'narrator mut dyn Narrator,
    checks: Vec<Check>,
    figures: Vec<Figure>,
}

impl std::fmt::Debug for Teller<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Teller")
            .field("checks", &self.checks)
            .finish_non_exhaustive()
    }
}

impl<'narrator> Teller<'narrator> {
    pub(super) fn new(narrator: &'narrator mut dyn Narrator) -> Self {
        Self {
            narrator,
            checks: Vec::new(),
            figures: Vec::new(),
        }
    }

    pub(super) fn report(
        self,
        number: usize,
        title: &'static str,
        elapsed: Duration,
    ) -> StepReport {
        StepReport {
            number,
            title,
            checks: self.checks,
            figures: self.figures,
            elapsed,
        }
    }

    /// Explains.
    pub fn say(&mut self, text: &str) {
        self.narrator.say(text);
    }

    /// Shows a command and what it printed.
    pub fn typed(&mut self, place: &str, command: &str, output: &Output) {
        self.narrator.typed(place, command, output);
    }

    /// Says that the story waits.
    pub fn waiting(&mut self, what: &str) {
        self.narrator.waiting(what);
    }

    /// Reports a measurement.
    pub fn figure(&mut self, name: &str, value: impl Display) {
        let value = value.to_string();
        self.narrator.fact(name, &value);
        self.figures.push(Figure {
            name: name.to_owned(),
            value,
        });
    }

    /// Reports something worth knowing.
    pub fn fact(&mut self, name: &str, value: impl Display) {
        self.narrator.fact(name, &value.to_string());
    }

    /// Checks that something holds.
    ///
    /// # Errors
    /// [`CheckFailed`] when it does not.
    pub fn check(
        &mut self,
        name: impl Into<String>,
        expected: impl Display,
        observed: impl Display,
        passed: bool,
    ) -> Result<()> {
        let check = Check {
            name: name.into(),
            expected: expected.to_string(),
            observed: observed.to_string(),
            passed,
        };
        self.narrator.check(&check);
        if !passed {
            return Err(CheckFailed(check).into());
        }
        self.checks.push(check);
        Ok(())
    }

    /// Checks that a value is the expected one.
    ///
    /// # Errors
    /// [`CheckFailed`] when it is not.
    pub fn equal<T: Display + PartialEq>(
        &mut self,
        name: impl Into<String>,
        expected: T,
        observed: T,
    ) -> Result<()> {
        let passed = expected == observed;
        self.check(name, expected, observed, passed)
    }

    /// Checks which address a service saw: `expected`, or none when nobody was to be served.
    ///
    /// # Errors
    /// [`CheckFailed`] when it saw somebody else, or nobody.
    pub fn saw(
        &mut self,
        name: impl Into<String>,
        expected: Option<&str>,
        seen: Option<&str>,
    ) -> Result<()> {
        let words = |seen: Option<&str>| match seen {
            Some(address) => format!("an answer to {address}"),
            None => "no answer".to_owned(),
        };
        self.check(name, words(expected), words(seen), expected == seen)
    }

    /// Checks that a counter grew.
    ///
    /// # Errors
    /// [`CheckFailed`] when it did not.
    pub fn grew(&mut self, name: impl Into<String>, before: u64, after: u64) -> Result<()> {
        let expected = format!("more than {before}");
        let observed = format!("{after}, {before} before");
        self.check(name, expected, observed, after > before)
    }

    /// Checks a time against a promise. In emulation, where everything is some twenty times
    /// slower, the promise is stretched and the figure says what holds.
    ///
    /// # Errors
    /// [`CheckFailed`] when it took longer.
    pub fn within(
        &mut self,
        name: impl Into<String>,
        promise: Duration,
        took: Duration,
    ) -> Result<()> {
        const EMULATION_FACTOR: u32 = 20;
        let emulated = weir_lab::is_emulated();
        let limit = if emulated {
            promise * EMULATION_FACTOR
        } else {
            promise
        };
        let expected = if emulated {
            format!("at most {} (in emulation)", seconds(limit))
        } else {
            format!("at most {}", seconds(limit))
        };
        self.check(name, expected, seconds(took), took <= limit)
    }
}

/// A duration for people.
pub(super) fn seconds(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    if milliseconds < 1000 {
        format!("{milliseconds} ms")
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}
