//! `cargo xtask test`: everything that must hold, in stages.

use std::process::Command;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::cargo::{TestProgram, build_tests, cargo, ensure_component};
use crate::stages::{Stages, Tally, TestsFailed, must_succeed, run_tests};
use crate::{dist, documents, layers, packages, say, vm};

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
        needs.extend_from_slice(packages::DATABASE);
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
    let mut programs = Vec::new();
    let built = stages.stage("Build", || {
        must_succeed(&mut cargo(&[
            "build",
            "--workspace",
            "--all-targets",
            "--locked",
        ]))?;
        programs = build_tests(&[])?;
        Ok(Tally::default())
    });
    if !built {
        return stages.finish();
    }
    // The programs are run directly: `cargo test` for some of the packages would choose other
    // features of their dependencies, and build much of the workspace again.
    let (network, rooms): (Vec<_>, Vec<_>) = programs
        .iter()
        .partition(|program| ON_THE_NETWORK.contains(&program.package.as_str()));
    stages.stage("Tests of the rooms", || run_programs(&rooms, &[]));
    stages.stage("Examples in the documentation", || {
        run_tests(&mut cargo(&["test", "--workspace", "--doc", "--locked"]))
    });
    stages.stage("Documents", documents::run);
    stages.stage("Packages for installing", || {
        dist::test(!options.no_install)
    });
    stages.stage("Tests in network namespaces on this host", || {
        run_programs(&network, &["--test-threads=1"])
    });
    if !options.no_vm {
        stages.stage("The same in the virtual machine, on a stock kernel", || {
            vm::run(&vm::Options::all_tests(!options.no_install))
        });
    }
    stages.finish()
}

/// Runs every program, whatever became of the one before.
fn run_programs(programs: &[&TestProgram], arguments: &[&str]) -> Result<Tally> {
    let mut sum = Tally::default();
    let mut failed = false;
    for program in programs {
        say::line(&format!("\n     Running {}", program.title()));
        let mut command = Command::new(&program.executable);
        command.current_dir(&program.directory).args(arguments);
        command
            .envs(program.environment())
            .env("RUST_BACKTRACE", "1");
        match run_tests(&mut command) {
            Ok(tally) => sum.add(tally),
            Err(error) => {
                failed = true;
                match error.downcast::<TestsFailed>() {
                    Ok(TestsFailed(tally)) => sum.add(tally),
                    Err(error) => say::error(&format!("{error:#}")),
                }
            }
        }
    }
    if failed {
        Err(TestsFailed(sum).into())
    } else {
        Ok(sum)
    }
}
