//! What must hold of machines that are kept in memory, whichever database is behind them: what
//! another store on the same database changed counts as soon as it is committed.

use crate::{
    postgres,
    stores::{NOW, Opened, change, node, on_both, open},
};
use std::sync::Arc;
use weir_coordinator::store::{Decision, Known, Machine, Store};
use weir_overlay::{MachinePrivateKey, MachinePublicKey, NodeId, NodePrivateKey};

on_both!(
    a_machine_is_answered_from_memory_until_it_is_another,
    who_is_removed_or_revoked_elsewhere_is_confirmed_no_more,
    what_is_changed_elsewhere_is_read_again,
    what_is_not_committed_is_not_kept,
    addresses_and_names_are_free_again_when_their_node_is_gone,
);

fn key(number: u8) -> MachinePublicKey {
    MachinePrivateKey::from_bytes([number; 32]).public()
}

async fn machine(store: &Store, number: u8) -> Arc<Machine> {
    let Known::Machine(machine) = store.machine(&key(number)).await.unwrap() else {
        panic!("it is enrolled");
    };
    machine
}

async fn enrol(store: &Store, number: u8) -> NodeId {
    change!(store, |tx| tx.insert_node(&node(number, None)))
}

async fn revision(store: &Store) -> u64 {
    store.read().await.unwrap().revision().await.unwrap()
}

/// Reads all, as who makes maps does after a change that somebody else made.
async fn keep_all(store: &Store) {
    let mut tx = store.read().await.unwrap();
    let nodes = tx.nodes().await.unwrap();
    let routes = tx.routes().await.unwrap();
    tx.keep_machines(&nodes, &routes).await.unwrap();
}

async fn is_confirmed(store: &Store, machine: &Arc<Machine>) -> bool {
    let now = revision(store).await;
    let known = store.confirm(Arc::clone(machine), now).await.unwrap();
    matches!(known, Known::Machine(known) if known == *machine)
}

async fn a_machine_is_answered_from_memory_until_it_is_another(at: Opened) {
    let store = at.store;
    let id = enrol(&store, 1).await;
    enrol(&store, 2).await;
    keep_all(&store).await;
    let (one, other) = (machine(&store, 1).await, machine(&store, 2).await);
    assert_eq!(one.id, id);
    assert!(Arc::ptr_eq(&one, &machine(&store, 1).await));
    assert!(is_confirmed(&store, &one).await);

    let rotated = NodePrivateKey::from_bytes([77; 32]).public();
    let route = "8.8.8.8/32".parse().unwrap();
    change!(store, |tx| tx.set_node_key(id, &rotated));
    assert!(!is_confirmed(&store, &one).await);
    assert_eq!(machine(&store, 1).await.node_key, rotated);
    change!(store, |tx| tx.set_advertised(id, &[route].into()));
    change!(store, |tx| tx.set_decision(
        id,
        &route,
        Some(Decision::Approved),
        NOW
    ));
    let routes = &machine(&store, 1).await.routes;
    assert_eq!(
        (routes.len(), routes[0].decision),
        (1, Some(Decision::Approved))
    );
    // Nobody else was touched.
    assert!(Arc::ptr_eq(&other, &machine(&store, 2).await));
    assert!(is_confirmed(&store, &other).await);

    change!(store, |tx| tx.delete_node(id));
    assert!(!is_confirmed(&store, &one).await);
    let gone = store.machine(&key(1)).await.unwrap();
    assert!(matches!(gone, Known::Stranger { is_revoked: false }));
}

