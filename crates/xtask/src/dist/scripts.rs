//! What the maintainer scripts do, found by running them on an opened package.
//!
//! They run with `DPKG_ROOT` set to it and with stand-ins for every program that would reach the
//! host, which write down how they were called.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::contents::{Expected, Findings, Opened};
use crate::stages::must_succeed;

/// What the scripts must not reach.
const STAND_INS: &[&str] = &[
    "agent",
    "chgrp",
    "coordinator",
    "deb-systemd-helper",
    "deb-systemd-invoke",
    "dpkg-statoverride",
    "systemctl",
    "systemd-sysusers",
    "systemd-tmpfiles",
];
/// What they may use as it is.
const REAL: &[&str] = &["rm", "rmdir"];

pub(super) fn check(expected: &Expected, package: &Opened, findings: &mut Findings) -> Result<()> {
    for script in ["postinst", "prerm", "postrm"] {
        let path = package.control.join(script);
        findings.succeeds(Command::new("sh").arg("-n").arg(&path));
        findings.succeeds(
            Command::new("shellcheck")
                .args(["--shell=sh", "--severity=warning"])
                .arg(&path),
        );
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        findings.check(text.starts_with("#!/bin/sh\nset -e\n"), || {
            format!("{script} does not stop at the first failure")
        });
        findings.check(!text.contains("#DEBHELPER#"), || {
            format!("{script} does not handle the unit")
        });
    }
    let host = Host::new(package)?;
    lifecycle(expected, &host, findings)
}

fn lifecycle(expected: &Expected, host: &Host<'_>, findings: &mut Findings) -> Result<()> {
    let unit = format!("{}.service", expected.name);
    let state = host.package.tree.join(expected.state);
    fs::create_dir_all(&state).with_context(|| format!("cannot create {}", state.display()))?;
    let run = host.package.tree.join("run/weir");
    let _socket = UnixListener::bind(run.join(format!("{}.sock", expected.program)))
        .with_context(|| format!("cannot make a socket in {}", run.display()))?;

    let calls = host.run("postinst", &["configure", ""])?;
    let users = calls
        .iter()
        .position(|call| call.starts_with("systemd-sysusers"));
    findings.check(users.is_some(), || "installing makes no user".to_owned());
    if expected.is_agent {
        let handed = calls
            .iter()
            .position(|call| call.starts_with("chgrp weir "));
        findings.check(handed.is_some() && users < handed, || {
            format!("installing does not give the settings to the group: {calls:?}")
        });
        let upgrade = host.run("postinst", &["configure", "0.0.9-1"])?;
        findings.check(
            !upgrade.iter().any(|call| call.starts_with("chgrp")),
            || "an upgrade changes the owner of the settings".to_owned(),
        );
    }
    findings.check(
        calls.contains(&format!("deb-systemd-helper enable {unit}")),
        || format!("installing does not enable {unit}: {calls:?}"),
    );

    let calls = host.run("prerm", &["upgrade", "0.2.0-1"])?;
    findings.check(calls.is_empty(), || {
        format!("before an upgrade it calls {calls:?}")
    });
    let down = host
        .run("prerm", &["remove"])?
        .contains(&"agent down".to_owned());
    findings.check(down == expected.is_agent, || {
        format!(
            "removing it {} the node down",
            if down { "brings" } else { "does not bring" }
        )
    });
    host.run("postrm", &["remove"])?;
    findings.check(state.exists(), || "removing it loses the state".to_owned());
    host.run("postrm", &["purge"])?;
    findings.check(!state.exists(), || "purging it keeps the state".to_owned());
    Ok(())
}

/// A host for the scripts: the opened package, and a search path of its own.
struct Host<'a> {
    package: &'a Opened,
    programs: PathBuf,
    calls: PathBuf,
}

impl<'a> Host<'a> {
    fn new(package: &'a Opened) -> Result<Self> {
        let programs = package.control.join("programs");
        fs::create_dir_all(&programs)
            .with_context(|| format!("cannot create {}", programs.display()))?;
        let calls = package.control.join("calls");
        for name in STAND_INS {
            stand_in(&programs.join(name), &calls)?;
        }
        for name in REAL {
            let link = programs.join(name);
            symlink(Path::new("/bin").join(name), &link)
                .with_context(|| format!("cannot create {}", link.display()))?;
        }
        Ok(Self {
            package,
            programs,
            calls,
        })
    }

    /// Runs a script; says which stand-ins it called, and how.
    fn run(&self, script: &str, arguments: &[&str]) -> Result<Vec<String>> {
        fs::write(&self.calls, "")
            .with_context(|| format!("cannot write {}", self.calls.display()))?;
        let mut command = Command::new("/bin/sh");
        command
            .arg(self.package.control.join(script))
            .args(arguments)
            .env_clear()
            .env("PATH", &self.programs)
            .env("DPKG_ROOT", &self.package.tree);
        must_succeed(&mut command)?;
        let calls = fs::read_to_string(&self.calls)
            .with_context(|| format!("cannot read {}", self.calls.display()))?;
        Ok(calls
            .lines()
            .filter(|call| !call.starts_with("systemctl --system daemon-reload"))
            .map(str::to_owned)
            .collect())
    }
}

/// A program that only writes down how it was called. `dpkg-statoverride` finds nothing.
fn stand_in(path: &Path, calls: &Path) -> Result<()> {
    let status = u8::from(path.ends_with("dpkg-statoverride"));
    let text = format!(
        "#!/bin/sh\necho \"${{0##*/}} $*\" >> '{}'\nexit {status}\n",
        calls.display()
    );
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make {} a program", path.display()))
}
