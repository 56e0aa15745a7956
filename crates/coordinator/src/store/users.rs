//! Users.

use super::dialect::{execute, fetch_all, fetch_one, fetch_optional};
use super::{StoreError, Tx, UserRow, signed, unsigned};
use weir_overlay::UserId;

type Columns = (i64, String, i64, i64, i64);

fn row((id, name, created_at, nodes, accounts): Columns) -> Result<UserRow, StoreError> {
    Ok(UserRow {
        id: UserId(unsigned("user id", id)?),
        name,
        created_at,
        nodes: unsigned("number of nodes", nodes)?,
        admin: accounts > 0,
    })
}

impl Tx {
    /// All users, by name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn users(&mut self) -> Result<Vec<UserRow>, StoreError> {
        let rows: Vec<Columns> = fetch_all!(
            self,
            "list the users",
            "SELECT id, name, created_at, \
                    (SELECT count(*) FROM nodes WHERE nodes.user_id = users.id), \
                    (SELECT count(*) FROM accounts WHERE accounts.user_id = users.id) \
             FROM users ORDER BY lower(name)"
        )?;
        rows.into_iter().map(row).collect()
    }

    /// The user of this name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn user(&mut self, name: &str) -> Result<Option<UserRow>, StoreError> {
        let found: Option<Columns> = fetch_optional!(
            self,
            "look a user up",
            "SELECT id, name, created_at, \
                    (SELECT count(*) FROM nodes WHERE nodes.user_id = users.id), \
                    (SELECT count(*) FROM accounts WHERE accounts.user_id = users.id) \
             FROM users WHERE lower(name) = lower($1)",
            name
        )?;
        found.map(row).transpose()
    }

    /// Creates a user. The name must be free.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn insert_user(&mut self, name: &str, now: i64) -> Result<UserId, StoreError> {
        self.changes.users = true;
        let (id,): (i64,) = fetch_one!(
            self,
            "create a user",
            "INSERT INTO users (name, created_at) VALUES ($1, $2) RETURNING id",
            name,
            now
        )?;
        unsigned("user id", id).map(UserId)
    }

    /// Deletes a user and its auth keys. It must not own nodes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn delete_user(&mut self, id: UserId) -> Result<(), StoreError> {
        self.changes.users = true;
        execute!(
            self,
            "delete a user",
            "DELETE FROM users WHERE id = $1",
            signed(id.0)
        )?;
        Ok(())
    }
}
