//! `agent debug`: what Weir put into this host's kernel, as the kernel has it.

use anyhow::{Context as _, Result};
use clap::Subcommand;
use std::process::ExitCode;
use weir_kernel::{KernelOptions, LinuxKernel};

use crate::output;

#[derive(Debug, Subcommand)]
pub(crate) enum DebugCommand {
    /// Print the firewall table that is loaded
    #[command(after_help = "\
Reads the kernel, and needs root but not the daemon. The maps say which grant allows what; the set
`grants` says where in the policy each grant stands. With --json, as a document for `nft -j -f`.

Examples:
  agent debug ruleset
  agent debug ruleset --json")]
    Ruleset(crate::cli::JsonArgs),
}

pub(crate) fn run(command: &DebugCommand) -> Result<ExitCode> {
    let DebugCommand::Ruleset(args) = command;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    let kernel = LinuxKernel::new(KernelOptions::default());
    let listing = runtime
        .block_on(kernel.firewall_listing(args.json))?
        .context("there is no table inet weir: this node is not up (agent status says why)")?;
    output::print(&listing);
    Ok(ExitCode::SUCCESS)
}
