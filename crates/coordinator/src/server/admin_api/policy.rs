//! What admins ask about policies.

use super::{Admin, Answer, Body, Shared};
use crate::{Coordinator, admin, api};
use axum::{
    Json, Router,
    extract::{Path, State},
    routing::{get, post},
};
use std::sync::Arc;

pub(super) fn router() -> Router<Arc<Coordinator>> {
    Router::new()
        .route("/policy", get(newest).put(set))
        .route("/policy/revisions", get(history))
        .route("/policy/revisions/{revision}", get(revision))
        .route("/policy/rollback", post(roll_back))
        .route("/policy/test", post(test))
        .route("/policy/explain", post(explain))
        .route("/policy/diff", post(diff))
}

async fn newest(State(coordinator): Shared) -> Answer<api::Policy> {
    admin::get_policy(&coordinator, None).await.map(Json)
}

async fn revision(State(coordinator): Shared, Path(revision): Path<u64>) -> Answer<api::Policy> {
    admin::get_policy(&coordinator, Some(revision))
        .await
        .map(Json)
}

async fn history(State(coordinator): Shared) -> Answer<Vec<api::PolicyRevision>> {
    admin::policy_history(&coordinator).await.map(Json)
}

async fn set(
    State(coordinator): Shared,
    Admin(actor): Admin,
    Body(request): Body<api::SetPolicy>,
) -> Answer<api::SetPolicyDone> {
    admin::set_policy(&coordinator, &actor, request)
        .await
        .map(Json)
}

async fn roll_back(
    State(coordinator): Shared,
    Admin(actor): Admin,
    Body(request): Body<api::RollBackPolicy>,
) -> Answer<api::SetPolicyDone> {
    admin::roll_back_policy(&coordinator, &actor, request)
        .await
        .map(Json)
}

async fn test(
    State(coordinator): Shared,
    Body(request): Body<api::TestPolicy>,
) -> Answer<api::PolicyTested> {
    admin::test_policy(&coordinator, request).await.map(Json)
}

async fn explain(
    State(coordinator): Shared,
    Body(request): Body<api::ExplainPolicy>,
) -> Answer<Vec<api::Explained>> {
    admin::explain_policy(&coordinator, &request)
        .await
        .map(Json)
}

async fn diff(
    State(coordinator): Shared,
    Body(request): Body<api::DiffPolicies>,
) -> Answer<api::PolicyDiff> {
    admin::diff_policies(&coordinator, request).await.map(Json)
}
