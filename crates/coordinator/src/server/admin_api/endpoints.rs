//! All that the admin API can be asked, and which scope each takes. What is not here is not served,
//! and what is served is described from here (`docs/openapi.json`).

use super::{
    access::Access::{self, Anyone, Needs},
    accounts, approvals, audit, backup, health, network,
    openapi::{self, QueryOf, SchemaOf, query_of, schema_of},
    policy,
};
use crate::{
    Coordinator,
    accounts::Scope,
    api::{self, Page},
    metrics,
};
use axum::{
    handler::Handler,
    http::Method,
    routing::{self, MethodRouter},
};
use schemars::JsonSchema;
use std::sync::Arc;

/// What a request or an answer carries.
pub(super) enum Content {
    /// Nothing.
    None,
    /// JSON of this shape.
    Json(SchemaOf),
    /// Something of this media type.
    Raw(&'static str),
}

/// One method of one path.
pub(super) struct Endpoint {
    /// The method.
    pub(super) method: Method,
    /// Below the prefix, with its parameters in braces.
    pub(super) path: &'static str,
    /// What it takes to use it.
    pub(super) access: Access,
    /// What it is for, in a few words.
    pub(super) summary: &'static str,
    /// What it takes in.
    pub(super) takes: Content,
    /// What it answers.
    pub(super) gives: Content,
    /// What may stand behind the question mark.
    pub(super) query: Option<QueryOf>,
    /// Whether it takes an `Idempotency-Key`, so that the same request can be sent again.
    pub(super) is_repeatable: bool,
    /// Whether it tells or heeds the version of what it is about (`ETag`, `If-Match`).
    pub(super) has_versions: bool,
    /// What it does.
    pub(super) handler: MethodRouter<Arc<Coordinator>>,
}

macro_rules! methods {
    ($($name:ident: $method:ident),*) => {
        $(fn $name<H, T>(
            path: &'static str,
            access: Access,
            handler: H,
            summary: &'static str,
        ) -> Endpoint
        where
            H: Handler<T, Arc<Coordinator>>,
            T: 'static,
        {
            Endpoint {
                method: Method::$method,
                path,
                access,
                summary,
                takes: Content::None,
                gives: Content::None,
                query: None,
                is_repeatable: false,
                has_versions: false,
                handler: routing::$name(handler),
            }
        })*
    };
}

methods!(get: GET, post: POST, put: PUT, delete: DELETE);

impl Endpoint {
    fn takes<T: JsonSchema>(self) -> Self {
        Self {
            takes: Content::Json(schema_of::<T>),
            ..self
        }
    }

    fn gives<T: JsonSchema>(self) -> Self {
        Self {
            gives: Content::Json(schema_of::<T>),
            ..self
        }
    }

    fn asks<T: JsonSchema>(self) -> Self {
        Self {
            query: Some(query_of::<T>),
            ..self
        }
    }

    /// A page of a list of these.
    fn pages<T: JsonSchema>(self) -> Self {
        self.asks::<api::PageQuery>().gives::<Page<T>>()
    }

    fn takes_raw(self, kind: &'static str) -> Self {
        Self {
            takes: Content::Raw(kind),
            ..self
        }
    }

    fn gives_raw(self, kind: &'static str) -> Self {
        Self {
            gives: Content::Raw(kind),
            ..self
        }
    }

    /// Takes an `Idempotency-Key`.
    fn once(self) -> Self {
        Self {
            is_repeatable: true,
            ..self
        }
    }

