//! Who asks, and whether they may.

use crate::{
    Coordinator,
    accounts::{Caller, Scope, Scopes, authenticate},
    refusal::Refusal,
    server::signed::PeerAddress,
    store::Actor,
};
use axum::{
    extract::{ConnectInfo, FromRequestParts, Request, State, connect_info::Connected},
    http::{Extensions, HeaderMap, header::AUTHORIZATION, request::Parts},
    middleware::Next,
    response::Response,
    serve::IncomingStream,
};
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};
use tokio::net::UnixListener;
use weir_protocol::ErrorCode;

/// What it takes to use an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing: it checks a secret of its own, or tells nothing.
    Anyone,
    /// This scope.
    Needs(Scope),
}

/// Stands before an endpoint.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    pub(super) coordinator: Arc<Coordinator>,
    pub(super) access: Access,
}

/// Lets a request through to its endpoint when who asks may do that. Nothing of its body is read
/// before.
pub(super) async fn authorize(
    State(gate): State<Gate>,
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let Access::Needs(scope) = gate.access else {
        return Ok(next.run(request).await);
    };
    let caller = who(&gate.coordinator, request.extensions(), request.headers()).await?;
    if !caller.scopes.allow(scope) {
        return Err(Refusal::MissingScope { scope });
    }
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

async fn who(
    coordinator: &Coordinator,
    extensions: &Extensions,
    headers: &HeaderMap,
) -> Result<Caller, Refusal> {
    if let Some(ConnectInfo(user)) = extensions.get::<ConnectInfo<LocalUser>>() {
        return user.caller();
    }
    let PeerAddress(peer) = extensions
        .get::<PeerAddress>()
        .ok_or_else(|| Refusal::new(ErrorCode::BadRequest, "the request has no source address"))?;
    let token = bearer(headers).ok_or_else(|| Refusal::Unauthenticated {
        detail: "this needs a token, as in Authorization: Bearer weir_admin_...: make one with \
                 coordinator tokens create, or log in with POST /api/v1/login"
            .to_owned(),
    })?;
    let address = peer.ip().to_canonical();
    authenticate(&coordinator.store, token, address).await
}

/// The token of a request (RFC 6750, section 2.1). The scheme's case is of no account (RFC 9110,
/// section 11.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_start())
}

/// Who opened a connection to the admin socket, as the kernel says.
#[derive(Clone, Debug)]
pub(in crate::server) struct LocalUser(Option<u32>);

impl LocalUser {
    fn caller(&self) -> Result<Caller, Refusal> {
        let uid = self.0.ok_or_else(|| {
            Refusal::new(
                ErrorCode::BadRequest,
                "the kernel does not say which user this is",
            )
        })?;
        Ok(Caller {
            actor: Actor::LocalAdmin { uid },
            scopes: Scopes::all(),
        })
    }
}

impl Connected<IncomingStream<'_, UnixListener>> for LocalUser {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(stream.io().peer_cred().ok().map(|user| user.uid()))
    }
}

/// The caller that the gate let through.
fn let_through(parts: &Parts) -> Result<Caller, Refusal> {
    // Only an endpoint that anyone may use has none, and none of those asks.
    parts.extensions.get().cloned().ok_or_else(|| {
        Refusal::new(
            ErrorCode::Internal,
            "the coordinator does not know who asks",
        )
    })
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let_through(parts)
    }
}

/// Who asks, for the audit log.
pub(super) struct Admin(pub(super) Actor);

impl<S: Sync> FromRequestParts<S> for Admin {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let_through(parts).map(|caller| Self(caller.actor))
    }
}

/// Where a request comes from; this host, when it came over the socket.
pub(in crate::server) struct From(pub(in crate::server) IpAddr);

impl<S: Sync> FromRequestParts<S> for From {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let peer = parts.extensions.get::<PeerAddress>();
        let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Ok(Self(peer.map_or(here, |peer| peer.0.ip().to_canonical())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn a_token_is_found_in_its_header_only() {
        let of = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_static(value));
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(
            of("Bearer weir_admin_1_2"),
            Some("weir_admin_1_2".to_owned())
        );
        assert_eq!(of("bearer  x"), Some("x".to_owned()));
        for none in ["weir_admin_1_2", "Basic eA==", "Bearer", ""] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
