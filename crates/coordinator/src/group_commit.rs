//! Small notes of many agents, stored together.
//!
//! Each signed request leaves a note that must outlive a crash before the request is answered, and
//! making something durable waits for the disk. So notes gather while the disk is at work on those
//! before, and all that have gathered are one transaction: at once when nothing else is going on,
//! many at a time when all agents come back at once. Whoever left a note goes on when it is durable.

use crate::{
    refusal::Refusal,
    store::{Store, StoreError, Tx},
};
use tokio::sync::{mpsc, oneshot};
use weir_overlay::{Generation, MachinePublicKey, NodeId};
use weir_protocol::{ErrorCode, ItemFailure};

/// The most notes that wait. Who comes when so many do is told to come again.
const MAX_WAITING: usize = 4096;
/// The most notes of one transaction: few enough that a change of the network, which waits for its
/// end, waits for some tens of milliseconds.
const MAX_TOGETHER: usize = 512;

/// What is stored of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// This signature was accepted.
    Signature {
        /// Who signed.
        machine: MachinePublicKey,
        /// What tells it from the machine's others.
        nonce: String,
        /// Until when it must be remembered, in seconds since 1970.
        forget_at: i64,
    },
    /// A node has told what of its map is in force.
    Report {
        /// Which node.
        node: NodeId,
        /// The map.
        generation: Generation,
        /// What could not be put in force.
        failures: Vec<ItemFailure>,
    },
}

impl Note {
    /// The row that it is about.
    fn row(&self) -> (Option<(&MachinePublicKey, &str)>, Option<NodeId>) {
        match self {
            Self::Signature { machine, nonce, .. } => (Some((machine, nonce)), None),
            Self::Report { node, .. } => (None, Some(*node)),
        }
    }

    /// Says whether it was news.
    async fn store(&self, tx: &mut Tx) -> Result<bool, StoreError> {
        match self {
            Self::Signature {
                machine,
                nonce,
                forget_at,
            } => tx.remember_signature(machine, nonce, *forget_at).await,
            Self::Report {
                node,
                generation,
                failures,
            } => tx
                .set_node_report(*node, *generation, failures)
                .await
                .map(|()| true),
        }
    }
}

/// Why a note was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoteError {
    /// Too many wait.
    #[error(
        "more agents than the coordinator can serve are asking at once: it was not done, try again"
    )]
    Full,
    /// There is no room on the disk.
    #[error(
        "the coordinator's disk is full, so nothing was changed: make room (df -h shows where), \
         and try again (the network goes on as it is)"
    )]
    StorageFull,
    /// The store failed, and may work later. The log says how.
    #[error(
        "the coordinator's database does not answer, so this may not have been done: try again \
         once it is back (the network goes on as it is)"
    )]
    Unavailable,
    /// The store failed. The log says how.
    #[error(
        "the coordinator could not use its database: its log says why (journalctl -u \
         weir-coordinator)"
    )]
    Failed,
}

impl From<NoteError> for Refusal {
    fn from(error: NoteError) -> Self {
        let code = match error {
            NoteError::Full | NoteError::Unavailable => ErrorCode::Unavailable,
            NoteError::StorageFull => ErrorCode::StorageFull,
            NoteError::Failed => ErrorCode::Internal,
        };
        Self::new(code, error.to_string())
    }
}

/// A note that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Whether it was news.
    pub is_news: bool,
    /// The revision of the network when it was stored.
    pub revision: u64,
}

#[derive(Debug)]
struct Waiting {
    note: Note,
    answer: oneshot::Sender<Result<Stored, NoteError>>,
}

/// Where notes are left. The task behind it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct GroupCommit {
    waiting: mpsc::Sender<Waiting>,
}

impl GroupCommit {
    /// Starts the task that stores what is left.
    pub(crate) fn start(store: Store) -> Self {
        let (waiting, queue) = mpsc::channel(MAX_WAITING);
        tokio::spawn(store_groups(store, queue));
        Self { waiting }
    }

    /// Leaves a note, and waits until it is durable.
    ///
    /// # Errors
    /// [`NoteError`].
    pub(crate) async fn store(&self, note: Note) -> Result<Stored, NoteError> {
        let (answer, stored) = oneshot::channel();
        self.waiting
            .try_send(Waiting { note, answer })
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => NoteError::Full,
                mpsc::error::TrySendError::Closed(_) => NoteError::Unavailable,
            })?;
        stored.await.unwrap_or(Err(NoteError::Unavailable))
    }
}