    /// Tells the version of what it shows, or heeds that of what it changes.
    fn versioned(self) -> Self {
        Self {
            has_versions: true,
            ..self
        }
    }
}

/// What a backup is.
const SQLITE: &str = "application/vnd.sqlite3";

/// Every endpoint below the prefix.
pub(super) fn all() -> Vec<Endpoint> {
    let mut all = vec![
        get(
            "/status",
            Needs(Scope::StatusRead),
            network::status,
            "How the coordinator is doing",
        )
        .gives::<api::Status>(),
        get("/openapi.json", Anyone, openapi::serve, "This description")
            .gives::<serde_json::Value>(),
    ];
    all.extend(of_accounts());
    all.extend(of_nodes());
    all.extend(of_approvals());
    all.extend(of_policies());
    all.extend([
        get(
            "/audit",
            Needs(Scope::AuditRead),
            audit::list,
            "The audit log, the newest first",
        )
        .asks::<api::AuditQuery>()
        .gives::<Page<api::AuditEntry>>(),
        get(
            "/audit/verify",
            Needs(Scope::AuditRead),
            audit::verify,
            "Whether the audit log is what was written",
        )
        .asks::<audit::Verify>()
        .gives::<api::AuditReport>(),
        get(
            "/backup",
            Needs(Scope::All),
            backup::back_up,
            "Everything, as a SQLite file",
        )
        .gives_raw(SQLITE),
        post(
            "/restore",
            Needs(Scope::All),
            backup::restore,
            "Replace everything by a backup",
        )
        .takes_raw(SQLITE)
        .gives::<api::Restored>(),
    ]);
    all
}

fn of_accounts() -> [Endpoint; 13] {
    use Scope::{All, KeysRead, KeysWrite, TokensRead, TokensWrite, UsersRead, UsersWrite};
    [
        post("/setup", Anyone, accounts::set_up, "Make the first admin")
            .takes::<api::SetUp>()
            .gives::<api::User>(),
        post(
            "/login",
            Anyone,
            accounts::log_in,
            "Make a token of a name and a password",
        )
        .takes::<api::LogIn>()
        .gives::<api::CreatedToken>(),
        get(
            "/tokens",
            Needs(TokensRead),
            accounts::list_tokens,
            "All tokens, the newest first",
        )
        .pages::<api::Token>(),
        post(
            "/tokens",
            Needs(TokensWrite),
            accounts::create_token,
            "Make a token",
        )
        .takes::<api::CreateToken>()
        .gives::<api::CreatedToken>()
        .once(),
        delete(
            "/tokens/{id}",
            Needs(TokensWrite),
            accounts::revoke_token,
            "Revoke a token",
        )
        .gives::<api::Token>(),
        get(
            "/users",
            Needs(UsersRead),
            network::list_users,
            "All users, by name",
        )
        .pages::<api::User>(),
        post(
            "/users",
            Needs(UsersWrite),
            accounts::create_user,
            "Create a user",
        )
        .takes::<api::CreateUser>()
        .gives::<api::CreatedUser>()
        .once(),
        delete(
            "/users/{name}",
            Needs(UsersWrite),
            network::delete_user,
            "Delete a user who owns no nodes",
        )
        .gives::<api::User>(),
        put(
            "/users/{name}/admin",
            Needs(All),
            accounts::grant_admin,
            "Make a user an admin, or give an admin another password",
        )
        .takes::<api::GrantAdmin>()
        .gives::<api::CreatedUser>(),
        delete(
            "/users/{name}/admin",
            Needs(All),
            accounts::revoke_admin,
            "Make an admin a user like any other",
        )
        .gives::<api::User>(),
        get(
            "/keys",
            Needs(KeysRead),
            network::list_keys,
            "All auth keys, the newest first",
        )
        .pages::<api::Key>(),
        post(
            "/keys",
            Needs(KeysWrite),
            network::create_key,
            "Make an auth key",
        )
        .takes::<api::CreateKey>()
        .gives::<api::CreatedKey>()
        .once(),
        delete(
            "/keys/{id}",
            Needs(KeysWrite),
            network::revoke_key,
            "Revoke an auth key",
        )
        .gives::<api::Key>(),
    ]
}

fn of_nodes() -> [Endpoint; 13] {
    use Scope::{NodesRead, NodesWrite, RoutesRead, RoutesWrite};
    [
        get(
            "/nodes",
            Needs(NodesRead),
            network::list_nodes,
            "All nodes, by id",
        )
        .pages::<api::Node>(),
        get(
            "/nodes/{node}",
            Needs(NodesRead),
            network::show_node,
            "One node, by name or id",
        )
        .gives::<api::Node>()
        .versioned(),
        delete(
            "/nodes/{node}",
            Needs(NodesWrite),
            network::delete_node,
            "Shut a node out",
        )
        .gives::<api::Node>()
        .versioned(),
        put(
            "/nodes/{node}/name",
            Needs(NodesWrite),
            network::rename_node,
            "Rename a node",
        )
        .takes::<api::RenameNode>()
        .gives::<api::Node>()
        .versioned(),
        put(
            "/nodes/{node}/tags",
            Needs(NodesWrite),
            network::tag_node,
            "Give a node its tags",
        )
        .takes::<api::TagNode>()
        .gives::<api::Node>()
        .versioned(),
        put(
            "/nodes/{node}/expiry",
            Needs(NodesWrite),
            network::set_node_expiry,
            "Say until when a node's key is good",
        )
        .takes::<api::SetNodeExpiry>()
        .gives::<api::Node>()
        .versioned(),
        put(
            "/nodes/{node}/address",
            Needs(NodesWrite),
            network::set_node_address,
            "Choose a node's addresses",
        )
        .takes::<api::SetNodeAddress>()
        .gives::<api::Node>()
        .versioned(),
        post(
            "/nodes/{node}/revoke",
            Needs(NodesWrite),
            network::revoke_node,
            "Shut a machine out for ever",
        )
        .gives::<api::Node>()
        .once(),
        get(
            "/routes",
            Needs(RoutesRead),
            network::list_routes,
            "All advertised routes",
        )
        .pages::<api::Route>(),
        post(
            "/nodes/{node}/routes/approve",
            Needs(RoutesWrite),
            network::approve_routes,
            "Approve routes that a node advertises",
        )
        .takes::<api::DecideRoutes>()
        .gives::<Vec<api::Route>>()
        .once(),
        post(
            "/nodes/{node}/routes/reject",
            Needs(RoutesWrite),
            network::reject_routes,
            "Reject routes that a node advertises",
        )
        .takes::<api::DecideRoutes>()
        .gives::<Vec<api::Route>>()
        .once(),
        post(
            "/nodes/{node}/routes/reset",
            Needs(RoutesWrite),
            network::reset_routes,
            "Take back what was decided about routes",
        )
        .takes::<api::DecideRoutes>()
        .gives::<Vec<api::Route>>()
        .once(),
        post(
            "/nodes/{node}/routes/egress",
            Needs(RoutesWrite),
            network::choose_egress,
            "Choose the address that traffic to routes leaves with",
        )
        .takes::<api::ChooseEgress>()
        .gives::<Vec<api::Route>>()
        .once(),
    ]
}

fn of_approvals() -> [Endpoint; 3] {
    use Scope::{NodesRead, NodesWrite};
    [
        get(
            "/approvals",
            Needs(NodesRead),
            approvals::list,
            "Machines that wait to be let in, who has waited longest first",
        )
        .pages::<api::WaitingMachine>(),
        post(
            "/approvals/{code}/approve",
            Needs(NodesWrite),
            approvals::approve,
            "Let a machine in that waits",
        )
        .takes::<api::ApproveMachine>()
        .gives::<api::Node>()
        .once(),
        post(
            "/approvals/{code}/deny",
            Needs(NodesWrite),
            approvals::deny,
            "Keep a machine out that waits",
        )
        .gives::<api::WaitingMachine>()
        .once(),
    ]
}

fn of_policies() -> [Endpoint; 8] {
    use Scope::{PolicyRead, PolicyWrite};
    [
        get(
            "/policy",
            Needs(PolicyRead),
            policy::newest,
            "The newest policy",
        )
        .gives::<api::Policy>()
        .versioned(),
        put(
            "/policy",
            Needs(PolicyWrite),
            policy::set,
            "Save a policy, in force at once",
        )
        .takes::<api::SetPolicy>()
        .gives::<api::SetPolicyDone>()
        .versioned(),
        get(
            "/policy/revisions",
            Needs(PolicyRead),
            policy::history,
            "All policies that were saved, the newest first",
        )
        .pages::<api::PolicyRevision>(),
        get(
            "/policy/revisions/{revision}",
            Needs(PolicyRead),
            policy::revision,
            "One policy that was saved",
        )
        .gives::<api::Policy>()
        .versioned(),
        post(
            "/policy/rollback",
            Needs(PolicyWrite),
            policy::roll_back,
            "Save an older policy again",
        )
        .takes::<api::RollBackPolicy>()
        .gives::<api::SetPolicyDone>()
        .once(),
        post(
            "/policy/test",
            Needs(PolicyRead),
            policy::test,
            "Whether a policy could be set, without setting it",
        )
        .takes::<api::TestPolicy>()
        .gives::<api::PolicyTested>(),
        post(
            "/policy/explain",
            Needs(PolicyRead),
            policy::explain,
            "Which rule allows a connection",
        )
        .takes::<api::ExplainPolicy>()
        .gives::<Vec<api::Explained>>(),
        post(
            "/policy/diff",
            Needs(PolicyRead),
            policy::diff,
            "Who gains and loses what by another policy",
        )
        .takes::<api::DiffPolicies>()
        .gives::<api::PolicyDiff>(),
    ]
}

/// What is served beside the prefix, where the programs that ask for it look for it.
pub(super) fn plain() -> [Endpoint; 3] {
    [
        get(
            "/metrics",
            Needs(Scope::MetricsRead),
            health::metrics,
            "Metrics for Prometheus",
        )
        .gives_raw(metrics::CONTENT_TYPE),
        get(
            "/healthz",
            Anyone,
            health::alive,
            "Whether the program works",
        )
        .gives::<health::State>(),
        get(
            "/readyz",
            Anyone,
            health::ready,
            "Whether it can serve: 503 when it cannot",
        )
        .gives::<health::State>(),
    ]
}
