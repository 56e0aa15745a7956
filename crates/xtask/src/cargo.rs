//! Calling cargo, and what it knows of the workspace.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// The workspace's own directory.
pub(crate) fn root() -> &'static Path {
    const PACKAGE: &str = env!("CARGO_MANIFEST_DIR");
    let package = Path::new(PACKAGE);
    package.ancestors().nth(2).unwrap_or(package)
}

/// The cargo that runs us, in the workspace's directory.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(arguments);
    // What cargo says of this package to its program. Build scripts ask for the same names (ring's
    // does), and their packages would be built again whenever cargo is run with and without us.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
        {
            command.env_remove(name);
        }
    }
    command
}

/// `cargo metadata`, with the dependencies of our packages but not those of others.
pub(crate) fn metadata() -> Result<Value> {
    let output = cargo(&["metadata", "--format-version", "1", "--no-deps"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata ended with {}", output.status);
    }
    serde_json::from_slice(&output.stdout).context("cannot read what cargo metadata printed")
}

/// The directory cargo builds into.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let metadata = metadata()?;
    let path = metadata["target_directory"]
        .as_str()
        .context("cargo names no target directory")?;
    Ok(PathBuf::from(path))
}

/// A built test program.
#[derive(Debug)]
pub(crate) struct TestProgram {
    /// The package it belongs to.
    pub(crate) package: String,
    /// The package's directory, which tests expect to run in.
    pub(crate) directory: PathBuf,
    pub(crate) executable: PathBuf,
}

impl TestProgram {
    /// Its package and its own name, without the hash that cargo puts at the end.
    pub(crate) fn title(&self) -> String {
        let stem = self
            .executable
            .file_stem()
            .unwrap_or_default()
            .display()
            .to_string();
        let name = stem
            .rsplit_once('-')
            .map_or(stem.as_str(), |(name, _)| name);
        format!("{}: {name}", self.package)
    }

    /// The environment that its tests expect of cargo, and what saves them from asking it.
    pub(crate) fn environment(&self) -> [(&'static str, &Path); 2] {
        [
            ("CARGO_MANIFEST_DIR", &self.directory),
            ("INSTA_WORKSPACE_ROOT", root()),
        ]
    }
}

/// Builds the tests of `packages`, or all when there are none, with progress shown, and finds
/// the programs.
pub(crate) fn build_tests(packages: &[String]) -> Result<Vec<TestProgram>> {
    let mut command = cargo(&[
        "test",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]);
    command.arg("--locked");
    if packages.is_empty() {
        command.arg("--workspace");
    }
    for package in packages {
        command.args(["--package", package]);
    }
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo test --no-run")?;
    if !output.status.success() {
        bail!("the tests do not build");
    }
    let text = String::from_utf8(output.stdout).context("cannot read what cargo printed")?;
    let names = package_names(&metadata()?);
    let mut programs: Vec<_> = text
        .lines()
        .filter_map(|line| test_program(line, &names))
        .collect();
    programs.sort_by(|a, b| (&a.package, &a.executable).cmp(&(&b.package, &b.executable)));
    if programs.is_empty() {
        bail!("cargo built no test program for {}", packages.join(", "));
    }
    Ok(programs)
}

/// Our packages' names by the paths of their manifests.
fn package_names(metadata: &Value) -> BTreeMap<String, String> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages
        .filter_map(|package| {
            let manifest = package["manifest_path"].as_str()?;
            Some((manifest.to_owned(), package["name"].as_str()?.to_owned()))
        })
        .collect()
}

fn test_program(line: &str, names: &BTreeMap<String, String>) -> Option<TestProgram> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["profile"]["test"] != true {
        return None;
    }
    let manifest = message["manifest_path"].as_str()?;
    Some(TestProgram {
        package: names.get(manifest)?.clone(),
        directory: Path::new(manifest).parent()?.to_owned(),
        executable: PathBuf::from(message["executable"].as_str()?),
    })
}

/// Makes sure that a component of the toolchain (`rustfmt`, `clippy`) is there.
pub(crate) fn ensure_component(subcommand: &str, component: &str) -> Result<()> {
    let present = cargo(&[subcommand, "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if present {
        return Ok(());
    }
    crate::say::line(&format!("installing the toolchain's {component}"));
    crate::stages::must_succeed(Command::new("rustup").current_dir(root()).args([
        "component",
        "add",
        component,
    ]))
    .with_context(|| format!("{component} is missing; install it for this toolchain"))
}
