//! Failing over and forgetting, without waiting for either.

use super::{Engine, housekeeping};
use crate::cluster::Role;
use crate::{
    enrolment::{self, Sender},
    presence::{GRACE, Presence},
    store::{Database, Decision, NewAuthKey, Store},
};
use ipnet::IpNet;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::sync::watch;
use weir_overlay::{KeyId, MachinePrivateKey, NodeId, NodePrivateKey};
use weir_policy::Policy;
use weir_protocol::{AuthKey, HostInfo, Pin, RegisterRequest, RouteState};

const NOW: i64 = 1_900_000_000;

async fn store() -> (TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&Database::File(directory.path().join("a.db")))
        .await
        .unwrap();
    (directory, store)
}

fn service() -> IpNet {
    "8.8.8.8/32".parse().unwrap()
}

/// Enrols a relay that serves [`service`].
async fn relay(store: &Store, number: u8, ephemeral: bool) -> NodeId {
    let pin = Pin::of_public_key_info(b"key");
    let key = AuthKey::new(KeyId(format!("k{number}")), "5ec2e7".into(), pin);
    let mut tx = store.write().await.unwrap();
    let stored = NewAuthKey {
        id: key.id().clone(),
        secret_hash: key.secret_hash(),
        user: None,
        tags: ["tag:relay".parse().unwrap()].into(),
        reusable: false,
        ephemeral,
        created_at: NOW,
        expires_at: NOW + 60,
    };
    tx.insert_auth_key(&stored).await.unwrap();
    tx.commit().await.unwrap();
    let request = RegisterRequest {
        auth_key: Some(key.reveal()),
        node_key: NodePrivateKey::from_bytes([number; 32]).public(),
        tags: [].into(),
        host: HostInfo {
            hostname: format!("relay-{number}"),
            listen_port: 51920,
            advertised_routes: [service()].into(),
            ..HostInfo::default()
        },
    };
    let sender = Sender {
        machine: MachinePrivateKey::from_bytes([number; 32]).public(),
        address: [203, 0, 113, number].into(),
        now: NOW,
    };
    let joined = enrolment::register(store, &Policy::empty(), request, sender)
        .await
        .unwrap();
    let mut tx = store.write().await.unwrap();
    tx.set_decision(joined.node_id, &service(), Some(Decision::Approved), NOW)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    joined.node_id
}

fn alone() -> watch::Receiver<Role> {
    watch::channel(Role::Alone).1
}

fn state(engine: &Engine, node: NodeId) -> RouteState {
    engine.map(node).unwrap().node.routes[0].state
}

/// A presence that started longer ago than the grace.
fn long_running() -> Arc<Presence> {
    Presence::new(Instant::now().checked_sub(GRACE * 2).unwrap())
}

#[tokio::test]
async fn a_relay_that_stays_away_is_replaced_and_takes_over_again() {
    let (_directory, store) = store().await;
    let (older, newer) = (relay(&store, 1, false).await, relay(&store, 2, false).await);
    let presence = long_running();
    let _newer_is_here = presence.connect(newer);
    let (engine, _task) = Engine::start(store, Arc::clone(&presence), alone())
        .await
        .unwrap();
    assert_eq!(state(&engine, older), RouteState::Standby);
    assert_eq!(state(&engine, newer), RouteState::Serving);

    let mut maps = engine.subscribe(older);
    maps.mark_unchanged();
    let older_is_back = presence.connect(older);
    let change = tokio::time::timeout(Duration::from_secs(5), maps.changed());
    change.await.unwrap().unwrap();
    assert_eq!(state(&engine, older), RouteState::Serving);
    // A short absence changes nothing.
    drop(older_is_back);
    engine.changed().await;
    assert_eq!(state(&engine, older), RouteState::Serving);
}

#[tokio::test]
async fn right_after_a_start_nobody_counts_as_absent() {
    let (_directory, store) = store().await;
    let (older, newer) = (relay(&store, 1, false).await, relay(&store, 2, false).await);
    let presence = Presence::new(Instant::now());
    let _newer_is_here = presence.connect(newer);
    let (engine, _task) = Engine::start(store, presence, alone()).await.unwrap();
    assert_eq!(state(&engine, older), RouteState::Serving);
}

#[tokio::test]
async fn only_ephemeral_nodes_that_stay_away_are_forgotten() {
    let (_directory, store) = store().await;
    relay(&store, 1, false).await;
    let connected = relay(&store, 2, true).await;
    relay(&store, 3, true).await;
    let presence = long_running();
    let _open = presence.connect(connected);
    let day = 24 * 3600;
    // The coordinator itself was away for a day: nodes get time to come back.
    let started = NOW + day;
    let changed = housekeeping::run(&store, &presence, Role::Alone, started, started + 60).await;
    assert!(!changed.unwrap());
    let changed = housekeeping::run(&store, &presence, Role::Alone, started, started + day).await;
    assert!(changed.unwrap());
    let left = store.read().await.unwrap().nodes().await.unwrap();
    let names: Vec<_> = left.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["relay-1", "relay-2"]);
}
