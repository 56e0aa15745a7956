//! What outlives the process, and what does not stop it from starting.

use crate::{
    agent::Agent,
    server::{ALLOW_ALL, TestServer},
};
use sqlx::{Connection, SqliteConnection};
use std::path::Path;
use weir_overlay::Generation;
use weir_protocol::StreamMessage;

async fn execute(directory: &Path, statement: &'static str) {
    let database = directory.join("state/coordinator.db");
    let mut connection = SqliteConnection::connect(&format!("sqlite://{}", database.display()))
        .await
        .unwrap();
    sqlx::query(statement)
        .execute(&mut connection)
        .await
        .unwrap();
}

#[tokio::test]
async fn nodes_pin_and_generations_survive() {
    let server = TestServer::start().await;
    server.set_policy(ALLOW_ALL).await;
    let mut alice = Agent::new(&server, "alice");
    let joined = alice.join(&server.key("alice").await).await.unwrap();
    let before = alice.map_stream(None).await.first().await;
    let pin = server.pin;

    let server = server.restart().await;
    assert_eq!(server.pin, pin);
    alice.follow(&server);
    let mut stream = alice.map_stream(Some(&before)).await;
    let message = stream.next().await.unwrap();
    let generation = before.generation;
    assert_eq!(
        message,
        StreamMessage::Heartbeat { generation },
        "nothing changed"
    );
    stream.map = Some(before);

    Agent::new(&server, "bob")
        .join(&server.key("bob").await)
        .await
        .unwrap();
    let map = stream.until(|map| map.peers.len() == 1).await;
    assert!(map.generation > generation);
    assert_eq!(
        (map.node.id, &map.node.addresses),
        (joined.node_id, &joined.addresses)
    );
}

#[tokio::test]
async fn numbers_grow_across_a_restart() {
    let server = TestServer::start().await;
    let mut alice = Agent::new(&server, "alice");
    alice.join(&server.key("alice").await).await.unwrap();
    let mut before = alice.map_stream(None).await.first().await;
    let server = server.restart().await;
    alice.follow(&server);
    // Not what the coordinator would say now.
    before.notices.clear();
    let after = alice.map_stream(Some(&before)).await.first().await;
    assert!(after.generation > before.generation);
    assert!(before.generation > Generation(0));
}

#[tokio::test]
async fn a_bad_stored_policy_leaves_the_last_good_one_in_force() {
    let server = TestServer::start().await;
    server.set_policy(ALLOW_ALL).await;
    let directory = server.stop().await;
    execute(
        directory.path(),
        "INSERT INTO policies (text, saved_at, saved_by) VALUES ('{ nonsense', 0, 'a test')",
    )
    .await;
    let server = TestServer::start_in(directory).await.unwrap();
    let status = server.json(&["status"]).await;
    assert_eq!(status["policy"]["revision"], 1);
    assert_eq!(status["policy"]["bad_revisions"], serde_json::json!([2]));
    assert_eq!(server.json(&["policy", "get"]).await["in_force"], false);
    assert_eq!(server.set_policy(r#"{"acls": []}"#).await, 3);
    let status = server.json(&["status"]).await;
    assert_eq!(status["policy"]["revision"], 3);
    assert_eq!(status["policy"]["bad_revisions"], serde_json::json!([]));
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_left_alone() {
    let directory = TestServer::start().await.stop().await;
    execute(
        directory.path(),
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'from the future', 1, x'00', 0)",
    )
    .await;
    let error = TestServer::start_in(directory).await.err().unwrap();
    assert!(error.to_string().contains("newer version"), "{error}");
}

#[tokio::test]
async fn a_damaged_database_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::write(state.join("coordinator.db"), "x".repeat(10_000)).unwrap();
    let error = TestServer::start_in(directory).await.err().unwrap();
    assert!(error.to_string().contains("coordinator.db"), "{error}");
}

#[tokio::test]
async fn every_change_is_in_the_audit_log() {
    let server = TestServer::start().await;
    let relay = Agent::new(&server, "relay").advertising("8.8.8.8");
    relay.join(&server.key("ops").await).await.unwrap();
    server
        .json(&["routes", "approve", "relay", "8.8.8.8"])
        .await;
    server.set_policy(ALLOW_ALL).await;
    server.set_policy(r#"{"acls": []}"#).await;
    server.json(&["policy", "rollback", "1"]).await;
    server.json(&["routes", "reset", "relay", "8.8.8.8"]).await;
    let directory = server.stop().await;
    let database = directory.path().join("state/coordinator.db");
    let mut connection = SqliteConnection::connect(&format!("sqlite://{}", database.display()))
        .await
        .unwrap();
    let rows: Vec<(String, String, Option<String>)> =
        sqlx::query_as("SELECT action, actor, after FROM audit ORDER BY id")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    let actions: Vec<_> = rows.iter().map(|row| row.0.as_str()).collect();
    let expected = [
        "users.create",
        "keys.create",
        "nodes.enrol",
        "routes.approve",
        "policy.set",
        "policy.set",
        "policy.rollback",
        "routes.reset",
    ];
    assert_eq!(actions, expected);
    assert!(rows[0].1.starts_with("local admin uid "), "{}", rows[0].1);
    assert!(rows[2].1.starts_with("auth key "), "{}", rows[2].1);
    assert_eq!(rows[3].2.as_deref(), Some(r#"{"8.8.8.8/32":"approved"}"#));
    assert_eq!(rows[7].2.as_deref(), Some(r#"{"8.8.8.8/32":null}"#));
}
