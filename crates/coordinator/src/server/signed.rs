//! Reading a signed request: the whole of it, in time, signed, new, and only then as JSON.

use crate::{
    Coordinator, clock,
    enrolment::{self, Sender},
    group_commit::Note,
    metrics::Unsigned,
    refusal::Refusal,
    replay::{ReplayError, Signer, forget_at},
    store::{Known, Machine},
};
use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, Request},
    http::HeaderMap,
};
use http_body_util::{BodyExt, Limited};
use serde::de::DeserializeOwned;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use weir_protocol::{ErrorCode, SignatureError, Signed, SignedHeaders, verify};

/// The longest request: a thousand routes and addresses fit many times.
const MAX_BODY_BYTES: usize = 256 * 1024;
/// How long a request's body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// Where a connection comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerAddress(pub(super) SocketAddr);

/// A request that its machine signed, never seen before.
#[derive(Debug)]
pub(super) struct SignedRequest<T> {
    /// Who sent it.
    pub(super) sender: Sender,
    /// The signature.
    pub(super) signed: Signed,
    /// The node that it is, when it is enrolled.
    pub(super) node: Option<Arc<Machine>>,
    /// What it says.
    pub(super) body: T,
}

impl<T: DeserializeOwned> FromRequest<Arc<Coordinator>> for SignedRequest<T> {
    type Rejection = Refusal;

    async fn from_request(
        request: Request,
        coordinator: &Arc<Coordinator>,
    ) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        let from = parts
            .extensions
            .get::<PeerAddress>()
            .map(|peer| peer.0.ip().to_canonical())
            .ok_or_else(|| bad_request("the request has no source address"))?;
        let headers = signed_headers(&parts.headers)
            .inspect_err(|_| coordinator.metrics.refused(Unsigned::Malformed))?;
        let bytes = read_body(body).await?;
        let now = clock::now();
        let method = parts.method.as_str();
        let signed = verify(&headers, method, parts.uri.path(), &bytes, now)
            .inspect_err(|error| coordinator.metrics.refused(reason(error)))
            .map_err(refusal)?;
        let mut known = coordinator.store.machine(&signed.machine).await?;
        let signer = match known {
            Known::Machine(_) => Signer::Known,
            Known::Stranger { .. } => Signer::Stranger,
        };
        coordinator
            .replay
            .accept(&signed, signer, now)
            .inspect_err(|error| {
                coordinator.metrics.refused(match error {
                    ReplayError::Replayed => Unsigned::Replayed,
                    ReplayError::Full | ReplayError::TooMany => Unsigned::Full,
                });
            })
            .map_err(refuse)?;
        if let Known::Machine(machine) = known {
            let revision = remember(coordinator, &signed).await?;
            known = coordinator.store.confirm(machine, revision).await?;
        }
        let node = match known {
            Known::Machine(machine) => Some(machine),
            Known::Stranger { is_revoked: false } => None,
            Known::Stranger { is_revoked: true } => return Err(enrolment::machine_revoked()),
        };
        let body = serde_json::from_slice(&bytes).map_err(|error| {
            bad_request(&format!(
                // Not the parser's own words: they quote the request, which may hold an auth key.
                "the request cannot be read from line {}, column {} on: agent and coordinator may \
                 be of different versions, see agent version and coordinator version",
                error.line(),
                error.column()
            ))
        })?;
        Ok(Self {
            sender: Sender {
                machine: signed.machine,
                address: from,
                now,
            },
            signed,
            node,
            body,
        })
    }
}

/// Remembers, across a restart and for other coordinators on the same database, that this
/// signature was accepted. Refuses one that is remembered already. Gives the revision of the network
/// when it was done.
pub(super) async fn remember(coordinator: &Coordinator, signed: &Signed) -> Result<u64, Refusal> {
    let note = Note::Signature {
        machine: signed.machine,
        nonce: signed.nonce.clone(),
        forget_at: forget_at(signed),
    };
    let stored = coordinator.signatures.store(note).await?;
    if stored.is_news {
        return Ok(stored.revision);
    }
    coordinator.metrics.refused(Unsigned::Replayed);
    Err(refuse(ReplayError::Replayed))
}

const fn reason(error: &SignatureError) -> Unsigned {
    match error {
        SignatureError::Age { .. } => Unsigned::Clock,
        SignatureError::Malformed(_) => Unsigned::Malformed,
        SignatureError::Digest | SignatureError::Key(_) => Unsigned::Wrong,
    }
}

fn refuse(error: ReplayError) -> Refusal {
    let code = match error {
        ReplayError::Replayed => ErrorCode::BadSignature,
        ReplayError::Full | ReplayError::TooMany => ErrorCode::Unavailable,
    };
    Refusal::new(code, error.to_string())
}

fn bad_request(detail: &str) -> Refusal {
    Refusal::new(ErrorCode::BadRequest, detail)
}

fn signed_headers(headers: &HeaderMap) -> Result<SignedHeaders, Refusal> {
    let header = |name: &'static str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
            .ok_or_else(|| {
                Refusal::new(
                    ErrorCode::BadSignature,
                    format!(
                        "the request is not signed (there is no header {name}): talk to the \
                         coordinator through the agent command"
                    ),
                )
            })
    };
    Ok(SignedHeaders {
        content_digest: header("content-digest")?,
        signature_input: header("signature-input")?,
        signature: header("signature")?,
    })
}

async fn read_body(body: Body) -> Result<Bytes, Refusal> {
    let reading = Limited::new(body, MAX_BODY_BYTES).collect();
    let collected = tokio::time::timeout(BODY_DEADLINE, reading)
        .await
        .map_err(|_| {
            bad_request(&format!(
                "the request did not arrive within {} seconds",
                BODY_DEADLINE.as_secs()
            ))
        })?
        .map_err(|error| {
            bad_request(&format!(
                "the request cannot be read ({error}); at most {MAX_BODY_BYTES} bytes are accepted"
            ))
        })?;
    Ok(collected.to_bytes())
}

fn refusal(error: SignatureError) -> Refusal {
    let code = match error {
        SignatureError::Age { .. } => ErrorCode::ClockSkew,
        SignatureError::Malformed(_) | SignatureError::Digest | SignatureError::Key(_) => {
            ErrorCode::BadSignature
        }
    };
    Refusal::new(code, error.to_string())
}
