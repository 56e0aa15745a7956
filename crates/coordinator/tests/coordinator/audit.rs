//! The audit log, from the command line.

use crate::{
    agent::Agent,
    postgres,
    server::{ALLOW_ALL, TestServer},
};
use weir_coordinator::store::Database;

fn database(server: &TestServer) -> Database {
    Database::File(server.directory.path().join("state/coordinator.db"))
}

#[tokio::test]
async fn changes_are_listed_with_who_and_from_where() {
    let server = TestServer::start().await;
    let relay = Agent::new(&server, "relay").advertising("8.8.8.8");
    relay.join(&server.key("ops").await).await.unwrap();
    server
        .json(&["routes", "approve", "relay", "8.8.8.8"])
        .await;
    let log = server.json(&["audit", "list"]).await;
    let entries = log.as_array().unwrap();
    let ids: Vec<_> = entries.iter().map(|entry| entry["id"].as_u64()).collect();
    assert_eq!(ids, [Some(4), Some(3), Some(2), Some(1)]);
    assert_eq!(entries[0]["action"], "routes.approve");
    assert_eq!(entries[0]["origin"], "admin socket");
    assert_eq!(entries[0]["after"]["8.8.8.8/32"], "approved");
    assert_eq!(entries[1]["action"], "nodes.enrol");
    assert_eq!(entries[1]["origin"], "127.0.0.1");
    let page = server
        .json(&["audit", "list", "--before", "3", "--limit", "1"])
        .await;
    assert_eq!(page[0]["id"], 2);
    assert_eq!(page.as_array().unwrap().len(), 1);
    let text = server.run(&["audit", "list"]).await;
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("routes.approve"), "{text}");
    let key = entries[2]["after"].to_string();
    assert!(!key.contains("weir-key"), "secrets are not recorded: {key}");
}

#[tokio::test]
async fn a_log_that_was_tampered_with_is_found_out() {
    let server = TestServer::start().await;
    server.set_policy(ALLOW_ALL).await;
    for user in ["alice", "bob", "carol"] {
        server.json(&["users", "create", user]).await;
    }
    let report = server.json(&["audit", "verify"]).await;
    assert_eq!(report["entries"], 4);
    let head = report["head"].as_str().unwrap().to_owned();
    assert!(head.starts_with("4:"), "{head}");
    server.json(&["users", "create", "dave"]).await;
    server.json(&["audit", "verify", "--head", &head]).await;

    let database = database(&server);
    postgres::execute(&database, "UPDATE audit SET subject = 'x' WHERE id = 2").await;
    let said = server.refused(&["audit", "verify"]).await;
    assert!(said.contains("entry 2 is not what was written"), "{said}");
    postgres::execute(&database, "DELETE FROM audit WHERE id = 2").await;
    let said = server.refused(&["audit", "verify"]).await;
    assert!(said.contains("entry 2 is missing"), "{said}");
    postgres::execute(&database, "DELETE FROM audit WHERE id >= 4").await;
    let said = server.refused(&["audit", "verify"]).await;
    assert!(said.contains("entries 4 to 5 are missing"), "{said}");
    // Whoever may write to the database can make a shorter log look whole: only a hash that is
    // kept elsewhere tells.
    postgres::execute(&database, "DELETE FROM audit WHERE id > 1").await;
    postgres::execute(
        &database,
        "UPDATE audit_head SET id = 1, hash = (SELECT hash FROM audit WHERE id = 1)",
    )
    .await;
    server.json(&["audit", "verify"]).await;
    let said = server.refused(&["audit", "verify", "--head", &head]).await;
    assert!(said.contains("entries 2 to 4 are missing"), "{said}");
    let said = server
        .refused(&["audit", "verify", "--head", "4:abc"])
        .await;
    assert!(said.contains("NUMBER:HASH"), "{said}");
}
