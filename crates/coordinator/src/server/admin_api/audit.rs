//! What admins ask about the audit log.

use super::{Answer, Shared, extract::Parameters};
use crate::{admin, api, refusal::Refusal, store::AuditHead};
use axum::{Json, extract::State};
use serde::Deserialize;
use weir_protocol::ErrorCode;

/// How many entries are listed when nobody says how many.
const DEFAULT_LIMIT: u32 = 100;

#[derive(Debug, Deserialize)]
pub(super) struct List {
    before: Option<u64>,
    limit: Option<u32>,
}

pub(super) async fn list(
    State(coordinator): Shared,
    Parameters(List { before, limit }): Parameters<List>,
) -> Answer<Vec<api::AuditEntry>> {
    admin::list_audit(&coordinator, before, limit.unwrap_or(DEFAULT_LIMIT))
        .await
        .map(Json)
}

#[derive(Debug, Deserialize)]
pub(super) struct Verify {
    head: Option<String>,
}

pub(super) async fn verify(
    State(coordinator): Shared,
    Parameters(Verify { head }): Parameters<Verify>,
) -> Answer<api::AuditReport> {
    let known = head
        .map(|text| text.parse::<AuditHead>())
        .transpose()
        .map_err(|error| Refusal::new(ErrorCode::BadRequest, error))?;
    admin::verify_audit(&coordinator, known).await.map(Json)
}
