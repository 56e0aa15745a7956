//! Admins: who may log in to the admin API.

use super::{create_token_in, describe_token, find_user, now, publish, users};
use crate::{
    Coordinator,
    accounts::{AdminToken, Caller, Password, Scopes, SetupCode},
    api,
    refusal::Refusal,
    store::{Actor, AuditEntry, NewAdminToken, StoreError, Tx, UserRow},
};
use serde_json::json;
use std::net::IpAddr;
use weir_protocol::ErrorCode;

/// How long a log-in lasts, in seconds: a day's work.
const LOG_IN_SECONDS: i64 = 12 * 3600;
/// How long a setup code can be used, in seconds. It may have been printed to a log.
const SETUP_SECONDS: i64 = 24 * 3600;

/// Creates a user and, when asked to, the account of an admin.
///
/// # Errors
/// [`Refusal`], when the name cannot be used or is taken, or the password is too short.
pub(crate) async fn create_user(
    coordinator: &Coordinator,
    actor: &Actor,
    request: api::CreateUser,
) -> Result<api::CreatedUser, Refusal> {
    if !request.admin && request.password.is_some() {
        return Err(Refusal::new(
            ErrorCode::BadRequest,
            "only admins have passwords: add \"admin\": true",
        ));
    }
    let password = match request.admin {
        true => Some(NewPassword::new(coordinator, request.password.as_deref()).await?),
        false => None,
    };
    let mut tx = coordinator.store.write().await?;
    let created = users::insert(&mut tx, actor, &request.name).await?;
    if let Some(password) = &password {
        grant(&mut tx, actor, &created, password).await?;
    }
    let created = find_user(&mut tx, &request.name).await?;
    tx.commit().await?;
    publish(coordinator).await;
    Ok(api::CreatedUser {
        user: users::describe(created)?,
        password: password.and_then(|password| password.made),
    })
}

/// Makes a user an admin, or gives an admin another password. With another password, who is logged
/// in with the old one is logged out.
///
/// # Errors
/// [`Refusal`], when there is no such user, or the password is too short.
pub(crate) async fn grant_admin(
    coordinator: &Coordinator,
    actor: &Actor,
    name: &str,
    request: api::GrantAdmin,
) -> Result<api::CreatedUser, Refusal> {
    let password = NewPassword::new(coordinator, request.password.as_deref()).await?;
    let mut tx = coordinator.store.write().await?;
    let user = find_user(&mut tx, name).await?;
    grant(&mut tx, actor, &user, &password).await?;
    let user = find_user(&mut tx, name).await?;
    tx.commit().await?;
    Ok(api::CreatedUser {
        user: users::describe(user)?,
        password: password.made,
    })
}

/// Makes an admin a user like any other, and logs them out.
///
/// # Errors
/// [`Refusal`], when there is no such admin.
pub(crate) async fn revoke_admin(
    coordinator: &Coordinator,
    actor: &Actor,
    name: &str,
) -> Result<api::User, Refusal> {
    let mut tx = coordinator.store.write().await?;
    let user = find_user(&mut tx, name).await?;
    if !user.admin {
        return Err(Refusal::new(
            ErrorCode::NotFound,
            format!("{name} is no admin: see coordinator users list"),
        ));
    }
    tx.delete_account(user.id).await?;
    let entry = AuditEntry {
        at: now(),
        actor,
        action: "users.revoke-admin",
        subject: users::subject(&user),
    };
    tx.record(
        entry,
        Some(&json!({ "admin": true })),
        Some(&json!({ "admin": false })),
    )
    .await?;
    let user = find_user(&mut tx, name).await?;
    tx.commit().await?;
    users::describe(user)
}

/// Makes the first admin, for whoever has the code that the console showed.
///
/// # Errors
/// [`Refusal`], when the code is wrong, old, or of no use any more.
pub(crate) async fn set_up(
    coordinator: &Coordinator,
    address: IpAddr,
    request: api::SetUp,
) -> Result<api::User, Refusal> {
    let code = SetupCode::presented(request.code);
    let known = coordinator.store.read().await?;
    check_code(known, &code).await?;
    // Only then is anything hashed for a stranger.
    let password = NewPassword::new(coordinator, Some(&request.password)).await?;
    let mut tx = coordinator.store.write().await?;
    if !tx.is_setup_code(&code.hash(), now()).await? {
        return Err(wrong_code());
    }
    let actor = Actor::Account {
        name: request.name.clone(),
        address,
    };
    let user = match tx.user(&request.name).await? {
        Some(user) => user,
        None => users::insert(&mut tx, &actor, &request.name).await?,
    };
    grant(&mut tx, &actor, &user, &password).await?;
    let user = find_user(&mut tx, &request.name).await?;
    tx.commit().await?;
    publish(coordinator).await;
    users::describe(user)
}

