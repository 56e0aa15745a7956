//! The store's rows as the network that maps are made of.

use crate::store::{Decision, EgressRow, NodeRow, RouteRow, StoreError, Tx};
use ipnet::IpNet;
use std::{collections::BTreeMap, net::IpAddr};
use weir_netmap::{EgressChoice, KeyLife, NetworkState, Node, RouteDecision};
use weir_overlay::UserId;
use weir_policy::User;

/// Reads the whole network as it is `now`, in seconds since 1970. All nodes count as healthy.
///
/// # Errors
/// [`StoreError`].
pub(crate) async fn read(tx: &mut Tx, now: i64) -> Result<NetworkState, StoreError> {
    let users = tx.users().await?;
    let routes = tx.routes().await?;
    let egress = tx.route_egress().await?;
    let nodes = tx.nodes().await?;
    tx.keep_machines(&nodes, &routes).await?;
    let primaries = tx.primaries().await?;
    Ok(NetworkState {
        users: users
            .into_iter()
            .map(|user| (user.id, self::user(user.id, user.name)))
            .collect(),
        nodes: nodes
            .into_iter()
            .map(|row| {
                let first = routes.partition_point(|route| route.node < row.id);
                let behind = routes.partition_point(|route| route.node <= row.id);
                let own = routes.get(first..behind).unwrap_or_default();
                (row.id, node(row, own, &egress, now))
            })
            .collect(),
        primaries,
    })
}

/// A user as policies know it: by name, and by e-mail address when the name is one.
pub(crate) fn user(id: UserId, name: String) -> User {
    let email = name.contains('@').then(|| name.clone());
    User { id, name, email }
}

/// One node as it is `now`, with those of `routes` and `egress` that are its own. It counts as
/// healthy.
#[must_use]
pub(crate) fn node(row: NodeRow, routes: &[RouteRow], egress: &[EgressRow], now: i64) -> Node {
    let own = || routes.iter().filter(|route| route.node == row.id);
    let mut host = row.host;
    host.advertised_routes = own()
        .filter(|route| route.advertised)
        .map(|route| route.prefix)
        .collect();
    Node {
        id: row.id,
        name: row.name,
        user: row.user,
        tags: row.tags,
        node_key: row.node_key,
        key_life: KeyLife::at(row.key_expires_at, now),
        addresses: [IpAddr::V4(row.ipv4), IpAddr::V6(row.ipv6)].into(),
        created: row.created_at,
        host,
        decisions: own()
            .filter_map(|route| {
                let decision = match route.decision? {
                    Decision::Approved => RouteDecision::Approved,
                    Decision::Rejected => RouteDecision::Rejected,
                };
                Some((route.prefix, decision))
            })
            .collect(),
        egress: choices(egress.iter().filter(|chosen| chosen.node == row.id)),
        observed_address: row.observed_address,
        healthy: true,
    }
}

fn choices<'a>(rows: impl Iterator<Item = &'a EgressRow>) -> BTreeMap<IpNet, EgressChoice> {
    let mut choices: BTreeMap<IpNet, EgressChoice> = BTreeMap::new();
    for row in rows {
        let choice = choices.entry(row.prefix).or_default();
        match &row.selector {
            Some(selector) => drop(choice.by_selector.insert(selector.clone(), row.address)),
            None => choice.address = Some(row.address),
        }
    }
    choices
}
