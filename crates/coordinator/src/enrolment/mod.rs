//! Who may join the network, and as what.
//!
//! Checking the auth key, using it up and creating the node are one transaction: two machines
//! cannot both join with a one-off key, and a join that fails leaves the key as it was.

mod admission;
mod approval;
mod host;

pub(crate) use admission::Terms;
pub(crate) use approval::{Approvals, WAIT_SECONDS, ask, page_url};

use admission::{
    check_auth_key, check_node_key, check_same_owner, tags_of_known_node, tags_of_new_node,
};
use host::{check_host, is_known, store_host};

use crate::{
    Coordinator,
    group_commit::Note,
    refusal::Refusal,
    store::{Actor, AuditEntry, AuthKeyRow, Machine, NewNode, NodeRow, Store, Tx},
};
use serde_json::json;
use std::{collections::BTreeSet, net::IpAddr};
use weir_overlay::{MachinePublicKey, NodeId, NodeName, NodePublicKey, Tag};
use weir_policy::Policy;
use weir_protocol::{
    AuthKey, ErrorCode, HostInfo, RegisterRequest, RegisterResponse, ReportRequest,
};

/// How many failures of one report are kept.
const MAX_FAILURES: usize = 100;

/// What is known of a request besides its content.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender {
    /// Who signed it.
    pub machine: MachinePublicKey,
    /// Where it came from.
    pub address: IpAddr,
    /// When, in seconds since 1970.
    pub now: i64,
}

/// Lets a machine in, or renews what is known of one that is in already.
///
/// # Errors
/// [`Refusal`]; then nothing was changed and no auth key was used up.
pub(crate) async fn register(
    store: &Store,
    policy: &Policy,
    request: RegisterRequest,
    sender: Sender,
) -> Result<RegisterResponse, Refusal> {
    check_host(&request.host)?;
    let mut tx = store.write().await?;
    let known = tx.node_by_machine(&sender.machine).await?;
    let response = match known {
        Some(node) => renew(&mut tx, policy, node, request, sender).await?,
        None => enrol(&mut tx, policy, request, sender).await?,
    };
    tx.commit().await?;
    Ok(response)
}

/// Takes over what an enrolled machine tells of its host. Says whether anything changed.
///
/// # Errors
/// [`Refusal`]; then nothing was changed.
pub(crate) async fn update(
    store: &Store,
    machine: &Machine,
    host: HostInfo,
    sender: Sender,
) -> Result<bool, Refusal> {
    check_host(&host)?;
    // Mostly there is no news, and nobody has to wait for a turn to hear that.
    if is_known(machine, &machine.routes, &host, sender) {
        return Ok(false);
    }
    let mut tx = store.write().await?;
    let node = tx
        .node_by_machine(&sender.machine)
        .await?
        .ok_or_else(not_enrolled)?;
    let changed = store_host(&mut tx, &node, &host, sender).await?;
    tx.commit().await?;
    Ok(changed)
}

/// Deletes the node of the machine that asks for it.
///
/// # Errors
/// [`Refusal`]; then nothing was changed.
pub(crate) async fn leave(store: &Store, sender: Sender) -> Result<(), Refusal> {
    let mut tx = store.write().await?;
    let node = tx
        .node_by_machine(&sender.machine)
        .await?
        .ok_or_else(not_enrolled)?;
    let actor = Actor::Node {
        id: node.id,
        name: node.name.clone(),
        address: sender.address,
    };
    tx.delete_node(node.id).await?;
    let entry = AuditEntry {
        at: sender.now,
        actor: &actor,
        action: "nodes.leave",
        subject: subject(node.id, &node.name),
    };
    let before = json!({ "name": node.name, "user": node.user_name, "tags": node.tags });
    tx.record(entry, Some(&before), None::<&()>).await?;
    tx.commit().await?;
    Ok(())
}

/// What a machine hears that an admin shut out for ever.
#[must_use]
pub(crate) fn machine_revoked() -> Refusal {
    Refusal::new(
        ErrorCode::MachineRevoked,
        "an admin revoked the key of this machine: it is never let in again. A machine that is to \
         come back all the same needs other keys: agent logout makes them",
    )
}

fn needs_auth_key(node: &NodeRow) -> Refusal {
    let key = match &node.user_name {
        Some(user) => format!("--user {user}"),
        None => {
            let tags: Vec<_> = node.tags.iter().map(ToString::to_string).collect();
            format!("--tags {}", tags.join(","))
        }
    };
    Refusal::new(
        ErrorCode::NodeKeyExpired,
        format!(
            "to let {} in again takes an auth key: get one from an admin (coordinator keys create \
             {key}) and run agent up --force-reauth --auth-key KEY",
            node.name
        ),
    )
}

