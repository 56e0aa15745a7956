//! `Idempotency-Key`: a request that is sent twice is done once.

use super::{MAX_BODY_BYTES, extract::DEADLINE};
use crate::{
    Coordinator,
    accounts::Caller,
    clock::{self, hexadecimal},
    refusal::Refusal,
    store::{Claim, Claimed, Store},
};
use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{
        HeaderValue, StatusCode,
        header::{CONTENT_TYPE, HeaderName},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use tokio::time::timeout;
use weir_protocol::ErrorCode;

/// The key of a request (draft-ietf-httpapi-idempotency-key-header).
const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that an answer is that of an earlier request.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// The longest key.
const MAX_KEY: usize = 255;
/// How many keys of one sender are remembered. Who sends more in a day is told so.
const MAX_KEYS: u64 = 1_000;
/// The longest answer that is kept.
const MAX_ANSWER: usize = 64 << 10;
/// When it is worth trying again with too many keys, in seconds.
const TRY_AGAIN: u64 = 3600;

/// Marks an answer that shows a secret once: it is not kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShownOnce;

/// Does a request that has a key once.
pub(super) async fn once(
    State(coordinator): State<Arc<Coordinator>>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let Some(key) = request.headers().get(&KEY) else {
        return Ok(next.run(request).await);
    };
    let key = key
        .to_str()
        .ok()
        .filter(|key| (1..=MAX_KEY).contains(&key.len()));
    let key = key.ok_or_else(|| {
        Refusal::new(
            ErrorCode::BadRequest,
            format!("Idempotency-Key is up to {MAX_KEY} characters of ASCII, such as a UUID"),
        )
    })?;
    let caller = request
        .extensions()
        .get::<Caller>()
        .map(|caller| caller.actor.to_string());
    let caller = hash([caller.as_deref().unwrap_or_default()]);
    let id = hash([&caller, key]);
    let (parts, body) = request.into_parts();
    let too_long = || {
        Refusal::new(
            ErrorCode::TooLarge,
            "the request is too long or did not arrive in time: at most 8 MiB are taken",
        )
    };
    let bytes = timeout(DEADLINE, to_bytes(body, MAX_BODY_BYTES));
    let bytes = bytes
        .await
        .map_err(|_| too_long())?
        .map_err(|_| too_long())?;
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    let what = format!("{} {path}", parts.method);
    let claim = Claim {
        id,
        caller,
        request: hash([&what, &hexadecimal(&Sha256::digest(&bytes))]),
        at: clock::now(),
    };
    let store = &coordinator.store;
    if let Some(answer) = known(store, &claim).await? {
        return Ok(answer);
    }
    let request = Request::from_parts(parts, Body::from(bytes));
    let response = claim.clone().during(next.run(request)).await;
    if response.extensions().get::<Repeated>().is_some() {
        // Another one with this key was done in between.
        let done = known(store, &claim).await?;
        return Ok(done.unwrap_or(response));
    }
    keep(store, &claim, response).await
}

/// Marks the answer to a request whose change another one with the same key had made.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct Repeated;

/// The answer to a request that was done already.
async fn known(store: &Store, claim: &Claim) -> Result<Option<Response>, Refusal> {
    let mut tx = store.read().await?;
    let Some(done) = tx.claimed(claim).await? else {
        if tx.claims_of_caller(claim).await? >= MAX_KEYS {
            return Err(Refusal::TooMany {
                detail: format!(
                    "{MAX_KEYS} requests with an Idempotency-Key were sent within a day: send this \
                     one without, or later"
                ),
                retry_after: TRY_AGAIN,
            });
        }
        return Ok(None);
    };
    if done.request != claim.request {
        return Err(Refusal::new(
            ErrorCode::KeyReused,
            "this Idempotency-Key was used for another request: choose a new one for each",
        ));
    }
    let Claimed { audit, answer, .. } = done;
    if let Some(answer) = answer {
        let headers = [
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (REPLAYED, HeaderValue::from_static("true")),
        ];
        return Ok(Some((headers, answer).into_response()));
    }
    let entries = tx.audit(audit.checked_add(1), 1).await?;
    let entry = entries.first();
    let what = entry.map_or_else(String::new, |entry| {
        format!(": {} of {}", entry.action, entry.subject)
    });
    Err(Refusal::new(
        ErrorCode::Conflict,
        format!(
            "this was done already, as entry {audit} of the audit log{what}. Its answer was not \
             kept, because it shows a secret once or the coordinator stopped meanwhile: look at \
             what was made, and send a new Idempotency-Key to make another"
        ),
    ))
}

/// Keeps the answer to a request that was done.
async fn keep(store: &Store, claim: &Claim, response: Response) -> Result<Response, Refusal> {
    if response.status() != StatusCode::OK || response.extensions().get::<ShownOnce>().is_some() {
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.unwrap_or_default();
    if let Ok(text) = std::str::from_utf8(&bytes)
        && text.len() <= MAX_ANSWER
        && let Err(error) = kept(store, claim, text).await
    {
        // The change is made and cannot be made again: only its answer cannot be repeated.
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "cannot keep the answer to a request with an Idempotency-Key"
        );
    }
    Ok(Response::from_parts(parts, Body::from(bytes)))
}

async fn kept(store: &Store, claim: &Claim, text: &str) -> Result<(), crate::store::StoreError> {
    let mut tx = store.note().await?;
    tx.answered(claim, text).await?;
    tx.commit().await
}

fn hash<const N: usize>(parts: [&str; N]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        // The length keeps parts apart.
        hash.update(part.len().to_be_bytes());
        hash.update(part.as_bytes());
    }
    hexadecimal(&hash.finalize())
}
