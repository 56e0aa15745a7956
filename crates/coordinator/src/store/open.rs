//! Opening the database: created when missing, backed up before it is upgraded.

use super::{Store, WRITE_DEADLINE};
use sqlx::{
    AssertSqlSafe, SqlitePool,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

static MIGRATIONS: Migrator = sqlx::migrate!();

/// How long a statement waits for another process, such as the sqlite3 shell of an admin.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not a database, not readable, or on a broken disk.
    #[error(
        "cannot open the database {path}: if it is damaged, put a backup in its place \
         (the copies beside it are named {path}.before-...)"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        #[source]
        source: sqlx::Error,
    },
    /// Written by a newer coordinator.
    #[error(
        "the database {path} was written by a newer version of the coordinator (schema {found}, \
         this one knows {known}): install that version again"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The schema in the file.
        found: i64,
        /// The newest schema of this program.
        known: i64,
    },
    /// The copy before the upgrade failed; nothing was upgraded.
    #[error("cannot back the database up to {path} before upgrading it: is the disk full?")]
    Backup {
        /// The copy.
        path: PathBuf,
        /// What SQLite says.
        #[source]
        source: sqlx::Error,
    },
    /// The upgrade failed; what was there is in the backup.
    #[error("cannot upgrade the database {path}")]
    Migrate {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: MigrateError,
    },
}

impl Store {
    /// Opens the database file, creating it when it does not exist and upgrading it when it is of
    /// an older version; a copy is made before that.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(path: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Open {
            path: path.to_owned(),
            source,
        };
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            // In WAL mode a power cut may take the last changes back, but never tears one apart;
            // FULL makes every change durable, and changes are rare.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT);
        let pool = SqlitePoolOptions::new()
            .max_connections(8)
            .acquire_timeout(WRITE_DEADLINE)
            .connect_with(options)
            .await
            .map_err(failed)?;
        let known = MIGRATIONS
            .iter()
            .map(|step| step.version)
            .max()
            .unwrap_or(0);
        match schema_version(&pool).await.map_err(failed)? {
            Some(found) if found > known => {
                return Err(OpenError::Newer {
                    path: path.to_owned(),
                    found,
                    known,
                });
            }
            Some(found) if found < known => back_up(&pool, path, found, known).await?,
            Some(_) | None => {}
        }
        MIGRATIONS
            .run(&pool)
            .await
            .map_err(|source| OpenError::Migrate {
                path: path.to_owned(),
                source,
            })?;
        Ok(Self {
            pool,
            writer: Arc::default(),
        })
    }
}

/// The schema version in the file; none when it is new.
async fn schema_version(pool: &SqlitePool) -> Result<Option<i64>, sqlx::Error> {
    let tables: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = '_sqlx_migrations'",
    )
    .fetch_one(pool)
    .await?;
    if tables == 0 {
        return Ok(None);
    }
    sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
        .fetch_one(pool)
        .await
}

async fn back_up(pool: &SqlitePool, path: &Path, found: i64, known: i64) -> Result<(), OpenError> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".before-{known}-from-{found}"));
    let copy = PathBuf::from(name);
    // A copy of this very version may be left from an upgrade that failed; it is as good.
    if copy.exists() {
        return Ok(());
    }
    let target = copy.to_string_lossy().replace('\'', "''");
    sqlx::query(AssertSqlSafe(format!("VACUUM INTO '{target}'")))
        .execute(pool)
        .await
        .map_err(|source| OpenError::Backup {
            path: copy.clone(),
            source,
        })?;
    tracing::info!(copy = %copy.display(), "backed the database up before upgrading it");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_backup_is_a_whole_database() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("it's.db");
        let store = Store::open(&path).await.unwrap();
        let mut tx = store.write().await.unwrap();
        tx.insert_user("alice", 0).await.unwrap();
        tx.commit().await.unwrap();
        back_up(&store.pool, &path, 1, 2).await.unwrap();
        let copy = directory.path().join("it's.db.before-2-from-1");
        let copy = Store::open(&copy).await.unwrap();
        let users = copy.read().await.unwrap().users().await.unwrap();
        assert_eq!(users[0].name, "alice");
    }

    #[tokio::test]
    async fn a_database_of_the_first_version_is_copied_and_upgraded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.db");
        let store = Store::open(&path).await.unwrap();
        for statement in [
            "ALTER TABLE policies DROP COLUMN note",
            "DELETE FROM _sqlx_migrations WHERE version > 1",
            "INSERT INTO policies (text, saved_at, saved_by) VALUES ('{}', 7, 'somebody')",
        ] {
            sqlx::query(statement).execute(&store.pool).await.unwrap();
        }
        store.close().await;
        let store = Store::open(&path).await.unwrap();
        let policies = store.read().await.unwrap().newest_policies(2).await;
        let policies = policies.unwrap();
        assert_eq!((policies[0].saved_at, policies[0].note.as_str()), (7, ""));
        assert!(directory.path().join("a.db.before-2-from-1").exists());
    }

    #[tokio::test]
    async fn what_is_not_committed_is_undone() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("a.db")).await.unwrap();
        let mut tx = store.write().await.unwrap();
        tx.insert_user("alice", 0).await.unwrap();
        drop(tx);
        assert!(
            store
                .read()
                .await
                .unwrap()
                .users()
                .await
                .unwrap()
                .is_empty()
        );
    }
}
