//! Everything the coordinator remembers, in SQLite or PostgreSQL. No SQL exists outside of this
//! module, and each statement exists once (`dialect`).
//!
//! All reading and writing goes through a [`Tx`]: one consistent view, and for writers one
//! all-or-nothing change that carries its own audit row. What may change is decided by the
//! callers (`enrolment`, `admin`), who see typed rows and never text.

mod accounts;
mod admin_tokens;
mod audit;
mod audit_chain;
mod auth_keys;
mod backup;
mod changes;
mod coordinators;
mod copy;
mod database;
mod dialect;
#[cfg(test)]
mod faults;
mod idempotency;
mod machines;
mod maps;
mod nodes;
mod open;
mod places;
mod policies;
mod route_egress;
mod routes;
mod rows;
mod users;
mod waiting;

pub use audit::{Actor, AuditEntry, AuditRow};
pub use audit_chain::{AuditFlaw, AuditHead, AuditReport};
pub use backup::{BackupError, Restored};
pub use changes::Changes;
pub use coordinators::{Candidate, CoordinatorRow, Epoch, Follow};
pub use database::{Database, DatabaseUrlError};
#[cfg(test)]
pub(crate) use faults::{CommitFault, Faults};
pub use idempotency::{Claim, Claimed};
pub use machines::{Known, Machine};
pub use open::OpenError;
pub use routes::Decision;
pub use rows::{
    AccountRow, AdminTokenRow, AuthKeyRow, EgressRow, NewAdminToken, NewAuthKey, NewNode, NodeRow,
    PolicyRow, RevisionRow, RouteRow, UserRow, WaitingRow,
};

use crate::metrics::StoreFigures;
use dialect::{Inner, fetch_one};
use machines::Machines;
use sqlx::{PgPool, SqlitePool};
use std::{
    fmt,
    str::FromStr,
    sync::{Arc, PoisonError, atomic::AtomicU32},
    time::{Duration, Instant},
};
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::timeout,
};

/// How the codes begin with which PostgreSQL says that it cannot serve now (PostgreSQL manual,
/// appendix A): no connection, out of resources, shutting down or starting, waited too long for
/// another change, idle too long, and a standby that cannot be written to.
const UNAVAILABLE: [&str; 6] = ["08", "53", "57P", "55P03", "25P03", "25006"];

/// SQLite: `SQLITE_FULL`, and `SQLITE_IOERR_SHMSIZE` when the index of the write-ahead log cannot
/// grow (SQLite, Result and Error Codes). PostgreSQL: `disk_full`.
const FULL: [&str; 3] = ["13", "4874", "53100"];

/// The longest that a change waits for its turn. All agents of a large network come back at once
/// after a restart, each with one small change.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);

/// The database. Cheap to clone: clones share the connections.
#[derive(Clone)]
pub struct Store {
    /// For reading.
    pool: Pool,
    /// For changing: whoever has the turn never waits for those who read.
    writers: Pool,
    /// Writers queue here, first come first served, and not inside the database: there each would
    /// hold a connection that readers need, and whoever waits longest could be starved.
    writer: Arc<Mutex<()>>,
    /// What was changed since somebody asked.
    changes: SharedChanges,
    machines: Machines,
    /// All numbers of addresses below are taken; 0 when that is not known.
    lowest_address: Arc<AtomicU32>,
    figures: Arc<StoreFigures>,
    #[cfg(test)]
    faults: Arc<Faults>,
}

type SharedChanges = Arc<std::sync::Mutex<Changes>>;

/// The connections to either.
#[derive(Clone)]
enum Pool {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

/// Why the database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A statement failed.
    #[error("cannot {doing}")]
    Database {
        /// What was being done: "list the nodes".
        doing: &'static str,
        /// What the database says.
        #[source]
        source: sqlx::Error,
    },
    /// Too many changes are waiting.
    #[error("a change waited longer than {} seconds for those before it", WRITE_DEADLINE.as_secs())]
    Busy,
    /// Another request with the same idempotency key made this change.
    #[error("another request with this Idempotency-Key was done at the same time")]
    Repeated,
    /// A stored value is not what this program writes.
    #[error("the database holds \"{value}\" where a {expected} should be")]
    Corrupt {
        /// What should be there.
        expected: &'static str,
        /// What is there.
        value: String,
    },
    /// A value cannot be written as JSON.
    #[error("cannot write {0} as JSON")]
    Json(&'static str, #[source] serde_json::Error),
}

impl StoreError {
    /// Whether the database is to be had no more, or not at the moment: the same may work later.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        let source = match self {
            Self::Database { source, .. } => source,
            Self::Busy => return true,
            Self::Repeated | Self::Corrupt { .. } | Self::Json(..) => return false,
        };
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "the kinds are many and grow; the others are not about reaching the database"
        )]
        match source {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed => true,
            sqlx::Error::Database(error) => error
                .code()
                .is_some_and(|code| UNAVAILABLE.iter().any(|prefix| code.starts_with(prefix))),
            _ => false,
        }
    }

    /// Whether there is no room on the disk: nothing was changed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let Self::Database {
            source: sqlx::Error::Database(error),
            ..
        } = self
        else {
            return false;
        };
        error.code().is_some_and(|code| FULL.contains(&&*code))
    }

    fn doing(doing: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Database { doing, source }
    }
}

