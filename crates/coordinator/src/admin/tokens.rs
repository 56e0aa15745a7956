//! Tokens of the admin API.

use super::{now, page::Wanted, time};
use crate::{
    Coordinator,
    accounts::{AdminToken, Caller},
    api,
    refusal::Refusal,
    store::{Actor, AdminTokenRow, AuditEntry, NewAdminToken, Tx},
};
use serde_json::json;
use std::cmp::Reverse;
use weir_overlay::KeyId;
use weir_protocol::ErrorCode;

/// The longest life of a token: a year. One that must live longer is one that will be forgotten.
const MAX_LIFE_SECONDS: u64 = 366 * 24 * 3600;
/// The longest name, in characters: it is a column of a table.
const MAX_NAME: usize = 60;
/// How long tokens that have expired are listed, in seconds.
const FORGET_SECONDS: i64 = 30 * 24 * 3600;

pub(super) fn describe(token: AdminTokenRow) -> Result<api::Token, Refusal> {
    let state = if token.revoked_at.is_some() {
        api::TokenState::Revoked
    } else if now() >= token.expires_at {
        api::TokenState::Expired
    } else {
        api::TokenState::Usable
    };
    let last_used = token.last_used_at.map(|at| time("time", at)).transpose()?;
    Ok(api::Token {
        id: token.id,
        name: token.name,
        state,
        scopes: token.scopes,
        account: token.account,
        created_by: token.created_by,
        created: time("time", token.created_at)?,
        expires: time("time", token.expires_at)?,
        last_used,
    })
}

/// All tokens, the newest first.
///
/// # Errors
/// [`Refusal`].
pub(crate) async fn list_tokens(
    coordinator: &Coordinator,
    page: &api::PageQuery,
) -> Result<api::Page<api::Token>, Refusal> {
    let wanted = Wanted::new("tokens", page)?;
    let tokens = coordinator.store.read().await?.admin_tokens().await?;
    let page = wanted.of(tokens, |token| {
        (Reverse(token.created_at), token.id.0.clone())
    });
    page.try_map(describe)
}

/// Makes a token that may do no more than who makes it. Its secret is in the answer and nowhere
/// else.
///
/// # Errors
/// [`Refusal`].
pub(crate) async fn create_token(
    coordinator: &Coordinator,
    caller: &Caller,
    request: api::CreateToken,
) -> Result<api::CreatedToken, Refusal> {
    check(caller, &request)?;
    let token = AdminToken::generate()?;
    let created_at = now();
    let life = i64::try_from(request.expires_in_seconds).unwrap_or(i64::MAX);
    let stored = NewAdminToken {
        id: token.id().clone(),
        secret_hash: token.secret_hash(),
        name: request.name.trim().to_owned(),
        scopes: request.scopes,
        account: None,
        created_by: caller.actor.to_string(),
        created_at,
        expires_at: created_at.saturating_add(life),
    };
    let mut tx = coordinator.store.write().await?;
    let row = create_in(&mut tx, &caller.actor, &stored, "tokens.create").await?;
    tx.commit().await?;
    Ok(api::CreatedToken {
        token: token.reveal(),
        details: describe(row)?,
    })
}

fn check(caller: &Caller, request: &api::CreateToken) -> Result<(), Refusal> {
    let bad = |detail: &str| Err(Refusal::new(ErrorCode::BadRequest, detail));
    let name = request.name.trim();
    if name.is_empty() || name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
        return bad("say in a few words what the token is for, such as --name backups");
    }
    if request.scopes.is_empty() {
        return bad("a token without scopes is of no use: give some, such as --scope nodes:read");
    }
    if !(1..=MAX_LIFE_SECONDS).contains(&request.expires_in_seconds) {
        return bad("a token lives from one second to 366 days: give --expires such as 12h or 30d");
    }
    if !caller.scopes.cover(&request.scopes) {
        let detail = format!(
            "a token may do no more than the one it is made with, and that one has {}",
            caller.scopes
        );
        return Err(Refusal::new(ErrorCode::Forbidden, detail));
    }
    Ok(())
}

/// Stores a token, and forgets those that expired long ago.
pub(super) async fn create_in(
    tx: &mut Tx,
    actor: &Actor,
    stored: &NewAdminToken,
    action: &'static str,
) -> Result<AdminTokenRow, Refusal> {
    tx.forget_admin_tokens(stored.created_at - FORGET_SECONDS)
        .await?;
    tx.insert_admin_token(stored).await?;
    let entry = AuditEntry {
        at: stored.created_at,
        actor,
        action,
        subject: subject(&stored.id, &stored.name),
    };
    let after = json!({ "scopes": stored.scopes, "expires_at": stored.expires_at });
    tx.record(entry, None::<&()>, Some(&after)).await?;
    find(tx, &stored.id).await
}

/// Revokes a token: its next request is refused, at every coordinator.
///
/// # Errors
/// [`Refusal`], when there is no such token.
pub(crate) async fn revoke_token(
    coordinator: &Coordinator,
    actor: &Actor,
    id: &KeyId,
) -> Result<api::Token, Refusal> {
    let mut tx = coordinator.store.write().await?;
    let before = find(&mut tx, id).await?;
    tx.revoke_admin_token(id, now()).await?;
    let entry = AuditEntry {
        at: now(),
        actor,
        action: "tokens.revoke",
        subject: subject(id, &before.name),
    };
    let was = json!({ "revoked_at": before.revoked_at });
    tx.record(entry, Some(&was), Some(&json!({ "revoked_at": now() })))
        .await?;
    let after = find(&mut tx, id).await?;
    tx.commit().await?;
    describe(after)
}

fn subject(id: &KeyId, name: &str) -> String {
    format!("token {id} ({name})")
}

async fn find(tx: &mut Tx, id: &KeyId) -> Result<AdminTokenRow, Refusal> {
    tx.admin_token(id).await?.ok_or_else(|| {
        Refusal::new(
            ErrorCode::NotFound,
            format!("there is no token {id}: see coordinator tokens list"),
        )
    })
}
