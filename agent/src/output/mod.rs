//! What people read: texts made of the daemon's answers.
//!
//! Pure, but for [`print()`], [`hint`], [`confirmed`] and [`complain`], the only places that write to the terminal.

mod checks;
mod routes;
mod status;
mod up;
mod whois;

pub(crate) use checks::{doctor, explain};
pub(crate) use routes::routes;
pub(crate) use status::status;
pub(crate) use up::{approved, down, up, waiting};
pub(crate) use whois::{find, ping, whois};

use anyhow::{Result, bail};
use std::io::{IsTerminal, Write};

use crate::control::{LogoutReport, RotateReport};

/// Writes a text to standard output. A reader that is gone is none of our business.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// Writes an error to standard error, with its causes in the same sentence.
pub(crate) fn complain(error: &anyhow::Error) {
    let mut err = std::io::stderr().lock();
    drop(writeln!(err, "agent: {error:#}"));
}

/// Writes a line for the person who waits to standard error.
pub(crate) fn hint(text: &str) {
    let mut err = std::io::stderr().lock();
    drop(writeln!(err, "{text}"));
}

/// Asks a person, on the terminal, and waits for the answer.
///
/// # Errors
/// There is nobody to ask.
pub(crate) fn confirmed(question: &str) -> Result<bool> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        bail!("there is nobody to ask: pass --yes");
    }
    let mut err = std::io::stderr().lock();
    drop(write!(err, "{question} ").and_then(|()| err.flush()));
    let mut answer = String::new();
    input.read_line(&mut answer)?;
    let answer = answer.trim().to_lowercase();
    Ok(answer == "y" || answer == "yes")
}

/// What `logout` did.
pub(crate) fn logout(report: &LogoutReport) -> String {
    let mut text = format!(
        "This machine is no longer in the network of {}. The host is as it was before `agent up`.\n",
        report.coordinator
    );
    if let Some(reason) = &report.untold {
        text.push_str(&format!(
            "The coordinator was not told ({reason}): delete the node there with `coordinator nodes \
             delete`.\n"
        ));
    }
    text
}

/// What `rotate-key` did.
pub(crate) fn rotated(report: &RotateReport) -> String {
    format!(
        "The key of this node is now {} (it was {}). Its peers know it already.\n",
        report.after, report.before
    )
}

/// A table: columns as wide as they must be, two spaces between them, none at the end.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::from("  ");
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items
        .into_iter()
        .map(|item| item.to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

/// Bytes for people: `999 B`, `1.2 kB`, `34 MB`.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut tenths = u128::from(count) * 10;
    let mut unit = 0;
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1000;
        unit += 1;
    }
    if unit == 0 || tenths >= 100 {
        format!("{} {}", tenths / 10, UNITS[unit])
    } else {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

/// Seconds for people: `5 s`, `3 min`, `2 h`, `4 days`.
fn age(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_for_people() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (1234, "1.2 kB"),
            (34_567_890, "34 MB"),
            (u64::MAX, "18446744 TB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        for (seconds, text) in [
            (5, "5 s"),
            (180, "3 min"),
            (7200, "2 h"),
            (400_000, "4 days"),
        ] {
            assert_eq!(age(seconds), text);
        }
    }
}
