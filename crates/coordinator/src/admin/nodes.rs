//! Nodes.

use super::{Expected, Versioned, find_node, now, page::Wanted, publish, time, versions};
use crate::{
    Coordinator,
    addresses::pair_of,
    api, enrolment,
    refusal::Refusal,
    snapshot,
    store::{Actor, AuditEntry, NodeRow, RouteRow},
};
use serde_json::json;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use weir_overlay::{NodeName, Tag};
use weir_protocol::ErrorCode;

/// The longest time that a key of a node may be set to expire after: ten years.
pub(super) const MAX_KEY_LIFE_SECONDS: u64 = 10 * 366 * 24 * 3600;

pub(super) fn describe(
    coordinator: &Coordinator,
    node: NodeRow,
    routes: &[RouteRow],
) -> Result<api::Node, Refusal> {
    let generation = coordinator.engine.generation(node.id);
    let states = coordinator.engine.routes(node.id);
    let online = coordinator.presence.is_online(node.id);
    Ok(api::Node {
        addresses: [IpAddr::V4(node.ipv4), IpAddr::V6(node.ipv6)].into(),
        online,
        last_seen: time("time", if online { now() } else { node.last_seen_at })?,
        enrolled: time("time", node.created_at)?,
        ephemeral: node.ephemeral,
        endpoint: snapshot::node(node.clone(), routes, &[], now()).endpoint(),
        key_expires: node
            .key_expires_at
            .map(|end| time("time", end))
            .transpose()?,
        key_expired: node.key_expires_at.is_some_and(|end| end <= now()),
        key: node.node_key,
        routes: routes
            .iter()
            .filter(|route| route.node == node.id && route.advertised)
            .map(|route| {
                let (state, approved_by) = super::routes::state(route, &states);
                api::NodeRoute {
                    prefix: route.prefix,
                    state,
                    approved_by,
                }
            })
            .collect(),
        lags: online && generation > node.reported_generation,
        generation,
        applied_generation: node.reported_generation,
        failures: node.reported_failures,
        id: node.id,
        name: node.name,
        user: node.user_name,
        tags: node.tags,
        hostname: node.host.hostname,
        os: node.host.os,
        version: node.host.version,
    })
}

/// All nodes, by id.
///
/// # Errors
/// [`Refusal`].
pub(crate) async fn list_nodes(
    coordinator: &Coordinator,
    page: &api::PageQuery,
) -> Result<api::Page<api::Node>, Refusal> {
    let wanted = Wanted::new("nodes", page)?;
    let mut tx = coordinator.store.read().await?;
    let routes = tx.routes().await?;
    let page = wanted.of(tx.nodes().await?, |node| node.id.0);
    page.try_map(|node| describe(coordinator, node, &routes))
}

/// One node, by name or id, and its version.
///
/// # Errors
/// [`Refusal`].
pub(crate) async fn show_node(
    coordinator: &Coordinator,
    node: &str,
) -> Result<Versioned<api::Node>, Refusal> {
    let mut tx = coordinator.store.read().await?;
    let row = find_node(&mut tx, node).await?;
    let routes = tx.routes_of(row.id).await?;
    Ok(Versioned {
        version: versions::of_node(&row),
        of: describe(coordinator, row, &routes)?,
    })
}

/// Deletes a node. When this returns, no map of any other node has it.
///
/// # Errors
/// [`Refusal`].
pub(crate) async fn delete_node(
    coordinator: &Coordinator,
    actor: &Actor,
    node: &str,
    expected: &Expected,
) -> Result<api::Node, Refusal> {
    remove(coordinator, actor, node, Removal::MayReturn, expected).await
}

/// Deletes a node and never lets its machine in again.
///
/// # Errors
/// [`Refusal`].
pub(crate) async fn revoke_node(
    coordinator: &Coordinator,
    actor: &Actor,
    node: &str,
) -> Result<api::Node, Refusal> {
    remove(coordinator, actor, node, Removal::ForEver, &Expected::Any).await
}

/// What becomes of the machine of a node that is deleted.
#[derive(Clone, Copy)]
enum Removal {
    /// With another auth key it may join again.
    MayReturn,
    /// It is refused, whatever it brings.
    ForEver,
}

async fn remove(
    coordinator: &Coordinator,
    actor: &Actor,
    node: &str,
    removal: Removal,
    expected: &Expected,
) -> Result<api::Node, Refusal> {
    let mut tx = coordinator.store.write().await?;
    let row = find_node(&mut tx, node).await?;
    expected.check(Some(&versions::of_node(&row)))?;
    let routes = tx.routes_of(row.id).await?;
    let gone = describe(coordinator, row.clone(), &routes)?;
    let action = match removal {
        Removal::MayReturn => "nodes.delete",
        Removal::ForEver => {
            tx.revoke_machine(&row.machine_key, &row.name, now())
                .await?;
            "nodes.revoke"
        }
    };
    tx.delete_node(row.id).await?;
    let entry = AuditEntry {
        at: now(),
        actor,
        action,
        subject: enrolment::subject(row.id, &row.name),
    };
    tx.record(entry, Some(&gone), None::<&()>).await?;
    tx.commit().await?;
    publish(coordinator).await;
    Ok(gone)
}