/// A consistent view of the database and, when it was begun for writing, a change of it. What is
/// not committed is undone when it is dropped.
pub struct Tx {
    inner: Inner,
    /// What was changed of that which network maps are made of.
    changes: Changes,
    /// Where that is told once it is committed.
    told: SharedChanges,
    machines: Machines,
    lowest_address: Arc<AtomicU32>,
    /// When it began, or got its turn.
    begun: Instant,
    figures: Arc<StoreFigures>,
    /// The newest entry that was written to the audit log.
    recorded: Option<AuditHead>,
    /// Whether it can change nothing.
    only_reads: bool,
    /// Whether the claim of the request that is being worked on is stored.
    claimed: bool,
    #[cfg(test)]
    faults: Arc<Faults>,
    // Behind the transaction, so that it is dropped after it.
    _turn: Option<OwnedMutexGuard<()>>,
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").finish_non_exhaustive()
    }
}

impl Store {
    /// Begins reading. Sees the database as it is at its first statement, whatever is written
    /// meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn read(&self) -> Result<Tx, StoreError> {
        let started = Instant::now();
        self.may_begin().await?;
        let inner = match &self.pool {
            Pool::Sqlite(pool) => pool.begin().await.map(Inner::Sqlite),
            Pool::Postgres(pool) => pool
                .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                .await
                .map(Inner::Postgres),
        };
        let inner = inner.map_err(StoreError::doing("begin to read the database"))?;
        self.figures.begin.note(started.elapsed());
        Ok(Tx {
            only_reads: true,
            ..self.begun(inner, None)
        })
    }

    /// Begins a change. Changes run one after the other, also those of other coordinators on the
    /// same database: this waits for the one before.
    ///
    /// # Errors
    /// [`StoreError::Database`]; [`StoreError::Busy`] when the wait took longer than half a minute.
    pub async fn write(&self) -> Result<Tx, StoreError> {
        let doing = "begin to change the database";
        let started = Instant::now();
        self.may_begin().await?;
        let turn = timeout(WRITE_DEADLINE, Arc::clone(&self.writer).lock_owned())
            .await
            .map_err(|_| StoreError::Busy)?;
        let inner = match &self.writers {
            // A transaction that starts by reading and then writes could be refused half-way.
            Pool::Sqlite(pool) => pool.begin_with("BEGIN IMMEDIATE").await.map(Inner::Sqlite),
            Pool::Postgres(pool) => pool.begin().await.map(Inner::Postgres),
        };
        let mut tx = self.begun(inner.map_err(StoreError::doing(doing))?, Some(turn));
        if let Inner::Postgres(inner) = &mut tx.inner {
            // Whoever has this row has the turn.
            sqlx::query("SELECT number FROM revision FOR UPDATE")
                .execute(&mut **inner)
                .await
                .map_err(StoreError::doing(doing))?;
        }
        self.figures.turn.note(started.elapsed());
        tx.begun = Instant::now();
        Ok(tx)
    }

    /// Begins to note something that concerns nobody else's changes: it need not wait for its turn
    /// where the database allows for that.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn note(&self) -> Result<Tx, StoreError> {
        let Pool::Postgres(pool) = &self.writers else {
            return self.write().await;
        };
        self.may_begin().await?;
        let inner = pool
            .begin()
            .await
            .map_err(StoreError::doing("begin to change the database"))?;
        Ok(self.begun(Inner::Postgres(inner), None))
    }

    /// What changes that were committed here since the last call were about. Those that another
    /// program made are not among them: [`Tx::revision`] tells that there are any.
    #[must_use]
    pub fn take_changes(&self) -> Changes {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *changes)
    }

    /// Where a test has the database fail.
    #[cfg_attr(not(test), expect(clippy::unused_async, reason = "only tests wait"))]
    async fn may_begin(&self) -> Result<(), StoreError> {
        #[cfg(test)]
        self.faults
            .begin()
            .await
            .map_err(StoreError::doing("begin to use the database"))?;
        Ok(())
    }

    /// The same database as another coordinator sees it, with faults of its own.
    #[cfg(test)]
    pub(crate) fn beside(&self) -> (Self, Arc<Faults>) {
        let faults = Arc::new(self.faults.shared());
        let store = Self {
            changes: Arc::default(),
            machines: Machines::default(),
            lowest_address: Arc::default(),
            figures: Arc::default(),
            faults: Arc::clone(&faults),
            ..self.clone()
        };
        (store, faults)
    }

    /// Waits until the change that is being made here, if there is one, is told to those who make
    /// maps.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn settle(&self) -> Result<(), StoreError> {
        let turn = timeout(WRITE_DEADLINE, self.writer.lock()).await;
        turn.map(drop).map_err(|_| StoreError::Busy)
    }

    fn begun(&self, inner: Inner, turn: Option<OwnedMutexGuard<()>>) -> Tx {
        Tx {
            inner,
            changes: Changes::default(),
            told: Arc::clone(&self.changes),
            machines: self.machines.clone(),
            lowest_address: Arc::clone(&self.lowest_address),
            begun: Instant::now(),
            figures: Arc::clone(&self.figures),
            recorded: None,
            only_reads: false,
            claimed: false,
            #[cfg(test)]
            faults: Arc::clone(&self.faults),
            _turn: turn,
        }
    }

    /// What was measured of it.
    pub(crate) fn figures(&self) -> &StoreFigures {
        &self.figures
    }

    /// Closes the connections, so that nothing is left in the write-ahead log.
    pub async fn close(&self) {
        for pool in [&self.pool, &self.writers] {
            match pool {
                Pool::Sqlite(pool) => pool.close().await,
                Pool::Postgres(pool) => pool.close().await,
            }
        }
    }
}

