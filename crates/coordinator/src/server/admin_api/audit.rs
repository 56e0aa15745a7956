//! What admins ask about the audit log.

use super::{Answer, Shared};
use crate::{Coordinator, admin, api, refusal::Refusal, store::AuditHead};
use axum::{
    Json, Router,
    extract::{Query, State, rejection::QueryRejection},
    routing::get,
};
use serde::Deserialize;
use std::sync::Arc;
use weir_protocol::ErrorCode;

/// How many entries are listed when nobody says how many.
const DEFAULT_LIMIT: u32 = 100;

pub(super) fn router() -> Router<Arc<Coordinator>> {
    Router::new()
        .route("/audit", get(list))
        .route("/audit/verify", get(verify))
}

type Asked<T> = Result<Query<T>, QueryRejection>;

fn asked<T>(query: Asked<T>) -> Result<T, Refusal> {
    query
        .map(|Query(query)| query)
        .map_err(|rejection| Refusal::new(ErrorCode::BadRequest, rejection.body_text()))
}

#[derive(Debug, Deserialize)]
struct List {
    before: Option<u64>,
    limit: Option<u32>,
}

async fn list(State(coordinator): Shared, query: Asked<List>) -> Answer<Vec<api::AuditEntry>> {
    let List { before, limit } = asked(query)?;
    admin::list_audit(&coordinator, before, limit.unwrap_or(DEFAULT_LIMIT))
        .await
        .map(Json)
}

#[derive(Debug, Deserialize)]
struct Verify {
    head: Option<String>,
}

async fn verify(State(coordinator): Shared, query: Asked<Verify>) -> Answer<api::AuditReport> {
    let known = asked(query)?
        .head
        .map(|text| text.parse::<AuditHead>())
        .transpose()
        .map_err(|error| Refusal::new(ErrorCode::BadRequest, error))?;
    admin::verify_audit(&coordinator, known).await.map(Json)
}
