//! What admins ask, over the unix socket. Who may open the socket is an admin.

mod audit;
mod backup;
mod policy;

use super::answer;
use crate::{
    Coordinator, admin,
    api::{self, PATH_PREFIX},
    refusal::Refusal,
    store::{Actor, Decision},
};
use axum::{
    Json, Router,
    extract::{
        ConnectInfo, DefaultBodyLimit, FromRequest, FromRequestParts, Path, Request, State,
        connect_info::Connected,
    },
    http::request::Parts,
    routing::{get, post, put},
    serve::IncomingStream,
};
use serde::de::DeserializeOwned;
use std::sync::Arc;
use tokio::net::UnixListener;
use weir_overlay::KeyId;
use weir_protocol::ErrorCode;

type Shared = State<Arc<Coordinator>>;
type Answer<T> = Result<Json<T>, Refusal>;

/// The longest request: the longest policy (4 MiB) fits, with its line ends escaped.
const MAX_BODY_BYTES: usize = 8 << 20;

/// The routes of the admin API.
pub(super) fn router(coordinator: Arc<Coordinator>) -> Router {
    let api = Router::new()
        .route("/status", get(status))
        .route("/users", get(list_users).post(create_user))
        .route("/users/{name}", axum::routing::delete(delete_user))
        .route("/keys", get(list_keys).post(create_key))
        .route("/keys/{id}", axum::routing::delete(revoke_key))
        .route("/nodes", get(list_nodes))
        .route("/nodes/{node}", get(show_node).delete(delete_node))
        .route("/nodes/{node}/name", put(rename_node))
        .route("/nodes/{node}/tags", put(tag_node))
        .route("/nodes/{node}/routes/approve", post(approve_routes))
        .route("/nodes/{node}/routes/reject", post(reject_routes))
        .route("/nodes/{node}/routes/reset", post(reset_routes))
        .route("/routes", get(list_routes))
        .merge(audit::router())
        .merge(backup::router())
        .merge(policy::router());
    Router::new()
        .nest(PATH_PREFIX, api)
        .fallback(answer::no_such_path)
        .method_not_allowed_fallback(answer::no_such_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(coordinator)
}

/// Who opened the connection, as the kernel says.
#[derive(Clone, Debug)]
pub(super) struct LocalUser(Option<u32>);

impl Connected<IncomingStream<'_, UnixListener>> for LocalUser {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(stream.io().peer_cred().ok().map(|user| user.uid()))
    }
}

struct Admin(Actor);

impl<S: Sync> FromRequestParts<S> for Admin {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let known = parts.extensions.get::<ConnectInfo<LocalUser>>();
        let uid = known.and_then(|ConnectInfo(user)| user.0);
        let uid = uid.ok_or_else(|| {
            Refusal::new(
                ErrorCode::BadRequest,
                "the kernel does not say which user this is",
            )
        })?;
        Ok(Self(Actor::LocalAdmin { uid }))
    }
}

/// A JSON body, refused in our own words.
struct Body<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refusal;
    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        match Json::from_request(request, state).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(rejection) => Err(Refusal::new(ErrorCode::BadRequest, rejection.body_text())),
        }
    }
}

async fn status(State(coordinator): Shared) -> Answer<api::Status> {
    admin::status(&coordinator).await.map(Json)
}

async fn list_users(State(coordinator): Shared) -> Answer<Vec<api::User>> {
    admin::list_users(&coordinator).await.map(Json)
}

async fn create_user(
    State(coordinator): Shared,
    Admin(actor): Admin,
    Body(request): Body<api::CreateUser>,
) -> Answer<api::User> {
    admin::create_user(&coordinator, &actor, &request.name)
        .await
        .map(Json)
}

async fn delete_user(
    State(coordinator): Shared,
    Admin(actor): Admin,
    Path(name): Path<String>,
) -> Answer<api::User> {
    admin::delete_user(&coordinator, &actor, &name)
        .await
        .map(Json)
}

async fn list_keys(State(coordinator): Shared) -> Answer<Vec<api::Key>> {
    admin::list_keys(&coordinator).await.map(Json)
}

async fn create_key(
    State(coordinator): Shared,
    Admin(actor): Admin,
    Body(request): Body<api::CreateKey>,
) -> Answer<api::CreatedKey> {
    admin::create_key(&coordinator, &actor, request)
        .await
        .map(Json)
}

async fn revoke_key(
    State(coordinator): Shared,
    Admin(actor): Admin,
    Path(id): Path<String>,
) -> Answer<api::Key> {
    admin::revoke_key(&coordinator, &actor, &KeyId(id))
        .await
        .map(Json)
}

async fn list_nodes(State(coordinator): Shared) -> Answer<Vec<api::Node>> {
    admin::list_nodes(&coordinator).await.map(Json)
}

async fn show_node(State(coordinator): Shared, Path(node): Path<String>) -> Answer<api::Node> {
    admin::show_node(&coordinator, &node).await.map(Json)
}

async fn delete_node(
    State(coordinator): Shared,
    Admin(actor): Admin,
    Path(node): Path<String>,
) -> Answer<api::Node> {
    admin::delete_node(&coordinator, &actor, &node)
        .await
        .map(Json)
}

async fn rename_node(
    State(coordinator): Shared,
    Admin(actor): Admin,
    Path(node): Path<String>,
    Body(request): Body<api::RenameNode>,
) -> Answer<api::Node> {
    admin::rename_node(&coordinator, &actor, &node, &request.name)
        .await
        .map(Json)
}

async fn tag_node(
    State(coordinator): Shared,
    Admin(actor): Admin,
    Path(node): Path<String>,
    Body(request): Body<api::TagNode>,
) -> Answer<api::Node> {
    admin::tag_node(&coordinator, &actor, &node, &request.tags)
        .await
        .map(Json)
}

async fn list_routes(State(coordinator): Shared) -> Answer<Vec<api::Route>> {
    admin::list_routes(&coordinator).await.map(Json)
}

async fn approve_routes(
    State(coordinator): Shared,
    Admin(actor): Admin,
    Path(node): Path<String>,
    Body(request): Body<api::DecideRoutes>,
) -> Answer<Vec<api::Route>> {
    let (prefixes, decision) = (&request.prefixes, Some(Decision::Approved));
    admin::decide_routes(&coordinator, &actor, &node, prefixes, decision)
        .await
        .map(Json)
}

async fn reject_routes(
    State(coordinator): Shared,
    Admin(actor): Admin,
    Path(node): Path<String>,
    Body(request): Body<api::DecideRoutes>,
) -> Answer<Vec<api::Route>> {
    let (prefixes, decision) = (&request.prefixes, Some(Decision::Rejected));
    admin::decide_routes(&coordinator, &actor, &node, prefixes, decision)
        .await
        .map(Json)
}

async fn reset_routes(
    State(coordinator): Shared,
    Admin(actor): Admin,
    Path(node): Path<String>,
    Body(request): Body<api::DecideRoutes>,
) -> Answer<Vec<api::Route>> {
    admin::decide_routes(&coordinator, &actor, &node, &request.prefixes, None)
        .await
        .map(Json)
}
