//! Failing over and forgetting, without waiting for either.

use super::{Engine, Next, housekeeping};
use crate::{
    cluster::Role,
    enrolment::{self, Sender},
    presence::{GRACE, Presence},
    store::{Database, Decision, NewAuthKey, Store},
};
use ipnet::IpNet;
use std::{sync::Arc, time::Duration};
use tempfile::TempDir;
use tokio::{sync::watch, time::Instant};
use weir_overlay::{Generation, KeyId, MachinePrivateKey, NodeId, NodePrivateKey};
use weir_policy::Policy;
use weir_protocol::{
    AuthKey, HostInfo, MapRequest, Pin, RegisterRequest, RouteState, StreamMessage,
};

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
        node_life: None,
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
        reauthenticate: false,
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
    engine.routes(node)[0].state
}

/// Waits until a relay is told something.
async fn news(engine: &Engine, node: NodeId) -> StreamMessage {
    let mut maps = engine.follow(node, MapRequest::default()).await.unwrap();
    assert!(matches!(
        maps.next(),
        Next::Message(StreamMessage::Full { .. })
    ));
    let next = async {
        loop {
            maps.changed().await;
            if let Next::Message(message) = maps.next() {
                return message;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), next)
        .await
        .unwrap()
}

/// A presence that started longer ago than the grace.
fn long_running() -> Arc<Presence> {
    Presence::new(Instant::now().checked_sub(GRACE * 2).unwrap())
}

#[tokio::test]
async fn a_relay_that_stays_away_is_replaced_for_good() {
    let (_directory, store) = store().await;
    let (older, newer) = (relay(&store, 1, false).await, relay(&store, 2, false).await);
    let presence = long_running();
    let newer_is_here = presence.connect(newer);
    let (engine, task) = Engine::start(store.clone(), Arc::clone(&presence), alone())
        .await
        .unwrap();
    assert_eq!(state(&engine, older), RouteState::Standby);
    assert_eq!(state(&engine, newer), RouteState::Serving);

    // Coming back changes nothing: every move cuts connections.
    let older_is_back = presence.connect(older);
    engine.changed().await;
    assert_eq!(state(&engine, newer), RouteState::Serving);
    // Nor does a restart of the coordinator.
    drop(engine);
    task.await.unwrap();
    let (engine, _task) = Engine::start(store, Arc::clone(&presence), alone())
        .await
        .unwrap();
    assert_eq!(state(&engine, older), RouteState::Standby);
    assert_eq!(state(&engine, newer), RouteState::Serving);
    // Nor a short absence.
    drop(newer_is_here);
    engine.changed().await;
    assert_eq!(state(&engine, newer), RouteState::Serving);
    drop(older_is_back);
}

#[tokio::test]
async fn a_change_is_told_to_those_whom_it_touches() {
    let (_directory, store) = store().await;
    let (one, other) = (relay(&store, 1, false).await, relay(&store, 2, false).await);
    let presence = long_running();
    let _here = (presence.connect(one), presence.connect(other));
    let (engine, _task) = Engine::start(store.clone(), Arc::clone(&presence), alone())
        .await
        .unwrap();
    assert_eq!(state(&engine, one), RouteState::Serving);
    let mut bystander = engine.follow(other, MapRequest::default()).await.unwrap();
    assert!(matches!(bystander.next(), Next::Message(_)));
    let change = async {
        let mut tx = store.write().await.unwrap();
        tx.rename_node(one, &"renamed".parse().unwrap())
            .await
            .unwrap();
        tx.commit().await.unwrap();
        engine.changed().await;
    };
    let (message, ()) = tokio::join!(news(&engine, one), change);
    let StreamMessage::Delta { delta } = message else {
        panic!("{message:?}");
    };
    assert_eq!(delta.node.unwrap().name.as_str(), "renamed");
    assert_eq!(engine.generation(one), Some(delta.to));
    assert_eq!(bystander.next(), Next::Nothing, "they are not peers");
}

#[tokio::test]
async fn a_number_of_another_coordinator_is_passed() {
    let (_directory, store) = store().await;
    let node = relay(&store, 1, false).await;
    let (engine, _task) = Engine::start(store.clone(), long_running(), alone())
        .await
        .unwrap();
    let mut maps = engine.follow(node, MapRequest::default()).await.unwrap();
    let Next::Message(StreamMessage::Full { mut map }) = maps.next() else {
        panic!("a full map was expected");
    };
    // The other one came further.
    let far = Generation(map.generation.0 + 100);
    let mut tx = store.write().await.unwrap();
    tx.set_newest_generation(far).await.unwrap();
    tx.commit().await.unwrap();
    map.generation = far;
    let request = MapRequest {
        held: Some(far),
        digest: map.digest(),
    };
    let mut maps = engine.follow(node, request).await.unwrap();
    let Next::Message(StreamMessage::Delta { delta }) = maps.next() else {
        panic!("only the number changes");
    };
    assert_eq!(delta.from, far);
    assert!(delta.to > far);
    assert_eq!(delta.node, None);
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
    let changed = housekeeping::run(&store, &presence, Role::Alone, started, started + 60, 0).await;
    assert!(!changed.unwrap());
    let changed =
        housekeeping::run(&store, &presence, Role::Alone, started, started + day, 0).await;
    assert!(changed.unwrap());
    let left = store.read().await.unwrap().nodes().await.unwrap();
    let names: Vec<_> = left.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["relay-1", "relay-2"]);
}
