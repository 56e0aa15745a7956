//! Opening the database: created when missing, backed up before it is upgraded.

use super::{BackupError, Database, Pool, Store, StoreError, WRITE_DEADLINE, machines::Machines};
use sqlx::{
    AssertSqlSafe, Connection, PgPool, SqlitePool,
    migrate::{MigrateError, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

// Numbered alike: a number stands for the same tables in both.
static SQLITE_MIGRATIONS: Migrator = sqlx::migrate!("./migrations/sqlite");
static POSTGRES_MIGRATIONS: Migrator = sqlx::migrate!("./migrations/postgres");

/// How long a statement waits for another process, such as the sqlite3 shell of an admin.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request waits for a connection to a server that may be gone.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How many read at a time.
const READERS: u32 = 8;
/// How many change something in PostgreSQL at a time: one has the turn, the others note what
/// concerns nobody else.
const POSTGRES_WRITERS: u32 = 4;
/// How PostgreSQL ends what takes too long, as settings of each session: a coordinator that hangs
/// in the middle of a change must not hold up the others for ever.
const SESSION: [(&str, &str); 3] = [
    ("lock_timeout", "30s"),
    ("statement_timeout", "60s"),
    ("idle_in_transaction_session_timeout", "30s"),
];

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
    /// The server does not let us in, or is not there.
    #[error(
        "cannot use the database {database}: is the server running, does the database exist, and \
         may this user own tables in it?"
    )]
    Connect {
        /// Which.
        database: String,
        /// What PostgreSQL says.
        #[source]
        source: sqlx::Error,
    },
    /// Written by a newer coordinator.
    #[error(
        "the database {database} was written by a newer version of the coordinator (schema \
         {found}, this one knows {known}): install that version again"
    )]
    Newer {
        /// Which.
        database: String,
        /// The schema in it.
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
    #[error("cannot upgrade the database {database}")]
    Migrate {
        /// Which.
        database: String,
        /// What went wrong.
        #[source]
        source: MigrateError,
    },
    /// The upgrade worked, and then the database could not be used.
    #[error("cannot use the database {database} after upgrading it")]
    Use {
        /// Which.
        database: String,
        /// What went wrong.
        #[source]
        source: StoreError,
    },
}

impl Store {
    /// Opens the database, creating a file when it does not exist, and upgrades it when it is of an
    /// older version. A file is copied before that.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(database: &Database) -> Result<Self, OpenError> {
        let (pool, writers) = match database {
            Database::File(path) => {
                let (readers, writers) = open_file(path).await?;
                (Pool::Sqlite(readers), Pool::Sqlite(writers))
            }
            Database::Postgres(options) => {
                let (readers, writers) = connect(database, options).await?;
                (Pool::Postgres(readers), Pool::Postgres(writers))
            }
        };
        let store = Self {
            pool,
            writers,
            machines: Machines::default(),
            lowest_address: Arc::default(),
            writer: Arc::default(),
            changes: Arc::default(),
            figures: Arc::default(),
            #[cfg(test)]
            faults: Arc::default(),
        };
        store
            .tie_old_audit()
            .await
            .map_err(|source| OpenError::Use {
                database: database.to_string(),
                source,
            })?;
        Ok(store)
    }

    pub(super) async fn tie_old_audit(&self) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        tx.tie_old_audit().await?;
        tx.commit().await
    }
}

fn newest(migrations: &Migrator) -> i64 {
    migrations
        .iter()
        .map(|step| step.version)
        .max()
        .unwrap_or(0)
}

