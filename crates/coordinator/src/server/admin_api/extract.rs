//! The parts of a request, refused in our own words and as `application/problem+json`.

use crate::refusal::Refusal;
use axum::{
    Json,
    extract::{FromRequest, FromRequestParts, Path, Query, Request, rejection::JsonRejection},
    http::{StatusCode, request::Parts},
};
use serde::de::DeserializeOwned;
use std::time::Duration;
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
