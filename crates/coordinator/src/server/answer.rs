//! Answers that say no.

use super::admin_api::Repeated;
use crate::{
    api::{AdminProblem, Finding},
    refusal::Refusal,
    store::StoreError,
};
use axum::{
    Json,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use weir_protocol::ErrorCode;

const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
/// When to ask again what could not be done now, in seconds (RFC 9110, section 10.2.3). Agents wait
/// as long as their own pauses say, which are spread at random.
const COME_BACK: HeaderValue = HeaderValue::from_static("2");

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let problem = self.problem();
        if matches!(self, Self::Store(_) | Self::Random(_) | Self::Password(_)) {
            tracing::error!(
                error = &self as &dyn std::error::Error,
                "a request failed because of the coordinator itself"
            );
        } else {
            tracing::info!(code = ?problem.code, detail = problem.detail, "refused a request");
        }
        let status =
            StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = self.headers();
        let repeated = matches!(self, Self::Store(StoreError::Repeated)).then_some(Repeated);
        let (findings, diagnostics) = match self {
            Self::BadPolicy {
                findings, drawn, ..
            } => (
                findings.into_iter().map(Finding::from).collect(),
                Some(drawn),
            ),
            Self::Denied { .. }
            | Self::Unauthenticated { .. }
            | Self::MissingScope { .. }
            | Self::TooMany { .. }
            | Self::Password(_)
            | Self::Store(_)
            | Self::Random(_) => (Vec::new(), None),
        };
        let body = AdminProblem {
            kind: kind(problem.code),
            title: status.canonical_reason().unwrap_or_default().to_owned(),
            problem,
            diagnostics,
            findings,
        };
        let mut response = (status, [(CONTENT_TYPE, PROBLEM)], headers, Json(body)).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, COME_BACK);
        }
        if let Some(repeated) = repeated {
            response.extensions_mut().insert(repeated);
        }
        response
    }
}

/// A URI for each code (RFC 9457, section 3.1.1). It names the kind and leads nowhere.
fn kind(code: ErrorCode) -> String {
    let name = serde_json::to_value(code).ok();
    let name = name.as_ref().and_then(|name| name.as_str());
    format!("urn:weir:problem:{}", name.unwrap_or("unknown"))
}

impl Refusal {
    /// What goes beside the body: what is missing (RFC 6750, section 3), or when to come again (RFC
    /// 9110, section 10.2.3).
    fn headers(&self) -> HeaderMap {
        let (name, value) = match self {
            Self::Unauthenticated { .. } => (WWW_AUTHENTICATE, "Bearer realm=\"weir\"".to_owned()),
            Self::MissingScope { scope } => (
                WWW_AUTHENTICATE,
                format!("Bearer realm=\"weir\", error=\"insufficient_scope\", scope=\"{scope}\""),
            ),
            Self::TooMany { retry_after, .. } => (RETRY_AFTER, retry_after.to_string()),
            Self::Denied { .. }
            | Self::BadPolicy { .. }
            | Self::Password(_)
            | Self::Store(_)
            | Self::Random(_) => return HeaderMap::new(),
        };
        let value = HeaderValue::try_from(value).ok();
        value.map(|value| (name, value)).into_iter().collect()
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
        ErrorCode::MethodNotAllowed,
        format!("{} does not take {method} requests", uri.path()),
    )
}
