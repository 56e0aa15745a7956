//! Numbers of network maps, and signatures that were accepted.

use super::{StoreError, StoredMap, Tx, parse, signed, unsigned};
use weir_overlay::{Generation, MachinePublicKey, NodeId};

impl Tx {
    /// The newest number that any map has.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn newest_generation(&mut self) -> Result<Generation, StoreError> {
        let number: i64 = sqlx::query_scalar("SELECT generation FROM newest_generation")
            .fetch_one(&mut *self.inner)
            .await
            .map_err(StoreError::doing("read the newest generation"))?;
        unsigned("generation", number).map(Generation)
    }

    /// Stores the newest number. It never goes down.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_newest_generation(&mut self, newest: Generation) -> Result<(), StoreError> {
        sqlx::query("UPDATE newest_generation SET generation = max(generation, ?)")
            .bind(signed(newest.0))
            .execute(&mut *self.inner)
            .await
            .map_err(StoreError::doing("store the newest generation"))?;
        Ok(())
    }

    /// The number and digest of every node's newest map.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn stored_maps(&mut self) -> Result<Vec<StoredMap>, StoreError> {
        let rows: Vec<(i64, i64, String)> =
            sqlx::query_as("SELECT node_id, generation, digest FROM maps ORDER BY node_id")
                .fetch_all(&mut *self.inner)
                .await
                .map_err(StoreError::doing("read the generations of the maps"))?;
        rows.into_iter()
            .map(|(node, generation, digest)| {
                Ok(StoredMap {
                    node: NodeId(unsigned("node id", node)?),
                    generation: Generation(unsigned("generation", generation)?),
                    digest,
                })
            })
            .collect()
    }

    /// Stores which map a node is given now. A node that is gone meanwhile is passed over.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_stored_map(&mut self, map: &StoredMap) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO maps (node_id, generation, digest) \
             SELECT id, ?2, ?3 FROM nodes WHERE id = ?1 \
             ON CONFLICT (node_id) DO UPDATE SET generation = ?2, digest = ?3",
        )
        .bind(signed(map.node.0))
        .bind(signed(map.generation.0))
        .bind(&map.digest)
        .execute(&mut *self.inner)
        .await
        .map_err(StoreError::doing("store the generation of a map"))?;
        Ok(())
    }

    /// The signatures that must not be accepted again: machine, nonce and until when to remember.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn accepted_signatures(
        &mut self,
        now: i64,
    ) -> Result<Vec<(MachinePublicKey, String, i64)>, StoreError> {
        let rows: Vec<(String, String, i64)> = sqlx::query_as(
            "SELECT machine_key, nonce, forget_at FROM accepted_signatures WHERE forget_at > ?",
        )
        .bind(now)
        .fetch_all(&mut *self.inner)
        .await
        .map_err(StoreError::doing("read the accepted signatures"))?;
        rows.into_iter()
            .map(|(machine, nonce, forget_at)| {
                Ok((parse("machine key", &machine)?, nonce, forget_at))
            })
            .collect()
    }

    /// Remembers a signature until `forget_at`, and forgets those whose time is over.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn remember_signature(
        &mut self,
        machine: &MachinePublicKey,
        nonce: &str,
        forget_at: i64,
        now: i64,
    ) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM accepted_signatures WHERE forget_at <= ?")
            .bind(now)
            .execute(&mut *self.inner)
            .await
            .map_err(StoreError::doing("forget old signatures"))?;
        sqlx::query(
            "INSERT OR IGNORE INTO accepted_signatures (machine_key, nonce, forget_at) \
             VALUES (?, ?, ?)",
        )
        .bind(machine.to_string())
        .bind(nonce)
        .bind(forget_at)
        .execute(&mut *self.inner)
        .await
        .map_err(StoreError::doing("remember a signature"))?;
        Ok(())
    }
}
