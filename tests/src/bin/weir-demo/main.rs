//! `weir-demo`: tells the story to a person, with real packets in network namespaces.

mod person;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use weir_tests::story::{CheckFailed, Interrupted, Story};

use person::Person;

/// Plays the story of Weir with real packets, and checks every claim.
///
/// It needs root. Everything happens in network namespaces that end with this program; nothing
/// of this machine's own network is touched.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Leave the network running at the end, until Ctrl-C, and print how to look around
    #[arg(long)]
    keep: bool,
    /// Show what may explain a failure: the last commands, every node's state, the logs
    #[arg(long)]
    verbose: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match tell(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when standard error is closed.
            let _ = writeln!(io::stderr(), "{}", last_words(&error, arguments.verbose));
            ExitCode::FAILURE
        }
    }
}

/// What the demonstration ends with when it does not end well.
fn last_words(error: &anyhow::Error, verbose: bool) -> String {
    let Some(interrupted) = error.downcast_ref::<Interrupted>() else {
        return format!("demo: failed: {error:#}");
    };
    let context = if verbose {
        format!("{}\n", interrupted.context)
    } else {
        String::new()
    };
    let hint = if verbose {
        ""
    } else {
        "\n(--verbose shows the commands, the nodes' state and the logs)"
    };
    match interrupted.reason.downcast_ref::<CheckFailed>() {
        Some(CheckFailed(check)) => format!(
            "{context}demo: in step {} this check failed: {}\n      expected  {}\n      observed  {}{hint}",
            interrupted.step, check.name, check.expected, check.observed
        ),
        None => format!("{context}demo: {interrupted}{hint}"),
    }
}

fn tell(arguments: &Arguments) -> Result<()> {
    let mut person = Person::new(io::stdout().is_terminal());
    let mut story = Story::begin(&mut person)?;
    let told = story.play(&mut person);
    // Asked in any case, so that the lab does not ask again while it is taken down.
    let logs = story.finish();
    let reports = told?;
    logs?;
    let checks: usize = reports.iter().map(|report| report.checks.len()).sum();
    if arguments.keep {
        story.revive()?;
        person.look_around(&story)?;
        person.line(&format!("demo: {checks} checks passed"))?;
        return story.world().network.lab.keep_until_interrupted();
    }
    person.line("")?;
    person
        .line(&format!("demo: {checks} checks passed"))
        .context("cannot print")
}
