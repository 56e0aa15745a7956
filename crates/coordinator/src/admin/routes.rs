//! Routes: advertised by nodes, approved or rejected here.

use super::{find_node, now, page::Wanted, publish, route_egress};
use crate::{
    Coordinator, api, enrolment,
    refusal::Refusal,
    store::{Actor, AuditEntry, Decision, EgressRow, NodeRow, RouteRow},
};
use ipnet::IpNet;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use weir_protocol::{ErrorCode, RouteState, RouteStatus};

/// What has become of an advertised route, and who approved it. Which relay is primary, and what
/// the policy approves, is decided where the maps are made: `states` is what came of it.
pub(super) fn state(
    route: &RouteRow,
    states: &[RouteStatus],
) -> (RouteState, Option<api::Approver>) {
    let in_map = states
        .iter()
        .find(|known| known.prefix == route.prefix)
        .map(|known| known.state)
        .filter(|state| matches!(state, RouteState::Serving | RouteState::Standby));
    match (route.decision, in_map) {
        (Some(Decision::Rejected), _) => (RouteState::Rejected, None),
        (Some(Decision::Approved), state) => (
            state.unwrap_or(RouteState::Standby),
            Some(api::Approver::Admin),
        ),
        (None, Some(state)) => (state, Some(api::Approver::Policy)),
        (None, None) => (RouteState::AwaitingApproval, None),
    }
}

fn describe(
    coordinator: &Coordinator,
    node: &NodeRow,
    route: &RouteRow,
    egress: &[EgressRow],
) -> api::Route {
    let (state, approved_by) = state(route, &coordinator.engine.routes(node.id));
    api::Route {
        node: node.id,
        name: node.name.clone(),
        prefix: route.prefix,
        state,
        approved_by,
        online: coordinator.presence.is_online(node.id),
        egress: route_egress::describe(node, &route.prefix, egress),
    }
}

/// All advertised routes, by node and prefix, a page at a time.
///
/// # Errors
/// [`Refusal`].
pub(crate) async fn list_routes(
    coordinator: &Coordinator,
    page: &api::PageQuery,
) -> Result<api::Page<api::Route>, Refusal> {
    let wanted = Wanted::new("routes", page)?;
    let routes = all_routes(coordinator).await?;
    Ok(wanted.of(routes, |route| (route.node.0, route.prefix.to_string())))
}

/// All advertised routes, by node and prefix.
///
/// # Errors
/// [`Refusal::Store`].
pub(super) async fn all_routes(coordinator: &Coordinator) -> Result<Vec<api::Route>, Refusal> {
    let mut tx = coordinator.store.read().await?;
    let routes = tx.routes().await?;
    let egress = tx.route_egress().await?;
    let nodes: BTreeMap<_, _> = tx
        .nodes()
        .await?
        .into_iter()
        .map(|node| (node.id, node))
        .collect();
    Ok(routes
        .iter()
        .filter(|route| route.advertised)
        .filter_map(|route| {
            Some(describe(
                coordinator,
                nodes.get(&route.node)?,
                route,
                &egress,
            ))
        })
        .collect())
}

/// Approves or rejects routes that a node advertises, all of them or none; without a decision,
/// takes back what was decided, so that the policy decides again, or nobody has. When this
/// returns, the maps of all nodes say so.
///
/// # Errors
/// [`Refusal`], when the node does not advertise one of them. A decision that outlived its route
/// can still be taken back.
pub(crate) async fn decide_routes(
    coordinator: &Coordinator,
    actor: &Actor,
    node: &str,
    prefixes: &BTreeSet<IpNet>,
    decision: Option<Decision>,
) -> Result<Vec<api::Route>, Refusal> {
    let mut tx = coordinator.store.write().await?;
    let row = find_node(&mut tx, node).await?;
    let known = tx.routes_of(row.id).await?;
    let mut in_question = prefixes.clone();
    if decision.is_none() {
        in_question.retain(|prefix| known.iter().all(|route| route.prefix != *prefix));
    }
    if prefixes.is_empty() || !in_question.is_empty() {
        check_advertised(&row, &known, &in_question)?;
    }
    let before: BTreeMap<_, _> = known
        .iter()
        .filter(|route| prefixes.contains(&route.prefix))
        .map(|route| (route.prefix.to_string(), route.decision))
        .collect();
    for prefix in prefixes {
        tx.set_decision(row.id, prefix, decision, now()).await?;
    }
    let entry = AuditEntry {
        at: now(),
        actor,
        action: match decision {
            Some(Decision::Approved) => "routes.approve",
            Some(Decision::Rejected) => "routes.reject",
            None => "routes.reset",
        },
        subject: enrolment::subject(row.id, &row.name),
    };
    let after: BTreeMap<_, _> = prefixes
        .iter()
        .map(|prefix| (prefix.to_string(), decision))
        .collect();
    tx.record(entry, Some(&json!(before)), Some(&json!(after)))
        .await?;
    tx.commit().await?;
    publish(coordinator).await;
    of_node(coordinator, &row, prefixes).await
}

/// Those of the routes that a node has now.
pub(super) async fn of_node(
    coordinator: &Coordinator,
    node: &NodeRow,
    prefixes: &BTreeSet<IpNet>,
) -> Result<Vec<api::Route>, Refusal> {
    let mut tx = coordinator.store.read().await?;
    let routes = tx.routes_of(node.id).await?;
    let egress = tx.route_egress_of(node.id).await?;
    let wanted = routes
        .iter()
        .filter(|route| prefixes.contains(&route.prefix));
    Ok(wanted
        .map(|route| describe(coordinator, node, route, &egress))
        .collect())
}

/// Refuses prefixes that a node does not advertise, and none at all.
///
/// # Errors
/// [`Refusal`], with what it does advertise.
pub(super) fn check_advertised(
    node: &NodeRow,
    routes: &[RouteRow],
    prefixes: &BTreeSet<IpNet>,
) -> Result<(), Refusal> {
    if prefixes.is_empty() {
        return Err(Refusal::new(
            ErrorCode::BadRequest,
            "name at least one prefix, such as 8.8.8.8/32",
        ));
    }
    let advertised: BTreeSet<_> = routes
        .iter()
        .filter(|route| route.advertised)
        .map(|route| route.prefix)
        .collect();
    let list = |prefixes: Vec<&IpNet>| {
        let texts: Vec<_> = prefixes.iter().map(ToString::to_string).collect();
        texts.join(", ")
    };
    let missing: Vec<_> = prefixes.difference(&advertised).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let what_it_does = if advertised.is_empty() {
        format!(
            "it advertises no routes; on it, run agent set --advertise-routes={}",
            list(missing.clone()).replace(", ", ",")
        )
    } else {
        format!("it advertises {}", list(advertised.iter().collect()))
    };
    Err(Refusal::new(
        ErrorCode::NotFound,
        format!(
            "{} does not advertise {}: {what_it_does}",
            node.name,
            list(missing)
        ),
    ))
}