async fn who_is_removed_or_revoked_elsewhere_is_confirmed_no_more(at: Opened) {
    let (one, other) = (at.store, open(&at.database).await);
    let removed = enrol(&one, 1).await;
    let revoked = enrol(&one, 2).await;
    keep_all(&one).await;
    let machines = [machine(&one, 1).await, machine(&one, 2).await];
    for machine in &machines {
        assert!(is_confirmed(&one, machine).await);
    }
    change!(other, |tx| tx.delete_node(removed));
    let name = machines[1].name.clone();
    change!(other, |tx|
        tx.revoke_machine(&key(2), &name, NOW);
        tx.delete_node(revoked)
    );
    // What is in memory does not know; the revision does.
    let now = revision(&one).await;
    let [gone, shut_out] = machines;
    let gone = one.confirm(gone, now).await.unwrap();
    assert!(matches!(gone, Known::Stranger { is_revoked: false }));
    let shut_out = one.confirm(shut_out, now).await.unwrap();
    assert!(matches!(shut_out, Known::Stranger { is_revoked: true }));
    // And after a restart.
    let again = open(&at.database).await;
    keep_all(&again).await;
    let shut_out = again.machine(&key(2)).await.unwrap();
    assert!(matches!(shut_out, Known::Stranger { is_revoked: true }));
}

async fn what_is_changed_elsewhere_is_read_again(at: Opened) {
    let (one, other) = (at.store, open(&at.database).await);
    let id = enrol(&one, 1).await;
    enrol(&one, 2).await;
    keep_all(&one).await;
    let before = machine(&one, 1).await;
    let rotated = NodePrivateKey::from_bytes([77; 32]).public();
    change!(other, |tx| tx.set_node_key(id, &rotated));
    // A change of its own comes between and must not hide that.
    let third = enrol(&one, 3).await;
    let now = revision(&one).await;
    assert!(one.machines_are_behind(now));
    let Known::Machine(after) = one.confirm(before, now).await.unwrap() else {
        panic!("it is enrolled");
    };
    assert_eq!(after.node_key, rotated);
    keep_all(&one).await;
    assert!(!one.machines_are_behind(now));
    assert_eq!(machine(&one, 1).await.node_key, rotated);
    assert_eq!(machine(&one, 3).await.id, third);
    assert!(is_confirmed(&one, &machine(&one, 2).await).await);
    // From here on changes of its own keep it up to date again.
    change!(one, |tx| tx.delete_node(third));
    assert!(!one.machines_are_behind(revision(&one).await));
    assert!(is_confirmed(&one, &machine(&one, 1).await).await);
}

async fn what_is_not_committed_is_not_kept(at: Opened) {
    let store = at.store;
    let id = enrol(&store, 1).await;
    keep_all(&store).await;
    let before = machine(&store, 1).await;
    let mut tx = store.write().await.unwrap();
    tx.delete_node(id).await.unwrap();
    tx.keep_machines(&[], &[]).await.unwrap();
    drop(tx);
    assert!(is_confirmed(&store, &before).await);
    assert!(Arc::ptr_eq(&before, &machine(&store, 1).await));
}

async fn addresses_and_names_are_free_again_when_their_node_is_gone(at: Opened) {
    let store = at.store;
    let mut ids = Vec::new();
    for number in 1..=40 {
        let place = change!(store, |tx|
            tx.free_addresses();
            tx.free_name("host", None)
        );
        let (addresses, name) = place;
        let (ipv4, ipv6) = addresses.unwrap();
        assert_eq!(ipv4.octets(), [100, 64, 0, number]);
        let expected = match number {
            1 => "host".to_owned(),
            _ => format!("host-{number}"),
        };
        assert_eq!(name.as_str(), expected);
        let mut new = node(number, None);
        (new.name, new.ipv4, new.ipv6) = (name, ipv4, ipv6);
        ids.push(change!(store, |tx| tx.insert_node(&new)));
    }
    change!(store, |tx| tx.delete_node(ids[2]));
    let place = change!(store, |tx|
        tx.free_addresses();
        tx.free_name("host", None);
        tx.free_name("host", Some(&"host".parse().unwrap()))
    );
    assert_eq!(place.0.unwrap().0.octets(), [100, 64, 0, 3]);
    assert_eq!((place.1.as_str(), place.2.as_str()), ("host-3", "host"));
}
