//! Users.

use super::{StoreError, Tx, UserRow, signed, unsigned};
use weir_overlay::UserId;

type Columns = (i64, String, i64, i64);

fn row((id, name, created_at, nodes): Columns) -> Result<UserRow, StoreError> {
    Ok(UserRow {
        id: UserId(unsigned("user id", id)?),
        name,
        created_at,
        nodes: unsigned("number of nodes", nodes)?,
    })
}

impl Tx {
    /// All users, by name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn users(&mut self) -> Result<Vec<UserRow>, StoreError> {
        let rows: Vec<Columns> = sqlx::query_as(
            "SELECT id, name, created_at, \
                    (SELECT count(*) FROM nodes WHERE nodes.user_id = users.id) \
             FROM users ORDER BY name",
        )
        .fetch_all(&mut *self.inner)
        .await
        .map_err(StoreError::doing("list the users"))?;
        rows.into_iter().map(row).collect()
    }

    /// The user of this name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn user(&mut self, name: &str) -> Result<Option<UserRow>, StoreError> {
        let found: Option<Columns> = sqlx::query_as(
            "SELECT id, name, created_at, \
                    (SELECT count(*) FROM nodes WHERE nodes.user_id = users.id) \
             FROM users WHERE name = ?",
        )
        .bind(name)
        .fetch_optional(&mut *self.inner)
        .await
        .map_err(StoreError::doing("look a user up"))?;
        found.map(row).transpose()
    }

    /// Creates a user. The name must be free.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn insert_user(&mut self, name: &str, now: i64) -> Result<UserId, StoreError> {
        let id: i64 =
            sqlx::query_scalar("INSERT INTO users (name, created_at) VALUES (?, ?) RETURNING id")
                .bind(name)
                .bind(now)
                .fetch_one(&mut *self.inner)
                .await
                .map_err(StoreError::doing("create a user"))?;
        unsigned("user id", id).map(UserId)
    }

    /// Deletes a user and its auth keys. It must not own nodes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn delete_user(&mut self, id: UserId) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM users WHERE id = ?")
            .bind(signed(id.0))
            .execute(&mut *self.inner)
            .await
            .map_err(StoreError::doing("delete a user"))?;
        Ok(())
    }
}
