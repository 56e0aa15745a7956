//! Several coordinators on one database.
//!
//! All serve alike. What each knows of the network it reads from the database, whenever its
//! revision has changed: a notification is a hint to look at once, and looking regularly is what
//! makes it sure. Each says every other second that it is there and who is connected to it. One of
//! them leads: it judges who is absent and forgets ephemeral nodes. The lead is a lock that the
//! database takes back when the connection ends, and an epoch that is checked in each change made
//! by it, so that one who does not know yet that the lead is gone changes nothing.
//!
//! None of this runs where there is one coordinator only.

mod judge;

use crate::{
    Identity,
    clock::{self, hexadecimal},
    engine::Nudge,
    presence::Presence,
    store::{Candidate, CoordinatorRow, Epoch, Follow, Store, StoreError},
};
use judge::Judge;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};
use weir_overlay::NodeId;

/// How often a coordinator says that it is there.
const BEAT: Duration = Duration::from_secs(2);
/// How soon it says who came or went.
const SETTLE: Duration = Duration::from_millis(200);
/// For how long a coordinator counts as there after it last said so, in seconds: several beats on a
/// busy database.
const LIVES_SECONDS: i64 = 10;
/// How often the revision is looked at when nobody gives a hint.
const POLL: Duration = Duration::from_secs(1);

/// What this coordinator may do for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// There is no other.
    Alone,
    /// It leads.
    Leader(Epoch),
    /// Another one does, or nobody.
    Follower,
}

/// The tasks that go with the others on the database. They end when this is dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    _tasks: JoinSet<()>,
}

impl Cluster {
    /// This coordinator, among those on its database.
    ///
    /// # Errors
    /// What the kernel says when it has no random numbers.
    pub(crate) fn member(identity: &Identity) -> Result<CoordinatorRow, getrandom::Error> {
        Ok(CoordinatorRow {
            id: hexadecimal(&clock::random::<8>()?),
            url: identity.url.clone(),
            pin: identity.pin,
        })
    }

    /// Starts the tasks; none where there is one coordinator only.
    pub(crate) fn start(
        store: &Store,
        member: CoordinatorRow,
        presence: &Arc<Presence>,
        role: watch::Sender<Role>,
        nudge: Nudge,
    ) -> Option<Self> {
        let member = Member::new(store, member, presence, role, nudge.clone())?;
        let mut tasks = JoinSet::new();
        tasks.spawn(member.run());
        tasks.spawn(watch_revision(store.clone(), nudge));
        Some(Self { _tasks: tasks })
    }
}

/// Nudges the engine whenever the revision is another one than it was.
async fn watch_revision(store: Store, nudge: Nudge) {
    let mut seen = None;
    let mut hints: Option<Follow> = None;
    loop {
        match look(&store).await {
            Ok(revision) => {
                if seen.replace(revision) != Some(revision) {
                    nudge.look();
                }
                if hints.is_none() {
                    // Without hints, it looks regularly all the same.
                    hints = store.follow().await.ok().flatten();
                }
            }
            Err(error) => {
                hints = None;
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "cannot look for changes"
                );
            }
        }
        let pause = sleep(jittered(POLL));
        match &mut hints {
            Some(follow) => tokio::select! {
                () = pause => {}
                hint = follow.hint() => {
                    if hint.is_err() {
                        hints = None;
                    }
                }
            },
            None => pause.await,
        }
    }
}

async fn look(store: &Store) -> Result<u64, StoreError> {
    store.read().await?.revision().await
}

/// Half of it to all of it: so that coordinators do not march in step.
fn jittered(pause: Duration) -> Duration {
    let part = clock::random::<1>().map_or(u32::from(u8::MAX), |[byte]| u32::from(byte));
    pause / 2 + pause * part / 512
}

/// What a coordinator tells the others and hears of them.
pub(crate) struct Member {
    store: Store,
    row: CoordinatorRow,
    presence: Arc<Presence>,
    role: watch::Sender<Role>,
    nudge: Nudge,
    candidate: Candidate,
    /// Who is connected here according to the database; unknown at first and after a failure.
    written: Option<BTreeSet<NodeId>>,
    judge: Judge,
}

