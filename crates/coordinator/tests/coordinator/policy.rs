//! Policies: refused by their own tests, kept, set back, and approving routes.

use crate::{
    agent::Agent,
    server::{ALLOW_ALL, TestServer, run},
};
use serde_json::{Value, json};
use std::path::Path;
use weir_protocol::RouteState;

/// Finance may reach the bank; the last test says so.
const FOR_FINANCE: &str = r#"{
    "groups": {"group:finance": ["alice@"]},
    "hosts": {"bank": "8.8.8.8"},
    "acls": [{"action": "accept", "src": ["group:finance"], "dst": ["bank:443"]}],
    "tests": [{"src": "alice@", "accept": ["bank:443"], "deny": ["bank:22"]}],
}"#;

fn write(directory: &Path, name: &str, text: &str) -> String {
    let file = directory.join(name);
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn with_alice() -> TestServer {
    let server = TestServer::start().await;
    let alice = Agent::new(&server, "laptop");
    alice.join(&server.key("alice").await).await.unwrap();
    server
}

#[tokio::test]
async fn every_revision_is_kept_and_can_be_set_back() {
    let server = TestServer::start().await;
    assert_eq!(server.json(&["policy", "history"]).await, json!([]));
    let file = write(server.directory.path(), "p.hujson", ALLOW_ALL);
    server
        .json(&["policy", "set", "--note", "open for the start", &file])
        .await;
    server.set_policy(r#"{"acls": []}"#).await;

    let old = server.json(&["policy", "get", "--revision", "1"]).await;
    assert_eq!(old["text"], ALLOW_ALL);
    assert_eq!(old["note"], "open for the start");
    assert_eq!(old["in_force"], false);
    let shown = server.run(&["policy", "get", "--revision", "1"]).await;
    assert_eq!(text(&shown.stdout).trim(), ALLOW_ALL);
    assert!(shown.stderr.is_empty(), "an old revision is no surprise");

    let said = server
        .refused(&["policy", "rollback", "1", "--if-revision", "1"])
        .await;
    assert!(said.contains("revision 2 is the newest, not 1"), "{said}");
    let said = server.refused(&["policy", "rollback", "7"]).await;
    assert!(said.contains("there is no policy revision 7"), "{said}");
    let done = server
        .json(&["policy", "rollback", "1", "--if-revision", "2"])
        .await;
    assert_eq!(
        (&done["revision"], &done["changed"]),
        (&json!(3), &json!(true))
    );
    let again = server.json(&["policy", "rollback", "1"]).await;
    assert_eq!(again["changed"], false);

    let history = server.json(&["policy", "history"]).await;
    let column = |name: &str| -> Vec<Value> {
        let rows = history.as_array().unwrap().iter();
        rows.map(|row| row[name].clone()).collect()
    };
    assert_eq!(column("revision"), [3, 2, 1]);
    assert_eq!(
        column("note"),
        ["back to revision 1", "", "open for the start"]
    );
    assert_eq!(column("bytes"), [ALLOW_ALL.len(), 12, ALLOW_ALL.len()]);
    assert_eq!(column("in_force"), [true, false, false]);
    let shown = text(&server.run(&["policy", "history"]).await.stdout);
    assert!(shown.starts_with("REVISION  SAVED"), "{shown}");
    assert!(shown.contains("local admin uid "), "{shown}");
    assert_eq!(server.json(&["policy", "get"]).await["text"], ALLOW_ALL);

    let long = "x".repeat(201);
    let said = server
        .refused(&["policy", "set", "--note", &long, &file])
        .await;
    assert!(said.contains("at most 200 characters"), "{said}");
}

#[tokio::test]
async fn a_policy_that_fails_its_own_tests_changes_nothing() {
    let server = with_alice().await;
    server.set_policy(FOR_FINANCE).await;
    let broken = FOR_FINANCE.replace(
        "bank:443\"]}],\n    \"tests\"",
        "bank:22\"]}],\n    \"tests\"",
    );
    let file = write(server.directory.path(), "broken.hujson", &broken);
    let said = server.refused(&["policy", "set", &file]).await;
    for part in [
        "the policy does not pass its own tests, and nothing was changed",
        "error: test(s) failed",
        "broken.hujson:5:",
        "\"bank:443\" must be allowed, but nothing allows it from \"alice@\" (100.64.0.1)",
        "\"bank:22\" must not be allowed, but acls[0], line 4 allows it from \"alice@\" (100.64.0.1)",
    ] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    let output = server.run(&["policy", "set", "--json", &file]).await;
    assert!(!output.status.success());
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["valid"], false);
    assert_eq!(found["diagnostics"][0]["message"], "test(s) failed");
    assert_eq!(found["diagnostics"][0]["line"], 5);
    let policy = server.json(&["policy", "get"]).await;
    assert_eq!(
        (&policy["revision"], &policy["text"]),
        (&json!(1), &json!(FOR_FINANCE))
    );
}

#[tokio::test]
async fn going_back_is_refused_where_the_old_tests_fail_today() {
    let server = with_alice().await;
    server.set_policy(FOR_FINANCE).await;
    server.set_policy(ALLOW_ALL).await;
    server.json(&["nodes", "delete", "laptop"]).await;
    let said = server.refused(&["policy", "rollback", "1"]).await;
    assert!(said.contains("does not pass its own tests"), "{said}");
    assert!(said.contains("revision 1:5:"), "{said}");
    assert!(said.contains("no node is meant by this src"), "{said}");
    assert_eq!(server.json(&["policy", "get"]).await["revision"], 2);
}

#[tokio::test]
async fn a_policy_is_tested_in_the_running_network() {
    let server = with_alice().await;
    let file = write(server.directory.path(), "p.hujson", FOR_FINANCE);
    let tested = server.json(&["policy", "test", &file]).await;
    assert_eq!(tested, json!({ "tests": 1, "nodes": 1, "warnings": "" }));
    let shown = text(&server.run(&["policy", "test", &file]).await.stdout);
    assert!(
        shown.ends_with("valid; 1 test passes in the network as it is (1 node)\n"),
        "{shown}"
    );
    assert_eq!(
        server.json(&["policy", "history"]).await,
        json!([]),
        "nothing is saved"
    );

    let broken = FOR_FINANCE.replace("\"deny\": [\"bank:22\"]", "\"deny\": [\"bank:443\"]");
    let file = write(server.directory.path(), "p.hujson", &broken);
    let said = server.refused(&["policy", "test", &file]).await;
    assert!(said.contains("acls[0], line 4 allows it"), "{said}");
    assert!(!said.contains("nothing was changed"), "{said}");
}

#[tokio::test]
async fn warnings_are_said_and_stop_nothing() {
    let server = with_alice().await;
    let policy = r#"{
    "acls": [{"action": "accept", "src": ["alic@"], "dst": ["*:*"]}],
    "ssh": [{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self"], "users": ["root"]}],
}"#;
    let file = write(server.directory.path(), "p.hujson", policy);
    for verb in ["set", "test"] {
        let output = server.run(&["policy", verb, &file]).await;
        let said = text(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("the network has no user \"alic@\""), "{said}");
        assert!(said.contains("not enforced by Weir"), "{said}");
    }
    let output = run(server.directory.path(), &["policy", "check", &file]).await;
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("not enforced by Weir"), "{said}");
    assert!(
        !said.contains("alic@"),
        "who is in the network is not known here: {said}"
    );
}

#[tokio::test]
async fn a_policy_is_checked_and_tested_without_a_server() {
    let directory = tempfile::tempdir().unwrap();
    let file = write(directory.path(), "p.hujson", FOR_FINANCE);
    let checked = run(directory.path(), &["policy", "check", &file]).await;
    let said = text(&checked.stdout);
    assert!(said.contains("valid; 1 test was not run"), "{said}");

    let network = |owner: &str| {
        json!({
            "domain": "example.com",
            "users": [{ "name": "alice", "email": "alice@example.com" }, { "name": "bob" }],
            "nodes": [{ "name": "laptop", "user": owner, "ipv4": "100.64.0.1" }],
        })
        .to_string()
    };
    let described = write(directory.path(), "network.json", &network("alice"));
    let arguments = ["policy", "test", &file, "--network", &described];
    let tested = run(directory.path(), &arguments).await;
    assert!(tested.status.success(), "{}", text(&tested.stderr));
    assert!(text(&tested.stdout).contains("1 test passes in the network in"));
    write(directory.path(), "network.json", &network("bob"));
    let failed = run(directory.path(), &arguments).await;
    let said = text(&failed.stderr);
    assert!(!failed.status.success());
    assert!(said.contains("does not pass its own tests"), "{said}");
    assert!(said.contains("no node is meant by this src"), "{said}");
    write(directory.path(), "network.json", "{\"nodes\": 3}");
    let failed = run(directory.path(), &arguments).await;
    assert!(text(&failed.stderr).contains("does not describe a network"));
    let lost = run(directory.path(), &["policy", "test", &file]).await;
    assert!(text(&lost.stderr).contains("the coordinator is not running"));
}

#[tokio::test]
async fn the_policy_approves_routes_as_long_as_it_says_so() {
    let server = TestServer::start().await;
    let relay = Agent::new(&server, "relay").advertising("8.8.8.8, 8.8.4.4, 10.20.0.0/24");
    let key = server.key_with(&["--tags", "tag:relay"]).await;
    let relay_id = relay.join(&key).await.unwrap().node_id;
    let alice = Agent::new(&server, "laptop");
    alice.join(&server.key("alice").await).await.unwrap();
    let mut stream = alice.map_stream(None).await;
    server.json(&["routes", "reject", "relay", "8.8.4.4"]).await;

    let policy = |approvers: &str| {
        format!(
            r#"{{
                "tagOwners": {{"tag:relay": []}},
                "acls": [{{"action": "accept", "src": ["*"], "dst": ["*:*"]}}],
                "autoApprovers": {{"routes": {{{approvers}}}}},
            }}"#
        )
    };
    server
        .set_policy(&policy(r#""8.8.0.0/16": ["tag:relay"]"#))
        .await;
    let states = || async {
        let routes = server.json(&["routes", "list"]).await;
        let routes = routes.as_array().unwrap().clone().into_iter();
        routes
            .map(|route| (route["state"].clone(), route["approved_by"].clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        states().await,
        [
            (json!("rejected"), json!(null)),
            (json!("serving"), json!("policy")),
            (json!("awaiting-approval"), json!(null)),
        ],
        "what was advertised before is approved, but not what an admin rejected"
    );
    let list = text(&server.run(&["routes", "list"]).await.stdout);
    assert!(list.contains("serving, approved by policy"), "{list}");
    let node = text(&server.run(&["nodes", "show", "relay"]).await.stdout);
    assert!(node.contains("serving, approved by policy"), "{node}");
    assert_eq!(
        server.json(&["status"]).await["routes_awaiting_approval"],
        1
    );
    stream
        .until(|map| {
            let peer = map.peers.get(&relay_id);
            peer.is_some_and(|peer| peer.routes.len() == 1)
        })
        .await;

    // What is advertised later is approved as it comes.
    let late = Agent::new(&server, "late").advertising("8.8.9.0/24");
    let key = server.key_with(&["--tags", "tag:relay"]).await;
    late.join(&key).await.unwrap();
    let own = late.map_stream(None).await.first().await.node.routes;
    assert_eq!(own[0].state, RouteState::Serving);

    server
        .json(&["routes", "approve", "late", "8.8.9.0/24"])
        .await;
    server.set_policy(&policy("")).await;
    assert_eq!(
        states().await,
        [
            (json!("rejected"), json!(null)),
            (json!("awaiting-approval"), json!(null)),
            (json!("awaiting-approval"), json!(null)),
            (json!("serving"), json!("admin")),
        ],
        "the policy's approvals end with it, those of admins stay"
    );
    stream
        .until(|map| {
            let peer = map.peers.get(&relay_id);
            peer.is_some_and(|peer| peer.routes.is_empty())
        })
        .await;
}

#[tokio::test]
async fn a_posture_is_what_the_agent_reports_now() {
    let server = TestServer::start().await;
    let relay = Agent::new(&server, "relay").advertising("8.8.8.8");
    let key = server.key_with(&["--tags", "tag:relay"]).await;
    relay.join(&key).await.unwrap();
    server
        .json(&["routes", "approve", "relay", "8.8.8.8"])
        .await;
    let mut alice = Agent::new(&server, "laptop");
    alice.host.os = "Debian GNU/Linux 12, Linux 5.10.0-9-amd64".to_owned();
    alice.join(&server.key("alice").await).await.unwrap();
    server
        .set_policy(
            r#"{
                "postures": {"posture:recent": ["node:os == 'linux'", "node:osVersion >= '6.1'"]},
                "acls": [{
                    "action": "accept", "src": ["alice@"], "dst": ["8.8.8.8:443"],
                    "srcPosture": ["posture:recent"],
                }],
            }"#,
        )
        .await;
    let mut stream = relay.map_stream(None).await;
    assert!(stream.first().await.filter.is_empty());
    alice.host.os = "Debian GNU/Linux 13, Linux 6.12.0-1-amd64".to_owned();
    alice.update().await.unwrap();
    stream.until(|map| map.filter.len() == 1).await;
}
