//! Saved policies. Every revision is kept.

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
        let rows: Vec<Columns> = sqlx::query_as(
            "SELECT revision, text, saved_at, saved_by, note FROM policies \
             ORDER BY revision DESC LIMIT ?",
        )
        .bind(limit)
        .fetch_all(&mut *self.inner)
        .await
        .map_err(StoreError::doing("read the newest policies"))?;
        rows.into_iter().map(row).collect()
    }

    /// The policy with this revision; none when there is no such.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn policy(&mut self, revision: u64) -> Result<Option<PolicyRow>, StoreError> {
        let found: Option<Columns> = sqlx::query_as(
            "SELECT revision, text, saved_at, saved_by, note FROM policies WHERE revision = ?",
        )
        .bind(signed(revision))
        .fetch_optional(&mut *self.inner)
        .await
        .map_err(StoreError::doing("read a policy"))?;
        found.map(row).transpose()
    }

    /// The newest `limit` policies without their texts, the newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn policy_history(&mut self, limit: u32) -> Result<Vec<RevisionRow>, StoreError> {
        // The length of TEXT is in characters, that of a BLOB in bytes.
        let rows: Vec<(i64, i64, i64, String, String)> = sqlx::query_as(
            "SELECT revision, length(CAST(text AS BLOB)), saved_at, saved_by, note FROM policies \
             ORDER BY revision DESC LIMIT ?",
        )
        .bind(limit)
        .fetch_all(&mut *self.inner)
        .await
        .map_err(StoreError::doing("list the policies"))?;
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
        let revision: i64 = sqlx::query_scalar(
            "INSERT INTO policies (text, saved_at, saved_by, note) VALUES (?, ?, ?, ?) \
             RETURNING revision",
        )
        .bind(text)
        .bind(now)
        .bind(saved_by)
        .bind(note)
        .fetch_one(&mut *self.inner)
        .await
        .map_err(StoreError::doing("save a policy"))?;
        unsigned("policy revision", revision)
    }
}