impl Member {
    /// Of this coordinator; none where it is alone.
    pub(crate) fn new(
        store: &Store,
        row: CoordinatorRow,
        presence: &Arc<Presence>,
        role: watch::Sender<Role>,
        nudge: Nudge,
    ) -> Option<Self> {
        Some(Self {
            store: store.clone(),
            row,
            presence: Arc::clone(presence),
            role,
            nudge,
            candidate: store.candidate()?,
            written: None,
            judge: Judge::default(),
        })
    }

    async fn run(mut self) {
        loop {
            if let Err(error) = self.beat().await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot tell the other coordinators who is connected here; trying again"
                );
            }
            tokio::select! {
                () = sleep(jittered(BEAT)) => {}
                () = self.presence.changed() => sleep(SETTLE).await,
                () = self.role.closed() => break,
            }
        }
    }

    fn take_role(&self, role: Role) {
        self.role.send_if_modified(|now| {
            let changed = *now != role;
            if changed {
                tracing::info!(?role, "the part of this coordinator changed");
            }
            *now = role;
            changed
        });
    }

    /// Says that this coordinator is there, and does what it leads.
    pub(crate) async fn beat(&mut self) -> Result<(), StoreError> {
        let result = self.try_beat().await;
        if result.is_err() {
            // What the database has of this coordinator may be anything now.
            self.written = None;
            self.take_role(Role::Follower);
        }
        result
    }

    async fn try_beat(&mut self) -> Result<(), StoreError> {
        let here = self.presence.connected();
        let mut tx = self.store.note().await?;
        let now = tx.clock().await?;
        tx.coordinator_lives(&self.row, now).await?;
        let written = match self.written.take() {
            Some(written) => written,
            None => tx.streams_of(&self.row.id).await?,
        };
        for node in here.difference(&written) {
            tx.set_stream(&self.row.id, *node, true).await?;
        }
        for node in written.difference(&here) {
            tx.set_stream(&self.row.id, *node, false).await?;
        }
        let elsewhere = tx
            .connected_elsewhere(&self.row.id, now - LIVES_SECONDS)
            .await?;
        tx.commit().await?;
        self.written = Some(here.clone());
        self.presence.set_elsewhere(elsewhere.clone());
        let lead = self.candidate.lead().await?;
        self.take_role(lead.map_or(Role::Follower, Role::Leader));
        match lead {
            Some(epoch) => {
                let online = here.union(&elsewhere).copied().collect();
                self.judge(epoch, &online).await
            }
            None => {
                self.judge.forget();
                Ok(())
            }
        }
    }

    /// Says who is absent, when that has changed.
    async fn judge(&mut self, epoch: Epoch, online: &BTreeSet<NodeId>) -> Result<(), StoreError> {
        let mut tx = self.store.read().await?;
        let (all, absent) = (tx.node_ids().await?, tx.absent_nodes().await?);
        drop(tx);
        let judged = self
            .judge
            .absent(epoch, &all, online, &absent, Instant::now().into_std());
        if judged == absent {
            return Ok(());
        }
        let mut tx = self.store.write().await?;
        if !tx.leads(epoch).await? {
            return Ok(());
        }
        tx.set_absent_nodes(&judged).await?;
        tx.commit().await?;
        self.nudge.look();
        Ok(())
    }
}

/// Says that this coordinator leaves, so that nobody waits for it.
pub(crate) async fn leave(store: &Store, member: &CoordinatorRow) {
    let leave = async {
        let mut tx = store.note().await?;
        tx.coordinator_leaves(&member.id).await?;
        tx.commit().await
    };
    if let Err(error) = leave.await {
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            "cannot say that this coordinator leaves; it will be noticed"
        );
    }
}

/// The coordinators that are there now, this one aside.
///
/// # Errors
/// [`StoreError`].
pub(crate) async fn others(
    store: &Store,
    member: &CoordinatorRow,
) -> Result<Vec<CoordinatorRow>, StoreError> {
    let mut tx = store.read().await?;
    let since = tx.clock().await? - LIVES_SECONDS;
    let mut rows = tx.coordinators(since).await?;
    rows.retain(|row| row.id != member.id);
    Ok(rows)
}
