//! What is done from time to time: storing who was seen, forgetting ephemeral nodes.

use crate::{
    cluster::Role,
    enrolment::subject,
    presence::Presence,
    store::{Actor, AuditEntry, Store, StoreError},
};
use serde_json::json;

/// How long an ephemeral node may stay away before it is forgotten, in seconds: half an hour, so
/// that a reboot or an outage of the coordinator's network costs none.
pub(super) const EPHEMERAL_STAYS_SECONDS: i64 = 30 * 60;

/// How many nodes' last signs of life are stored at a time, so that changes of the network need not
/// wait for those of all.
const MAX_TOGETHER: usize = 512;
/// After how long a coordinator that is gone is forgotten, in seconds.
const FORGET_COORDINATOR_SECONDS: i64 = 60;

/// Stores and forgets. Says whether the network changed. Whoever leads does so since `since` (in
/// seconds since 1970); from then on nodes have as long to come back as if they had just left.
/// `ahead` is by how much the clock of this host is wrong.
pub(super) async fn run(
    store: &Store,
    presence: &Presence,
    role: Role,
    since: i64,
    now: i64,
    ahead: i64,
) -> Result<bool, StoreError> {
    let seen: Vec<_> = presence.take_seen().into_iter().collect();
    for some in seen.chunks(MAX_TOGETHER) {
        let mut tx = store.write().await?;
        for (node, at) in some {
            tx.set_node_seen(*node, None, *at - ahead).await?;
        }
        tx.commit().await?;
    }
    if role == Role::Follower {
        return Ok(false);
    }
    let mut tx = store.note().await?;
    tx.forget_signatures(now).await?;
    tx.prune_waiting(now).await?;
    if let Role::Leader(_) = role {
        let since = tx.clock().await? - FORGET_COORDINATOR_SECONDS;
        tx.forget_coordinators(since).await?;
    }
    tx.commit().await?;
    let gone: Vec<_> = store
        .read()
        .await?
        .ephemeral_nodes()
        .await?
        .into_iter()
        .filter(|node| !presence.is_online(node.id))
        .filter(|node| now - node.last_seen_at.max(since) > EPHEMERAL_STAYS_SECONDS)
        .collect();
    if gone.is_empty() {
        return Ok(false);
    }
    let mut tx = store.write().await?;
    if let Role::Leader(epoch) = role
        && !tx.leads(epoch).await?
    {
        return Ok(false);
    }
    for node in gone {
        tx.delete_node(node.id).await?;
        let entry = AuditEntry {
            at: now,
            actor: &Actor::Coordinator,
            action: "nodes.forget",
            subject: subject(node.id, &node.name),
        };
        let before = json!({ "name": node.name, "ephemeral": true });
        tx.record(entry, Some(&before), None::<&()>).await?;
        tracing::info!(node = %node.id, name = %node.name, "forgot an ephemeral node that stayed away");
    }
    tx.commit().await?;
    Ok(true)
}
