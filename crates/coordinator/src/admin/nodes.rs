//! Nodes.

use super::{Expected, Versioned, find_node, now, page::Wanted, publish, time, versions};
use crate::{
    Coordinator, api, enrolment,
    refusal::Refusal,
    snapshot,
    store::{Actor, AuditEntry, NodeRow, RouteRow},
};
use serde_json::json;
use std::{collections::BTreeSet, net::IpAddr};
use weir_overlay::{NodeName, Tag};
use weir_protocol::ErrorCode;

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
        endpoint: snapshot::node(node.clone(), routes, &[], true).endpoint(),
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
    let mut tx = coordinator.store.write().await?;
    let row = find_node(&mut tx, node).await?;
    expected.check(Some(&versions::of_node(&row)))?;
    let routes = tx.routes_of(row.id).await?;
    let gone = describe(coordinator, row.clone(), &routes)?;
    tx.delete_node(row.id).await?;
    let entry = AuditEntry {
        at: now(),
        actor,
        action: "nodes.delete",
        subject: enrolment::subject(row.id, &row.name),
    };
    tx.record(entry, Some(&gone), None::<&()>).await?;
    tx.commit().await?;
    publish(coordinator).await;
    Ok(gone)
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
