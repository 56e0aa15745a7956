//! Backups: made and restored while the server runs.

use crate::{
    agent::Agent,
    postgres,
    server::{ALLOW_ALL, TestServer},
};
use std::{path::Path, process::Output};
use weir_coordinator::store::{Database, Store};
use weir_overlay::Generation;

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn users(server: &TestServer) -> Vec<String> {
    let list = server.json(&["users", "list"]).await;
    let name = |user: &serde_json::Value| user["name"].as_str().unwrap().to_owned();
    list.as_array().unwrap().iter().map(name).collect()
}

fn scratch_files(server: &TestServer) -> Vec<String> {
    std::fs::read_dir(server.directory.path().join("state"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("scratch"))
        .collect()
}

/// Backs up, changes, and goes back, with an agent that watches.
async fn there_and_back(server: TestServer) {
    server.set_policy(ALLOW_ALL).await;
    let (alice, bob) = (Agent::new(&server, "alice"), Agent::new(&server, "bob"));
    alice.join(&server.key("alice").await).await.unwrap();
    bob.join(&server.key("bob").await).await.unwrap();
    let mut stream = alice.map_stream(None).await;
    stream.until(|map| map.peers.len() == 1).await;

    let file = server.directory.path().join("weir.db");
    let file = file.to_str().unwrap();
    let made = server.json(&["backup", file]).await;
    let bytes = std::fs::metadata(file).unwrap().len();
    assert_eq!(made["bytes"].as_u64(), Some(bytes));
    let again = server.refused(&["backup", file]).await;
    assert!(again.contains("exists"), "{again}");

    server.json(&["nodes", "delete", "bob"]).await;
    server.json(&["users", "create", "carol"]).await;
    let before = stream.until(|map| map.peers.is_empty()).await.generation;
    let unsure = server.refused(&["restore", file]).await;
    assert!(unsure.contains("--yes"), "{unsure}");
    let restored = server.json(&["restore", file, "--yes"]).await;
    assert_eq!(restored["nodes"], 2);
    assert_eq!(users(&server).await, ["alice", "bob"]);
    // Without a new connection, and with a number that the agent takes.
    let after = stream.until(|map| map.peers.len() == 1).await.generation;
    assert!(after > Generation(before.0 + 1000), "{after} {before}");

    // What was replaced is kept, whole, and can itself be restored.
    let kept = restored["kept"].as_str().unwrap().to_owned();
    let old = Store::open(&Database::File(kept.clone().into()))
        .await
        .unwrap();
    assert_eq!(old.read().await.unwrap().users().await.unwrap().len(), 3);
    old.close().await;
    server.json(&["audit", "verify"]).await;
    let newest = server.json(&["audit", "list", "--limit", "1"]).await;
    assert_eq!(newest[0]["action"], "database.restore");
    assert_ne!(newest[0]["before"]["audit"], newest[0]["after"]["audit"]);
    server.json(&["restore", &kept, "--yes"]).await;
    assert_eq!(users(&server).await, ["alice", "bob", "carol"]);
    // Ids that were given are not given again.
    server.json(&["users", "create", "dave"]).await;
    stream.until(|map| map.peers.is_empty()).await;
    assert_eq!(scratch_files(&server), Vec::<String>::new());
}

#[tokio::test]
async fn a_backup_is_restored_while_agents_watch() {
    there_and_back(TestServer::start().await).await;
}

#[tokio::test]
async fn a_backup_of_postgresql_is_restored_while_agents_watch() {
    there_and_back(TestServer::start_on(postgres::database().await).await).await;
}

#[tokio::test]
async fn a_network_moves_from_sqlite_to_postgresql() {
    let old = TestServer::start().await;
    old.set_policy(ALLOW_ALL).await;
    let alice = Agent::new(&old, "alice");
    alice.join(&old.key("alice").await).await.unwrap();
    let file = old.directory.path().join("weir.db");
    let file = file.to_str().unwrap();
    old.json(&["backup", file]).await;
    let new = TestServer::start_on(postgres::database().await).await;
    new.json(&["restore", file, "--yes"]).await;
    for list in [["nodes", "list"], ["users", "list"], ["keys", "list"]] {
        let mut there = old.json(&list).await;
        let mut here = new.json(&list).await;
        for nodes in [&mut there, &mut here] {
            for node in nodes.as_array_mut().unwrap() {
                node["generation"] = serde_json::Value::Null;
            }
        }
        assert_eq!(there, here, "{list:?}");
    }
    let policy = new.json(&["policy", "get"]).await;
    assert_eq!(policy["text"], ALLOW_ALL);
    assert_eq!(policy["in_force"], true);
    // New rows get new numbers.
    new.key("bob").await;
    let bob = Agent::new(&new, "bob");
    bob.join(&new.key("bob").await).await.unwrap();
    assert_eq!(users(&new).await, ["alice", "bob"]);
}

async fn restore(server: &TestServer, file: &Path) -> String {
    let output = server
        .run(&["restore", file.to_str().unwrap(), "--yes"])
        .await;
    assert!(!output.status.success(), "{file:?} was restored");
    said(&output)
}

#[tokio::test]
async fn what_is_not_a_whole_backup_changes_nothing() {
    let server = TestServer::start().await;
    for user in 0..50 {
        server.json(&["users", "create", &format!("u{user}")]).await;
    }
    let directory = server.directory.path();
    let whole = directory.join("whole.db");
    server.json(&["backup", whole.to_str().unwrap()]).await;
    let bytes = std::fs::read(&whole).unwrap();

    let bad = directory.join("bad.db");
    let mut torn = bytes.clone();
    let middle = torn.len() / 2;
    torn[middle..middle + 4096].fill(0xff);
    let cases: [(&str, &[u8]); 5] = [
        ("nothing", b""),
        ("a text", b"hello, this is not a database"),
        ("a part", &bytes[..bytes.len() / 2]),
        ("all but the last page", &bytes[..bytes.len() - 4096]),
        ("damaged", &torn),
    ];
    for (what, content) in cases {
        std::fs::write(&bad, content).unwrap();
        let said = restore(&server, &bad).await;
        assert!(said.contains("not a whole backup"), "{what}: {said}");
    }
    // A database of somebody else's, and one of a newer version.
    std::fs::remove_file(&bad).unwrap();
    let database = Database::File(bad.clone());
    let foreign = format!("sqlite://{}?mode=rwc", bad.display());
    postgres::execute_at(&foreign, "CREATE TABLE users (id INTEGER)").await;
    let said = restore(&server, &bad).await;
    assert!(said.contains("not a whole backup"), "{said}");
    std::fs::write(&bad, &bytes).unwrap();
    postgres::execute(
        &database,
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'from the future', TRUE, '', 0)",
    )
    .await;
    let said = restore(&server, &bad).await;
    assert!(said.contains("newer version"), "{said}");

    assert_eq!(users(&server).await.len(), 50);
    assert_eq!(scratch_files(&server), Vec::<String>::new());
    server
        .json(&["restore", whole.to_str().unwrap(), "--yes"])
        .await;
    assert_eq!(users(&server).await.len(), 50);
}

#[tokio::test]
async fn what_a_dead_coordinator_left_of_a_backup_is_removed() {
    let directory = TestServer::start().await.stop().await;
    std::fs::write(directory.path().join("state/scratch-0f1e"), "half").unwrap();
    let server = TestServer::start_in(directory).await.unwrap();
    assert_eq!(scratch_files(&server), Vec::<String>::new());
}
