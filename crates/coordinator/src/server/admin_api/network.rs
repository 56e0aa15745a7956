//! What admins ask about users, auth keys, nodes and routes.

use super::{
    Answer, Secret, Shared,
    access::Admin,
    extract::{Body, IfMatch, IfNoneMatch, Parameters, Segment, versioned},
    idempotency::ShownOnce,
};
use crate::{accounts::Caller, admin, api, refusal::Refusal, store::Decision};
use axum::{Extension, Json, extract::State, response::Response};
use weir_overlay::KeyId;

pub(super) async fn status(State(coordinator): Shared) -> Answer<api::Status> {
    admin::status(&coordinator).await.map(Json)
}

pub(super) async fn list_users(
    State(coordinator): Shared,
    Parameters(page): Parameters<api::PageQuery>,
) -> Answer<api::Page<api::User>> {
    admin::list_users(&coordinator, &page).await.map(Json)
}

pub(super) async fn delete_user(
    State(coordinator): Shared,
    caller: Caller,
    Segment(name): Segment<String>,
) -> Answer<api::User> {
    admin::delete_user(&coordinator, &caller, &name)
        .await
        .map(Json)
}

pub(super) async fn list_keys(
    State(coordinator): Shared,
    Parameters(page): Parameters<api::PageQuery>,
) -> Answer<api::Page<api::Key>> {
    admin::list_keys(&coordinator, &page).await.map(Json)
}

pub(super) async fn create_key(
    State(coordinator): Shared,
    Admin(actor): Admin,
    Body(request): Body<api::CreateKey>,
) -> Secret<api::CreatedKey> {
    let created = admin::create_key(&coordinator, &actor, request).await?;
    Ok((Extension(ShownOnce), Json(created)))
}

pub(super) async fn revoke_key(
    State(coordinator): Shared,
    Admin(actor): Admin,
    Segment(id): Segment<String>,
) -> Answer<api::Key> {
    admin::revoke_key(&coordinator, &actor, &KeyId(id))
        .await
        .map(Json)
}

pub(super) async fn list_nodes(
    State(coordinator): Shared,
    Parameters(page): Parameters<api::PageQuery>,
) -> Answer<api::Page<api::Node>> {
    admin::list_nodes(&coordinator, &page).await.map(Json)
}

pub(super) async fn show_node(
    State(coordinator): Shared,
    known: IfNoneMatch,
    Segment(node): Segment<String>,
) -> Result<Response, Refusal> {
    let found = admin::show_node(&coordinator, &node).await?;
    Ok(known.answer(found))
}

pub(super) async fn delete_node(
    State(coordinator): Shared,
    Admin(actor): Admin,
    IfMatch(expected): IfMatch,
    Segment(node): Segment<String>,
) -> Answer<api::Node> {
    admin::delete_node(&coordinator, &actor, &node, &expected)
        .await
        .map(Json)
}

pub(super) async fn rename_node(
    State(coordinator): Shared,
    Admin(actor): Admin,
    IfMatch(expected): IfMatch,
    Segment(node): Segment<String>,
    Body(request): Body<api::RenameNode>,
) -> Result<Response, Refusal> {
    admin::rename_node(&coordinator, &actor, &node, &request.name, &expected)
        .await
        .map(versioned)
}

pub(super) async fn tag_node(
    State(coordinator): Shared,
    Admin(actor): Admin,
    IfMatch(expected): IfMatch,
    Segment(node): Segment<String>,
    Body(request): Body<api::TagNode>,
) -> Result<Response, Refusal> {
    admin::tag_node(&coordinator, &actor, &node, &request.tags, &expected)
        .await
        .map(versioned)
}

pub(super) async fn set_node_expiry(
    State(coordinator): Shared,
    Admin(actor): Admin,
    IfMatch(expected): IfMatch,
    Segment(node): Segment<String>,
    Body(request): Body<api::SetNodeExpiry>,
) -> Result<Response, Refusal> {
    admin::set_node_expiry(&coordinator, &actor, &node, request.in_seconds, &expected)
        .await
        .map(versioned)
}

pub(super) async fn set_node_address(
    State(coordinator): Shared,
    Admin(actor): Admin,
    IfMatch(expected): IfMatch,
    Segment(node): Segment<String>,
    Body(request): Body<api::SetNodeAddress>,
) -> Result<Response, Refusal> {
    admin::set_node_address(&coordinator, &actor, &node, request.address, &expected)
        .await
        .map(versioned)
}

pub(super) async fn revoke_node(
    State(coordinator): Shared,
    Admin(actor): Admin,
    Segment(node): Segment<String>,
) -> Answer<api::Node> {
    admin::revoke_node(&coordinator, &actor, &node)
        .await
        .map(Json)
}

pub(super) async fn list_routes(
    State(coordinator): Shared,
    Parameters(page): Parameters<api::PageQuery>,
) -> Answer<api::Page<api::Route>> {
    admin::list_routes(&coordinator, &page).await.map(Json)
}

pub(super) async fn approve_routes(
    State(coordinator): Shared,
    Admin(actor): Admin,
    Segment(node): Segment<String>,
    Body(request): Body<api::DecideRoutes>,
) -> Answer<Vec<api::Route>> {
    let (prefixes, decision) = (&request.prefixes, Some(Decision::Approved));
    admin::decide_routes(&coordinator, &actor, &node, prefixes, decision)
        .await
        .map(Json)
}

pub(super) async fn reject_routes(
    State(coordinator): Shared,
    Admin(actor): Admin,
    Segment(node): Segment<String>,
    Body(request): Body<api::DecideRoutes>,
) -> Answer<Vec<api::Route>> {
    let (prefixes, decision) = (&request.prefixes, Some(Decision::Rejected));
    admin::decide_routes(&coordinator, &actor, &node, prefixes, decision)
        .await
        .map(Json)
}

pub(super) async fn reset_routes(
    State(coordinator): Shared,
    Admin(actor): Admin,
    Segment(node): Segment<String>,
    Body(request): Body<api::DecideRoutes>,
) -> Answer<Vec<api::Route>> {
    admin::decide_routes(&coordinator, &actor, &node, &request.prefixes, None)
        .await
        .map(Json)
}

pub(super) async fn choose_egress(
    State(coordinator): Shared,
    Admin(actor): Admin,
    Segment(node): Segment<String>,
    Body(request): Body<api::ChooseEgress>,
) -> Answer<Vec<api::Route>> {
    admin::choose_egress(&coordinator, &actor, &node, &request)
        .await
        .map(Json)
}
