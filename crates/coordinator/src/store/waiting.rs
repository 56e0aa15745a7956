//! Machines that wait for an admin to let them in.

use super::dialect::{execute, fetch_all, fetch_one, fetch_optional};
use super::{StoreError, Tx, WaitingRow, parse, unsigned};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::FromRow;
use weir_overlay::MachinePublicKey;

#[derive(FromRow)]
struct Columns {
    machine_key: String,
    code: String,
    node_key: String,
    tags: String,
    host: String,
    address: String,
    source: String,
    asked_at: i64,
    expires_at: i64,
    denied_at: Option<i64>,
}

fn read<T: DeserializeOwned>(expected: &'static str, value: &str) -> Result<T, StoreError> {
    serde_json::from_str(value).map_err(|_| StoreError::Corrupt {
        expected,
        value: value.to_owned(),
    })
}

fn written<T: Serialize>(what: &'static str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Json(what, error))
}

impl Columns {
    fn row(self) -> Result<WaitingRow, StoreError> {
        Ok(WaitingRow {
            machine_key: parse("machine key", &self.machine_key)?,
            code: self.code,
            node_key: parse("node key", &self.node_key)?,
            tags: read("list of tags", &self.tags)?,
            host: read("description of a host", &self.host)?,
            address: parse("address", &self.address)?,
            source: self.source,
            asked_at: self.asked_at,
            expires_at: self.expires_at,
            denied_at: self.denied_at,
        })
    }
}

impl Tx {
    /// What a machine waits for, if that is not over.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn waiting_of(
        &mut self,
        machine: &MachinePublicKey,
        now: i64,
    ) -> Result<Option<WaitingRow>, StoreError> {
        let found: Option<Columns> = fetch_optional!(
            self,
            "look up what a machine waits for",
            "SELECT * FROM waiting_machines WHERE machine_key = $1 AND expires_at > $2",
            machine.to_string(),
            now
        )?;
        found.map(Columns::row).transpose()
    }

    /// The machine that waits under this code and about which nobody decided.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn waiting_under(
        &mut self,
        code: &str,
        now: i64,
    ) -> Result<Option<WaitingRow>, StoreError> {
        let found: Option<Columns> = fetch_optional!(
            self,
            "look a waiting machine up",
            "SELECT * FROM waiting_machines \
             WHERE code = $1 AND expires_at > $2 AND denied_at IS NULL",
            code,
            now
        )?;
        found.map(Columns::row).transpose()
    }

    /// All machines about which somebody is to decide, who has waited longest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn waiting(&mut self, now: i64) -> Result<Vec<WaitingRow>, StoreError> {
        let rows: Vec<Columns> = fetch_all!(
            self,
            "list the waiting machines",
            "SELECT * FROM waiting_machines WHERE expires_at > $1 AND denied_at IS NULL \
             ORDER BY asked_at, code",
            now
        )?;
        rows.into_iter().map(Columns::row).collect()
    }

    /// How many machines wait or were denied lately: in all, and of those that ask from this source.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn count_waiting(
        &mut self,
        source: &str,
        now: i64,
    ) -> Result<(u64, u64), StoreError> {
        let (all, own): (i64, i64) = fetch_one!(
            self,
            "count the waiting machines",
            "SELECT count(*), count(CASE WHEN source = $1 THEN 1 END) FROM waiting_machines \
             WHERE expires_at > $2",
            source,
            now
        )?;
        let what = "number of waiting machines";
        Ok((unsigned(what, all)?, unsigned(what, own)?))
    }

    /// Lets a machine wait, under this code instead of any before.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn insert_waiting(&mut self, row: &WaitingRow) -> Result<(), StoreError> {
        self.forget_waiting(&row.machine_key).await?;
        execute!(
            self,
            "store a waiting machine",
            "INSERT INTO waiting_machines (machine_key, code, node_key, tags, host, address, \
             source, asked_at, expires_at, denied_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            row.machine_key.to_string(),
            &row.code,
            row.node_key.to_string(),
            written("the tags of a machine", &row.tags)?,
            written("the description of a host", &row.host)?,
            row.address.to_string(),
            &row.source,
            row.asked_at,
            row.expires_at,
            row.denied_at
        )?;
        Ok(())
    }

    /// Remembers that an admin said no, until `until`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn deny_waiting(
        &mut self,
        machine: &MachinePublicKey,
        now: i64,
        until: i64,
    ) -> Result<(), StoreError> {
        execute!(
            self,
            "deny a waiting machine",
            "UPDATE waiting_machines SET denied_at = $1, expires_at = $2 WHERE machine_key = $3",
            now,
            until,
            machine.to_string()
        )?;
        Ok(())
    }

    /// Forgets that a machine waits.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget_waiting(&mut self, machine: &MachinePublicKey) -> Result<(), StoreError> {
        execute!(
            self,
            "forget a waiting machine",
            "DELETE FROM waiting_machines WHERE machine_key = $1",
            machine.to_string()
        )?;
        Ok(())
    }

    /// Forgets the machines that have waited too long.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn prune_waiting(&mut self, now: i64) -> Result<(), StoreError> {
        execute!(
            self,
            "forget machines that waited too long",
            "DELETE FROM waiting_machines WHERE expires_at <= $1",
            now
        )?;
        Ok(())
    }
}
