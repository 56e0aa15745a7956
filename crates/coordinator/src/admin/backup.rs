//! Backups, made and restored while the server runs.

use super::{now, publish};
use crate::{
    Coordinator, api,
    clock::{hexadecimal, random},
    refusal::Refusal,
    store::{Actor, BackupError},
};
use anyhow::anyhow;
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use weir_protocol::ErrorCode;

/// How files are named that are gone before anybody looks, unless the coordinator dies meanwhile.
const SCRATCH: &str = "scratch-";

/// Takes away what a coordinator that died left of backups it was making.
pub(crate) fn remove_scratch(state_dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(state_dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(SCRATCH) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// A file in the state directory that goes away with this.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// A name that nothing has yet.
    ///
    /// # Errors
    /// [`Refusal::Random`].
    pub(crate) fn new(coordinator: &Coordinator) -> Result<Self, Refusal> {
        let name = format!("{SCRATCH}{}", hexadecimal(&random::<8>()?));
        Ok(Self(coordinator.state_dir.join(name)))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It may not have come into being.
        fs::remove_file(&self.0).ok();
    }
}

/// Makes a backup in a file that goes away with what is returned.
///
/// # Errors
/// [`Refusal`].
pub(crate) async fn back_up(coordinator: &Coordinator) -> Result<Scratch, Refusal> {
    let file = Scratch::new(coordinator)?;
    coordinator
        .store
        .back_up(file.path())
        .await
        .map_err(refusal)?;
    Ok(file)
}

/// Puts a backup in the place of everything. When this returns, the maps follow it.
///
/// # Errors
/// [`Refusal`]; then nothing was changed.
pub(crate) async fn restore(
    coordinator: &Coordinator,
    actor: &Actor,
    from: &Scratch,
) -> Result<api::Restored, Refusal> {
    let now = now();
    let name = format!("before-restore-{now}-{}.db", hexadecimal(&random::<2>()?));
    let keep = coordinator.state_dir.join(name);
    let restored = coordinator
        .store
        .restore(from.path(), keep, actor, now)
        .await
        .map_err(refusal)?;
    tracing::warn!(kept = %restored.kept.display(), "restored a backup");
    publish(coordinator).await;
    Ok(api::Restored {
        kept: restored.kept,
        nodes: restored.nodes,
        audit_flaws: restored.audit_flaws,
    })
}

fn refusal(error: BackupError) -> Refusal {
    let code = match error {
        BackupError::Store(error) => return Refusal::Store(error),
        BackupError::NotABackup { .. } | BackupError::Open(_) => ErrorCode::BadRequest,
        BackupError::Write { .. } | BackupError::Make(_) => ErrorCode::Internal,
    };
    Refusal::new(code, format!("{:#}", anyhow!(error)))
}