async fn check_code(mut tx: Tx, code: &SetupCode) -> Result<(), Refusal> {
    match tx.is_setup_code(&code.hash(), now()).await? {
        true => Ok(()),
        false => Err(wrong_code()),
    }
}

fn wrong_code() -> Refusal {
    Refusal::Unauthenticated {
        detail: "this is not the setup code, or there is an admin already, or it is older than a \
                 day: on the coordinator's host, use coordinator users create NAME --admin"
            .to_owned(),
    }
}

/// Makes a token of name and password.
///
/// # Errors
/// [`Refusal::Unauthenticated`] and [`Refusal::TooMany`].
pub(crate) async fn log_in(
    coordinator: &Coordinator,
    address: IpAddr,
    request: api::LogIn,
) -> Result<api::CreatedToken, Refusal> {
    let password = Password::presented(&request.password);
    let (store, passwords) = (&coordinator.store, &coordinator.passwords);
    let account = passwords.log_in(store, &request.name, password).await?;
    let caller = Caller::of_account(&account, address);
    let token = AdminToken::generate()?;
    let at = now();
    let stored = NewAdminToken {
        id: token.id().clone(),
        secret_hash: token.secret_hash(),
        name: "log-in".to_owned(),
        scopes: Scopes::all(),
        account: Some(account.user),
        created_by: caller.actor.to_string(),
        created_at: at,
        expires_at: at.saturating_add(LOG_IN_SECONDS),
    };
    let mut tx = coordinator.store.write().await?;
    // The password may have been changed since it was checked.
    if tx.account(&account.name).await?.as_ref() != Some(&account) {
        return Err(Refusal::Unauthenticated {
            detail: "the password was changed at this very moment: try the new one".to_owned(),
        });
    }
    let row = create_token_in(&mut tx, &caller.actor, &stored, "tokens.log-in").await?;
    tx.commit().await?;
    Ok(api::CreatedToken {
        token: token.reveal(),
        details: describe_token(row)?,
    })
}

/// Lets this code make the first admin, when there is no admin; then the code is given back. It
/// takes the place of any before.
///
/// # Errors
/// [`StoreError`].
pub(crate) async fn offer_setup(
    coordinator: &Coordinator,
    code: SetupCode,
) -> Result<Option<SetupCode>, StoreError> {
    let mut tx = coordinator.store.write().await?;
    if tx.has_accounts().await? {
        return Ok(None);
    }
    let expires = now().saturating_add(SETUP_SECONDS);
    tx.set_setup_code(&code.hash(), expires).await?;
    tx.commit().await?;
    Ok(Some(code))
}

/// A password to be stored.
struct NewPassword {
    hash: String,
    /// The password in clear, when nobody chose it.
    made: Option<String>,
}

impl NewPassword {
    async fn new(coordinator: &Coordinator, chosen: Option<&str>) -> Result<Self, Refusal> {
        let password = match chosen {
            Some(text) => Password::new(text)?,
            None => Password::generate()?,
        };
        let made = chosen.is_none().then(|| password.reveal().to_owned());
        Ok(Self {
            hash: coordinator.passwords.hash(password).await?,
            made,
        })
    }
}

async fn grant(
    tx: &mut Tx,
    actor: &Actor,
    user: &UserRow,
    password: &NewPassword,
) -> Result<(), Refusal> {
    tx.set_account(user.id, &password.hash, now()).await?;
    let entry = AuditEntry {
        at: now(),
        actor,
        action: "users.grant-admin",
        subject: users::subject(user),
    };
    let was = json!({ "admin": user.admin });
    let is = json!({ "admin": true, "password": "changed" });
    tx.record(entry, Some(&was), Some(&is)).await?;
    Ok(())
}
