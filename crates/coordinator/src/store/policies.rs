//! Saved policies. Every revision is kept.

use super::dialect::{fetch_all, fetch_one, fetch_optional};
use super::{PolicyRow, RevisionRow, StoreError, Tx, signed, unsigned};

type Columns = (i64, String, i64, String, String);

fn row((revision, text, saved_at, saved_by, note): Columns) -> Result<PolicyRow, StoreError> {
    Ok(PolicyRow {
        revision: unsigned("policy revision", revision)?,
        text,
        saved_at,
        saved_by,
        note,
    })
}

impl Tx {
    /// The newest `limit` policies, the newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn newest_policies(&mut self, limit: u32) -> Result<Vec<PolicyRow>, StoreError> {
        let rows: Vec<Columns> = fetch_all!(
            self,
            "read the newest policies",
            "SELECT revision, text, saved_at, saved_by, note FROM policies \
             ORDER BY revision DESC LIMIT $1",
            i64::from(limit)
        )?;
        rows.into_iter().map(row).collect()
    }

    /// The policy with this revision; none when there is no such.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn policy(&mut self, revision: u64) -> Result<Option<PolicyRow>, StoreError> {
        let found: Option<Columns> = fetch_optional!(
            self,
            "read a policy",
            "SELECT revision, text, saved_at, saved_by, note FROM policies WHERE revision = $1",
            signed(revision)
        )?;
        found.map(row).transpose()
    }

    /// The newest `limit` policies without their texts, the newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn policy_history(&mut self, limit: u32) -> Result<Vec<RevisionRow>, StoreError> {
        let rows: Vec<(i64, i64, i64, String, String)> = fetch_all!(
            self,
            "list the policies",
            "SELECT revision, CAST(octet_length(text) AS BIGINT), saved_at, saved_by, note FROM policies \
             ORDER BY revision DESC LIMIT $1",
            i64::from(limit)
        )?;
        rows.into_iter()
            .map(|(revision, bytes, saved_at, saved_by, note)| {
                Ok(RevisionRow {
                    revision: unsigned("policy revision", revision)?,
                    bytes: unsigned("length of a policy", bytes)?,
                    saved_at,
                    saved_by,
                    note,
                })
            })
            .collect()
    }

    /// Saves a policy as the newest, and gives its revision.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn insert_policy(
        &mut self,
        text: &str,
        saved_by: &str,
        note: &str,
        now: i64,
    ) -> Result<u64, StoreError> {
        self.changes.policy = true;
        let (revision,): (i64,) = fetch_one!(
            self,
            "save a policy",
            "INSERT INTO policies (text, saved_at, saved_by, note) VALUES ($1, $2, $3, $4) \
             RETURNING revision",
            text,
            now,
            saved_by,
            note
        )?;
        unsigned("policy revision", revision)
    }
}
