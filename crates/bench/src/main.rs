//! How fast Weir is. `cargo xtask bench` builds and runs this.
//!
//! `generate` makes a network and its policy from a fixed seed (`random`), `policy` measures the
//! compiler, `change` what one node's change costs, `yardstick` is the straightforward compiler that
//! both are measured against. `firewall` measures the ruleset in namespaces of its own. `report`
//! prints.

#![forbid(unsafe_code)]

mod change;
mod coordinator;
mod firewall;
mod generate;
mod host;
mod peers;
mod policy;
mod random;
mod reconcile;
mod report;
mod wireguard;
mod yardstick;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Measures Weir on generated networks
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask bench")]
struct Arguments {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Debug, Subcommand)]
enum Subject {
    /// A coordinator with up to 10,000 agents: changes, memory, all coming back at once
    Coordinator(coordinator::Options),
    /// Compiling a policy, whole and for one change
    Policy(policy::Options),
    /// What the firewall costs packets and changes, on this host's kernel (as root)
    Firewall(firewall::Options),
    /// The reconciler with many peers, on this kernel
    Reconcile(reconcile::Options),
    /// The kernel's WireGuard with many peers, against `wg setconf`
    Wireguard(wireguard::Options),
    /// What the reconciler starts where the kernel has no WireGuard
    #[command(hide = true)]
    UserspaceWireguard {
        /// The interface
        interface: String,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().subject {
        Subject::Coordinator(options) => coordinator::run(&options),
        Subject::Policy(options) => policy::run(&options),
        Subject::Firewall(options) => firewall::run(&options),
        Subject::Reconcile(options) => reconcile::run(&options),
        Subject::Wireguard(options) => wireguard::run(&options),
        Subject::UserspaceWireguard { interface } => Ok(
            weir_kernel::userspace::run_userspace_device(&interface.parse()?)?,
        ),
    }
}
