//! The `agent` command: the command line, the daemon, and the wiring between protocol, ledger and
//! kernel. The decisions are made in the pure rooms; here are the ways they take.
//!
//! A command (`commands.rs`) asks the daemon (`client.rs`, `daemon/server.rs`) in the words of
//! `control.rs`. The daemon puts settings together (`settings/`), checks them (`route_checks.rs`,
//! the preflight), joins the coordinator (`coordinator/`), and hands every network map to the
//! ledger and the reconciler (`daemon/agent.rs`). `explain` and `doctor` gather facts
//! (`daemon/explain.rs`, `daemon/doctor.rs`) and let the pure room `weir-diagnosis` judge them. What people read is written in `output/`.

mod auth_key;
mod bugreport;
mod cli;
mod client;
mod commands;
mod control;
mod coordinator;
mod daemon;
mod debug;
mod manual;
mod output;
mod ping;
mod route_checks;
mod secret;
mod settings;
mod shell;
mod tools;

use clap::Parser;
use std::process::ExitCode;

/// What usage errors end with, as `clap` has it.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let arguments = cli::joined_lists(words);
    let cli = match cli::Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let Some(sentence) = cli::usage_error(&error, &arguments) else {
                error.exit();
            };
            output::complain(&anyhow::anyhow!(sentence));
            return ExitCode::from(USAGE);
        }
    };
    commands::run(cli).unwrap_or_else(|error| {
        output::complain(&error);
        ExitCode::FAILURE
    })
}