/// What a machine hears that is not, or no longer, in the network.
#[must_use]
pub(crate) fn not_enrolled() -> Refusal {
    Refusal::new(
        ErrorCode::NotEnrolled,
        "this machine is not enrolled here: get an auth key from an admin (coordinator keys \
         create) and join with agent up --auth-key KEY, or run agent up without one and let an \
         admin approve it",
    )
}

async fn enrol(
    tx: &mut Tx,
    policy: &Policy,
    request: RegisterRequest,
    sender: Sender,
) -> Result<RegisterResponse, Refusal> {
    if tx.is_revoked(&sender.machine).await? {
        return Err(machine_revoked());
    }
    let text = request.auth_key.as_deref().ok_or_else(not_enrolled)?;
    let key = presented_key(tx, text, sender.now).await?;
    let stranger = Stranger {
        machine: sender.machine,
        node_key: request.node_key,
        tags: request.tags,
        host: request.host,
        address: sender.address,
    };
    let actor = Actor::AuthKey {
        id: key.id.clone(),
        address: sender.address,
    };
    let entry = (&actor, "nodes.enrol");
    let response = admit(tx, policy, stranger, &(&key).into(), entry, sender.now).await?;
    tx.count_auth_key_use(&key.id).await?;
    Ok(response)
}

/// A machine that is to be let in.
#[derive(Debug)]
pub(crate) struct Stranger {
    /// What it signs with.
    pub machine: MachinePublicKey,
    /// What its WireGuard is known by.
    pub node_key: NodePublicKey,
    /// The tags that it asks for.
    pub tags: BTreeSet<Tag>,
    /// What it tells of its host.
    pub host: HostInfo,
    /// Where its request came from.
    pub address: IpAddr,
}

