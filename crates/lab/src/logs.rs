//! A logged ERROR fails a test: finding such lines.

/// The lines of a log that report an error: level ERROR in the plain or the JSON format of
/// `tracing`, and panics.
#[must_use]
pub fn error_lines(log: &str) -> Vec<String> {
    log.lines()
        .map(without_colours)
        .filter(|line| is_error(line))
        .collect()
}

fn is_error(line: &str) -> bool {
    // The level is one of the first words: after a time stamp, or after what journald prefixes.
    line.split_whitespace().take(3).any(|word| word == "ERROR")
        || line.contains("\"level\":\"ERROR\"")
        || (line.starts_with("thread '") && line.contains(" panicked at "))
}

/// Removes terminal escape sequences (`ESC [ … letter`).
fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line.chars();
    while let Some(character) = rest.next() {
        if character == '\u{1b}' {
            rest.by_ref().find(char::is_ascii_alphabetic);
        } else {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_errors_in_every_format() {
        let log = "2026-11-21T20:00:00Z  INFO agent: no ERROR here, only the word\n\
                   2026-11-21T20:00:01Z ERROR agent: plain\n\
                   \u{1b}[2m2026-11-21T20:00:02Z\u{1b}[0m \u{1b}[31mERROR\u{1b}[0m agent: coloured\n\
                   {\"timestamp\":\"x\",\"level\":\"ERROR\",\"message\":\"json\"}\n\
                   thread 'main' (7) panicked at src/main.rs:1:1:\n";
        let found = error_lines(log);
        assert_eq!(found.len(), 4, "{found:?}");
        assert_eq!(found[1], "2026-11-21T20:00:02Z ERROR agent: coloured");
    }
}
