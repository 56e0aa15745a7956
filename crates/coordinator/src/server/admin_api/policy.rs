//! What admins ask about policies.

use super::{
    Answer, Shared,
    access::Admin,
    extract::{Body, IfMatch, IfNoneMatch, Parameters, Segment, versioned},
};
use crate::{admin, api, refusal::Refusal};
use axum::{Json, extract::State, response::Response};

pub(super) async fn newest(
    State(coordinator): Shared,
    known: IfNoneMatch,
) -> Result<Response, Refusal> {
    let found = admin::get_policy(&coordinator, None).await?;
    Ok(known.answer(found))
}

pub(super) async fn revision(
    State(coordinator): Shared,
    known: IfNoneMatch,
    Segment(revision): Segment<u64>,
) -> Result<Response, Refusal> {
    let found = admin::get_policy(&coordinator, Some(revision)).await?;
    Ok(known.answer(found))
}

pub(super) async fn history(
    State(coordinator): Shared,
    Parameters(page): Parameters<api::PageQuery>,
) -> Answer<api::Page<api::PolicyRevision>> {
    admin::policy_history(&coordinator, &page).await.map(Json)
}

pub(super) async fn set(
    State(coordinator): Shared,
    Admin(actor): Admin,
    IfMatch(expected): IfMatch,
    Body(request): Body<api::SetPolicy>,
) -> Result<Response, Refusal> {
    admin::set_policy(&coordinator, &actor, request, &expected)
        .await
        .map(versioned)
}

pub(super) async fn roll_back(
    State(coordinator): Shared,
    Admin(actor): Admin,
    Body(request): Body<api::RollBackPolicy>,
) -> Answer<api::SetPolicyDone> {
    admin::roll_back_policy(&coordinator, &actor, request)
        .await
        .map(Json)
}

pub(super) async fn test(
    State(coordinator): Shared,
    Body(request): Body<api::TestPolicy>,
) -> Answer<api::PolicyTested> {
    admin::test_policy(&coordinator, request).await.map(Json)
}

pub(super) async fn explain(
    State(coordinator): Shared,
    Body(request): Body<api::ExplainPolicy>,
) -> Answer<Vec<api::Explained>> {
    admin::explain_policy(&coordinator, &request)
        .await
        .map(Json)
}

pub(super) async fn diff(
    State(coordinator): Shared,
    Body(request): Body<api::DiffPolicies>,
) -> Answer<api::PolicyDiff> {
    admin::diff_policies(&coordinator, request).await.map(Json)
}
