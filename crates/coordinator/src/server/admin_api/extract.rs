//! The parts of a request, refused in our own words and as `application/problem+json`.

use crate::{
    admin::{Expected, Versioned},
    refusal::Refusal,
};
use axum::{
    Json,
    extract::{FromRequest, FromRequestParts, Path, Query, Request, rejection::JsonRejection},
    http::{
        StatusCode,
        header::{ETAG, IF_MATCH, IF_NONE_MATCH},
        request::Parts,
    },
    response::{IntoResponse, Response},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{convert::Infallible, time::Duration};
use tokio::time::timeout;
use weir_protocol::ErrorCode;

/// How long a body may take to arrive.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refusal;
    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        match timeout(DEADLINE, Json::from_request(request, state)).await {
            Ok(Ok(Json(body))) => Ok(Self(body)),
            Ok(Err(rejection)) => Err(refused(&rejection)),
            Err(_) => Err(Refusal::new(
                ErrorCode::BadRequest,
                format!(
                    "the request did not arrive within {} seconds",
                    DEADLINE.as_secs()
                ),
            )),
        }
    }
}

fn refused(rejection: &JsonRejection) -> Refusal {
    let (code, what) = match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => (
            ErrorCode::TooLarge,
            "the request is too long: at most 8 MiB are taken".to_owned(),
        ),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => (
            ErrorCode::UnsupportedMediaType,
            "the request is not JSON: send it with Content-Type: application/json".to_owned(),
        ),
        _ => (
            ErrorCode::BadRequest,
            format!("{}: see docs/openapi.json", rejection.body_text()),
        ),
    };
    Refusal::new(code, what)
}

/// Which version of a thing the sender wants to change.
pub(super) struct IfMatch(pub(super) Expected);

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let Some(header) = parts.headers.get(IF_MATCH) else {
            return Ok(Self(Expected::Any));
        };
        let header = header.to_str().map_err(|_| {
            Refusal::new(
                ErrorCode::BadRequest,
                "If-Match is not an entity tag such as \"3\"",
            )
        })?;
        Ok(Self(Expected::parse(header)))
    }
}

/// What the sender knows already.
pub(super) struct IfNoneMatch(Option<String>);

impl<S: Sync> FromRequestParts<S> for IfNoneMatch {
    type Rejection = Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let header = parts.headers.get(IF_NONE_MATCH);
        let known = header.and_then(|header| header.to_str().ok());
        Ok(Self(known.map(str::to_owned)))
    }
}

impl IfNoneMatch {
    /// The thing, unless the sender knows this version of it.
    pub(super) fn answer<T: Serialize>(self, found: Versioned<T>) -> Response {
        let known = self.0.unwrap_or_default();
        if known.split(',').any(|tag| tag.trim() == found.version) {
            return (StatusCode::NOT_MODIFIED, [(ETAG, found.version)]).into_response();
        }
        versioned(found)
    }
}

/// A thing with its version.
pub(super) fn versioned<T: Serialize>(found: Versioned<T>) -> Response {
    ([(ETAG, found.version)], Json(found.of)).into_response()
}

/// What stands in the path in the place of its parameter.
pub(super) struct Segment<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Segment<T> {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(Refusal::new(ErrorCode::BadRequest, rejection.body_text())),
        }
    }
}

/// What stands behind the question mark.
pub(super) struct Parameters<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Parameters<T> {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(Refusal::new(ErrorCode::BadRequest, rejection.body_text())),
        }
    }
}
