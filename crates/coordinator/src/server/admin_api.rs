//! What admins ask: `/api/v1`, over TLS with a token, and over the unix socket without one: who may
//! open that is an admin.

mod access;
mod accounts;
mod approvals;
mod audit;
mod backup;
mod endpoints;
mod extract;
mod health;
mod idempotency;
mod network;
mod openapi;
mod policy;

pub(super) use access::{From, LocalUser};
pub(super) use idempotency::Repeated;
pub(crate) use openapi::document as openapi_document;

use super::answer;
use crate::{Coordinator, api::PATH_PREFIX, refusal::Refusal};
use access::{Access, Gate};
use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, State},
    middleware::from_fn_with_state,
};
use endpoints::Endpoint;
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

/// All paths, each behind the scope that it needs.
pub(super) fn routes(coordinator: &Arc<Coordinator>) -> Router<Arc<Coordinator>> {
    let api = guarded(endpoints::all(), coordinator);
    Router::new()
        .nest(PATH_PREFIX, api)
        .merge(guarded(endpoints::plain(), coordinator))
}

fn guarded(
    endpoints: impl IntoIterator<Item = Endpoint>,
    coordinator: &Arc<Coordinator>,
) -> Router<Arc<Coordinator>> {
    let mut router = Router::new();
    for endpoint in endpoints {
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
        router = router.route(endpoint.path, guarded);
    }
    router
}

/// What is served to whoever can reach the address that was set for it: metrics and health.
pub(super) fn open_router(coordinator: Arc<Coordinator>) -> Router {
    let open = endpoints::plain().map(|endpoint| Endpoint {
        access: Access::Anyone,
        ..endpoint
    });
    guarded(open, &coordinator)
        .fallback(answer::no_such_path)
        .method_not_allowed_fallback(answer::no_such_method)
        .with_state(coordinator)
}

/// What the unix socket serves.
pub(super) fn router(coordinator: Arc<Coordinator>) -> Router {
    routes(&coordinator)
        .fallback(answer::no_such_path)
        .method_not_allowed_fallback(answer::no_such_method)
        .with_state(coordinator)
}
