//! What the holder process of a node does: make the namespaces, stay, and clean up.
//!
//! It runs in its own process (`weir-lab-host hold`), because namespaces belong to processes and
//! a mount namespace can only be made by a process with one thread.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What the holder prints when the node is ready.
pub const READY: &str = "ready";

/// How long the last clean-up may take.
const SWEEP_DEADLINE: Duration = Duration::from_secs(3);

/// Settings every node starts with, so that it does not inherit what the host happens to have.
/// `rp_filter` is what systemd sets on Debian; duplicate address detection would make addresses
/// tentative for a second, in which a snapshot of the host differs by itself.
const INITIAL_SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "0"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "2"),
    ("net/ipv6/conf/all/forwarding", "0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
];

/// Becomes the node `name`: returns when standard input ends and nothing of the node is left.
/// The logs go with it: a lab that was killed cannot remove them itself.
///
/// # Errors
/// A namespace or a mount cannot be made (no root, or a kernel without them), or a process in
/// the node outlives the clean-up.
pub fn hold(name: &str, logs: &Path) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)
        .context("cannot make namespaces; the lab needs root and CAP_SYS_ADMIN")?;
    private_mounts().context("cannot set up the node's own mounts")?;
    fs::write("/proc/sys/kernel/hostname", name).context("cannot set the host name")?;
    initial_sysctls()?;
    let status = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()
        .context("cannot run ip; install iproute2")?;
    if !status.success() {
        bail!("ip link set lo up failed");
    }
    let mut output = io::stdout();
    writeln!(output, "{READY}")
        .and_then(|()| output.flush())
        .context("nobody listens")?;
    // The end of standard input is the death of the lab, whatever the lab died of.
    io::stdin()
        .read_to_end(&mut Vec::new())
        .context("cannot wait for the end of the lab")?;
    sweep()?;
    // The first of the lab's nodes to get here does it.
    let _ = fs::remove_dir_all(logs);
    Ok(())
}

fn private_mounts() -> Result<()> {
    let nothing = None::<&str>;
    mount(
        nothing,
        "/",
        nothing,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        nothing,
    )
    .context("cannot make the mounts private")?;
    // A sysfs mounted here shows this namespace's /sys/class/net.
    mount(
        Some("sysfs"),
        "/sys",
        Some("sysfs"),
        MsFlags::empty(),
        nothing,
    )
    .context("cannot mount /sys")?;
    for directory in ["/run", "/var/lib"] {
        tmpfs(directory)?;
    }
    for directory in ["/run/weir", "/run/wireguard", "/run/lock", "/var/lib/weir"] {
        fs::create_dir(directory).with_context(|| format!("cannot create {directory}"))?;
    }
    private_etc()
}

/// Gives the node an `/etc` it may write to: links to the host's files, which stay read-only.
fn private_etc() -> Result<()> {
    let nothing = None::<&str>;
    let original = "/run/host-etc";
    fs::create_dir(original).with_context(|| format!("cannot create {original}"))?;
    mount(Some("/etc"), original, nothing, MsFlags::MS_BIND, nothing)
        .context("cannot bind /etc")?;
    let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(nothing, original, nothing, read_only, nothing).context("cannot protect /etc")?;
    tmpfs("/etc")?;
    for entry in fs::read_dir(original).context("cannot list /etc")? {
        let entry = entry.context("cannot list /etc")?;
        let name = entry.file_name();
        if name == "weir" {
            continue;
        }
        // A link such as `os-release -> ../usr/lib/os-release` only holds from /etc itself.
        let target = fs::read_link(entry.path()).unwrap_or_else(|_| entry.path());
        symlink(target, Path::new("/etc").join(&name))
            .with_context(|| format!("cannot link /etc/{}", name.display()))?;
    }
    fs::create_dir("/etc/weir").context("cannot create /etc/weir")
}

fn tmpfs(directory: &str) -> Result<()> {
    mount(
        Some("tmpfs"),
        directory,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=0755,size=256m"),
    )
    .with_context(|| format!("cannot mount a tmpfs over {directory}"))
}

fn initial_sysctls() -> Result<()> {
    for (key, value) in INITIAL_SYSCTLS {
        let path = Path::new("/proc/sys").join(key);
        // A kernel without IPv6 has no such file, and nothing to set.
        if path.exists() {
            fs::write(&path, value).with_context(|| format!("cannot set {key}"))?;
        }
    }
    Ok(())
}

/// Kills what still runs in this network namespace, daemons that left their parents included.
fn sweep() -> Result<()> {
    let started = Instant::now();
    loop {
        let left = others_in_namespace()?;
        if left.is_empty() {
            return Ok(());
        }
        if started.elapsed() > SWEEP_DEADLINE {
            bail!("processes outlive the node: {left:?}");
        }
        for process in left {
            // It may be gone by now: the next look decides.
            let _ = kill(process, Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn others_in_namespace() -> Result<Vec<Pid>> {
    let own = fs::metadata("/proc/self/ns/net")
        .context("cannot read the own namespace")?
        .ino();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot list processes")? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        // A process that ends while we look has no namespace any more.
        let Ok(namespace) = fs::metadata(entry.path().join("ns/net")) else {
            continue;
        };
        if namespace.ino() == own && pid != Pid::this().as_raw() {
            found.push(Pid::from_raw(pid));
        }
    }
    Ok(found)
}
