//! All that the admin API can be asked, and which scope each takes. What is not here is not served.

use super::{
    access::Access::{self, Anyone, Needs},
    accounts, audit, backup, network, policy,
};
use crate::{Coordinator, accounts::Scope};
use axum::{
    handler::Handler,
    routing::{self, MethodRouter},
};
use std::sync::Arc;

/// One method of one path.
pub(super) struct Endpoint {
    /// Below the prefix, with its parameters in braces.
    pub(super) path: &'static str,
    /// What it takes.
    pub(super) access: Access,
    /// Whether it takes an `Idempotency-Key`, so that the same request can be sent again.
    pub(super) is_repeatable: bool,
    /// What it does.
    pub(super) handler: MethodRouter<Arc<Coordinator>>,
}

macro_rules! methods {
    ($($method:ident),*) => {
        $(fn $method<H, T>(path: &'static str, access: Access, handler: H) -> Endpoint
        where
            H: Handler<T, Arc<Coordinator>>,
            T: 'static,
        {
            Endpoint {
                path,
                access,
                is_repeatable: false,
                handler: routing::$method(handler),
            }
        })*
    };
}

methods!(get, post, put, delete);

impl Endpoint {
    /// Takes an `Idempotency-Key`.
    fn once(self) -> Self {
        Self {
            is_repeatable: true,
            ..self
        }
    }
}

/// Every endpoint.
pub(super) fn all() -> Vec<Endpoint> {
    use Scope::{
        All, AuditRead, KeysRead, KeysWrite, NodesRead, NodesWrite, PolicyRead, PolicyWrite,
        RoutesRead, RoutesWrite, StatusRead, TokensRead, TokensWrite, UsersRead, UsersWrite,
    };
    vec![
        get("/status", Needs(StatusRead), network::status),
        post("/setup", Anyone, accounts::set_up),
        post("/login", Anyone, accounts::log_in),
        get("/tokens", Needs(TokensRead), accounts::list_tokens),
        post("/tokens", Needs(TokensWrite), accounts::create_token).once(),
        delete("/tokens/{id}", Needs(TokensWrite), accounts::revoke_token),
        get("/users", Needs(UsersRead), network::list_users),
        post("/users", Needs(UsersWrite), accounts::create_user).once(),
        delete("/users/{name}", Needs(UsersWrite), network::delete_user),
        put("/users/{name}/admin", Needs(All), accounts::grant_admin),
        delete("/users/{name}/admin", Needs(All), accounts::revoke_admin),
        get("/keys", Needs(KeysRead), network::list_keys),
        post("/keys", Needs(KeysWrite), network::create_key).once(),
        delete("/keys/{id}", Needs(KeysWrite), network::revoke_key),
        get("/nodes", Needs(NodesRead), network::list_nodes),
        get("/nodes/{node}", Needs(NodesRead), network::show_node),
        delete("/nodes/{node}", Needs(NodesWrite), network::delete_node),
        put(
            "/nodes/{node}/name",
            Needs(NodesWrite),
            network::rename_node,
        ),
        put("/nodes/{node}/tags", Needs(NodesWrite), network::tag_node),
        get("/routes", Needs(RoutesRead), network::list_routes),
        post(
            "/nodes/{node}/routes/approve",
            Needs(RoutesWrite),
            network::approve_routes,
        )
        .once(),
        post(
            "/nodes/{node}/routes/reject",
            Needs(RoutesWrite),
            network::reject_routes,
        )
        .once(),
        post(
            "/nodes/{node}/routes/reset",
            Needs(RoutesWrite),
            network::reset_routes,
        )
        .once(),
        post(
            "/nodes/{node}/routes/egress",
            Needs(RoutesWrite),
            network::choose_egress,
        )
        .once(),
        get("/policy", Needs(PolicyRead), policy::newest),
        put("/policy", Needs(PolicyWrite), policy::set),
        get("/policy/revisions", Needs(PolicyRead), policy::history),
        get(
            "/policy/revisions/{revision}",
            Needs(PolicyRead),
            policy::revision,
        ),
        post("/policy/rollback", Needs(PolicyWrite), policy::roll_back).once(),
        post("/policy/test", Needs(PolicyRead), policy::test),
        post("/policy/explain", Needs(PolicyRead), policy::explain),
        post("/policy/diff", Needs(PolicyRead), policy::diff),
        get("/audit", Needs(AuditRead), audit::list),
        get("/audit/verify", Needs(AuditRead), audit::verify),
        get("/backup", Needs(All), backup::back_up),
        post("/restore", Needs(All), backup::restore),
    ]
}
