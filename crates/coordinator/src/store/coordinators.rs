//! What coordinators on one database know of each other.

use super::{
    Pool, Store, StoreError, Tx,
    dialect::{Inner, execute, fetch_all, fetch_one},
    parse, signed, unsigned,
};
use sqlx::{Connection, PgConnection, postgres::PgListener};
use std::{collections::BTreeSet, fmt, time::Duration};
use tokio::time::timeout;
use weir_overlay::NodeId;
use weir_protocol::Pin;

/// The advisory lock of PostgreSQL that the leading coordinator holds: "weir" in ASCII.
const LEAD: i64 = 0x7765_6972;
/// What is notified when the network changed.
const CHANNEL: &str = "weir_network";
/// How long the connection of the lead may take to answer.
const LEAD_DEADLINE: Duration = Duration::from_secs(5);

/// A coordinator that was heard of lately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoordinatorRow {
    /// Chosen at random at each start.
    pub id: String,
    /// Where agents reach it.
    pub url: String,
    /// The pin of its key.
    pub pin: Pin,
}

/// How often the lead had changed when a coordinator took it. Whoever has an older one leads no
/// more, whatever it thinks itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Store {
    /// Whether other coordinators may use the same database.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        #[cfg(test)]
        if self.faults.is_shared() {
            return true;
        }
        matches!(self.pool, Pool::Postgres(_))
    }

    /// Follows changes that any coordinator makes; none where there is one coordinator only.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn follow(&self) -> Result<Option<Follow>, StoreError> {
        let Pool::Postgres(pool) = &self.pool else {
            return Ok(None);
        };
        let doing = "listen for changes";
        let mut listener = PgListener::connect_with(pool)
            .await
            .map_err(StoreError::doing(doing))?;
        listener.ignore_pool_close_event(true);
        listener
            .listen(CHANNEL)
            .await
            .map_err(StoreError::doing(doing))?;
        Ok(Some(Follow(listener)))
    }

    /// Stands for the lead; none where there is one coordinator only.
    #[must_use]
    pub fn candidate(&self) -> Option<Candidate> {
        self.is_shared().then(|| Candidate {
            store: self.clone(),
            held: None,
        })
    }
}

/// Hears of changes. A hint: one may be missed, and one may be heard of twice.
pub struct Follow(PgListener);

impl fmt::Debug for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follow").finish_non_exhaustive()
    }
}

impl Follow {
    /// Waits for the next hint, or for the connection to break.
    ///
    /// # Errors
    /// [`StoreError`]; then there are no more hints.
    pub async fn hint(&mut self) -> Result<(), StoreError> {
        let doing = "listen for changes";
        self.0.try_recv().await.map_err(StoreError::doing(doing))?;
        // Several changes at once are one hint.
        while self.0.next_buffered().is_some() {}
        Ok(())
    }
}

/// A coordinator that leads, or would.
pub struct Candidate {
    store: Store,
    /// The lead is had for as long as this connection lives.
    held: Option<(PgConnection, Epoch)>,
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate").finish_non_exhaustive()
    }
}

impl Candidate {
    /// The lead, when this coordinator has it or now gets it. `new` is whether it was not had
    /// before.
    ///
    /// # Errors
    /// [`StoreError`]; then it is not had.
    pub async fn lead(&mut self) -> Result<Option<Epoch>, StoreError> {
        #[cfg(test)]
        if self.store.faults.is_shared() {
            return self.lead_for_tests().await;
        }
        if let Some((mut connection, epoch)) = self.held.take()
            && let Ok(Ok(())) = timeout(LEAD_DEADLINE, connection.ping()).await
        {
            self.held = Some((connection, epoch));
            return Ok(Some(epoch));
        }
        let Pool::Postgres(pool) = &self.store.pool else {
            return Ok(None);
        };
        let doing = "stand for the lead";
        let mut connection = pool
            .acquire()
            .await
            .map_err(StoreError::doing(doing))?
            .detach();
        let taken: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
            .bind(LEAD)
            .fetch_one(&mut connection)
            .await
            .map_err(StoreError::doing(doing))?;
        if !taken {
            // It is only being given back.
            connection.close().await.ok();
            return Ok(None);
        }
        let mut tx = self.store.write().await?;
        let epoch = tx.next_epoch().await?;
        tx.commit().await?;
        self.held = Some((connection, epoch));
        Ok(Some(epoch))
    }

