//! `cargo xtask dist`: the Debian packages, and the check of what is in them.

mod contents;
mod scripts;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::cargo::{cargo, root, target_directory};
use crate::stages::{Tally, must_succeed};
use crate::{packages, say};

/// The version of cargo-deb that the packages are described for.
const CARGO_DEB: &str = "3.8.0";

/// The packages to make, and the program in each.
const PACKAGES: &[(&str, &str)] = &[("weir-agent", "agent"), ("weir-coordinator", "coordinator")];

/// What making the packages needs.
const TO_MAKE: &[packages::Need] = &[
    ("cc", "gcc"),
    ("dpkg-shlibdeps", "dpkg-dev"),
    ("dpkg-deb", "dpkg"),
];

/// What checking them needs.
const TO_CHECK: &[packages::Need] = &[("systemd-analyze", "systemd"), ("shellcheck", "shellcheck")];

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Do not install missing packages
    #[arg(long)]
    no_install: bool,
    /// Pack the programs that `cargo build` left, as `cargo xtask test` does: for a quick look
    #[arg(long)]
    dev: bool,
}

/// How the programs are built that go into the packages.
#[derive(Debug, Clone, Copy)]
enum Profile {
    Release,
    /// What is built already for the tests: large, and packed in no time.
    Dev,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if options.dev {
        return test(!options.no_install).map(drop);
    }
    let output = root().join("dist");
    make(Profile::Release, &output, !options.no_install)?;
    let tally = check(&output, !options.no_install)?;
    say::line(&format!(
        "the packages are in {}; {} checks of their contents passed",
        output.display(),
        tally.passed
    ));
    Ok(())
}

/// Makes packages of the programs that `cargo build` left, and checks what is in them.
pub(crate) fn test(install: bool) -> Result<Tally> {
    let output = target_directory()?.join("test-packages");
    make(Profile::Dev, &output, install)?;
    check(&output, install)
}

fn make(profile: Profile, output: &Path, install: bool) -> Result<()> {
    packages::ensure(TO_MAKE, install)?;
    let tool = cargo_deb()?;
    let (directory, arguments): (_, &[&str]) = match profile {
        Profile::Release => {
            say::heading("Building the programs");
            let mut build = cargo(&["build", "--release", "--locked"]);
            for (package, _) in PACKAGES {
                build.args(["--package", package]);
            }
            must_succeed(&mut build)?;
            ("release", &["--strip"])
        }
        // cargo-deb warns of packages that are not for release: these are not.
        Profile::Dev => (
            "debug",
            &["--profile", "dev", "--fast", "--no-strip", "--quiet"],
        ),
    };
    let programs = target_directory()?.join(directory);
    manual_pages(&programs)?;
    completions(&programs)?;
    empty_directory(output, "deb")?;
    for (package, _) in PACKAGES {
        say::heading(&format!("Package {package}"));
        let mut command = Command::new(&tool);
        command
            .current_dir(root())
            .args(["deb", "--locked", "--no-build", "--package", package])
            .args(arguments)
            .arg("--output")
            .arg(output.join(""));
        must_succeed(&mut command)?;
    }
    Ok(())
}

/// The programs write their own manual pages, from the definition of their command line. The
/// package descriptions in `Cargo.toml` expect them in `dist/man`.
fn manual_pages(programs: &Path) -> Result<()> {
    let pages = root().join("dist/man");
    empty_directory(&pages, "8")?;
    for (_, program) in PACKAGES {
        must_succeed(
            Command::new(programs.join(program))
                .arg("manual")
                .arg(&pages),
        )?;
    }
    Ok(())
}

/// What shells need to complete the agent's commands, in files named as each shell wants it. The
/// package description expects them in `dist/completions`.
fn completions(programs: &Path) -> Result<()> {
    let directory = root().join("dist/completions");
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    for (shell, name) in [("bash", "agent"), ("zsh", "_agent"), ("fish", "agent.fish")] {
        let path = directory.join(name);
        let file =
            fs::File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        must_succeed(
            Command::new(programs.join("agent"))
                .args(["completions", shell])
                .stdout(file),
        )?;
    }
    Ok(())
}

/// Makes the directory, or removes the files with this extension from it.
fn empty_directory(directory: &Path, extension: &str) -> Result<()> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    for entry in
        fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?
    {
        let path = entry
            .with_context(|| format!("cannot list {}", directory.display()))?
            .path();
        if path.extension().is_some_and(|found| found == extension) {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

fn check(directory: &Path, install: bool) -> Result<Tally> {
    packages::ensure(TO_CHECK, install)?;
    say::heading("What is in the packages");
    let scratch = target_directory()?.join("tmp/packages");
    let mut tally = Tally::default();
    for expected in contents::PACKAGES {
        tally.add(contents::check(expected, directory, &scratch)?);
    }
    Ok(tally)
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
