//! Admin accounts, and the code with which the first one is made.

use super::dialect::{execute, fetch_one, fetch_optional};
use super::{AccountRow, StoreError, Tx, signed, unsigned};
use weir_overlay::UserId;

impl Tx {
    /// The account of the user with this name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn account(&mut self, name: &str) -> Result<Option<AccountRow>, StoreError> {
        let found: Option<(i64, String, String)> = fetch_optional!(
            self,
            "look an account up",
            "SELECT users.id, users.name, accounts.password_hash FROM accounts \
             JOIN users ON users.id = accounts.user_id WHERE lower(users.name) = lower($1)",
            name
        )?;
        let row = |(id, name, password_hash)| {
            let user = UserId(unsigned("user id", id)?);
            Ok(AccountRow {
                user,
                name,
                password_hash,
            })
        };
        found.map(row).transpose()
    }

    /// Whether there is an admin.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn has_accounts(&mut self) -> Result<bool, StoreError> {
        let (number,): (i64,) =
            fetch_one!(self, "count the accounts", "SELECT count(*) FROM accounts")?;
        Ok(number > 0)
    }

    /// Makes a user an admin, or gives an admin a new password: who is logged in with the old one
    /// is logged out. The code for the first admin is of no use any more.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_account(
        &mut self,
        user: UserId,
        password_hash: &str,
        now: i64,
    ) -> Result<(), StoreError> {
        let doing = "store an account";
        execute!(
            self,
            doing,
            "INSERT INTO accounts (user_id, password_hash, created_at) VALUES ($1, $2, $3) \
             ON CONFLICT (user_id) DO UPDATE SET password_hash = $2",
            signed(user.0),
            password_hash,
            now
        )?;
        execute!(
            self,
            doing,
            "DELETE FROM admin_tokens WHERE account = $1",
            signed(user.0)
        )?;
        execute!(self, doing, "DELETE FROM setup_code")?;
        Ok(())
    }

    /// Makes an admin a user like any other, and logs them out.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn delete_account(&mut self, user: UserId) -> Result<(), StoreError> {
        execute!(
            self,
            "delete an account",
            "DELETE FROM accounts WHERE user_id = $1",
            signed(user.0)
        )?;
        Ok(())
    }

    /// Puts a code in the place of the one before.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_setup_code(
        &mut self,
        code_hash: &str,
        expires_at: i64,
    ) -> Result<(), StoreError> {
        execute!(
            self,
            "store a setup code",
            "INSERT INTO setup_code (one, code_hash, expires_at) VALUES (1, $1, $2) \
             ON CONFLICT (one) DO UPDATE SET code_hash = $1, expires_at = $2",
            code_hash,
            expires_at
        )?;
        Ok(())
    }

    /// Whether this is the code, and still good.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn is_setup_code(&mut self, code_hash: &str, now: i64) -> Result<bool, StoreError> {
        let found: Option<(i64,)> = fetch_optional!(
            self,
            "look the setup code up",
            "SELECT expires_at FROM setup_code WHERE code_hash = $1 AND expires_at > $2",
            code_hash,
            now
        )?;
        Ok(found.is_some())
    }
}
