//! `coordinator backup` and `coordinator restore`.

use super::{Session, output};
use crate::api::Restored;
use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;
use std::{
    fs,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};
use tokio::fs::File;

#[derive(Debug, Args)]
#[command(
    after_help = "The file is a SQLite database, whichever database the coordinator uses. Not in it: \
        the private key and the certificate (tls-key.pem and tls-cert.pem in the state \
        directory).\n\nExample:\n  \
        coordinator backup /root/weir.db"
)]
pub(super) struct Backup {
    /// The file to make; it must not exist
    file: PathBuf,
}

#[derive(Debug, Args)]
#[command(
    after_help = "The server checks the file, keeps a backup of what it replaces in its state \
        directory, and then replaces everything in one step, while it runs.\n\nExample:\n  \
        coordinator restore /root/weir.db --yes"
)]
pub(super) struct Restore {
    /// What `coordinator backup` made
    file: PathBuf,
    /// Replace everything that the coordinator knows
    #[arg(long)]
    yes: bool,
}

impl Backup {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        if self.file.exists() {
            bail!("{} exists: name another file", self.file.display());
        }
        // Half a backup never has the name of a whole one.
        let mut name = self.file.clone().into_os_string();
        name.push(".part");
        let part = PathBuf::from(name);
        let bytes = match write(session, &part).await {
            Ok(bytes) => bytes,
            Err(error) => {
                // It may not exist either.
                fs::remove_file(&part).ok();
                return Err(error);
            }
        };
        fs::rename(&part, &self.file)
            .with_context(|| format!("cannot name the backup {}", self.file.display()))?;
        if session.json {
            return output::json(&json!({ "file": self.file, "bytes": bytes }));
        }
        output::line(&format!(
            "wrote {} ({bytes} bytes); keep tls-key.pem and tls-cert.pem of the state directory \
             with it",
            self.file.display()
        ))
    }
}

async fn write(session: &Session, path: &Path) -> anyhow::Result<u64> {
    let cannot = || format!("cannot write {}", path.display());
    // It says who is in the network.
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(cannot)?;
    let mut file = File::from_std(file);
    let bytes = session.client.download("/backup", &mut file).await?;
    file.sync_all().await.with_context(cannot)?;
    Ok(bytes)
}

impl Restore {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        if !self.yes {
            bail!(
                "this replaces all users, keys, nodes, routes and policies by those of the \
                 backup: say --yes to do it"
            );
        }
        let file = File::open(&self.file)
            .await
            .with_context(|| format!("cannot read {}", self.file.display()))?;
        let restored: Restored = session.client.upload("/restore", file).await?;
        if session.json {
            return output::json(&restored);
        }
        for flaw in &restored.audit_flaws {
            output::note(&format!("the audit log of the backup: {flaw}"))?;
        }
        output::line(&format!(
            "restored; there are {} nodes; what was there before is in {}",
            restored.nodes,
            restored.kept.display()
        ))
    }
}
