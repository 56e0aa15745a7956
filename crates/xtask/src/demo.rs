//! `cargo xtask demo`: builds, then plays the story.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::cargo::{cargo, target_directory};
use crate::stages::must_succeed;
use crate::{packages, say};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Leave the network running at the end, and print how to look around
    #[arg(long)]
    keep: bool,
    /// Do not install missing packages
    #[arg(long)]
    no_install: bool,
    /// Passed on to the demonstration
    #[arg(last = true)]
    rest: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    packages::require_root("cargo xtask demo")?;
    packages::ensure(packages::LAB, !options.no_install)?;
    say::heading("Building (a few minutes the first time)");
    must_succeed(&mut cargo(&["build", "--workspace", "--bins", "--locked"]))?;
    let program = target_directory()?.join("debug/weir-demo");
    if !program.is_file() {
        bail!("the build left no {}", program.display());
    }
    let mut command = Command::new(&program);
    if options.keep {
        command.arg("--keep");
    }
    let error = command.args(&options.rest).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}
