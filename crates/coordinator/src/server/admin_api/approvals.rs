//! What admins ask about machines that wait to be let in.

use super::{
    Answer, Shared,
    access::Admin,
    extract::{Body, Parameters, Segment},
};
use crate::{admin, api};
use axum::{Json, extract::State};

pub(super) async fn list(
    State(coordinator): Shared,
    Parameters(page): Parameters<api::PageQuery>,
) -> Answer<api::Page<api::WaitingMachine>> {
    admin::list_waiting(&coordinator, &page).await.map(Json)
}

pub(super) async fn approve(
    State(coordinator): Shared,
    Admin(actor): Admin,
    Segment(code): Segment<String>,
    Body(request): Body<api::ApproveMachine>,
) -> Answer<api::Node> {
    admin::approve_machine(&coordinator, &actor, None, &code, request)
        .await
        .map(Json)
}

pub(super) async fn deny(
    State(coordinator): Shared,
    Admin(actor): Admin,
    Segment(code): Segment<String>,
) -> Answer<api::WaitingMachine> {
    admin::deny_machine(&coordinator, &actor, None, &code)
        .await
        .map(Json)
}
