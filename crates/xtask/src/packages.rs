//! Debian packages that a task needs, installed only when a program is missing.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use anyhow::{Context as _, Result, bail};

use crate::say;
use crate::stages::must_succeed;

/// A program, and the Debian package that has it.
pub(crate) type Need = (&'static str, &'static str);

/// What the network scenarios call.
pub(crate) const LAB: &[Need] = &[
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("ping", "iputils-ping"),
    ("nsenter", "util-linux"),
    ("wg", "wireguard-tools"),
    ("conntrack", "conntrack"),
    ("iptables", "iptables"),
    ("curl", "curl"),
];

/// What the coordinator's tests start a server of their own from.
pub(crate) const DATABASE: &[Need] = &[("pg_ctlcluster", "postgresql")];

/// What the virtual machine needs besides.
pub(crate) const VM: &[Need] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("modprobe", "kmod"),
    ("xz", "xz-utils"),
    ("dpkg-deb", "dpkg"),
];

/// Makes sure that the programs are there; `install` allows to install packages.
pub(crate) fn ensure(needs: &[Need], install: bool) -> Result<()> {
    let missing: BTreeSet<_> = needs
        .iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|(_, name)| *name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.into_iter().collect::<Vec<_>>();
    let by_hand = format!("install these packages: {}", list.join(" "));
    if !install {
        bail!("{by_hand}");
    }
    if find("apt-get").is_none() {
        bail!("there is no apt-get here; {by_hand}");
    }
    if !is_root()? {
        bail!("not root; {by_hand} (apt-get install {})", list.join(" "));
    }
    say::line(&format!("installing {}", list.join(" ")));
    update()?;
    let mut command = apt_get();
    command
        .args(["install", "--yes", "--no-install-recommends"])
        .args(&list);
    must_succeed(&mut command).with_context(|| format!("apt-get failed; {by_hand}"))
}

/// Reads the package lists anew.
pub(crate) fn update() -> Result<()> {
    must_succeed(apt_get().args(["update", "--quiet"])).context("cannot read the package lists")
}

/// Downloads a package without installing it, and unpacks it into `directory`.
pub(crate) fn unpack(package: &str, directory: &Path) -> Result<()> {
    let parent = directory
        .parent()
        .context("the directory for the package has no parent")?;
    let scratch = parent.join(format!("{package}-{}.part", process::id()));
    if scratch.exists() {
        fs::remove_dir_all(&scratch)
            .with_context(|| format!("cannot remove {}", scratch.display()))?;
    }
    let tree = scratch.join("tree");
    fs::create_dir_all(&tree).with_context(|| format!("cannot create {}", tree.display()))?;
    say::line(&format!(
        "downloading {package} (it is unpacked, not installed)"
    ));
    // apt-get would drop its privileges for the download, and may then not write here.
    let mut download = apt_get();
    download
        .current_dir(&scratch)
        .args(["-o", "APT::Sandbox::User=root", "download", package]);
    must_succeed(&mut download).with_context(|| format!("cannot download {package}"))?;
    let archive = fs::read_dir(&scratch)
        .with_context(|| format!("cannot list {}", scratch.display()))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get left no archive of {package}"))?;
    must_succeed(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(&archive)
            .arg(&tree),
    )?;
    fs::rename(&tree, directory)
        .with_context(|| format!("cannot move {package} to {}", directory.display()))?;
    fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-o", "DPkg::Lock::Timeout=120"]);
    command
}

/// Whether we are root.
pub(crate) fn is_root() -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status").context("cannot read our own status")?;
    // Real, effective, saved and file system id.
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|ids| ids.split_whitespace().nth(1))
        .context("our status has no user id")?;
    Ok(effective == "0")
}

/// Refuses to go on without root.
pub(crate) fn require_root(what: &str) -> Result<()> {
    if is_root()? {
        return Ok(());
    }
    bail!(
        "{what} makes network namespaces and needs root; run it as root, or with `sudo -E env PATH=\"$PATH\"` before it"
    )
}

fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Where root's programs are, even when the path of a user leaves them out.
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(system)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}
