//! What was typed where, and what came of it.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use weir_lab::Output;

/// How many commands are kept; a failure is explained by the last ones.
const KEPT: usize = 60;
/// How many lines of each output are kept.
const LINES: usize = 25;

/// The last commands typed on the machines of a lab. Clones share one list.
#[derive(Clone, Debug, Default)]
pub struct Transcript {
    entries: Arc<Mutex<VecDeque<String>>>,
}

impl Transcript {
    /// Adds a command and what came of it.
    pub fn record(&self, place: &str, command: &str, output: &Output) {
        let mut text = format!(
            "{place}$ {command}\n    ({}, {} ms)\n",
            output.status,
            output.elapsed.as_millis()
        );
        for line in output.text().lines().take(LINES) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "    {line}");
        }
        self.add(text);
    }

    /// Adds something that is no command, such as the restart of a daemon.
    pub fn note(&self, text: &str) {
        self.add(format!("# {text}\n"));
    }

    fn add(&self, text: String) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() == KEPT {
            entries.pop_front();
        }
        entries.push_back(text);
    }

    /// The last `count` entries, the oldest first.
    #[must_use]
    pub fn last(&self, count: usize) -> String {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let from = entries.len().saturating_sub(count);
        entries.range(from..).map(String::as_str).collect()
    }
}