impl Tx {
    /// How often what network maps are made of has changed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn revision(&mut self) -> Result<u64, StoreError> {
        let (number,): (i64,) = fetch_one!(
            self,
            "read the revision of the network",
            "SELECT number FROM revision"
        )?;
        unsigned("revision of the network", number)
    }

    /// Makes the change last.
    ///
    /// # Errors
    /// [`StoreError::Database`]. Then nothing was changed, unless the connection broke while the
    /// database was saying that it is done.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        let changed = !self.changes.is_empty();
        let mut revision = None;
        if changed {
            let (number,): (i64,) = fetch_one!(
                self,
                "count a change of the network",
                "UPDATE revision SET number = number + 1 RETURNING number"
            )?;
            let number = unsigned("revision of the network", number)?;
            self.changes.revisions.insert(number);
            revision = Some(number);
            self.notify().await?;
        }
        #[cfg(not(test))]
        let committed = self.inner.commit().await;
        #[cfg(test)]
        let committed = faults::commit(self.inner, self.faults.commit()).await;
        if committed.is_err() {
            // It may have happened or not; then the next change, of whomever, has its number.
            self.changes.revisions.clear();
        }
        if let Some(revision) = revision {
            match &committed {
                Ok(()) => self.machines.changed(revision, &self.changes),
                Err(_) => self.machines.forget(),
            }
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.merge(self.changes);
        }
        committed.map_err(StoreError::doing("commit a change"))?;
        self.figures.change.note(self.begun.elapsed());
        if let Some(head) = self.recorded {
            // Whoever keeps the log elsewhere can hold the audit log against it.
            tracing::info!(%head, "the audit log grew");
        }
        Ok(())
    }
}

/// Reads a stored text as the type it was written from.
fn parse<T: FromStr>(expected: &'static str, value: &str) -> Result<T, StoreError> {
    value.parse().map_err(|_| StoreError::Corrupt {
        expected,
        value: value.to_owned(),
    })
}

/// Reads a stored number as an unsigned one.
fn unsigned(expected: &'static str, value: i64) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(|_| StoreError::Corrupt {
        expected,
        value: value.to_string(),
    })
}

/// The databases' integers are signed; our ids start at 1 and count up, so the upper half is never used.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
