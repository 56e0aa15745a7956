//! What must be in a Debian package: every file with its mode, the fields, the unit's rights.
//!
//! The package is opened with `dpkg-deb`, as the host that installs it will.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::scripts;
use crate::say;
use crate::stages::{Tally, TestsFailed, must_succeed};

/// A package as it must be.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) name: &'static str,
    /// The program: `/usr/bin/PROGRAM`.
    pub(super) program: &'static str,
    /// Its manual pages besides the program's own, without the program's name: one for a
    /// subcommand.
    pages: &'static [&'static str],
    /// Every other file, with its mode.
    files: &'static [(&'static str, &'static str)],
    conffiles: &'static [&'static str],
    /// Alternatives that must be among the dependencies.
    depends: &'static [&'static str],
    /// The directories that `systemd-tmpfiles` makes, with their modes. All belong to root and
    /// the group `weir`.
    directories: &'static [(&'static str, u32)],
    /// Lines of the unit that decide what the daemon may do. No other line may set their keys.
    unit: &'static [&'static str],
    /// The state that only a purge removes.
    pub(super) state: &'static str,
    /// Whether this is the agent: its settings may hold a key, and are for the group only; and
    /// before it is removed, the node goes down.
    pub(super) is_agent: bool,
}

pub(super) const PACKAGES: &[Expected] = &[
    Expected {
        name: "weir-agent",
        program: "agent",
        pages: &[
            "bugreport",
            "completions",
            "daemon",
            "doctor",
            "down",
            "explain",
            "logout",
            "ping",
            "routes",
            "set",
            "status",
            "up",
            "version",
            "whois",
        ],
        files: &[
            ("./etc/weir/agent.toml", "-rw-r-----"),
            ("./usr/bin/agent", "-rwxr-xr-x"),
            ("./usr/lib/systemd/system/weir-agent.service", "-rw-r--r--"),
            ("./usr/lib/sysusers.d/weir-agent.conf", "-rw-r--r--"),
            ("./usr/lib/tmpfiles.d/weir-agent.conf", "-rw-r--r--"),
            (
                "./usr/share/doc/weir-agent/changelog.Debian.gz",
                "-rw-r--r--",
            ),
            ("./usr/share/doc/weir-agent/copyright", "-rw-r--r--"),
            (
                "./usr/share/bash-completion/completions/agent",
                "-rw-r--r--",
            ),
            ("./usr/share/zsh/vendor-completions/_agent", "-rw-r--r--"),
            (
                "./usr/share/fish/vendor_completions.d/agent.fish",
                "-rw-r--r--",
            ),
        ],
        conffiles: &["/etc/weir/agent.toml"],
        depends: &["nftables", "systemd | systemd-standalone-sysusers"],
        directories: &[("run/weir", 0o1770), ("run/wireguard", 0o1770)],
        unit: &[
            "Type=notify",
            "ExecStart=/usr/bin/agent daemon",
            "User=weir-agent",
            "Group=weir",
            "AmbientCapabilities=CAP_NET_ADMIN",
            "CapabilityBoundingSet=CAP_NET_ADMIN",
            "NoNewPrivileges=yes",
            "KillMode=process",
            "StateDirectory=weir/agent",
            "StateDirectoryMode=0700",
            "ProtectSystem=strict",
            "DeviceAllow=/dev/net/tun rw",
        ],
        state: "var/lib/weir/agent",
        is_agent: true,
    },
    Expected {
        name: "weir-coordinator",
        program: "coordinator",
        pages: &[
            "keys", "nodes", "policy", "routes", "serve", "status", "users", "version",
        ],
        files: &[
            ("./etc/weir/coordinator.toml", "-rw-r--r--"),
            ("./usr/bin/coordinator", "-rwxr-xr-x"),
            (
                "./usr/lib/systemd/system/weir-coordinator.service",
                "-rw-r--r--",
            ),
            ("./usr/lib/sysusers.d/weir-coordinator.conf", "-rw-r--r--"),
            ("./usr/lib/tmpfiles.d/weir-coordinator.conf", "-rw-r--r--"),
            (
                "./usr/share/doc/weir-coordinator/changelog.Debian.gz",
                "-rw-r--r--",
            ),
            ("./usr/share/doc/weir-coordinator/copyright", "-rw-r--r--"),
        ],
        conffiles: &["/etc/weir/coordinator.toml"],
        depends: &["systemd | systemd-standalone-sysusers"],
        directories: &[("run/weir", 0o1770)],
        unit: &[
            "Type=notify",
            "ExecStart=/usr/bin/coordinator serve",
            "User=weir-coordinator",
            "Group=weir",
            "AmbientCapabilities=",
            "CapabilityBoundingSet=",
            "NoNewPrivileges=yes",
            "StateDirectory=weir/coordinator",
            "StateDirectoryMode=0700",
            "ProtectSystem=strict",
            "PrivateDevices=yes",
        ],
        state: "var/lib/weir/coordinator",
        is_agent: false,
    },
];

