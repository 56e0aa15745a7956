//! A network namespace to measure in.

use anyhow::{Context as _, Result};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use std::{
    env, fs,
    future::Future,
    path::{Path, PathBuf},
    process::{self, Command},
};

/// Runs `work` in a network namespace of its own, with an empty `/run`. Needs root. Call it before
/// there are other threads.
pub(crate) fn in_a_namespace<T, F>(work: impl FnOnce() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .context("cannot make a network namespace: run this as root")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("cannot make the mounts private")?;
    mount(Some("run"), "/run", Some("tmpfs"), MsFlags::empty(), none)
        .context("cannot mount an empty /run")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(work())
}

/// Runs a command line.
pub(crate) fn command(line: &str) -> Result<()> {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap_or_default())
        .args(words)
        .output()
        .with_context(|| format!("cannot run `{line}`"))?;
    anyhow::ensure!(
        output.status.success(),
        "`{line}` failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// A folder that is removed at the end.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Result<Self> {
        let path = env::temp_dir().join(format!("weir-bench-{}", process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is small, and in the folder for such things.
        let _left = fs::remove_dir_all(&self.0);
    }
}