    /// The same, where a test has a file stand for a server.
    #[cfg(test)]
    async fn lead_for_tests(&mut self) -> Result<Option<Epoch>, StoreError> {
        let faults = std::sync::Arc::clone(&self.store.faults);
        if let Some(epoch) = faults.lead() {
            return Ok(Some(epoch));
        }
        if !faults.take_lead() {
            return Ok(None);
        }
        let taken = async {
            let mut tx = self.store.write().await?;
            let epoch = tx.next_epoch().await?;
            tx.commit().await?;
            Ok(epoch)
        };
        let taken = taken.await;
        match &taken {
            Ok(epoch) => faults.lead_since(*epoch),
            Err(_) => faults.lose_lead(),
        }
        taken.map(Some)
    }

    /// Gives the lead back, so that another one need not wait.
    pub async fn resign(mut self) {
        if let Some((connection, _)) = self.held.take() {
            // Its end is as good.
            connection.close().await.ok();
        }
    }
}

impl Tx {
    async fn next_epoch(&mut self) -> Result<Epoch, StoreError> {
        let (epoch,): (i64,) = fetch_one!(
            self,
            "take the lead",
            "UPDATE leadership SET epoch = epoch + 1 RETURNING epoch"
        )?;
        unsigned("epoch of the lead", epoch).map(Epoch)
    }

