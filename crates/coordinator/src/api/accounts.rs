//! What is said about users, admins and tokens.

use super::User;
use crate::accounts::Scopes;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use weir_overlay::KeyId;

/// `POST /api/v1/users`
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateUser {
    /// The name.
    pub name: String,
    /// Whether the user may log in to the admin API and do everything there.
    #[serde(default)]
    pub admin: bool,
    /// The password of an admin: 15 characters or more. One is made when none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// `PUT /api/v1/users/NAME/admin`
#[derive(Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GrantAdmin {
    /// The password: 15 characters or more. One is made when none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// The answer to [`CreateUser`] and [`GrantAdmin`].
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
pub struct CreatedUser {
    /// The user.
    #[serde(flatten)]
    pub user: User,
    /// The password of an admin, when it was made: the only time that it is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// `POST /api/v1/setup`: makes the first admin.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetUp {
    /// The code that `coordinator serve` printed.
    pub code: String,
    /// The admin's name.
    pub name: String,
    /// The admin's password: 15 characters or more.
    pub password: String,
}

/// `POST /api/v1/login`: makes a token of a name and a password.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogIn {
    /// The admin's name.
    pub name: String,
    /// The admin's password.
    pub password: String,
}

/// Whether a token still works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TokenState {
    /// It does.
    Usable,
    /// Its time is over.
    Expired,
    /// An admin revoked it.
    Revoked,
}

/// A token of the admin API, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Token {
    /// Its public half.
    #[schemars(with = "String")]
    pub id: KeyId,
    /// What it is for.
    pub name: String,
    /// Whether it still works.
    pub state: TokenState,
    /// What it may be used for.
    #[schemars(with = "std::collections::BTreeSet<String>")]
    pub scopes: Scopes,
    /// The admin who logged in for it; none when it was made for a program.
    pub account: Option<String>,
    /// Who made it.
    pub created_by: String,
    /// When it was made.
    #[schemars(with = "String")]
    pub created: Timestamp,
    /// From when on it is refused.
    #[schemars(with = "String")]
    pub expires: Timestamp,
    /// When it was last used, to a minute; none when it never was.
    #[schemars(with = "Option<String>")]
    pub last_used: Option<Timestamp>,
}

/// `POST /api/v1/tokens`
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// What it is for: one line.
    pub name: String,
    /// What it may be used for; no more than the token that it is made with.
    #[schemars(with = "std::collections::BTreeSet<String>")]
    pub scopes: Scopes,
    /// For how many seconds it is valid.
    pub expires_in_seconds: u64,
}

/// The answer to [`CreateToken`] and [`LogIn`]: the only time that the secret is shown.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
pub struct CreatedToken {
    /// The whole token.
    pub token: String,
    /// What is listed of it.
    pub details: Token,
}

/// These hold secrets, which are not printed.
macro_rules! prints_no_secret {
    ($($name:ident { $($shown:ident),* }),*) => {
        $(impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name))
                    $(.field(stringify!($shown), &self.$shown))*
                    .finish_non_exhaustive()
            }
        })*
    };
}

prints_no_secret! {
    CreateUser { name, admin },
    GrantAdmin {},
    CreatedUser { user },
    SetUp { name },
    LogIn { name },
    CreatedToken { details }
}
