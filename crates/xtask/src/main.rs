//! `cargo xtask`: what a developer runs, and what continuous integration runs.
//!
//! Each command installs the Debian packages it needs (when it may), says what it does, shows
//! progress, and ends with a status that can be trusted.

#![forbid(unsafe_code)]

mod bench;
mod cargo;
mod demo;
mod dist;
mod documents;
mod layers;
mod packages;
mod say;
mod stages;
mod test;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Tasks of the Weir workspace.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Everything that must hold: layers, format, lints, tests on this host and in the virtual
    /// machine
    Test(test::Options),
    /// Run the tests in a virtual machine whose kernel has WireGuard
    Vm(vm::Options),
    /// Play the whole story in network namespaces, step by step
    Demo(demo::Options),
    /// Measure, on generated networks: `cargo xtask bench policy [--json]`
    Bench(bench::Options),
    /// Check the direction of dependencies between our packages, and print them
    Layers,
    /// Check the documents: links, tests they name, commands they show
    Documents,
    /// Build the Debian packages into dist/
    Dist(dist::Options),
}

fn main() -> ExitCode {
    let outcome = run(Arguments::parse().task);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say::error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Test(options) => test::run(&options),
        Task::Vm(options) => vm::run(&options).map(drop),
        Task::Demo(options) => demo::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Layers => layers::run(),
        Task::Documents => documents::run().map(drop),
        Task::Dist(options) => dist::run(&options),
    }
}
