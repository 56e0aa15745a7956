//! `cargo xtask bench`: builds the benchmarks with optimisation, and runs one.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::cargo::{cargo, target_directory};
use crate::stages::must_succeed;
use crate::{say, vm};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// What to measure, and its options: `policy` compiles a policy of 15,000 rules for 10,000
    /// nodes, `firewall` floods relays with up to 100,000 grants, `reconcile` brings up 10,000 peers
    /// and changes one, `wireguard` does so against `wg setconf` (in the virtual machine where this
    /// kernel has no WireGuard), `coordinator` connects up to 10,000 agents over TLS; `--json`
    /// prints one JSON object; `policy --help` shows how to change the sizes
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "BENCHMARK"
    )]
    rest: Vec<OsString>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    // To be told how to ask, nobody should have to wait for the optimiser.
    let (profile, directory) = match asks_for_help(&options.rest) {
        true => ("dev", "debug"),
        false => ("release", "release"),
    };
    must_succeed(&mut cargo(&[
        "build",
        "--profile",
        profile,
        "--package",
        "weir-bench",
        "--package",
        "weir-coordinator",
        "--locked",
    ]))?;
    let program = target_directory()?.join(directory).join("weir-bench");
    if !program.is_file() {
        bail!("the build left no {}", program.display());
    }
    if needs_the_machine(&options.rest) {
        let printed = vm::output_of(&program, &options.rest)?;
        say::text(&printed);
        return Ok(());
    }
    let error = Command::new(&program).args(&options.rest).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

fn asks_for_help(rest: &[OsString]) -> bool {
    rest.iter().any(|word| word == "--help" || word == "-h")
}

/// Whether that is a benchmark of the kernel's WireGuard, and this kernel has none.
fn needs_the_machine(rest: &[OsString]) -> bool {
    rest.first().is_some_and(|name| name == "wireguard")
        && !asks_for_help(rest)
        && !Path::new("/sys/module/wireguard").exists()
}
