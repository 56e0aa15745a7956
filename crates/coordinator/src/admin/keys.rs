//! Auth keys.

use super::{find_user, nodes::MAX_KEY_LIFE_SECONDS, now, page::Wanted, time};
use crate::{
    Coordinator, api,
    clock::{hexadecimal, random},
    cluster,
    refusal::Refusal,
    store::{Actor, AuditEntry, AuthKeyRow, NewAuthKey},
};
use serde_json::json;
use std::cmp::Reverse;
use weir_overlay::KeyId;
use weir_protocol::{AuthKey, ErrorCode};

/// The longest life of a key: a year. A key that must live longer is one that will be forgotten.
const MAX_LIFE_SECONDS: u64 = 366 * 24 * 3600;

/// For how long the key of a user's node is good, unless the auth key says otherwise: half a year,
/// as is usual in such networks.
const USUAL_NODE_LIFE_SECONDS: u64 = 180 * 24 * 3600;

fn describe(key: AuthKeyRow) -> Result<api::Key, Refusal> {
    let state = if key.revoked_at.is_some() {
        api::KeyState::Revoked
    } else if !key.reusable && key.uses > 0 {
        api::KeyState::Used
    } else if now() >= key.expires_at {
        api::KeyState::Expired
    } else {
        api::KeyState::Usable
    };
    Ok(api::Key {
        id: key.id,
        state,
        user: key.user_name,
        tags: key.tags,
        reusable: key.reusable,
        ephemeral: key.ephemeral,
        uses: key.uses,
        created: time("time", key.created_at)?,
        expires: time("time", key.expires_at)?,
        node_life_seconds: key.node_life.and_then(|life| u64::try_from(life).ok()),
    })
}

/// All auth keys, the newest first.
///
/// # Errors
/// [`Refusal`].
pub(crate) async fn list_keys(
    coordinator: &Coordinator,
    page: &api::PageQuery,
) -> Result<api::Page<api::Key>, Refusal> {
    let wanted = Wanted::new("keys", page)?;
    let keys = coordinator.store.read().await?.auth_keys().await?;
    let page = wanted.of(keys, |key| (Reverse(key.created_at), key.id.0.clone()));
    page.try_map(describe)
}

/// Makes an auth key. Its secret is in the answer and nowhere else.
///
/// # Errors
/// [`Refusal`], when there is no such user, or both or neither of user and tags are given.
pub(crate) async fn create_key(
    coordinator: &Coordinator,
    actor: &Actor,
    request: api::CreateKey,
) -> Result<api::CreatedKey, Refusal> {
    if request.user.is_some() != request.tags.is_empty() {
        return Err(Refusal::new(
            ErrorCode::BadRequest,
            "a key is for a user or carries tags: give either --user NAME or --tags tag:NAME",
        ));
    }
    if !(1..=MAX_LIFE_SECONDS).contains(&request.expires_in_seconds) {
        return Err(Refusal::new(
            ErrorCode::BadRequest,
            "a key lives from one second to 366 days: give --expires such as 24h or 30d",
        ));
    }
    let node_life = node_life(request.node_life, request.user.is_none())?;
    let urls = urls(coordinator).await?;
    let mut tx = coordinator.store.write().await?;
    let user = match &request.user {
        Some(name) => Some(find_user(&mut tx, name).await?.id),
        None => None,
    };
    let key = AuthKey::new(
        KeyId(hexadecimal(&random::<4>()?)),
        hexadecimal(&random::<16>()?),
        coordinator.identity.pin,
    );
    let created_at = now();
    let life = i64::try_from(request.expires_in_seconds).unwrap_or(i64::MAX);
    let stored = NewAuthKey {
        id: key.id().clone(),
        secret_hash: key.secret_hash(),
        user,
        tags: request.tags,
        reusable: request.reusable,
        ephemeral: request.ephemeral,
        created_at,
        expires_at: created_at.saturating_add(life),
        node_life,
    };
    tx.insert_auth_key(&stored).await?;
    let after = json!({
        "user": request.user, "tags": stored.tags, "reusable": stored.reusable,
        "ephemeral": stored.ephemeral, "expires_at": stored.expires_at,
        "node_life": stored.node_life,
    });
    let entry = AuditEntry {
        at: created_at,
        actor,
        action: "keys.create",
        subject: format!("auth key {}", stored.id),
    };
    tx.record(entry, None::<&()>, Some(&after)).await?;
    let row = find_key(&mut tx, &stored.id).await?;
    tx.commit().await?;
    Ok(api::CreatedKey {
        command: format!("agent up --coordinator {urls} --auth-key {}", key.reveal()),
        key: key.reveal(),
        details: describe(row)?,
    })
}

/// For how many seconds the keys of nodes are good that are let in; none for ever.
pub(super) fn node_life(life: api::NodeLife, is_tagged: bool) -> Result<Option<i64>, Refusal> {
    let seconds = match life {
        // A server that carries tags has nobody in front of it who would renew its key.
        api::NodeLife::Usual if is_tagged => return Ok(None),
        api::NodeLife::Usual => USUAL_NODE_LIFE_SECONDS,
        api::NodeLife::Unlimited => return Ok(None),
        api::NodeLife::Seconds(seconds) => seconds,
    };
    if !(1..=MAX_KEY_LIFE_SECONDS).contains(&seconds) {
        return Err(Refusal::new(
            ErrorCode::BadRequest,
            "the keys of nodes are good for one second to ten years, or for ever: give \
             --node-expiry such as 90d, or never",
        ));
    }
    Ok(i64::try_from(seconds).ok())
}

/// Where agents reach the network's coordinators, this one first.
async fn urls(coordinator: &Coordinator) -> Result<String, Refusal> {
    let mut urls = vec![coordinator.identity.url.clone()];
    if coordinator.store.is_shared() {
        for other in cluster::others(&coordinator.store, &coordinator.member).await? {
            if !urls.contains(&other.url) {
                urls.push(other.url);
            }
        }
    }
    Ok(urls.join(","))
}

/// Revokes a key: it enrols nothing any more. What it enrolled stays.
///
/// # Errors
/// [`Refusal`], when there is no such key.
pub(crate) async fn revoke_key(
    coordinator: &Coordinator,
    actor: &Actor,
    id: &KeyId,
) -> Result<api::Key, Refusal> {
    let mut tx = coordinator.store.write().await?;
    let before = find_key(&mut tx, id).await?;
    tx.revoke_auth_key(id, now()).await?;
    let entry = AuditEntry {
        at: now(),
        actor,
        action: "keys.revoke",
        subject: format!("auth key {id}"),
    };
    let was = json!({ "revoked_at": before.revoked_at });
    tx.record(entry, Some(&was), Some(&json!({ "revoked_at": now() })))
        .await?;
    let after = find_key(&mut tx, id).await?;
    tx.commit().await?;
    describe(after)
}

async fn find_key(tx: &mut crate::store::Tx, id: &KeyId) -> Result<AuthKeyRow, Refusal> {
    tx.auth_key(id).await?.ok_or_else(|| {
        Refusal::new(
            ErrorCode::NotFound,
            format!("there is no auth key {id}: see coordinator keys list"),
        )
    })
}
