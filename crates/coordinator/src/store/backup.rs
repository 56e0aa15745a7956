//! Backups: a SQLite file that holds everything, whichever database it was made of, and can be
//! restored into either.

use super::{
    Actor, AuditEntry, AuditHead, Database, OpenError, Pool, Store, StoreError, Tx,
    copy::{self, TABLES},
    dialect::{Inner, execute, fetch_one},
    open::{open_existing_file, vacuum_into},
};
use serde_json::json;
use std::path::{Path, PathBuf};
use weir_overlay::Generation;

/// How far the numbers of network maps jump at a restore. Agents hold newer maps than a backup
/// knows of, and never go back to a lower number: this is more changes than a network sees between
/// a backup and its use.
const GENERATIONS_SKIPPED: u64 = 1_000_000;

/// Why a backup was not made or not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file cannot be written.
    #[error("cannot write the backup {path}: is the disk full?")]
    Write {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        #[source]
        source: sqlx::Error,
    },
    /// The file for a backup cannot be made.
    #[error("cannot make the backup")]
    Make(#[source] OpenError),
    /// What should be restored is not a whole backup of this coordinator's.
    #[error("this is not a whole backup of a coordinator's database: {reason}")]
    NotABackup {
        /// What is wrong with it.
        reason: String,
        /// What SQLite says.
        #[source]
        source: Option<sqlx::Error>,
    },
    /// What should be restored cannot be opened.
    #[error("the backup cannot be used")]
    Open(#[source] OpenError),
    /// Copying failed; nothing was changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Where what was there before is kept.
    pub kept: PathBuf,
    /// How many nodes there are now.
    pub nodes: u64,
    /// What is wrong with the restored audit log, in words.
    pub audit_flaws: Vec<String>,
}

impl Store {
    /// Writes everything, as it is at one moment, to a new file. The server goes on meanwhile.
    ///
    /// # Errors
    /// [`BackupError`]; then there is no file.
    pub async fn back_up(&self, path: &Path) -> Result<(), BackupError> {
        let done = self.write_backup(path).await;
        if done.is_err() {
            // Half a backup is worse than none. It may not exist either.
            std::fs::remove_file(path).ok();
        }
        done
    }

    async fn write_backup(&self, path: &Path) -> Result<(), BackupError> {
        if let Pool::Sqlite(pool) = &self.pool {
            return vacuum_into(pool, path)
                .await
                .map_err(|source| BackupError::Write {
                    path: path.to_owned(),
                    source,
                });
        }
        let mut from = self.read().await?;
        from.take_time().await?;
        let file = Self::open(&Database::File(path.to_owned()))
            .await
            .map_err(BackupError::Make)?;
        let mut to = file.write().await?;
        for table in TABLES {
            copy::empty(&mut to, table).await?;
        }
        for table in TABLES {
            copy::copy(&mut from, &mut to, table).await?;
        }
        to.commit().await?;
        file.close().await;
        Ok(())
    }

    /// Replaces everything by what is in the backup `from`, in one change. What was there is first
    /// written to the new file `keep`. `from` is upgraded in place when it is of an older version.
    ///
    /// Network maps get new numbers, higher than any before; signatures that were accepted stay
    /// accepted.
    ///
    /// # Errors
    /// [`BackupError`]; then nothing was changed.
    pub async fn restore(
        &self,
        from: &Path,
        keep: PathBuf,
        actor: &Actor,
        now: i64,
    ) -> Result<Restored, BackupError> {
        let pool = open_existing_file(from).await?;
        let source = Self {
            pool: Pool::Sqlite(pool.clone()),
            writers: Pool::Sqlite(pool),
            machines: super::machines::Machines::default(),
            lowest_address: std::sync::Arc::default(),
            writer: std::sync::Arc::default(),
            changes: std::sync::Arc::default(),
            figures: std::sync::Arc::default(),
            #[cfg(test)]
            faults: std::sync::Arc::default(),
        };
        let done = self.replace_by(&source, keep, actor, now).await;
        source.close().await;
        done
    }

    async fn replace_by(
        &self,
        source: &Self,
        keep: PathBuf,
        actor: &Actor,
        now: i64,
    ) -> Result<Restored, BackupError> {
        source.tie_old_audit().await?;
        let mut from = source.read().await?;
        let report = from.verify_audit(None).await?;
        // From here on nobody else changes anything, so that what is kept is what is replaced.
        let mut to = self.write().await?;
        to.take_time().await?;
        let before = to.audit_head().await?;
        self.back_up(&keep).await?;
        let newest = to
            .newest_generation()
            .await?
            .max(from.newest_generation().await?);
        for table in TABLES.iter().rev() {
            copy::empty(&mut to, table).await?;
        }
        for table in TABLES {
            copy::copy(&mut from, &mut to, table).await?;
        }
        to.advance_identities().await?;
        to.set_newest_generation(Generation(newest.0.saturating_add(GENERATIONS_SKIPPED)))
            .await?;
        let head = |head: &AuditHead| json!({ "audit": head.to_string() });
        let entry = AuditEntry {
            at: now,
            actor,
            action: "database.restore",
            subject: "database".to_owned(),
        };
        to.record(entry, Some(&head(&before)), Some(&head(&report.head)))
            .await?;
        let (nodes,): (i64,) = fetch_one!(to, "count the nodes", "SELECT count(*) FROM nodes")?;
        to.changes.everything = true;
        to.frees_addresses();
        to.commit().await?;
        Ok(Restored {
            kept: keep,
            nodes: super::unsigned("number of nodes", nodes)?,
            audit_flaws: report.flaws.iter().map(ToString::to_string).collect(),
        })
    }
}

impl Tx {
    /// PostgreSQL ends what takes long and what idles; this may do both, for it waits for a file.
    async fn take_time(&mut self) -> Result<(), StoreError> {
        if matches!(self.inner, Inner::Postgres(_)) {
            for statement in [
                "SET LOCAL idle_in_transaction_session_timeout = 0",
                "SET LOCAL statement_timeout = 0",
            ] {
                execute!(self, "prepare to copy everything", statement)?;
            }
        }
        Ok(())
    }

    /// PostgreSQL does not notice ids that it did not give itself.
    async fn advance_identities(&mut self) -> Result<(), StoreError> {
        if matches!(self.inner, Inner::Postgres(_)) {
            for statement in [
                "SELECT setval(pg_get_serial_sequence('users', 'id'), \
                 greatest(nextval(pg_get_serial_sequence('users', 'id')), \
                 (SELECT max(id) FROM users)))",
                "SELECT setval(pg_get_serial_sequence('nodes', 'id'), \
                 greatest(nextval(pg_get_serial_sequence('nodes', 'id')), \
                 (SELECT max(id) FROM nodes)))",
                "SELECT setval(pg_get_serial_sequence('policies', 'revision'), \
                 greatest(nextval(pg_get_serial_sequence('policies', 'revision')), \
                 (SELECT max(revision) FROM policies)))",
            ] {
                execute!(self, "go on counting after a restore", statement)?;
            }
        }
        Ok(())
    }
}
