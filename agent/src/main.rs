//! The `agent` command: the command line, the daemon, and the wiring between protocol, ledger and
//! kernel. The decisions are made in the pure rooms; here are the ways they take.
//!
//! A command (`commands.rs`) asks the daemon (`client.rs`, `daemon/server.rs`) in the words of
//! `control.rs`. The daemon puts settings together (`settings/`), checks them (`route_checks.rs`,
//! the preflight), joins the coordinator (`coordinator/`), and hands every network map to the
//! ledger and the reconciler (`daemon/agent.rs`). What people read is written in `output/`.

mod auth_key;
mod cli;
mod client;
mod commands;
mod control;
mod coordinator;
mod daemon;
mod manual;
mod output;
mod route_checks;
mod secret;
mod settings;
mod shell;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::parse_from(cli::joined_lists(std::env::args()));
    commands::run(cli).unwrap_or_else(|error| {
        output::complain(&error);
        ExitCode::FAILURE
    })
}