/// The connections for reading, and the one for changing.
async fn open_file(path: &Path) -> Result<(SqlitePool, SqlitePool), OpenError> {
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
    let connections = |most| {
        SqlitePoolOptions::new()
            .max_connections(most)
            .acquire_timeout(WRITE_DEADLINE)
            // When a commit fails because the disk is full, SQLite has ended the transaction and
            // sqlx counts it as open for ever: such a connection could change nothing any more.
            .before_acquire(|connection, _| {
                Box::pin(async move { Ok(!connection.is_in_transaction()) })
            })
            .connect_with(options.clone())
    };
    let pool = connections(READERS).await.map_err(failed)?;
    let known = newest(&SQLITE_MIGRATIONS);
    match schema_of_file(&pool).await.map_err(failed)? {
        Some(found) if found > known => {
            return Err(OpenError::Newer {
                database: path.display().to_string(),
                found,
                known,
            });
        }
        Some(found) if found < known => back_up(&pool, path, found, known).await?,
        Some(_) | None => {}
    }
    let migrated = SQLITE_MIGRATIONS.run(&pool).await;
    migrated.map_err(|source| OpenError::Migrate {
        database: path.display().to_string(),
        source,
    })?;
    // One changes at a time.
    let writers = connections(1).await.map_err(failed)?;
    Ok((pool, writers))
}

/// The connections for reading, and those for changing.
async fn connect(
    database: &Database,
    options: &PgConnectOptions,
) -> Result<(PgPool, PgPool), OpenError> {
    let failed = |source| OpenError::Connect {
        database: database.to_string(),
        source,
    };
    let options = options
        .clone()
        .application_name("weir-coordinator")
        .options(SESSION);
    let connections = |most| {
        PgPoolOptions::new()
            .max_connections(most)
            .acquire_timeout(CONNECT_DEADLINE)
    };
    let pool = connections(READERS)
        .connect_with(options.clone())
        .await
        .map_err(failed)?;
    let known = newest(&POSTGRES_MIGRATIONS);
    let found = schema_of_server(&pool).await.map_err(failed)?;
    if let Some(found) = found.filter(|found| *found > known) {
        return Err(OpenError::Newer {
            database: database.to_string(),
            found,
            known,
        });
    }
    let migrated = POSTGRES_MIGRATIONS.run(&pool).await;
    migrated.map_err(|source| OpenError::Migrate {
        database: database.to_string(),
        source,
    })?;
    Ok((
        pool,
        connections(POSTGRES_WRITERS).connect_lazy_with(options),
    ))
}

