//! Numbers of network maps, primaries of routes, and signatures that were accepted.

use super::dialect::{execute, fetch_all, fetch_one};
use super::{StoreError, Tx, parse, signed, unsigned};
use ipnet::IpNet;
use std::collections::BTreeMap;
use weir_overlay::{Generation, MachinePublicKey, NodeId};

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

    /// The relay that each subnet route was last reached through.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn primaries(&mut self) -> Result<BTreeMap<IpNet, NodeId>, StoreError> {
        let rows: Vec<(String, i64)> = fetch_all!(
            self,
            "read the primaries of the routes",
            "SELECT prefix, node_id FROM primaries"
        )?;
        rows.into_iter()
            .map(|(prefix, node)| {
                Ok((
                    parse("prefix", &prefix)?,
                    NodeId(unsigned("node id", node)?),
                ))
            })
            .collect()
    }

    /// Stores which relay a subnet route is reached through; none when nobody serves it. A node
    /// that is gone meanwhile is passed over.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_primary(
        &mut self,
        route: &IpNet,
        primary: Option<NodeId>,
    ) -> Result<(), StoreError> {
        let doing = "store the primary of a route";
        execute!(
            self,
            doing,
            "DELETE FROM primaries WHERE prefix = $1",
            route.to_string()
        )?;
        if let Some(primary) = primary {
            execute!(
                self,
                doing,
                "INSERT INTO primaries (prefix, node_id) SELECT $1, id FROM nodes WHERE id = $2",
                route.to_string(),
                signed(primary.0)
            )?;
        }
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
    /// were sent the same one, one is told that it is not. None is new that may have been forgotten.
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
             SELECT $1, $2, $3 WHERE $3 > (SELECT forgotten FROM forgotten_signatures) \
             ON CONFLICT DO NOTHING",
            machine.to_string(),
            nonce,
            forget_at
        )?;
        Ok(added > 0)
    }

    /// Forgets the signatures whose time is over, and remembers up to when: should the clock be set
    /// back, none of them is taken for a new one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget_signatures(&mut self, now: i64) -> Result<(), StoreError> {
        execute!(
            self,
            "remember up to when signatures are forgotten",
            "UPDATE forgotten_signatures SET forgotten = (SELECT COALESCE(MAX(forget_at), 0) \
             FROM accepted_signatures WHERE forget_at <= $1) \
             WHERE forgotten < (SELECT COALESCE(MAX(forget_at), 0) \
             FROM accepted_signatures WHERE forget_at <= $1)",
            now
        )?;
        execute!(
            self,
            "forget old signatures",
            "DELETE FROM accepted_signatures WHERE forget_at <= $1",
            now
        )?;
        Ok(())
    }
}