async fn store_groups(store: Store, mut queue: mpsc::Receiver<Waiting>) {
    let mut group = Vec::new();
    while queue.recv_many(&mut group, MAX_TOGETHER).await > 0 {
        // Always in one order: coordinators on one database that store the same rows could come to
        // wait for each other. Of notes about one row the first to arrive stays the first.
        group.sort_by(|one: &Waiting, other| one.note.row().cmp(&other.note.row()));
        match store_group(&store, &group).await {
            Ok(stored) => {
                for (waiting, stored) in group.drain(..).zip(stored) {
                    // Whoever asked may be gone.
                    waiting.answer.send(Ok(stored)).ok();
                }
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    requests = group.len(),
                    "cannot store what requests leave; they are refused"
                );
                let told = match (error.is_full(), error.is_unavailable()) {
                    (true, _) => NoteError::StorageFull,
                    (false, true) => NoteError::Unavailable,
                    (false, false) => NoteError::Failed,
                };
                for waiting in group.drain(..) {
                    waiting.answer.send(Err(told)).ok();
                }
            }
        }
    }
}

/// Stores all or nothing.
async fn store_group(store: &Store, group: &[Waiting]) -> Result<Vec<Stored>, StoreError> {
    let reports = |waiting: &Waiting| matches!(waiting.note, Note::Report { .. });
    // Rows of nodes are others' business too: with those it takes its turn among the changes.
    let mut tx = match group.iter().any(reports) {
        true => store.write().await?,
        false => store.note().await?,
    };
    let mut news = Vec::with_capacity(group.len());
    for waiting in group {
        news.push(waiting.note.store(&mut tx).await?);
    }
    let revision = tx.revision().await?;
    tx.commit().await?;
    let stored = |is_news| Stored { is_news, revision };
    Ok(news.into_iter().map(stored).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Database;
    use tokio::task::JoinSet;
    use weir_overlay::MachinePrivateKey;

    const NOW: i64 = 1_000;

    async fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let database = Database::File(directory.path().join("a.db"));
        let store = Store::open(&database).await.unwrap();
        (directory, store)
    }

    fn signature(nonce: usize) -> Note {
        Note::Signature {
            machine: MachinePrivateKey::from_bytes([1; 32]).public(),
            nonce: nonce.to_string(),
            forget_at: NOW + 1,
        }
    }

    async fn stored(store: &Store) -> usize {
        let mut tx = store.read().await.unwrap();
        tx.accepted_signatures(NOW).await.unwrap().len()
    }

    #[tokio::test]
    async fn a_signature_is_news_once_whoever_else_is_stored_with_it() {
        let (_directory, store) = store().await;
        let notes = std::sync::Arc::new(GroupCommit::start(store.clone()));
        // While this is held all gather, and are stored as one group.
        let turn = store.write().await.unwrap();
        let mut asking = JoinSet::new();
        for nonce in (0..100).chain(0..100) {
            let notes = std::sync::Arc::clone(&notes);
            asking.spawn(async move { (nonce, notes.store(signature(nonce)).await) });
        }
        tokio::task::yield_now().await;
        drop(turn);
        let mut accepted = Vec::new();
        while let Some(asked) = asking.join_next().await {
            let (nonce, news) = asked.unwrap();
            if news.unwrap().is_news {
                accepted.push(nonce);
            }
        }
        accepted.sort_unstable();
        assert_eq!(accepted, (0..100).collect::<Vec<_>>());
        assert_eq!(stored(&store).await, 100);
        // Nor later.
        assert!(!notes.store(signature(7)).await.unwrap().is_news);
    }

    #[tokio::test]
    async fn who_comes_when_too_many_wait_is_told_so_and_nothing_is_lost() {
        let (_directory, store) = store().await;
        let (waiting, mut queue) = mpsc::channel(2);
        let notes = GroupCommit { waiting };
        let (one, other, third) = (
            notes.store(signature(1)),
            notes.store(signature(2)),
            notes.store(signature(3)),
        );
        let serve = async {
            let mut group = Vec::new();
            while group.len() < 2 {
                queue.recv_many(&mut group, 2).await;
            }
            let news = store_group(&store, &group).await.unwrap();
            for (waiting, news) in group.into_iter().zip(news) {
                waiting.answer.send(Ok(news)).unwrap();
            }
        };
        let (one, other, third, ()) = tokio::join!(biased; one, other, third, serve);
        assert!(one.unwrap().is_news && other.unwrap().is_news);
        assert_eq!(third, Err(NoteError::Full));
        assert_eq!(stored(&store).await, 2);
    }

    #[tokio::test]
    async fn a_store_that_fails_is_said_to_all_who_wait() {
        let (_directory, store) = store().await;
        store.close().await;
        let notes = GroupCommit::start(store);
        assert_eq!(notes.store(signature(1)).await, Err(NoteError::Unavailable));
    }
}
