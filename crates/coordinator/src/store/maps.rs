//! Numbers of network maps, and signatures that were accepted.

use super::dialect::{execute, fetch_all, fetch_one};
use super::{StoreError, StoredMap, Tx, parse, signed, unsigned};
use weir_overlay::{Generation, MachinePublicKey, NodeId};

pub(super) fn stored(
    (node, generation, digest): (i64, i64, String),
) -> Result<StoredMap, StoreError> {
    Ok(StoredMap {
        node: NodeId(unsigned("node id", node)?),
        generation: Generation(unsigned("generation", generation)?),
        digest,
    })
}

impl Tx {
    /// The newest number that any map has.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn newest_generation(&mut self) -> Result<Generation, StoreError> {
        let (number,): (i64,) = fetch_one!(
            self,
            "read the newest generation",
            "SELECT generation FROM newest_generation"
        )?;
        unsigned("generation", number).map(Generation)
    }

    /// Stores the newest number. It never goes down.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_newest_generation(&mut self, newest: Generation) -> Result<(), StoreError> {
        execute!(
            self,
            "store the newest generation",
            "UPDATE newest_generation SET generation = $1 WHERE generation < $1",
            signed(newest.0)
        )?;
        Ok(())
    }

    /// The newest revision of the network whose maps were numbered.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn numbered_revision(&mut self) -> Result<u64, StoreError> {
        let (number,): (i64,) = fetch_one!(
            self,
            "read which revision was numbered",
            "SELECT revision FROM newest_generation"
        )?;
        unsigned("revision of the network", number)
    }

    /// Stores which revision of the network the newest maps were made of.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_numbered_revision(&mut self, revision: u64) -> Result<(), StoreError> {
        execute!(
            self,
            "store which revision was numbered",
            "UPDATE newest_generation SET revision = $1",
            signed(revision)
        )?;
        Ok(())
    }

    /// The number and digest of every node's newest map.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn stored_maps(&mut self) -> Result<Vec<StoredMap>, StoreError> {
        let rows: Vec<(i64, i64, String)> = fetch_all!(
            self,
            "read the generations of the maps",
            "SELECT node_id, generation, digest FROM maps ORDER BY node_id"
        )?;
        rows.into_iter().map(stored).collect()
    }

    /// Stores which map a node is given now. A node that is gone meanwhile is passed over.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_stored_map(&mut self, map: &StoredMap) -> Result<(), StoreError> {
        execute!(
            self,
            "store the generation of a map",
            "INSERT INTO maps (node_id, generation, digest) \
             SELECT id, $2, $3 FROM nodes WHERE id = $1 \
             ON CONFLICT (node_id) DO UPDATE SET generation = $2, digest = $3",
            signed(map.node.0),
            signed(map.generation.0),
            &map.digest
        )?;
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
        let rows: Vec<(String, String, i64)> = fetch_all!(
            self,
            "read the accepted signatures",
            "SELECT machine_key, nonce, forget_at FROM accepted_signatures WHERE forget_at > $1",
            now
        )?;
        rows.into_iter()
            .map(|(machine, nonce, forget_at)| {
                Ok((parse("machine key", &machine)?, nonce, forget_at))
            })
            .collect()
    }

    /// Remembers a signature until `forget_at`. Says whether it is new: of two coordinators that
    /// were sent the same one, one is told that it is not.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn remember_signature(
        &mut self,
        machine: &MachinePublicKey,
        nonce: &str,
        forget_at: i64,
    ) -> Result<bool, StoreError> {
        let added = execute!(
            self,
            "remember a signature",
            "INSERT INTO accepted_signatures (machine_key, nonce, forget_at) \
             VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            machine.to_string(),
            nonce,
            forget_at
        )?;
        Ok(added > 0)
    }

    /// Forgets the signatures whose time is over.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget_signatures(&mut self, now: i64) -> Result<(), StoreError> {
        execute!(
            self,
            "forget old signatures",
            "DELETE FROM accepted_signatures WHERE forget_at <= $1",
            now
        )?;
        Ok(())
    }
}
