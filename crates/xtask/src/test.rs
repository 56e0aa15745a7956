//! `cargo xtask test`: everything that must hold, in stages.

use std::process::Command;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::cargo::{cargo, ensure_component};
use crate::stages::{Stages, Tally, must_succeed, run_tests};
use crate::{layers, packages, vm};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Leave out the virtual machine
    #[arg(long)]
    no_vm: bool,
    /// Do not install missing packages
    #[arg(long)]
    no_install: bool,
}

/// Packages whose tests build networks and measure time: one test at a time.
const ON_THE_NETWORK: &[&str] = &["weir-lab", "weir-kernel", "weir-tests"];

pub(crate) fn run(options: &Options) -> Result<()> {
    packages::require_root("cargo xtask test")?;
    let mut stages = Stages::new();
    let quick = |command: &mut Command| must_succeed(command).map(|()| Tally::default());

    stages.stage("Debian packages and toolchain", || {
        let mut needs = packages::LAB.to_vec();
        if !options.no_vm {
            needs.extend_from_slice(packages::VM);
        }
        packages::ensure(&needs, !options.no_install)?;
        ensure_component("fmt", "rustfmt")?;
        ensure_component("clippy", "clippy")?;
        Ok(Tally::default())
    });
    stages.stage("Layers", || layers::run().map(|()| Tally::default()));
    stages.stage("Format", || {
        quick(&mut cargo(&["fmt", "--all", "--check"])).context("run `cargo fmt --all`")
    });
    stages.stage("Lints", || {
        quick(&mut cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ]))
    });
    let built = stages.stage("Build", || {
        quick(&mut cargo(&[
            "build",
            "--workspace",
            "--all-targets",
            "--locked",
        ]))
    });
    if !built {
        return stages.finish();
    }
    stages.stage("Tests of the rooms", || {
        let mut command = cargo(&["test", "--workspace", "--locked", "--no-fail-fast"]);
        for package in ON_THE_NETWORK {
            command.args(["--exclude", package]);
        }
        run_tests(&mut command)
    });
    stages.stage("Tests in network namespaces on this host", || {
        let mut command = cargo(&["test", "--locked", "--no-fail-fast"]);
        for package in ON_THE_NETWORK {
            command.args(["--package", package]);
        }
        run_tests(command.args(["--", "--test-threads=1"]))
    });
    if !options.no_vm {
        stages.stage("The same in the virtual machine, on a stock kernel", || {
            vm::run(&vm::Options::all_tests(!options.no_install))
        });
    }
    stages.finish()
}
