//! With which of its addresses a relay lets traffic out, by route and by whose traffic it is.

use super::{find_node, now, publish, routes};
use crate::{
    Coordinator, api, enrolment,
    refusal::Refusal,
    snapshot,
    store::{Actor, AuditEntry, EgressRow, NodeRow, Tx},
};
use ipnet::IpNet;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use weir_policy::NodeSelector;
use weir_protocol::ErrorCode;

/// What was chosen for one route, as it is shown.
pub(super) fn describe(
    node: &NodeRow,
    prefix: &IpNet,
    chosen: &[EgressRow],
) -> Vec<api::RouteEgress> {
    let of_route = |row: &&EgressRow| row.node == node.id && row.prefix == *prefix;
    let rows = chosen.iter().filter(of_route);
    rows.map(|row| api::RouteEgress {
        of: row.selector.as_ref().map(ToString::to_string),
        address: row.address,
        on_host: node.host.addresses.contains(&row.address),
    })
    .collect()
}

/// Chooses the address that traffic to routes leaves with, for some or for everybody else, or
/// takes such choices back. All of it or nothing; when this returns, the relay's map says so.
///
/// # Errors
/// [`Refusal`], when the node does not advertise one of the routes, does not have the address, or
/// nobody could ever be selected. What was chosen for a route that is not advertised any more can
/// still be taken back.
pub(crate) async fn choose_egress(
    coordinator: &Coordinator,
    actor: &Actor,
    node: &str,
    request: &api::ChooseEgress,
) -> Result<Vec<api::Route>, Refusal> {
    let selectors = selectors(&request.of)?;
    let mut tx = coordinator.store.write().await?;
    let row = find_node(&mut tx, node).await?;
    let chosen = tx.route_egress_of(row.id).await?;
    let is_chosen = |prefix: &IpNet| chosen.iter().any(|row| row.prefix == *prefix);
    let mut in_question = request.prefixes.clone();
    if request.address.is_none() {
        in_question.retain(|prefix| !is_chosen(prefix));
    }
    if request.prefixes.is_empty() || !in_question.is_empty() {
        let known = tx.routes_of(row.id).await?;
        routes::check_advertised(&row, &known, &in_question)?;
    }
    match request.address {
        Some(address) => {
            check_address(&row, &request.prefixes, address)?;
            check_selectors(coordinator, &mut tx, &selectors).await?;
            for prefix in &request.prefixes {
                for selector in each(&selectors) {
                    tx.set_route_egress(row.id, prefix, selector, address, now())
                        .await?;
                }
            }
        }
        None => {
            for gone in chosen.iter().filter(|row| {
                let is_named = |named: &NodeSelector| row.selector.as_ref() == Some(named);
                request.prefixes.contains(&row.prefix)
                    && (selectors.is_empty() || selectors.iter().any(is_named))
            }) {
                tx.clear_route_egress(row.id, &gone.prefix, gone.selector.as_ref())
                    .await?;
            }
        }
    }
    let entry = AuditEntry {
        at: now(),
        actor,
        action: "routes.egress",
        subject: enrolment::subject(row.id, &row.name),
    };
    let after = tx.route_egress_of(row.id).await?;
    let told = |rows: &[EgressRow]| recorded(&request.prefixes, rows);
    tx.record(entry, Some(&told(&chosen)), Some(&told(&after)))
        .await?;
    tx.commit().await?;
    publish(coordinator).await;
    routes::of_node(coordinator, &row, &request.prefixes).await
}

fn selectors(texts: &BTreeSet<String>) -> Result<BTreeSet<NodeSelector>, Refusal> {
    let parsed = texts.iter().map(|text| text.parse::<NodeSelector>());
    parsed
        .collect::<Result<_, _>>()
        .map_err(|error| Refusal::new(ErrorCode::BadRequest, error.to_string()))
}

/// The selectors, or that which stands for everybody else.
fn each(selectors: &BTreeSet<NodeSelector>) -> impl Iterator<Item = Option<&NodeSelector>> {
    let everybody = selectors.is_empty().then_some(None);
    selectors.iter().map(Some).chain(everybody)
}

fn check_address(
    node: &NodeRow,
    prefixes: &BTreeSet<IpNet>,
    address: IpAddr,
) -> Result<(), Refusal> {
    let family = |ipv4| if ipv4 { "IPv4" } else { "IPv6" };
    let other = |prefix: &&IpNet| prefix.addr().is_ipv4() != address.is_ipv4();
    if let Some(prefix) = prefixes.iter().find(other) {
        return Err(Refusal::new(
            ErrorCode::BadRequest,
            format!(
                "{address} is an {} address, and {prefix} an {} route: nothing would leave with it",
                family(address.is_ipv4()),
                family(prefix.addr().is_ipv4())
            ),
        ));
    }
    if node.host.addresses.contains(&address) {
        return Ok(());
    }
    let own = node.host.addresses.iter();
    let own: Vec<_> = own
        .filter(|own| own.is_ipv4() == address.is_ipv4())
        .map(ToString::to_string)
        .collect();
    let has = if own.is_empty() {
        format!("it has no {} address", family(address.is_ipv4()))
    } else {
        format!("it has {}", own.join(", "))
    };
    Err(Refusal::new(
        ErrorCode::NotFound,
        format!(
            "{address} is not an address of {}: {has}; add it to the host first",
            node.name
        ),
    ))
}

async fn check_selectors(
    coordinator: &Coordinator,
    tx: &mut Tx,
    selectors: &BTreeSet<NodeSelector>,
) -> Result<(), Refusal> {
    if selectors.is_empty() {
        return Ok(());
    }
    let in_force = coordinator.engine.policy();
    let users = tx.users().await?.into_iter();
    let users: Vec<_> = users
        .map(|user| snapshot::user(user.id, user.name))
        .collect();
    for selector in selectors {
        in_force
            .policy
            .knows(selector, &users)
            .map_err(|error| Refusal::new(ErrorCode::NotFound, error.to_string()))?;
    }
    Ok(())
}

/// What the audit log says of some routes.
fn recorded(prefixes: &BTreeSet<IpNet>, rows: &[EgressRow]) -> Value {
    let mut told: BTreeMap<String, BTreeMap<String, IpAddr>> = BTreeMap::new();
    for prefix in prefixes {
        let of_route = rows.iter().filter(|row| row.prefix == *prefix);
        let choices = of_route.map(|row| {
            let everybody = || "everybody else".to_owned();
            let who = row.selector.as_ref().map(ToString::to_string);
            (who.unwrap_or_else(everybody), row.address)
        });
        told.insert(prefix.to_string(), choices.collect());
    }
    json!(told)
}
