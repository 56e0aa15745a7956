//! The only place of this crate that writes to standard output and error.

use anyhow::Context;
use serde::Serialize;
use std::io::{self, Write};

/// Prints a line, or nothing when nobody reads any more (`coordinator nodes list | head -1`).
pub(super) fn line(text: &str) -> anyhow::Result<()> {
    ignore_closed(writeln!(io::stdout().lock(), "{text}"))
}

/// Prints text as it is.
pub(super) fn verbatim(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    ignore_closed(
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush()),
    )
}

/// Prints a value as JSON.
pub(super) fn json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value).context("cannot write JSON")?)
}

/// Prints a note that is not the result: to standard error.
pub(super) fn note(text: &str) -> anyhow::Result<()> {
    ignore_closed(writeln!(io::stderr().lock(), "{text}"))
}

/// Prints an error with its causes, once.
pub(super) fn error(error: &anyhow::Error) {
    // Where could a failure to print a failure be printed?
    writeln!(io::stderr().lock(), "coordinator: {error:#}").ok();
}

/// Prints rows below their headings, in columns as wide as their widest cell.
pub(super) fn table<const N: usize>(
    headings: [&str; N],
    rows: &[[String; N]],
) -> anyhow::Result<()> {
    verbatim(&draw(headings, rows))
}

fn draw<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let headings = headings.map(str::to_owned);
    let all = || std::iter::once(&headings).chain(rows);
    let mut widths = [0; N];
    for row in all() {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in all() {
        let cells: Vec<_> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A list in one cell; a dash when it is empty.
pub(super) fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() {
        "-".to_owned()
    } else {
        items.join(", ")
    }
}

/// A time for people, to the second, in UTC.
pub(super) fn time(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

fn ignore_closed(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [
            ["1".to_owned(), "relay".to_owned(), "-".to_owned()],
            ["12".to_owned(), "a".to_owned(), "x".to_owned()],
        ];
        assert_eq!(
            draw(["ID", "NAME", "TAGS"], &rows),
            "ID  NAME   TAGS\n1   relay  -\n12  a      x\n"
        );
    }
}
