//! Answers that say no.

use crate::{
    api::{AdminProblem, Finding},
    refusal::Refusal,
};
use axum::{
    Json,
    http::{HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use weir_protocol::ErrorCode;

const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let problem = self.problem();
        if matches!(self, Self::Store(_) | Self::Random(_)) {
            tracing::error!(
                error = &self as &dyn std::error::Error,
                "a request failed because of the coordinator itself"
            );
        } else {
            tracing::info!(code = ?problem.code, detail = problem.detail, "refused a request");
        }
        let (findings, diagnostics) = match self {
            Self::BadPolicy {
                findings, drawn, ..
            } => (
                findings.into_iter().map(Finding::from).collect(),
                Some(drawn),
            ),
            Self::Denied { .. } | Self::Store(_) | Self::Random(_) => (Vec::new(), None),
        };
        let status =
            StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = AdminProblem {
            problem,
            diagnostics,
            findings,
        };
        (status, [(CONTENT_TYPE, PROBLEM)], Json(body)).into_response()
    }
}

/// What a path that does not exist answers.
pub(super) async fn no_such_path(uri: http::Uri) -> Refusal {
    Refusal::new(
        ErrorCode::NotFound,
        format!(
            "there is no {}: agent and coordinator may be of different versions, see agent \
             version and coordinator version",
            uri.path()
        ),
    )
}

/// What a method that a path does not have answers.
pub(super) async fn no_such_method(method: http::Method, uri: http::Uri) -> Refusal {
    Refusal::new(
        ErrorCode::BadRequest,
        format!("{} does not take {method} requests", uri.path()),
    )
}
