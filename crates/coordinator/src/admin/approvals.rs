//! Machines that ask to be let in without an auth key.

use super::{find_user, keys, now, page::Wanted, publish, show_node, time};
use crate::{
    Coordinator,
    api::{self, MachineName},
    enrolment::{Stranger, Terms, WAIT_SECONDS, admit, machine_revoked, page_url},
    refusal::Refusal,
    store::{AccountRow, Actor, AuditEntry, Tx, WaitingRow},
};
use serde_json::json;
use weir_protocol::{ErrorCode, machine_fingerprint};

/// All machines that wait for an admin, who has waited longest first.
///
/// # Errors
/// [`Refusal`].
pub(crate) async fn list_waiting(
    coordinator: &Coordinator,
    page: &api::PageQuery,
) -> Result<api::Page<api::WaitingMachine>, Refusal> {
    let wanted = Wanted::new("approvals", page)?;
    let rows = coordinator.store.read().await?.waiting(now()).await?;
    let page = wanted.of(rows, |row| (row.asked_at, row.code.clone()));
    page.try_map(|row| describe(coordinator, row))
}

/// The machine that waits under this code; none when there is none, or none any more.
///
/// # Errors
/// [`Refusal::Store`].
pub(crate) async fn find_waiting(
    coordinator: &Coordinator,
    code: &str,
) -> Result<Option<api::WaitingMachine>, Refusal> {
    let mut tx = coordinator.store.read().await?;
    let found = tx.waiting_under(code, now()).await?;
    found.map(|row| describe(coordinator, row)).transpose()
}

fn describe(coordinator: &Coordinator, row: WaitingRow) -> Result<api::WaitingMachine, Refusal> {
    Ok(api::WaitingMachine {
        url: page_url(coordinator, &row.code),
        code: row.code,
        fingerprint: machine_fingerprint(&row.machine_key),
        hostname: row.host.hostname,
        os: row.host.os,
        version: row.host.version,
        address: row.address,
        routes: row.host.advertised_routes,
        tags: row.tags,
        asked: time("time", row.asked_at)?,
        expires: time("time", row.expires_at)?,
    })
}

/// What an admin proved with: a password that must still be theirs when it counts.
pub(crate) type Proof<'a> = Option<&'a AccountRow>;

/// Lets a machine in that waits. It belongs to the user that is named, or carries the tags that are
/// named; without either, it is the admin's own who approves it.
///
/// # Errors
/// [`Refusal`], when nobody waits under this code, or it is not said whose the node is to be.
pub(crate) async fn approve_machine(
    coordinator: &Coordinator,
    actor: &Actor,
    proof: Proof<'_>,
    code: &str,
    request: api::ApproveMachine,
) -> Result<api::Node, Refusal> {
    if request.user.is_some() && !request.tags.is_empty() {
        return Err(Refusal::new(
            ErrorCode::BadRequest,
            "a node is a user's or carries tags: name one of the two",
        ));
    }
    let is_tagged = !request.tags.is_empty();
    let node_life = keys::node_life(request.node_life, is_tagged)?;
    let policy = coordinator.engine.policy();
    let mut tx = coordinator.store.write().await?;
    check_proof(&mut tx, proof).await?;
    let row = find_row(&mut tx, code).await?;
    if tx.is_revoked(&row.machine_key).await? {
        return Err(machine_revoked());
    }
    if let Some(node) = tx.node_by_machine(&row.machine_key).await? {
        return Err(Refusal::new(
            ErrorCode::Conflict,
            format!(
                "this machine is in already, as {} (node {})",
                node.name, node.id
            ),
        ));
    }
    let owner = match (request.user.as_deref(), is_tagged) {
        (_, true) => None,
        (Some(name), false) => Some(find_user(&mut tx, name).await?),
        (None, false) => {
            let name = actor.account().ok_or_else(|| {
                Refusal::new(
                    ErrorCode::BadRequest,
                    "say whose the node is to be: name a user (--user NAME) or tags \
                     (--tag tag:NAME)",
                )
            })?;
            Some(find_user(&mut tx, name).await?)
        }
    };
    let terms = Terms {
        user: owner.as_ref().map(|owner| owner.id),
        user_name: owner.map(|owner| owner.name),
        tags: request.tags,
        ephemeral: false,
        node_life,
    };
    let stranger = Stranger {
        machine: row.machine_key,
        node_key: row.node_key,
        tags: row.tags,
        host: row.host,
        address: row.address,
    };
    let entry = (actor, "nodes.approve");
    let admitted = admit(&mut tx, &policy.policy, stranger, &terms, entry, now()).await?;
    tx.commit().await?;
    coordinator.metrics.enrolments.count();
    publish(coordinator).await;
    coordinator.approvals.look();
    let shown = show_node(coordinator, &admitted.node_id.to_string()).await?;
    Ok(shown.of)
}

/// Keeps a machine out that waits, and from asking again for a while.
///
/// # Errors
/// [`Refusal`], when nobody waits under this code.
pub(crate) async fn deny_machine(
    coordinator: &Coordinator,
    actor: &Actor,
    proof: Proof<'_>,
    code: &str,
) -> Result<api::WaitingMachine, Refusal> {
    let mut tx = coordinator.store.write().await?;
    check_proof(&mut tx, proof).await?;
    let row = find_row(&mut tx, code).await?;
    let at = now();
    let until = at.saturating_add(WAIT_SECONDS);
    tx.deny_waiting(&row.machine_key, at, until).await?;
    let denied = describe(coordinator, row)?;
    let entry = AuditEntry {
        at,
        actor,
        action: "nodes.deny",
        subject: format!("machine {}", denied.fingerprint),
    };
    let before = json!({
        "hostname": denied.hostname, "address": denied.address, "advertised": denied.routes,
        "tags": denied.tags,
    });
    tx.record(entry, Some(&before), None::<&()>).await?;
    tx.commit().await?;
    coordinator.metrics.enrolments_refused.count();
    coordinator.approvals.look();
    Ok(denied)
}

/// The password may have been changed, or the account taken away, since it was checked.
async fn check_proof(tx: &mut Tx, proof: Proof<'_>) -> Result<(), Refusal> {
    let Some(account) = proof else {
        return Ok(());
    };
    if tx.account(&account.name).await?.as_ref() == Some(account) {
        return Ok(());
    }
    Err(Refusal::Unauthenticated {
        detail: "the password was changed at this very moment: try the new one".to_owned(),
    })
}

async fn find_row(tx: &mut Tx, code: &str) -> Result<WaitingRow, Refusal> {
    tx.waiting_under(code, now()).await?.ok_or_else(|| {
        Refusal::new(
            ErrorCode::NotFound,
            format!(
                "no machine waits under the code {}: it was let in or denied already, or has waited \
                 longer than {} minutes (coordinator nodes pending lists those that wait)",
                MachineName(code),
                WAIT_SECONDS / 60
            ),
        )
    })
}

impl Actor {
    /// The user who asks, where it is one.
    fn account(&self) -> Option<&str> {
        match self {
            Self::Account { name, .. } => Some(name),
            Self::Token { account, .. } => account.as_deref(),
            Self::LocalAdmin { .. }
            | Self::Node { .. }
            | Self::AuthKey { .. }
            | Self::Coordinator => None,
        }
    }
}
