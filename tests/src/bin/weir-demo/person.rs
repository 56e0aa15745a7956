//! The story for somebody who reads along.

use std::io::{self, Write as _};

use weir_lab::{Output, program_directory};
use weir_tests::Coordinator;
use weir_tests::story::{Check, Heading, Narrator, Story};

/// The width of the text.
const WIDTH: usize = 96;
/// Where what was observed begins.
const COLUMN: usize = 62;
/// How many lines of a command's output are shown.
const OUTPUT_LINES: usize = 16;

/// Prints the story.
#[derive(Debug)]
pub(crate) struct Person {
    terminal: bool,
}

impl Person {
    /// A reader; colours and passing remarks are for a terminal only.
    pub(crate) const fn new(terminal: bool) -> Self {
        Self { terminal }
    }

    /// Prints a line.
    ///
    /// # Errors
    /// Standard output is closed.
    pub(crate) fn line(&self, text: &str) -> io::Result<()> {
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        writeln!(io::stdout(), "{clear}{text}")
    }

    /// A line of the story: when nobody reads any more, the checks go on all the same.
    fn tell(&self, text: &str) {
        let _ = self.line(text);
    }

    fn coloured(&self, colour: &str, text: &str) -> String {
        if self.terminal {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// How to look around in a network that was left running.
    ///
    /// # Errors
    /// Standard output is closed.
    pub(crate) fn look_around(&self, story: &Story) -> anyhow::Result<()> {
        let world = story.world();
        self.line("")?;
        self.line(&self.coloured("1", "Look around (in another terminal, as root)"))?;
        self.line(&format!(
            "\n  export PATH={}:$PATH\n",
            program_directory()?.display()
        ))?;
        for agent in world.agents() {
            let enter = agent.machine().node().enter_command();
            self.line(&format!("  {:<13} {enter} -- agent status", agent.name()))?;
        }
        let relay = world.relay.machine().node().enter_command();
        self.line(&format!(
            "  {:<13} {relay} -- nft list table inet weir",
            "the ruleset"
        ))?;
        let bob = world.bob.machine().node().enter_command();
        self.line(&format!(
            "  {:<13} {bob} -- weir-lab-host tcp 8.8.8.8:443",
            "ask the bank"
        ))?;
        let coordinator = world.coordinator.machine().node().enter_command();
        self.line(&format!(
            "  {:<13} {coordinator} -- coordinator nodes list",
            "coordinator"
        ))?;
        self.line(&format!(
            "\n  The coordinator's address in this network is {}. Logs are in {}.",
            Coordinator::url(),
            world.network.lab.directory().display()
        ))?;
        self.line("  Ctrl-C here ends all of it.\n")?;
        Ok(())
    }
}

impl Narrator for Person {
    fn begin(&mut self, heading: &Heading) {
        let title = match heading.number {
            0 => heading.title.to_owned(),
            number => format!("{number}. {}", heading.title),
        };
        self.tell("");
        self.tell(&self.coloured("1", &title));
    }

    fn say(&mut self, text: &str) {
        for line in wrapped(text, WIDTH - 3) {
            self.tell(&format!("   {line}"));
        }
    }

    fn typed(&mut self, place: &str, command: &str, output: &Output) {
        self.tell(&format!(
            "     {}",
            self.coloured("36", &format!("{place}# {command}"))
        ));
        let text = output.text();
        let lines: Vec<_> = text.lines().collect();
        for line in lines.iter().take(OUTPUT_LINES) {
            self.tell(&format!("       {line}"));
        }
        if lines.len() > OUTPUT_LINES {
            self.tell(&format!(
                "       … {} lines more",
                lines.len() - OUTPUT_LINES
            ));
        }
    }

    fn fact(&mut self, name: &str, value: &str) {
        self.tell(&format!("     · {name:<width$}{value}", width = COLUMN - 2));
    }

    fn check(&mut self, check: &Check) {
        let mark = if check.passed {
            self.coloured("32", "✓")
        } else {
            self.coloured("31", "✗")
        };
        let mut observed = check.observed.lines();
        let first = observed.next().unwrap_or_default();
        let name = &check.name;
        if name.chars().count() < COLUMN - 2 {
            self.tell(&format!(
                "     {mark} {name:<width$}{first}",
                width = COLUMN - 2
            ));
        } else {
            self.tell(&format!("     {mark} {name}"));
            self.tell(&format!("       {:width$}{first}", "", width = COLUMN - 2));
        }
        if !check.passed {
            for line in observed {
                self.tell(&format!("         {line}"));
            }
            self.tell(&format!("       expected: {}", check.expected));
        }
    }

    fn waiting(&mut self, what: &str) {
        if self.terminal {
            let mut output = io::stdout();
            // A passing remark: the next line takes its place.
            let _ = write!(output, "\r\x1b[K     … {what}").and_then(|()| output.flush());
        }
    }
}

/// Text in lines of at most `width` characters.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let full = lines.last().is_some_and(|line| {
            !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width
        });
        if full {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::wrapped;

    #[test]
    fn long_text_is_wrapped_between_words() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("unbreakable", 4), ["unbreakable"]);
    }
}
