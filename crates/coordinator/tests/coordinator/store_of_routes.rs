//! What must hold of routes, whichever database remembers them.

use crate::{
    postgres,
    stores::{NOW, Opened, change, node, on_both, open, prefix},
};
use ipnet::IpNet;
use std::{collections::BTreeSet, net::IpAddr};
use weir_coordinator::store::{Decision, EgressRow};
use weir_policy::NodeSelector;

on_both!(
    decisions_outlive_a_withdrawal,
    addresses_of_routes_come_back_in_the_order_in_which_they_count,
);

async fn decisions_outlive_a_withdrawal(at: Opened) {
    let store = at.store;
    let id = change!(store, |tx| tx.insert_node(&node(1, None)));
    let other: IpNet = "2001:db8::/32".parse().unwrap();
    change!(store, |tx| tx.set_advertised(id, &[prefix(), other].into()));
    change!(store, |tx| tx.set_decision(
        id,
        &prefix(),
        Some(Decision::Approved),
        NOW
    ));
    change!(store, |tx| tx.set_advertised(id, &BTreeSet::new()));
    let routes = store.read().await.unwrap().routes_of(id).await.unwrap();
    assert_eq!(routes.len(), 1);
    assert_eq!((routes[0].prefix, routes[0].advertised), (prefix(), false));
    assert_eq!(routes[0].decision, Some(Decision::Approved));
    change!(store, |tx| tx.set_advertised(id, &[prefix(), other].into()));
    let routes = store.read().await.unwrap().routes().await.unwrap();
    let decisions: Vec<_> = routes
        .iter()
        .map(|route| (route.prefix, route.decision))
        .collect();
    assert_eq!(
        decisions,
        [(prefix(), Some(Decision::Approved)), (other, None)]
    );
}

async fn addresses_of_routes_come_back_in_the_order_in_which_they_count(at: Opened) {
    let store = at.store;
    let id = change!(store, |tx| tx.insert_node(&node(1, None)));
    let other = change!(store, |tx| tx.insert_node(&node(2, None)));
    let address = |last: u8| IpAddr::from([203, 0, 113, last]);
    let who = |text: &str| text.parse::<NodeSelector>().unwrap();
    // A choice counts though the route is not advertised, and a later one replaces it.
    for (node, selector, last) in [
        (id, None, 7),
        (id, Some(who("group:finance")), 1),
        (id, Some(who("tag:ci")), 10),
        (id, Some(who("zoe@")), 11),
        (id, Some(who("group:finance")), 9),
        (other, None, 8),
    ] {
        let selector = selector.as_ref();
        change!(store, |tx| tx.set_route_egress(
            node,
            &prefix(),
            selector,
            address(last),
            NOW
        ));
    }
    let told = |rows: Vec<EgressRow>| -> Vec<(Option<String>, IpAddr)> {
        let rows = rows.into_iter();
        rows.map(|row| {
            (
                row.selector.map(|selector| selector.to_string()),
                row.address,
            )
        })
        .collect()
    };
    let all = store.read().await.unwrap().route_egress().await.unwrap();
    assert_eq!(all.len(), 5);
    let rows = store.read().await.unwrap().route_egress_of(id).await;
    let rows = rows.unwrap();
    assert_eq!(all[..4], rows);
    let named = |text: &str, last| (Some(text.to_owned()), address(last));
    assert_eq!(
        told(rows),
        [
            named("zoe@", 11),
            named("group:finance", 9),
            named("tag:ci", 10),
            (None, address(7)),
        ]
    );
    let finance = who("group:finance");
    change!(store, |tx| tx.clear_route_egress(
        id,
        &prefix(),
        Some(&finance)
    ));
    change!(store, |tx| tx.clear_route_egress(id, &prefix(), None));
    let rows = store.read().await.unwrap().route_egress_of(id).await;
    assert_eq!(
        told(rows.unwrap()),
        [named("zoe@", 11), named("tag:ci", 10)]
    );
    change!(store, |tx| tx.delete_node(id));
    let left = store.read().await.unwrap().route_egress().await.unwrap();
    assert_eq!(told(left), [(None, address(8))]);
}