/// A package, opened.
#[derive(Debug)]
pub(super) struct Opened {
    archive: PathBuf,
    /// Its files.
    pub(super) tree: PathBuf,
    /// Its maintainer scripts and lists.
    pub(super) control: PathBuf,
}

/// What was found wrong, and how much was looked at.
#[derive(Debug, Default)]
pub(super) struct Findings {
    passed: u64,
    wrong: Vec<String>,
}

impl Findings {
    pub(super) fn check(&mut self, right: bool, wrong: impl FnOnce() -> String) {
        if right {
            self.passed += 1;
        } else {
            self.wrong.push(wrong());
        }
    }

    /// Takes a command that ends badly as a finding.
    pub(super) fn succeeds(&mut self, command: &mut Command) {
        let outcome = must_succeed(command);
        self.check(outcome.is_ok(), || match outcome {
            Ok(()) => String::new(),
            Err(error) => format!("{error:#}"),
        });
    }
}

/// Checks the package in `directory`, opened below `scratch`.
pub(super) fn check(expected: &Expected, directory: &Path, scratch: &Path) -> Result<Tally> {
    let package = open(expected, directory, &scratch.join(expected.name))?;
    let mut findings = Findings::default();
    files(expected, &package, &mut findings)?;
    fields(expected, &package, &mut findings)?;
    unit(expected, &package, &mut findings)?;
    users_and_directories(expected, &package, &mut findings)?;
    findings.succeeds(
        Command::new(package.tree.join("usr/bin").join(expected.program)).arg("--version"),
    );
    scripts::check(expected, &package, &mut findings)?;
    for wrong in &findings.wrong {
        say::error(&format!("{}: {wrong}", expected.name));
    }
    let tally = Tally {
        passed: findings.passed,
        failed: u64::try_from(findings.wrong.len()).unwrap_or(u64::MAX),
    };
    if tally.failed > 0 {
        return Err(TestsFailed(tally).into());
    }
    say::line(&format!(
        "{}: {} checks passed",
        expected.name, tally.passed
    ));
    Ok(tally)
}

fn open(expected: &Expected, directory: &Path, scratch: &Path) -> Result<Opened> {
    let prefix = format!("{}_", expected.name);
    let archive = fs::read_dir(directory)
        .with_context(|| format!("cannot list {}", directory.display()))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            path.extension().is_some_and(|extension| extension == "deb")
                && path
                    .file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
        })
        .with_context(|| format!("there is no {} in {}", expected.name, directory.display()))?;
    if scratch.exists() {
        fs::remove_dir_all(scratch)
            .with_context(|| format!("cannot remove {}", scratch.display()))?;
    }
    let package = Opened {
        archive,
        tree: scratch.join("tree"),
        control: scratch.join("control"),
    };
    fs::create_dir_all(&package.tree)
        .with_context(|| format!("cannot create {}", package.tree.display()))?;
    for (option, into) in [
        ("--extract", &package.tree),
        ("--control", &package.control),
    ] {
        let mut command = Command::new("dpkg-deb");
        must_succeed(command.arg(option).arg(&package.archive).arg(into))?;
    }
    Ok(package)
}

/// What a command prints.
pub(super) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!(
            "{} ended with {}: {}",
            command.get_program().display(),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    String::from_utf8(output.stdout).context("its output is no text")
}

fn files(expected: &Expected, package: &Opened, findings: &mut Findings) -> Result<()> {
    let listing = output(
        Command::new("dpkg-deb")
            .arg("--contents")
            .arg(&package.archive),
    )?;
    let mut wanted: BTreeMap<String, &str> = expected
        .files
        .iter()
        .map(|(path, mode)| ((*path).to_owned(), *mode))
        .collect();
    let page = |name: String| format!("./usr/share/man/man8/{name}.8.gz");
    wanted.insert(page(expected.program.to_owned()), "-rw-r--r--");
    for subcommand in expected.pages {
        wanted.insert(
            page(format!("{}-{subcommand}", expected.program)),
            "-rw-r--r--",
        );
    }
    for line in listing.lines() {
        let mut words = line.split_whitespace();
        let (Some(mode), Some(owner), Some(path)) = (words.next(), words.next(), words.nth(3))
        else {
            bail!("dpkg-deb printed {line:?}");
        };
        findings.check(matches!(owner, "0/0" | "root/root"), || {
            format!("{path} belongs to {owner}, not to root")
        });
        if path.ends_with('/') {
            findings.check(mode == "drwxr-xr-x", || {
                format!("{path} has the mode {mode}")
            });
            continue;
        }
        match wanted.remove(path) {
            Some(right) => {
                findings.check(mode == right, || {
                    format!("{path} has the mode {mode}, not {right}")
                });
            }
            // Subcommands of subcommands.
            None => findings.check(
                path.starts_with(&format!("./usr/share/man/man8/{}-", expected.program)),
                || format!("{path} is in it and should not be"),
            ),
        }
    }
    for path in wanted.keys() {
        findings.check(false, || format!("{path} is missing"));
    }
    Ok(())
}

