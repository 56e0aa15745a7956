//! Saved policies. Every revision is kept.

use super::{PolicyRow, StoreError, Tx, unsigned};

impl Tx {
    /// The newest `limit` policies, the newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn newest_policies(&mut self, limit: u32) -> Result<Vec<PolicyRow>, StoreError> {
        let rows: Vec<(i64, String, i64, String)> = sqlx::query_as(
            "SELECT revision, text, saved_at, saved_by FROM policies \
             ORDER BY revision DESC LIMIT ?",
        )
        .bind(limit)
        .fetch_all(&mut *self.inner)
        .await
        .map_err(StoreError::doing("read the newest policies"))?;
        rows.into_iter()
            .map(|(revision, text, saved_at, saved_by)| {
                Ok(PolicyRow {
                    revision: unsigned("policy revision", revision)?,
                    text,
                    saved_at,
                    saved_by,
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
        now: i64,
    ) -> Result<u64, StoreError> {
        let revision: i64 = sqlx::query_scalar(
            "INSERT INTO policies (text, saved_at, saved_by) VALUES (?, ?, ?) RETURNING revision",
        )
        .bind(text)
        .bind(now)
        .bind(saved_by)
        .fetch_one(&mut *self.inner)
        .await
        .map_err(StoreError::doing("save a policy"))?;
        unsigned("policy revision", revision)
    }
}
