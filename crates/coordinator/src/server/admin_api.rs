//! What admins ask: `/api/v1`, over TLS with a token, and over the unix socket without one: who may
//! open that is an admin.

mod access;
mod accounts;
mod audit;
mod backup;
mod endpoints;
mod extract;
mod idempotency;
mod network;
mod policy;

pub(super) use access::LocalUser;
pub(super) use idempotency::Repeated;

use super::answer;
use crate::{Coordinator, api::PATH_PREFIX, refusal::Refusal};
use access::{Access, Gate};
use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, State},
    middleware::from_fn_with_state,
};
use idempotency::{ShownOnce, once};
use std::sync::Arc;

type Shared = State<Arc<Coordinator>>;
type Answer<T> = Result<Json<T>, Refusal>;
/// An answer that shows a secret once.
type Secret<T> = Result<(Extension<ShownOnce>, Json<T>), Refusal>;

/// The longest request: the longest policy (4 MiB) fits, with its line ends escaped.
const MAX_BODY_BYTES: usize = 8 << 20;
/// The longest request of somebody who is not known: a name and a password fit.
const MAX_STRANGERS_BODY_BYTES: usize = 4 << 10;

/// The paths of the admin API, each behind the scope that it needs.
pub(super) fn routes(coordinator: &Arc<Coordinator>) -> Router<Arc<Coordinator>> {
    let mut api = Router::new();
    for endpoint in endpoints::all() {
        let gate = Gate {
            coordinator: Arc::clone(coordinator),
            access: endpoint.access,
        };
        let limit = match endpoint.access {
            Access::Anyone => MAX_STRANGERS_BODY_BYTES,
            Access::Needs(_) => MAX_BODY_BYTES,
        };
        let handler = match endpoint.is_repeatable {
            true => endpoint
                .handler
                .route_layer(from_fn_with_state(Arc::clone(coordinator), once)),
            false => endpoint.handler,
        };
        let guarded = handler
            .route_layer(DefaultBodyLimit::max(limit))
            .route_layer(from_fn_with_state(gate, access::authorize));
        api = api.route(endpoint.path, guarded);
    }
    Router::new().nest(PATH_PREFIX, api)
}

/// What the unix socket serves.
pub(super) fn router(coordinator: Arc<Coordinator>) -> Router {
    routes(&coordinator)
        .fallback(answer::no_such_path)
        .method_not_allowed_fallback(answer::no_such_method)
        .with_state(coordinator)
}
