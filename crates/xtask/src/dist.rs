//! `cargo xtask dist`: the Debian packages.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::cargo::{cargo, root, target_directory};
use crate::stages::must_succeed;
use crate::{packages, say};

/// The version of cargo-deb that the packages are described for.
const CARGO_DEB: &str = "3.8.0";

/// The packages to make.
const PACKAGES: &[&str] = &["weir-agent", "weir-coordinator"];

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Do not install missing packages
    #[arg(long)]
    no_install: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let needs = [
        ("cc", "gcc"),
        ("dpkg-shlibdeps", "dpkg-dev"),
        ("dpkg-deb", "dpkg"),
    ];
    packages::ensure(&needs, !options.no_install)?;
    let tool = cargo_deb()?;
    let output = root().join("dist");
    fs::create_dir_all(&output).with_context(|| format!("cannot create {}", output.display()))?;
    for package in PACKAGES {
        say::heading(&format!("Package {package}"));
        let mut command = Command::new(&tool);
        command
            .current_dir(root())
            .args(["deb", "--locked", "--package", package, "--output"]);
        must_succeed(command.arg(&output))?;
    }
    say::line(&format!("the packages are in {}", output.display()));
    Ok(())
}

/// cargo-deb of the right version, installed into the target directory when it is not there.
fn cargo_deb() -> Result<PathBuf> {
    let tools = target_directory()?
        .join("tools")
        .join(format!("cargo-deb-{CARGO_DEB}"));
    let program = tools.join("bin/cargo-deb");
    if !program.is_file() {
        say::heading(&format!("Building cargo-deb {CARGO_DEB} (once)"));
        let mut command = cargo(&["install", "cargo-deb", "--version", CARGO_DEB, "--locked"]);
        must_succeed(command.arg("--root").arg(&tools))?;
    }
    Ok(program)
}
