//! A database that fails as a test says, and lets those who use it go one transaction at a time.

use super::{Epoch, dialect::Inner};
use std::{
    borrow::Cow,
    error::Error,
    fmt,
    future::poll_fn,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
};

/// What becomes of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommitFault {
    /// It fails before it happens.
    Lost,
    /// It happens, and the answer is lost.
    AnswerLost,
    /// There is no room for it.
    Full,
}

/// Who has the lock of the lead: all that share a database share it.
type Lead = Arc<Mutex<Option<u64>>>;

#[derive(Debug, Default)]
struct State {
    shared: bool,
    /// Which connection this is, and the epoch that it leads in.
    connection: u64,
    epoch: Option<Epoch>,
    lead: Lead,
    away: bool,
    full: bool,
    next_commit: Option<CommitFault>,
    stepwise: bool,
    at_gate: bool,
}

/// The faults of one coordinator's connections to the database.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<State>);

impl Faults {
    /// Of a coordinator that shares the database with others.
    pub(super) fn shared(&self) -> Self {
        static CONNECTIONS: AtomicU64 = AtomicU64::new(1);
        Self(Mutex::new(State {
            shared: true,
            connection: CONNECTIONS.fetch_add(1, Ordering::Relaxed),
            lead: Arc::clone(&self.lock().lead),
            ..State::default()
        }))
    }

    /// The epoch of the lead, if this connection still has it.
    pub(super) fn lead(&self) -> Option<Epoch> {
        let state = self.lock();
        let holder = *state.lead.lock().unwrap_or_else(PoisonError::into_inner);
        state
            .epoch
            .filter(|_| holder == Some(state.connection) && !state.away)
    }

    /// Takes the lock of the lead when nobody has it.
    pub(super) fn take_lead(&self) -> bool {
        let state = self.lock();
        let mut holder = state.lead.lock().unwrap_or_else(PoisonError::into_inner);
        let is_free = holder.is_none() || *holder == Some(state.connection);
        if is_free {
            *holder = Some(state.connection);
        }
        is_free
    }

    pub(super) fn lead_since(&self, epoch: Epoch) {
        self.lock().epoch = Some(epoch);
    }

    /// The connection that has the lead breaks: the database takes the lock back, whether or not
    /// the one who led has noticed.
    pub(crate) fn lose_lead(&self) {
        let state = self.lock();
        let mut holder = state.lead.lock().unwrap_or_else(PoisonError::into_inner);
        holder.take_if(|holder| *holder == state.connection);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_shared(&self) -> bool {
        self.lock().shared
    }

    /// The database cannot be reached, or can again.
    pub(crate) fn set_away(&self, away: bool) {
        self.lock().away = away;
    }

    pub(crate) fn is_away(&self) -> bool {
        self.lock().away
    }

    /// The database has no room for any change, or has again.
    pub(crate) fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// What becomes of the next commit.
    pub(crate) fn fail_next_commit(&self, fault: CommitFault) {
        self.lock().next_commit = Some(fault);
    }

    /// Nothing fails any more.
    pub(crate) fn heal(&self) {
        let mut state = self.lock();
        (state.away, state.full, state.next_commit) = (false, false, None);
    }

    /// Whether each transaction waits before it begins until its future is polled again.
    pub(crate) fn set_stepwise(&self, stepwise: bool) {
        self.lock().stepwise = stepwise;
    }

    /// Whether a transaction waits to begin, since the last time this was asked.
    pub(crate) fn take_at_gate(&self) -> bool {
        std::mem::take(&mut self.lock().at_gate)
    }

    /// A transaction is about to begin.
    pub(super) async fn begin(&self) -> Result<(), sqlx::Error> {
        let mut waited = !self.lock().stepwise;
        poll_fn(|_| {
            if std::mem::replace(&mut waited, true) {
                return Poll::Ready(());
            }
            self.lock().at_gate = true;
            Poll::Pending
        })
        .await;
        match self.is_away() {
            true => Err(gone()),
            false => Ok(()),
        }
    }

    /// A transaction is about to be committed.
    pub(super) fn commit(&self) -> Option<CommitFault> {
        let mut state = self.lock();
        let fault = state.next_commit.take();
        match (state.away, state.full) {
            (true, _) => Some(CommitFault::Lost),
            (false, true) => Some(CommitFault::Full),
            (false, false) => fault,
        }
    }
}

/// Commits, or not.
pub(super) async fn commit(inner: Inner, fault: Option<CommitFault>) -> Result<(), sqlx::Error> {
    match fault {
        None => inner.commit().await,
        Some(CommitFault::Lost) => inner.roll_back().await.and(Err(gone())),
        Some(CommitFault::AnswerLost) => inner.commit().await.and(Err(gone())),
        Some(CommitFault::Full) => inner.roll_back().await.and(Err(full())),
    }
}

/// What a broken connection says.
fn gone() -> sqlx::Error {
    sqlx::Error::Io(io::Error::from(io::ErrorKind::ConnectionReset))
}

/// What PostgreSQL says when its disk is full.
fn full() -> sqlx::Error {
    sqlx::Error::Database(Box::new(Full))
}

#[derive(Debug)]
struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("could not extend file: No space left on device")
    }
}

impl Error for Full {}

impl sqlx::error::DatabaseError for Full {
    fn message(&self) -> &str {
        "could not extend file: No space left on device"
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed("53100"))
    }

    fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
        self
    }

    fn kind(&self) -> sqlx::error::ErrorKind {
        sqlx::error::ErrorKind::Other
    }
}