fn fields(expected: &Expected, package: &Opened, findings: &mut Findings) -> Result<()> {
    let field = |name: &str| {
        let mut command = Command::new("dpkg-deb");
        command.arg("--field").arg(&package.archive).arg(name);
        output(&mut command).map(|text| text.trim().to_owned())
    };
    let (name, version, depends) = (field("Package")?, field("Version")?, field("Depends")?);
    findings.check(name == expected.name, || format!("it is called {name}"));
    findings.check(
        version.starts_with(concat!(env!("CARGO_PKG_VERSION"), "-")),
        || format!("its version is {version}"),
    );
    let depends: BTreeSet<_> = depends.split(',').map(str::trim).collect();
    for needed in expected.depends {
        findings.check(depends.contains(needed), || {
            format!("it does not depend on {needed}")
        });
    }
    findings.check(depends.iter().any(|one| one.starts_with("libc6 ")), || {
        "it does not depend on the C library it was linked with".to_owned()
    });
    let conffiles = fs::read_to_string(package.control.join("conffiles")).unwrap_or_default();
    let conffiles: Vec<_> = conffiles.lines().collect();
    findings.check(conffiles == expected.conffiles, || {
        format!("its conffiles are {conffiles:?}")
    });
    Ok(())
}

fn unit(expected: &Expected, package: &Opened, findings: &mut Findings) -> Result<()> {
    let name = format!("{}.service", expected.name);
    let path = package.tree.join("usr/lib/systemd/system").join(&name);
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    for wanted in expected.unit {
        let key = wanted.split_inclusive('=').next().unwrap_or(wanted);
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with(key)).collect();
        findings.check(lines == [*wanted], || {
            format!("its unit says {lines:?} where {wanted} is wanted")
        });
    }
    // systemd looks for the program where the unit says, so a copy says where it is now.
    let program = format!("/usr/bin/{}", expected.program);
    let unpacked = package.tree.join(program.trim_start_matches('/'));
    let copy = package.control.join(&name);
    fs::write(
        &copy,
        text.replace(&program, &unpacked.display().to_string()),
    )
    .with_context(|| format!("cannot write {}", copy.display()))?;
    findings.succeeds(
        Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(&copy),
    );
    Ok(())
}

/// Makes the users, then the directories, below the opened package.
fn users_and_directories(
    expected: &Expected,
    package: &Opened,
    findings: &mut Findings,
) -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;

    let root = format!("--root={}", package.tree.display());
    let configuration = format!("{}.conf", expected.name);
    findings.succeeds(Command::new("systemd-sysusers").args([&root, &configuration]));
    let groups = fs::read_to_string(package.tree.join("etc/group")).unwrap_or_default();
    let users = fs::read_to_string(package.tree.join("etc/passwd")).unwrap_or_default();
    findings.check(users.starts_with(&format!("{}:", expected.name)), || {
        format!("it makes no user {}", expected.name)
    });
    let group = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let named = fields.next() == Some("weir");
        let number = fields.nth(1)?.parse::<u32>().ok()?;
        named.then_some((number, fields.next() == Some(expected.name)))
    });
    findings.check(group.is_some_and(|(_, member)| member), || {
        format!("{} is not in a group weir", expected.name)
    });
    findings.succeeds(Command::new("systemd-tmpfiles").args([&root, "--create", &configuration]));
    for (path, mode) in expected.directories {
        let metadata = fs::metadata(package.tree.join(path))
            .with_context(|| format!("systemd-tmpfiles made no /{path}"))?;
        let found = (
            metadata.mode() & 0o7777,
            metadata.uid(),
            Some(metadata.gid()),
        );
        let right = (*mode, 0, group.map(|(number, _)| number));
        findings.check(found == right, || {
            format!(
                "/{path} is made with mode {:o}, user {} and group {:?}",
                found.0, found.1, found.2
            )
        });
    }
    Ok(())
}