/// The schema version in the file; none when it is new.
async fn schema_of_file(pool: &SqlitePool) -> Result<Option<i64>, sqlx::Error> {
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

/// The schema version on the server; none when the database is empty.
async fn schema_of_server(pool: &PgPool) -> Result<Option<i64>, sqlx::Error> {
    let table: Option<String> = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations')::text")
        .fetch_one(pool)
        .await?;
    if table.is_none() {
        return Ok(None);
    }
    sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
        .fetch_one(pool)
        .await
}

/// Writes the database, as it is at one moment, to a new file.
pub(super) async fn vacuum_into(pool: &SqlitePool, path: &Path) -> Result<(), sqlx::Error> {
    let target = path.to_string_lossy().replace('\'', "''");
    sqlx::query(AssertSqlSafe(format!("VACUUM INTO '{target}'")))
        .execute(pool)
        .await
        .map(drop)
}

/// Opens a backup, checks all of it, and upgrades it in place when it is of an older version.
pub(super) async fn open_existing_file(path: &Path) -> Result<SqlitePool, BackupError> {
    let failed = |source| BackupError::NotABackup {
        reason: "SQLite cannot read it".to_owned(),
        source: Some(source),
    };
    let not_whole = |reason: &str| BackupError::NotABackup {
        reason: reason.to_owned(),
        source: None,
    };
    // No file beside it that would have to be removed too.
    let options = SqliteConnectOptions::new()
        .filename(path)
        .foreign_keys(true)
        .journal_mode(SqliteJournalMode::Memory)
        .synchronous(SqliteSynchronous::Off);
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .connect_with(options)
        .await
        .map_err(failed)?;
    let known = newest(&SQLITE_MIGRATIONS);
    let found = schema_of_file(&pool)
        .await
        .map_err(failed)?
        .ok_or_else(|| not_whole("it is not of a coordinator"))?;
    if found > known {
        return Err(BackupError::Open(OpenError::Newer {
            database: "of the backup".to_owned(),
            found,
            known,
        }));
    }
    let problems: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check")
        .fetch_all(&pool)
        .await
        .map_err(failed)?;
    if problems != ["ok"] {
        return Err(not_whole(&problems.join("; ")));
    }
    let dangling = sqlx::query("PRAGMA foreign_key_check")
        .fetch_all(&pool)
        .await
        .map_err(failed)?;
    if !dangling.is_empty() {
        return Err(not_whole("rows refer to rows that are not there"));
    }
    SQLITE_MIGRATIONS.run(&pool).await.map_err(|source| {
        BackupError::Open(OpenError::Migrate {
            database: "of the backup".to_owned(),
            source,
        })
    })?;
    Ok(pool)
}

async fn back_up(pool: &SqlitePool, path: &Path, found: i64, known: i64) -> Result<(), OpenError> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".before-{known}-from-{found}"));
    let copy = PathBuf::from(name);
    // A copy of this very version may be left from an upgrade that failed; it is as good.
    if copy.exists() {
        return Ok(());
    }
    vacuum_into(pool, &copy)
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

    async fn open(path: &Path) -> Store {
        Store::open(&Database::File(path.to_owned())).await.unwrap()
    }

    async fn execute(store: &Store, statement: &'static str) {
        let Pool::Sqlite(pool) = &store.pool else {
            panic!("a file was opened");
        };
        sqlx::query(statement).execute(pool).await.unwrap();
    }

    #[tokio::test]
    async fn a_backup_is_a_whole_database() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("it's.db");
        let store = open(&path).await;
        let mut tx = store.write().await.unwrap();
        tx.insert_user("alice", 0).await.unwrap();
        tx.commit().await.unwrap();
        let Pool::Sqlite(pool) = &store.pool else {
            panic!("a file was opened");
        };
        back_up(pool, &path, 1, 2).await.unwrap();
        let copy = open(&directory.path().join("it's.db.before-2-from-1")).await;
        let users = copy.read().await.unwrap().users().await.unwrap();
        assert_eq!(users[0].name, "alice");
    }

    #[tokio::test]
    async fn a_database_of_the_first_version_is_copied_and_upgraded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.db");
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true);
        let pool = SqlitePool::connect_with(options).await.unwrap();
        let first = SQLITE_MIGRATIONS.iter().take(1).cloned().collect();
        Migrator::with_migrations(first).run(&pool).await.unwrap();
        let store = Store {
            pool: Pool::Sqlite(pool.clone()),
            writers: Pool::Sqlite(pool),
            machines: Machines::default(),
            lowest_address: Arc::default(),
            writer: Arc::default(),
            changes: Arc::default(),
            figures: Arc::default(),
            #[cfg(test)]
            faults: Arc::default(),
        };
        for statement in [
            "INSERT INTO policies (text, saved_at, saved_by) VALUES ('{}', 7, 'somebody')",
            "INSERT INTO audit (id, at, actor, action, subject, after) \
             VALUES (2, 7, 'somebody', 'policy.set', 'policy', '{}'), \
                    (5, 8, 'somebody', 'policy.set', 'policy', '{}')",
        ] {
            execute(&store, statement).await;
        }
        store.close().await;
        let store = open(&path).await;
        let policies = store.read().await.unwrap().newest_policies(2).await;
        let policies = policies.unwrap();
        assert_eq!((policies[0].saved_at, policies[0].note.as_str()), (7, ""));
        let copies: Vec<_> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains(".before-") && name.ends_with("-from-1"))
            .collect();
        assert_eq!(copies.len(), 1, "{copies:?}");
        // What was written before there were hashes is tied together, and only once.
        let report = store.read().await.unwrap().verify_audit(None).await;
        let report = report.unwrap();
        assert_eq!((report.entries, report.head.id), (2, 2));
        assert_eq!(report.flaws, []);
        execute(&store, "UPDATE audit SET actor = 'nobody' WHERE id = 1").await;
        store.close().await;
        let store = open(&path).await;
        let report = store.read().await.unwrap().verify_audit(None).await;
        assert_eq!(report.unwrap().flaws.len(), 1);
    }

    #[tokio::test]
    async fn what_is_not_committed_is_undone() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory.path().join("a.db")).await;
        let mut tx = store.write().await.unwrap();
        tx.insert_user("alice", 0).await.unwrap();
        drop(tx);
        let users = store.read().await.unwrap().users().await.unwrap();
        assert!(users.is_empty());
    }
}
