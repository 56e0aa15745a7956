//! What admins ask about users who are admins, and about tokens.

use super::{
    Answer, Secret, Shared,
    access::{Admin, From},
    extract::{Body, Parameters, Segment},
    idempotency::ShownOnce,
};
use crate::{
    accounts::{Caller, Scope},
    admin, api,
    refusal::Refusal,
};
use axum::{
    Extension, Json,
    extract::State,
    response::{IntoResponse, Response},
};
use weir_overlay::KeyId;

pub(super) async fn set_up(
    State(coordinator): Shared,
    From(address): From,
    Body(request): Body<api::SetUp>,
) -> Answer<api::User> {
    admin::set_up(&coordinator, address, request)
        .await
        .map(Json)
}

pub(super) async fn log_in(
    State(coordinator): Shared,
    From(address): From,
    Body(request): Body<api::LogIn>,
) -> Answer<api::CreatedToken> {
    admin::log_in(&coordinator, address, request)
        .await
        .map(Json)
}

pub(super) async fn create_user(
    State(coordinator): Shared,
    caller: Caller,
    Body(request): Body<api::CreateUser>,
) -> Result<Response, Refusal> {
    if request.admin && !caller.scopes.allow(Scope::All) {
        return Err(Refusal::MissingScope { scope: Scope::All });
    }
    let created = admin::create_user(&coordinator, &caller.actor, request).await?;
    Ok(match created.password {
        Some(_) => (Extension(ShownOnce), Json(created)).into_response(),
        None => Json(created).into_response(),
    })
}

pub(super) async fn grant_admin(
    State(coordinator): Shared,
    Admin(actor): Admin,
    Segment(name): Segment<String>,
    Body(request): Body<api::GrantAdmin>,
) -> Answer<api::CreatedUser> {
    admin::grant_admin(&coordinator, &actor, &name, request)
        .await
        .map(Json)
}

pub(super) async fn revoke_admin(
    State(coordinator): Shared,
    Admin(actor): Admin,
    Segment(name): Segment<String>,
) -> Answer<api::User> {
    admin::revoke_admin(&coordinator, &actor, &name)
        .await
        .map(Json)
}

pub(super) async fn list_tokens(
    State(coordinator): Shared,
    Parameters(page): Parameters<api::PageQuery>,
) -> Answer<api::Page<api::Token>> {
    admin::list_tokens(&coordinator, &page).await.map(Json)
}

pub(super) async fn create_token(
    State(coordinator): Shared,
    caller: Caller,
    Body(request): Body<api::CreateToken>,
) -> Secret<api::CreatedToken> {
    let created = admin::create_token(&coordinator, &caller, request).await?;
    Ok((Extension(ShownOnce), Json(created)))
}

pub(super) async fn revoke_token(
    State(coordinator): Shared,
    Admin(actor): Admin,
    Segment(id): Segment<String>,
) -> Answer<api::Token> {
    admin::revoke_token(&coordinator, &actor, &KeyId(id))
        .await
        .map(Json)
}
