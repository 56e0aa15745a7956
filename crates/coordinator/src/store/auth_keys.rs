//! Auth keys.

use super::dialect::{execute, fetch_all, fetch_optional};
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
    node_life: Option<i64>,
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
            node_life: self.node_life,
        })
    }
}

impl Tx {
    /// All auth keys, the newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn auth_keys(&mut self) -> Result<Vec<AuthKeyRow>, StoreError> {
        let rows: Vec<Columns> = fetch_all!(
            self,
            "list the auth keys",
            "SELECT auth_keys.*, users.name AS user_name FROM auth_keys \
             LEFT JOIN users ON users.id = auth_keys.user_id \
             ORDER BY auth_keys.created_at DESC, auth_keys.id"
        )?;
        let tags: Vec<(String, String)> = fetch_all!(
            self,
            "list the tags of auth keys",
            "SELECT key_id, tag FROM auth_key_tags"
        )?;
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
        let columns: Option<Columns> = fetch_optional!(
            self,
            "look an auth key up",
            "SELECT auth_keys.*, users.name AS user_name FROM auth_keys \
             LEFT JOIN users ON users.id = auth_keys.user_id WHERE auth_keys.id = $1",
            &id.0
        )?;
        let Some(columns) = columns else {
            return Ok(None);
        };
        let tags: Vec<(String,)> = fetch_all!(
            self,
            "look the tags of an auth key up",
            "SELECT tag FROM auth_key_tags WHERE key_id = $1",
            &id.0
        )?;
        let tags = tags
            .iter()
            .map(|(tag,)| parse("tag", tag))
            .collect::<Result<_, _>>()?;
        columns.row(tags).map(Some)
    }

    /// Stores a new auth key.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn insert_auth_key(&mut self, key: &NewAuthKey) -> Result<(), StoreError> {
        execute!(
            self,
            "store an auth key",
            "INSERT INTO auth_keys \
             (id, secret_hash, user_id, reusable, ephemeral, created_at, expires_at, node_life) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            &key.id.0,
            &key.secret_hash,
            key.user.map(|id| signed(id.0)),
            key.reusable,
            key.ephemeral,
            key.created_at,
            key.expires_at,
            key.node_life
        )?;
        for tag in &key.tags {
            execute!(
                self,
                "store the tags of an auth key",
                "INSERT INTO auth_key_tags (key_id, tag) VALUES ($1, $2)",
                &key.id.0,
                tag.as_str()
            )?;
        }
        Ok(())
    }

    /// Counts one more use of a key. The database itself refuses the second use of a one-off key.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn count_auth_key_use(&mut self, id: &KeyId) -> Result<(), StoreError> {
        execute!(
            self,
            "mark an auth key as used",
            "UPDATE auth_keys SET uses = uses + 1 WHERE id = $1",
            &id.0
        )?;
        Ok(())
    }

    /// Revokes a key: it enrols nothing any more. What it enrolled stays.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn revoke_auth_key(&mut self, id: &KeyId, now: i64) -> Result<(), StoreError> {
        execute!(
            self,
            "revoke an auth key",
            "UPDATE auth_keys SET revoked_at = coalesce(revoked_at, $1) WHERE id = $2",
            now,
            &id.0
        )?;
        Ok(())
    }
}
