//! What agents are told, and when.

use crate::{
    agent::Agent,
    server::{ALLOW_ALL, TestServer},
};
use std::time::Duration;
use weir_protocol::{REPORT_PATH, ReportRequest, StreamMessage};

#[tokio::test]
async fn without_a_policy_nobody_has_peers() {
    let server = TestServer::start().await;
    let (alice, bob) = (Agent::new(&server, "alice"), Agent::new(&server, "bob"));
    alice.join(&server.key("alice").await).await.unwrap();
    bob.join(&server.key("bob").await).await.unwrap();
    let map = alice.map_stream(None).await.first().await;
    assert!(map.peers.is_empty() && map.filter.is_empty());
    assert!(
        map.notices[0].contains("coordinator policy set"),
        "{:?}",
        map.notices
    );
}

#[tokio::test]
async fn peers_come_and_go_and_say_where_they_are() {
    let server = TestServer::start().await;
    server.set_policy(ALLOW_ALL).await;
    let mut alice = Agent::new(&server, "alice");
    let alice_id = alice
        .join(&server.key("alice").await)
        .await
        .unwrap()
        .node_id;
    let mut stream = alice.map_stream(None).await;
    assert!(stream.first().await.peers.is_empty());

    let bob = Agent::new(&server, "bob");
    let bob_id = bob.join(&server.key("bob").await).await.unwrap().node_id;
    let map = stream.until(|map| map.peers.contains_key(&bob_id)).await;
    let peer = &map.peers[&bob_id];
    assert_eq!(peer.node_key, bob.node_key);
    assert_eq!(peer.endpoint, Some("127.0.0.1:51920".parse().unwrap()));

    // Behind NAT the host does not have the address that the coordinator sees.
    alice.host.addresses = ["192.168.1.7".parse().unwrap()].into();
    alice.update().await.unwrap();
    let map = bob.map_stream(None).await.first().await;
    assert_eq!(map.peers[&alice_id].endpoint, None);
    alice.host.endpoint = Some("198.51.100.1:4000".parse().unwrap());
    alice.update().await.unwrap();
    let map = bob.map_stream(None).await.first().await;
    assert_eq!(map.peers[&alice_id].endpoint, alice.host.endpoint);

    server.json(&["nodes", "delete", "bob"]).await;
    stream.until(|map| map.peers.is_empty()).await;
}

#[tokio::test]
async fn a_map_that_does_not_change_keeps_its_number() {
    let server = TestServer::start().await;
    let alice = Agent::new(&server, "alice");
    alice.join(&server.key("alice").await).await.unwrap();
    let mut stream = alice.map_stream(None).await;
    let map = stream.first().await;
    let held = map.generation;
    // Bob is nobody to alice without a policy.
    Agent::new(&server, "bob")
        .join(&server.key("bob").await)
        .await
        .unwrap();
    let mut again = alice.map_stream(Some(&map)).await;
    let message = again.next().await.unwrap();
    assert_eq!(message, StreamMessage::Heartbeat { generation: held });
    server.set_policy(ALLOW_ALL).await;
    for stream in [&mut stream, &mut again] {
        let Some(StreamMessage::Delta { delta }) = stream.next().await else {
            panic!("a delta was expected");
        };
        assert_eq!(delta.from, held);
        assert!(delta.to > held);
    }
}

#[tokio::test]
async fn a_new_wireguard_key_reaches_the_peers() {
    let server = TestServer::start().await;
    server.set_policy(ALLOW_ALL).await;
    let (mut alice, bob) = (Agent::new(&server, "alice"), Agent::new(&server, "bob"));
    let id = alice
        .join(&server.key("alice").await)
        .await
        .unwrap()
        .node_id;
    bob.join(&server.key("bob").await).await.unwrap();
    let mut stream = bob.map_stream(None).await;
    stream.until(|map| map.peers.contains_key(&id)).await;
    let fresh = Agent::new(&server, "x").node_key;
    alice.node_key = fresh;
    let joined = alice.join("weir-key-not-needed").await.unwrap();
    assert_eq!(joined.node_id, id);
    stream.until(|map| map.peers[&id].node_key == fresh).await;
}

#[tokio::test]
async fn the_stream_of_a_deleted_node_ends() {
    let server = TestServer::start().await;
    let alice = Agent::new(&server, "alice");
    alice.join(&server.key("alice").await).await.unwrap();
    let mut stream = alice.map_stream(None).await;
    stream.first().await;
    server.json(&["nodes", "delete", "alice"]).await;
    assert_eq!(stream.next().await, None);
}

#[tokio::test]
async fn streams_end_when_the_coordinator_stops() {
    let server = TestServer::start().await;
    let alice = Agent::new(&server, "alice");
    alice.join(&server.key("alice").await).await.unwrap();
    let mut stream = alice.map_stream(None).await;
    stream.first().await;
    let (_directory, closing) = tokio::join!(server.stop(), stream.next());
    assert!(matches!(closing, Some(StreamMessage::Closing { .. })));
    assert_eq!(stream.next().await, None);
}

#[tokio::test]
async fn admins_see_who_is_connected_and_what_was_applied() {
    let server = TestServer::start().await;
    let alice = Agent::new(&server, "alice");
    alice.join(&server.key("alice").await).await.unwrap();
    let mut stream = alice.map_stream(None).await;
    let generation = stream.first().await.generation;
    let node = server.json(&["nodes", "show", "alice"]).await;
    assert_eq!(node["lags"], true);
    let report: ReportRequest = serde_json::from_value(serde_json::json!({
        "generation": generation,
        "failures": [{"item": "add route 8.8.8.8/32", "reason": "EPERM"}],
    }))
    .unwrap();
    let sent = alice.send(&alice.prepare(REPORT_PATH, &report)).await;
    assert!(sent.status().is_success());
    let node = server.json(&["nodes", "show", "alice"]).await;
    assert_eq!(node["online"], true);
    assert_eq!(node["applied_generation"], generation.0);
    assert_eq!(
        (&node["generation"], &node["lags"]),
        (&generation.0.into(), &false.into())
    );
    assert_eq!(node["failures"][0]["item"], "add route 8.8.8.8/32");
    drop(stream);
    // The server learns of it when the connection closes.
    for _ in 0..100 {
        if server.json(&["nodes", "show", "alice"]).await["online"] == false {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("alice is still online");
}
