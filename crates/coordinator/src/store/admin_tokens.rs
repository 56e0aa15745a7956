//! Tokens of the admin API.

use super::dialect::{execute, fetch_all, fetch_optional};
use super::{AdminTokenRow, NewAdminToken, StoreError, Tx, parse, signed};
use sqlx::FromRow;
use weir_overlay::KeyId;

#[derive(FromRow)]
struct Columns {
    id: String,
    secret_hash: String,
    name: String,
    scopes: String,
    account_name: Option<String>,
    created_by: String,
    created_at: i64,
    expires_at: i64,
    last_used_at: Option<i64>,
    revoked_at: Option<i64>,
}

impl Columns {
    fn row(self) -> Result<AdminTokenRow, StoreError> {
        Ok(AdminTokenRow {
            id: KeyId(self.id),
            secret_hash: self.secret_hash,
            name: self.name,
            scopes: parse("list of scopes", &self.scopes)?,
            account: self.account_name,
            created_by: self.created_by,
            created_at: self.created_at,
            expires_at: self.expires_at,
            last_used_at: self.last_used_at,
            revoked_at: self.revoked_at,
        })
    }
}

impl Tx {
    /// All tokens, the newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn admin_tokens(&mut self) -> Result<Vec<AdminTokenRow>, StoreError> {
        let rows: Vec<Columns> = fetch_all!(
            self,
            "list the tokens",
            "SELECT admin_tokens.*, users.name AS account_name FROM admin_tokens \
             LEFT JOIN users ON users.id = admin_tokens.account \
             ORDER BY admin_tokens.created_at DESC, admin_tokens.id"
        )?;
        rows.into_iter().map(Columns::row).collect()
    }

    /// The token of this id.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn admin_token(&mut self, id: &KeyId) -> Result<Option<AdminTokenRow>, StoreError> {
        let found: Option<Columns> = fetch_optional!(
            self,
            "look a token up",
            "SELECT admin_tokens.*, users.name AS account_name FROM admin_tokens \
             LEFT JOIN users ON users.id = admin_tokens.account WHERE admin_tokens.id = $1",
            &id.0
        )?;
        found.map(Columns::row).transpose()
    }

    /// Stores a new token.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn insert_admin_token(&mut self, token: &NewAdminToken) -> Result<(), StoreError> {
        execute!(
            self,
            "store a token",
            "INSERT INTO admin_tokens \
             (id, secret_hash, name, scopes, account, created_by, created_at, expires_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            &token.id.0,
            &token.secret_hash,
            &token.name,
            token.scopes.to_string(),
            token.account.map(|user| signed(user.0)),
            &token.created_by,
            token.created_at,
            token.expires_at
        )?;
        Ok(())
    }

    /// Notes that a token was used.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn use_admin_token(&mut self, id: &KeyId, now: i64) -> Result<(), StoreError> {
        execute!(
            self,
            "note the use of a token",
            "UPDATE admin_tokens SET last_used_at = $1 WHERE id = $2",
            now,
            &id.0
        )?;
        Ok(())
    }

    /// Revokes a token.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn revoke_admin_token(&mut self, id: &KeyId, now: i64) -> Result<(), StoreError> {
        execute!(
            self,
            "revoke a token",
            "UPDATE admin_tokens SET revoked_at = coalesce(revoked_at, $1) WHERE id = $2",
            now,
            &id.0
        )?;
        Ok(())
    }

    /// Deletes the tokens that expired before this moment.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget_admin_tokens(&mut self, before: i64) -> Result<(), StoreError> {
        execute!(
            self,
            "forget old tokens",
            "DELETE FROM admin_tokens WHERE expires_at < $1",
            before
        )?;
        Ok(())
    }
}