/// Sets until when the key of a node is good: for so many seconds from now, or for ever.
///
/// # Errors
/// [`Refusal`].
pub(crate) async fn set_node_expiry(
    coordinator: &Coordinator,
    actor: &Actor,
    node: &str,
    in_seconds: Option<u64>,
    expected: &Expected,
) -> Result<Versioned<api::Node>, Refusal> {
    if in_seconds.is_some_and(|seconds| seconds > MAX_KEY_LIFE_SECONDS) {
        return Err(Refusal::new(
            ErrorCode::BadRequest,
            "a key that expires does so within ten years: give --in such as 90d, or --never",
        ));
    }
    let now = now();
    let life = in_seconds.map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX));
    let expires_at = life.map(|life| now.saturating_add(life));
    let mut tx = coordinator.store.write().await?;
    let row = find_node(&mut tx, node).await?;
    expected.check(Some(&versions::of_node(&row)))?;
    tx.set_key_expiry(row.id, expires_at).await?;
    let entry = AuditEntry {
        at: now,
        actor,
        action: "nodes.expire",
        subject: enrolment::subject(row.id, &row.name),
    };
    let before = json!({ "key_expires_at": row.key_expires_at });
    let after = json!({ "key_expires_at": expires_at });
    tx.record(entry, Some(&before), Some(&after)).await?;
    tx.commit().await?;
    publish(coordinator).await;
    show_node(coordinator, row.name.as_str()).await
}

/// Gives a node the overlay addresses of this number; either address of the pair names it.
///
/// # Errors
/// [`Refusal`], when it is no address for a node, or is taken.
pub(crate) async fn set_node_address(
    coordinator: &Coordinator,
    actor: &Actor,
    node: &str,
    address: IpAddr,
    expected: &Expected,
) -> Result<Versioned<api::Node>, Refusal> {
    let (ipv4, ipv6) =
        pair_of(address).map_err(|error| Refusal::new(ErrorCode::BadRequest, error.to_string()))?;
    let mut tx = coordinator.store.write().await?;
    let row = find_node(&mut tx, node).await?;
    expected.check(Some(&versions::of_node(&row)))?;
    let nodes = tx.nodes().await?;
    let taken = |other: &&NodeRow| other.id != row.id && (other.ipv4 == ipv4 || other.ipv6 == ipv6);
    if let Some(other) = nodes.iter().find(taken) {
        return Err(Refusal::new(
            ErrorCode::Conflict,
            format!(
                "{} (node {}) has {} and {}: choose another address, or give that node another \
                 one first",
                other.name, other.id, other.ipv4, other.ipv6
            ),
        ));
    }
    tx.set_node_addresses(row.id, ipv4, ipv6).await?;
    let entry = AuditEntry {
        at: now(),
        actor,
        action: "nodes.set-address",
        subject: enrolment::subject(row.id, &row.name),
    };
    let addresses = |ipv4: Ipv4Addr, ipv6: Ipv6Addr| json!({ "addresses": [ipv4, ipv6] });
    let (before, after) = (addresses(row.ipv4, row.ipv6), addresses(ipv4, ipv6));
    tx.record(entry, Some(&before), Some(&after)).await?;
    tx.commit().await?;
    publish(coordinator).await;
    show_node(coordinator, row.name.as_str()).await
}

/// Gives a node another name.
///
/// # Errors
/// [`Refusal`], when the name is not one, or is taken.
pub(crate) async fn rename_node(
    coordinator: &Coordinator,
    actor: &Actor,
    node: &str,
    name: &str,
    expected: &Expected,
) -> Result<Versioned<api::Node>, Refusal> {
    let name: NodeName = name.parse().map_err(|error: weir_overlay::NameError| {
        Refusal::new(ErrorCode::BadRequest, error.to_string())
    })?;
    let mut tx = coordinator.store.write().await?;
    let row = find_node(&mut tx, node).await?;
    expected.check(Some(&versions::of_node(&row)))?;
    let taken = tx
        .nodes()
        .await?
        .into_iter()
        .any(|other| other.name == name && other.id != row.id);
    if taken {
        return Err(Refusal::new(
            ErrorCode::Conflict,
            format!("another node has the name {name}"),
        ));
    }
    tx.rename_node(row.id, &name).await?;
    let entry = AuditEntry {
        at: now(),
        actor,
        action: "nodes.rename",
        subject: enrolment::subject(row.id, &row.name),
    };
    let (before, after) = (json!({ "name": row.name }), json!({ "name": name }));
    tx.record(entry, Some(&before), Some(&after)).await?;
    tx.commit().await?;
    publish(coordinator).await;
    show_node(coordinator, name.as_str()).await
}

/// Gives a node these tags and no others. It then belongs to its tags and to no user.
///
/// # Errors
/// [`Refusal`], when no tag is given.
pub(crate) async fn tag_node(
    coordinator: &Coordinator,
    actor: &Actor,
    node: &str,
    tags: &BTreeSet<Tag>,
    expected: &Expected,
) -> Result<Versioned<api::Node>, Refusal> {
    if tags.is_empty() {
        return Err(Refusal::new(
            ErrorCode::BadRequest,
            "name at least one tag: a node without tags and user would be nobody's",
        ));
    }
    let mut tx = coordinator.store.write().await?;
    let row = find_node(&mut tx, node).await?;
    expected.check(Some(&versions::of_node(&row)))?;
    tx.set_node_tags(row.id, tags).await?;
    tx.set_node_user(row.id, None).await?;
    if row.tags.is_empty() {
        // Nobody sits in front of it any more who could renew it.
        tx.set_key_expiry(row.id, None).await?;
    }
    let entry = AuditEntry {
        at: now(),
        actor,
        action: "nodes.tag",
        subject: enrolment::subject(row.id, &row.name),
    };
    let before = json!({ "user": row.user_name, "tags": row.tags });
    tx.record(entry, Some(&before), Some(&json!({ "tags": tags })))
        .await?;
    tx.commit().await?;
    publish(coordinator).await;
    show_node(coordinator, row.name.as_str()).await
}
