//! What admins ask about the audit log.

use super::{Answer, Shared, extract::Parameters};
use crate::{admin, api, refusal::Refusal, store::AuditHead};
use axum::{Json, extract::State};
use schemars::JsonSchema;
use serde::Deserialize;
use weir_protocol::ErrorCode;

pub(super) async fn list(
    State(coordinator): Shared,
    Parameters(query): Parameters<api::AuditQuery>,
) -> Answer<api::Page<api::AuditEntry>> {
    admin::list_audit(&coordinator, query).await.map(Json)
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct Verify {
    /// The number and hash of an entry that was kept elsewhere, as NUMBER:HASH.
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