    /// Whether nobody has taken the lead since `epoch`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn leads(&mut self, epoch: Epoch) -> Result<bool, StoreError> {
        let (newest,): (i64,) = fetch_one!(self, "look who leads", "SELECT epoch FROM leadership")?;
        Ok(unsigned("epoch of the lead", newest)? == epoch.0)
    }

    /// Now, in seconds since 1970, by the clock that all coordinators share.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn clock(&mut self) -> Result<i64, StoreError> {
        #[cfg(test)]
        if let Some(now) = crate::clock::pretended::of_the_database() {
            return Ok(now);
        }
        let doing = "read the clock of the database";
        let (now,): (i64,) = match &mut self.inner {
            Inner::Sqlite(inner) => {
                sqlx::query_as("SELECT unixepoch()")
                    .fetch_one(&mut **inner)
                    .await
            }
            Inner::Postgres(inner) => {
                sqlx::query_as("SELECT CAST(extract(epoch FROM clock_timestamp()) AS BIGINT)")
                    .fetch_one(&mut **inner)
                    .await
            }
        }
        .map_err(StoreError::doing(doing))?;
        Ok(now)
    }

    /// Says that a coordinator is there at `now`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn coordinator_lives(
        &mut self,
        coordinator: &CoordinatorRow,
        now: i64,
    ) -> Result<(), StoreError> {
        execute!(
            self,
            "say that this coordinator is there",
            "INSERT INTO coordinators (id, url, pin, seen_at) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (id) DO UPDATE SET seen_at = $4",
            &coordinator.id,
            &coordinator.url,
            coordinator.pin.to_string(),
            now
        )?;
        Ok(())
    }

    /// The coordinators that were there at `since` or later, by URL.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn coordinators(&mut self, since: i64) -> Result<Vec<CoordinatorRow>, StoreError> {
        let rows: Vec<(String, String, String)> = fetch_all!(
            self,
            "list the coordinators",
            "SELECT id, url, pin FROM coordinators WHERE seen_at >= $1 ORDER BY url, id",
            since
        )?;
        rows.into_iter()
            .map(|(id, url, pin)| {
                let pin = parse("pin", &pin)?;
                Ok(CoordinatorRow { id, url, pin })
            })
            .collect()
    }

    /// Forgets the coordinators that were not there since, and who was connected to them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget_coordinators(&mut self, since: i64) -> Result<(), StoreError> {
        execute!(
            self,
            "forget coordinators that are gone",
            "DELETE FROM coordinators WHERE seen_at < $1",
            since
        )?;
        Ok(())
    }

    /// Forgets one coordinator, and who was connected to it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn coordinator_leaves(&mut self, id: &str) -> Result<(), StoreError> {
        execute!(
            self,
            "say that this coordinator leaves",
            "DELETE FROM coordinators WHERE id = $1",
            id
        )?;
        Ok(())
    }

    /// Notes that a node is, or is no longer, connected to a coordinator.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_stream(
        &mut self,
        coordinator: &str,
        node: NodeId,
        open: bool,
    ) -> Result<(), StoreError> {
        let statement = if open {
            "INSERT INTO streams (coordinator, node_id) VALUES ($1, $2) ON CONFLICT DO NOTHING"
        } else {
            "DELETE FROM streams WHERE coordinator = $1 AND node_id = $2"
        };
        execute!(
            self,
            "note who is connected",
            statement,
            coordinator,
            signed(node.0)
        )?;
        Ok(())
    }

    /// The nodes that are connected to a coordinator, as far as it noted.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn streams_of(&mut self, coordinator: &str) -> Result<BTreeSet<NodeId>, StoreError> {
        let rows: Vec<(i64,)> = fetch_all!(
            self,
            "list who is connected",
            "SELECT node_id FROM streams WHERE coordinator = $1",
            coordinator
        )?;
        node_ids(rows)
    }

    /// The nodes that are connected to any other coordinator that was there at `since` or later.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn connected_elsewhere(
        &mut self,
        coordinator: &str,
        since: i64,
    ) -> Result<BTreeSet<NodeId>, StoreError> {
        let rows: Vec<(i64,)> = fetch_all!(
            self,
            "list who is connected elsewhere",
            "SELECT DISTINCT node_id FROM streams \
             JOIN coordinators ON coordinators.id = streams.coordinator \
             WHERE coordinators.id <> $1 AND coordinators.seen_at >= $2",
            coordinator,
            since
        )?;
        node_ids(rows)
    }

    /// The ids of all nodes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn node_ids(&mut self) -> Result<BTreeSet<NodeId>, StoreError> {
        let rows: Vec<(i64,)> = fetch_all!(self, "list the nodes", "SELECT id FROM nodes")?;
        node_ids(rows)
    }

    /// The nodes that the lead judged to be absent.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn absent_nodes(&mut self) -> Result<BTreeSet<NodeId>, StoreError> {
        let rows: Vec<(i64,)> = fetch_all!(
            self,
            "list the absent nodes",
            "SELECT node_id FROM absent_nodes"
        )?;
        node_ids(rows)
    }

    /// Makes these the absent nodes, as far as they exist, and no others.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_absent_nodes(&mut self, absent: &BTreeSet<NodeId>) -> Result<(), StoreError> {
        let doing = "note who is absent";
        let before = self.absent_nodes().await?;
        for node in before.difference(absent) {
            execute!(
                self,
                doing,
                "DELETE FROM absent_nodes WHERE node_id = $1",
                signed(node.0)
            )?;
        }
        for node in absent.difference(&before) {
            execute!(
                self,
                doing,
                "INSERT INTO absent_nodes (node_id) SELECT id FROM nodes WHERE id = $1",
                signed(node.0)
            )?;
        }
        self.changes.absent |= before != *absent;
        Ok(())
    }

    /// Tells other coordinators to look, once this is committed.
    pub(super) async fn notify(&mut self) -> Result<(), StoreError> {
        if let Inner::Postgres(inner) = &mut self.inner {
            sqlx::query("SELECT pg_notify($1, '')")
                .bind(CHANNEL)
                .execute(&mut **inner)
                .await
                .map_err(StoreError::doing("tell the other coordinators of a change"))?;
        }
        Ok(())
    }
}

fn node_ids(rows: Vec<(i64,)>) -> Result<BTreeSet<NodeId>, StoreError> {
    rows.into_iter()
        .map(|(id,)| unsigned("node id", id).map(NodeId))
        .collect()
}
