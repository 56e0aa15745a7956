//! What admins ask about users who are admins, and about tokens.

use super::{
    Answer, Shared,
    access::{Admin, From},
    extract::{Body, Segment},
};
use crate::{
    accounts::{Caller, Scope},
    admin, api,
    refusal::Refusal,
};
use axum::{Json, extract::State};
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
) -> Answer<api::CreatedUser> {
    if request.admin && !caller.scopes.allow(Scope::All) {
        return Err(Refusal::MissingScope { scope: Scope::All });
    }
    admin::create_user(&coordinator, &caller.actor, request)
        .await
        .map(Json)
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

pub(super) async fn list_tokens(State(coordinator): Shared) -> Answer<Vec<api::Token>> {
    admin::list_tokens(&coordinator).await.map(Json)
}

pub(super) async fn create_token(
    State(coordinator): Shared,
    caller: Caller,
    Body(request): Body<api::CreateToken>,
) -> Answer<api::CreatedToken> {
    admin::create_token(&coordinator, &caller, request)
        .await
        .map(Json)
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