/// Makes a node of a machine. Whoever calls this knows that it may come in; `entry` says for the
/// audit log who said so, and what that is called.
///
/// # Errors
/// [`Refusal`].
pub(crate) async fn admit(
    tx: &mut Tx,
    policy: &Policy,
    stranger: Stranger,
    terms: &Terms,
    entry: (&Actor, &'static str),
    now: i64,
) -> Result<RegisterResponse, Refusal> {
    // Only now: whoever may not come in learns nothing about the machines that are in.
    check_node_key(tx, &stranger.node_key, &stranger.machine).await?;
    let tags = tags_of_new_node(policy, terms, &stranger.tags)?;
    let user = if tags.is_empty() { terms.user } else { None };
    let (ipv4, ipv6) = tx.free_addresses().await?.ok_or_else(|| {
        Refusal::new(
            ErrorCode::Conflict,
            "all overlay addresses are taken: delete nodes that are gone (coordinator nodes list)",
        )
    })?;
    let node = NewNode {
        machine_key: stranger.machine,
        node_key: stranger.node_key,
        name: tx.free_name(&stranger.host.hostname, None).await?,
        user,
        tags,
        ephemeral: terms.ephemeral,
        key_expires_at: end_of_life(terms.node_life, now),
        ipv4,
        ipv6,
        host: stranger.host,
        observed_address: stranger.address,
        created_at: now,
    };
    let id = tx.insert_node(&node).await?;
    tx.set_advertised(id, &node.host.advertised_routes).await?;
    // However it came in, it waits no more.
    tx.forget_waiting(&node.machine_key).await?;
    let after = json!({
        "name": node.name, "user": terms.user_name, "tags": node.tags,
        "addresses": [node.ipv4.to_string(), node.ipv6.to_string()],
        "node_key": node.node_key, "key_expires_at": node.key_expires_at,
        "ephemeral": node.ephemeral,
        "advertised": node.host.advertised_routes,
    });
    let (actor, action) = entry;
    let entry = AuditEntry {
        at: now,
        actor,
        action,
        subject: subject(id, &node.name),
    };
    tx.record(entry, None::<&()>, Some(&after)).await?;
    tracing::info!(node = %id, name = %node.name, "enrolled a machine");
    Ok(RegisterResponse {
        node_id: id,
        name: node.name,
        addresses: [IpAddr::V4(node.ipv4), IpAddr::V6(node.ipv6)].into(),
        enrolled: true,
    })
}

/// The key of an auth key's text, if it lets machines in.
async fn presented_key(tx: &mut Tx, text: &str, now: i64) -> Result<AuthKeyRow, Refusal> {
    let presented: AuthKey = text.parse().map_err(|error: weir_protocol::AuthKeyError| {
        Refusal::new(ErrorCode::UnknownAuthKey, error.to_string())
    })?;
    check_auth_key(tx.auth_key(presented.id()).await?, &presented, now)
}

/// Until when the key of a node is good that is let in now. What carries tags is a server of which
/// nobody sits in front: its key is good for ever, unless the auth key says otherwise.
fn end_of_life(life: Option<i64>, now: i64) -> Option<i64> {
    life.map(|seconds| now.saturating_add(seconds))
}

/// Lets a machine in again that is in: its node stays what it is, and the time of its key begins
/// anew.
async fn reauthenticate(
    tx: &mut Tx,
    policy: &Policy,
    node: &NodeRow,
    auth_key: Option<&str>,
    sender: Sender,
) -> Result<(), Refusal> {
    let text = auth_key.ok_or_else(|| needs_auth_key(node))?;
    let key = presented_key(tx, text, sender.now).await?;
    check_same_owner(policy, node, &key)?;
    let expires_at = end_of_life(key.node_life, sender.now);
    tx.set_key_expiry(node.id, expires_at).await?;
    tx.count_auth_key_use(&key.id).await?;
    let entry = AuditEntry {
        at: sender.now,
        actor: &Actor::AuthKey {
            id: key.id,
            address: sender.address,
        },
        action: "nodes.reauthenticate",
        subject: subject(node.id, &node.name),
    };
    let before = json!({ "key_expires_at": node.key_expires_at });
    let after = json!({ "key_expires_at": expires_at });
    tx.record(entry, Some(&before), Some(&after)).await?;
    tracing::info!(node = %node.id, name = %node.name, "let a machine in again");
    Ok(())
}

/// A machine that is in already needs no key, unless its node's own key has expired; one that it
/// brings without need is not used up.
async fn renew(
    tx: &mut Tx,
    policy: &Policy,
    node: NodeRow,
    request: RegisterRequest,
    sender: Sender,
) -> Result<RegisterResponse, Refusal> {
    let mut node = node;
    let actor = Actor::Node {
        id: node.id,
        name: node.name.clone(),
        address: sender.address,
    };
    let entry = |action| AuditEntry {
        at: sender.now,
        actor: &actor,
        action,
        subject: actor.to_string(),
    };
    let has_expired = node.key_expires_at.is_some_and(|end| end <= sender.now);
    if has_expired || request.reauthenticate {
        let auth_key = request.auth_key.as_deref();
        reauthenticate(tx, policy, &node, auth_key, sender).await?;
    }
    let new_tags = tags_of_known_node(policy, &node, &request.tags)?;
    if new_tags != node.tags {
        tx.set_node_tags(node.id, &new_tags).await?;
        tx.set_node_user(node.id, None).await?;
        if node.tags.is_empty() {
            tx.set_key_expiry(node.id, None).await?;
        }
        tx.record(entry("nodes.tag"), Some(&node.tags), Some(&new_tags))
            .await?;
    }
    if request.node_key != node.node_key {
        check_node_key(tx, &request.node_key, &sender.machine).await?;
        tx.set_node_key(node.id, &request.node_key).await?;
        let (before, after) = (Some(&node.node_key), Some(&request.node_key));
        tx.record(entry("nodes.key"), before, after).await?;
    }
    store_host(tx, &node, &request.host, sender).await?;
    tx.set_node_seen(node.id, Some(sender.address), sender.now)
        .await?;
    if let Some(renamed) = tx.node_by_machine(&sender.machine).await? {
        node = renamed;
    }
    Ok(RegisterResponse {
        node_id: node.id,
        name: node.name,
        addresses: [IpAddr::V4(node.ipv4), IpAddr::V6(node.ipv6)].into(),
        enrolled: false,
    })
}

/// Remembers where an enrolled machine's requests come from. Says whether that changed.
///
/// # Errors
/// [`Refusal::Store`].
pub(crate) async fn moved(store: &Store, node: &NodeRow, sender: Sender) -> Result<bool, Refusal> {
    if node.observed_address == Some(sender.address) {
        return Ok(false);
    }
    let mut tx = store.write().await?;
    let moved = tx
        .set_node_seen(node.id, Some(sender.address), sender.now)
        .await?;
    tx.commit().await?;
    Ok(moved)
}

/// How a node is called in the audit log.
#[must_use]
pub(crate) fn subject(id: NodeId, name: &NodeName) -> String {
    format!("node {id} ({name})")
}

/// Remembers what a node has applied and what it could not.
///
/// # Errors
/// [`Refusal`].
pub(crate) async fn report(
    coordinator: &Coordinator,
    node: &NodeRow,
    report: ReportRequest,
    sender: Sender,
) -> Result<(), Refusal> {
    let mut failures = report.failures;
    failures.truncate(MAX_FAILURES);
    for failure in &failures {
        tracing::info!(node = %node.id, name = %node.name, item = failure.item, reason = failure.reason, "a node could not apply a part of its map");
    }
    let note = Note::Report {
        node: node.id,
        generation: report.generation,
        failures,
    };
    coordinator.reports.store(note).await?;
    coordinator.presence.seen(node.id, sender.now);
    Ok(())
}
