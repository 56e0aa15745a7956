//! What admins do: every change here is checked, made and written to the audit log as one.
//!
//! The HTTP side (`server::admin_api`) and the command line (`cli`) only carry words to and from
//! here.

mod accounts;
mod approvals;
mod audit;
mod backup;
mod diff;
mod explain;
mod keys;
mod metrics;
mod nodes;
mod page;
mod policy;
mod route_egress;
mod routes;
mod tokens;
mod users;
mod versions;

pub(crate) use accounts::{create_user, grant_admin, log_in, offer_setup, revoke_admin, set_up};
pub(crate) use approvals::{approve_machine, deny_machine, find_waiting, list_waiting};
pub(crate) use audit::{list_audit, verify_audit};
pub(crate) use backup::{Scratch, back_up, remove_scratch, restore};
pub(crate) use diff::diff_policies;
pub(crate) use explain::explain_policy;
pub(crate) use keys::{create_key, list_keys, revoke_key};
pub(crate) use metrics::{metrics, reach_store};
pub(crate) use nodes::{
    delete_node, list_nodes, rename_node, revoke_node, set_node_address, set_node_expiry,
    show_node, tag_node,
};
pub(crate) use policy::{get_policy, policy_history, roll_back_policy, set_policy, test_policy};
pub(crate) use route_egress::choose_egress;
pub(crate) use routes::{decide_routes, list_routes};
pub(crate) use tokens::{create_token, list_tokens, revoke_token};
pub(crate) use users::{delete_user, list_users};
pub(crate) use versions::{Expected, Versioned};

use crate::{
    Coordinator, api, clock,
    refusal::Refusal,
    store::{NodeRow, StoreError, Tx, UserRow},
};
use jiff::Timestamp;
use tokens::{create_in as create_token_in, describe as describe_token};
use weir_protocol::{ErrorCode, RouteState};

/// The running coordinator, in figures.
///
/// # Errors
/// [`Refusal::Store`].
pub(crate) async fn status(coordinator: &Coordinator) -> Result<api::Status, Refusal> {
    let mut tx = coordinator.store.read().await?;
    let nodes = tx.nodes().await?.len();
    let generation = tx.newest_generation().await?;
    drop(tx);
    let routes = routes::all_routes(coordinator).await?;
    Ok(api::Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        url: coordinator.identity.url.clone(),
        listen: coordinator.identity.listen,
        pin: coordinator.identity.pin,
        started: time("start time", coordinator.identity.started)?,
        nodes,
        online: coordinator.presence.online(),
        routes_awaiting_approval: routes
            .iter()
            .filter(|route| route.state == RouteState::AwaitingApproval)
            .count(),
        generation,
        policy: coordinator.engine.policy_status(),
    })
}

/// A stored time as it is shown.
fn time(what: &'static str, seconds: i64) -> Result<Timestamp, StoreError> {
    Timestamp::from_second(seconds).map_err(|_| StoreError::Corrupt {
        expected: what,
        value: seconds.to_string(),
    })
}

async fn find_user(tx: &mut Tx, name: &str) -> Result<UserRow, Refusal> {
    if let Some(user) = tx.user(name).await? {
        return Ok(user);
    }
    let names: Vec<_> = tx
        .users()
        .await?
        .into_iter()
        .map(|user| user.name)
        .collect();
    let known = if names.is_empty() {
        "there are none yet".to_owned()
    } else {
        format!("there are {}", names.join(", "))
    };
    Err(Refusal::new(
        ErrorCode::NotFound,
        format!(
            "there is no user {name} ({known}): create it with coordinator users create {name}"
        ),
    ))
}

async fn find_node(tx: &mut Tx, name_or_id: &str) -> Result<NodeRow, Refusal> {
    tx.node_by_name_or_id(name_or_id).await?.ok_or_else(|| {
        Refusal::new(
            ErrorCode::NotFound,
            format!(
                "there is no node with the name or id {name_or_id}: see coordinator nodes list"
            ),
        )
    })
}

/// Makes the maps follow a change before the admin hears that it is done.
async fn publish(coordinator: &Coordinator) {
    coordinator.engine.changed().await;
}

fn now() -> i64 {
    clock::now()
}
