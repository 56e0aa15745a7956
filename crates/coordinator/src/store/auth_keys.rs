//! Auth keys.

use super::{AuthKeyRow, NewAuthKey, StoreError, Tx, parse, signed, unsigned};
use sqlx::FromRow;
use std::collections::{BTreeMap, BTreeSet};
use weir_overlay::{KeyId, Tag, UserId};

#[derive(FromRow)]
struct Columns {
    id: String,
    secret_hash: String,
    user_id: Option<i64>,
    user_name: Option<String>,
    reusable: bool,
    ephemeral: bool,
    created_at: i64,
    expires_at: i64,
    uses: i64,
    revoked_at: Option<i64>,
}

impl Columns {
    fn row(self, tags: BTreeSet<Tag>) -> Result<AuthKeyRow, StoreError> {
        let user = self
            .user_id
            .map(|id| unsigned("user id", id).map(UserId))
            .transpose()?;
        Ok(AuthKeyRow {
            id: KeyId(self.id),
            secret_hash: self.secret_hash,
            user,
            user_name: self.user_name,
            tags,
            reusable: self.reusable,
            ephemeral: self.ephemeral,
            created_at: self.created_at,
            expires_at: self.expires_at,
            uses: unsigned("number of uses", self.uses)?,
            revoked_at: self.revoked_at,
        })
    }
}

impl Tx {
    /// All auth keys, the newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn auth_keys(&mut self) -> Result<Vec<AuthKeyRow>, StoreError> {
        let rows: Vec<Columns> = sqlx::query_as(
            "SELECT auth_keys.*, users.name AS user_name FROM auth_keys \
             LEFT JOIN users ON users.id = auth_keys.user_id \
             ORDER BY auth_keys.created_at DESC, auth_keys.id",
        )
        .fetch_all(&mut *self.inner)
        .await
        .map_err(StoreError::doing("list the auth keys"))?;
        let tags: Vec<(String, String)> = sqlx::query_as("SELECT key_id, tag FROM auth_key_tags")
            .fetch_all(&mut *self.inner)
            .await
            .map_err(StoreError::doing("list the tags of auth keys"))?;
        let mut by_key: BTreeMap<String, BTreeSet<Tag>> = BTreeMap::new();
        for (key, tag) in tags {
            by_key.entry(key).or_default().insert(parse("tag", &tag)?);
        }
        rows.into_iter()
            .map(|columns| {
                let tags = by_key.remove(&columns.id).unwrap_or_default();
                columns.row(tags)
            })
            .collect()
    }

    /// The auth key of this id.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn auth_key(&mut self, id: &KeyId) -> Result<Option<AuthKeyRow>, StoreError> {
        let columns: Option<Columns> = sqlx::query_as(
            "SELECT auth_keys.*, users.name AS user_name FROM auth_keys \
             LEFT JOIN users ON users.id = auth_keys.user_id WHERE auth_keys.id = ?",
        )
        .bind(&id.0)
        .fetch_optional(&mut *self.inner)
        .await
        .map_err(StoreError::doing("look an auth key up"))?;
        let Some(columns) = columns else {
            return Ok(None);
        };
        let tags: Vec<String> =
            sqlx::query_scalar("SELECT tag FROM auth_key_tags WHERE key_id = ?")
                .bind(&id.0)
                .fetch_all(&mut *self.inner)
                .await
                .map_err(StoreError::doing("look the tags of an auth key up"))?;
        let tags = tags
            .iter()
            .map(|tag| parse("tag", tag))
            .collect::<Result<_, _>>()?;
        columns.row(tags).map(Some)
    }

    /// Stores a new auth key.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn insert_auth_key(&mut self, key: &NewAuthKey) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO auth_keys \
             (id, secret_hash, user_id, reusable, ephemeral, created_at, expires_at) \
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&key.id.0)
        .bind(&key.secret_hash)
        .bind(key.user.map(|id| signed(id.0)))
        .bind(key.reusable)
        .bind(key.ephemeral)
        .bind(key.created_at)
        .bind(key.expires_at)
        .execute(&mut *self.inner)
        .await
        .map_err(StoreError::doing("store an auth key"))?;
        for tag in &key.tags {
            sqlx::query("INSERT INTO auth_key_tags (key_id, tag) VALUES (?, ?)")
                .bind(&key.id.0)
                .bind(tag.as_str())
                .execute(&mut *self.inner)
                .await
                .map_err(StoreError::doing("store the tags of an auth key"))?;
        }
        Ok(())
    }

    /// Counts one more use of a key. The database itself refuses the second use of a one-off key.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn count_auth_key_use(&mut self, id: &KeyId) -> Result<(), StoreError> {
        sqlx::query("UPDATE auth_keys SET uses = uses + 1 WHERE id = ?")
            .bind(&id.0)
            .execute(&mut *self.inner)
            .await
            .map_err(StoreError::doing("mark an auth key as used"))?;
        Ok(())
    }

    /// Revokes a key: it enrols nothing any more. What it enrolled stays.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn revoke_auth_key(&mut self, id: &KeyId, now: i64) -> Result<(), StoreError> {
        sqlx::query("UPDATE auth_keys SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?")
            .bind(now)
            .bind(&id.0)
            .execute(&mut *self.inner)
            .await
            .map_err(StoreError::doing("revoke an auth key"))?;
        Ok(())
    }
}
