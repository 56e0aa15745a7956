//! Machines without an auth key: who asks, who decides, and that nobody comes in without.

use crate::{
    agent::{Agent, answer},
    api::Api,
    postgres,
    server::{ALLOW_ALL, TestServer},
};
use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection};
use std::path::Path;
use weir_protocol::{
    APPROVAL_PATH, ApprovalAnswer, ApprovalRequest, ErrorCode, ProblemDetails, REGISTER_PATH,
    RegisterResponse, machine_fingerprint,
};

pub(crate) fn request(agent: &Agent, code: Option<&str>) -> ApprovalRequest {
    ApprovalRequest {
        node_key: agent.node_key,
        tags: [].into(),
        host: agent.host.clone(),
        code: code.map(str::to_owned),
        wait_seconds: 0,
    }
}

async fn ask(agent: &Agent, code: Option<&str>) -> Result<ApprovalAnswer, ProblemDetails> {
    agent.call(APPROVAL_PATH, &request(agent, code)).await
}

/// Asks, and gives the code.
pub(crate) async fn pending(agent: &Agent) -> String {
    let answer = ask(agent, None).await.unwrap();
    let ApprovalAnswer::Pending { code, .. } = answer else {
        panic!("{answer:?}");
    };
    code
}

async fn register(agent: &Agent) -> Result<RegisterResponse, ProblemDetails> {
    agent
        .call(REGISTER_PATH, &agent.join_request(None, &[]))
        .await
}

async fn is_out(agent: &Agent) {
    let refused = register(agent).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::NotEnrolled);
}

async fn listed(server: &TestServer) -> Vec<Value> {
    let listed = server.json(&["nodes", "pending"]).await;
    listed.as_array().unwrap().clone()
}

/// Changes the database behind the server's back.
async fn execute(server: &TestServer, statement: &'static str) {
    let path = server.directory.path().join("state/coordinator.db");
    let url = format!("sqlite://{}", Path::display(&path));
    let mut database = SqliteConnection::connect(&url).await.unwrap();
    sqlx::query(statement).execute(&mut database).await.unwrap();
    database.close().await.unwrap();
}

#[tokio::test]
async fn a_machine_asks_and_comes_in_once_an_admin_says_so() {
    let server = TestServer::start().await;
    server.json(&["users", "create", "alice"]).await;
    server.set_policy(ALLOW_ALL).await;
    let agent = Agent::new(&server, "relay.example.com").advertising("8.8.8.8/32");
    is_out(&agent).await;
    let Ok(ApprovalAnswer::Pending {
        code,
        url,
        expires_in_seconds,
    }) = ask(&agent, None).await
    else {
        panic!("it does not wait");
    };
    assert_eq!(code.len(), 32, "128 bits in hexadecimal digits");
    assert!(url.starts_with("https://") && url.ends_with(&format!("/register/{code}")));
    assert!((890..=900).contains(&expires_in_seconds));
    is_out(&agent).await;

    let machines = listed(&server).await;
    let [machine] = machines.as_slice() else {
        panic!("{machines:?}");
    };
    let fingerprint = machine_fingerprint(&agent.machine.public());
    assert_eq!(machine["fingerprint"], fingerprint);
    assert_eq!(machine["hostname"], "relay.example.com");
    assert_eq!(machine["address"], "127.0.0.1");
    assert_eq!(machine["routes"], json!(["8.8.8.8/32"]));
    assert_eq!(machine["code"], code);
    let text = server.run(&["nodes", "pending"]).await;
    let text = String::from_utf8(text.stdout).unwrap();
    for part in [
        fingerprint.as_str(),
        "8.8.8.8/32",
        "127.0.0.1",
        "relay.example.com",
    ] {
        assert!(text.contains(part), "{text}");
    }

    let node = server
        .json(&["nodes", "approve", &url, "--user", "alice"])
        .await;
    assert_eq!(
        (&node["name"], &node["user"]),
        (&json!("relay"), &json!("alice"))
    );
    assert!(node["key_expires"].is_string(), "as with a key for a user");
    assert_eq!(ask(&agent, Some(&code)).await, Ok(ApprovalAnswer::Approved));
    assert_eq!(ask(&agent, None).await, Ok(ApprovalAnswer::Approved));
    let joined = register(&agent).await.unwrap();
    assert!(!joined.enrolled, "the admin did that");
    assert_eq!(joined.name.as_str(), "relay");
    let map = agent.map_stream(None).await.first().await;
    assert_eq!(map.node.user.as_deref(), Some("alice"));
    // A route is another question.
    let state = map.node.routes[0].state;
    assert_eq!(state, weir_protocol::RouteState::AwaitingApproval);
    assert_eq!(listed(&server).await, [] as [Value; 0]);
    let twice = server
        .refused(&["nodes", "approve", &code, "--user", "alice"])
        .await;
    assert!(twice.contains("no machine waits"), "{twice}");

    let log = server.json(&["audit", "list"]).await;
    let log = log.as_array().unwrap();
    let entry = log.iter().find(|entry| entry["action"] == "nodes.approve");
    let entry = entry.expect("it is in the audit log");
    assert!(entry["actor"].as_str().unwrap().starts_with("local admin"));
    assert_eq!(entry["subject"], "node 1 (relay)");
}

#[tokio::test]
async fn whoever_waits_hears_of_the_decision_at_once() {
    let server = TestServer::start().await;
    let agent = Agent::new(&server, "laptop");
    let code = pending(&agent).await;
    let long = ApprovalRequest {
        wait_seconds: 20,
        ..request(&agent, Some(&code))
    };
    let prepared = agent.prepare(APPROVAL_PATH, &long);
    let (heard, _) = tokio::join!(agent.send(&prepared), async {
        server
            .json(&["nodes", "approve", &code, "--tag", "tag:server"])
            .await
    });
    let heard: ApprovalAnswer = answer(heard).await.unwrap();
    assert_eq!(heard, ApprovalAnswer::Approved);
    let node = server.json(&["nodes", "show", "laptop"]).await;
    assert_eq!(node["tags"], json!(["tag:server"]));
    assert_eq!(node["user"], Value::Null);
    assert_eq!(node["key_expires"], Value::Null, "as with a key with tags");
}

#[tokio::test]
async fn a_denied_machine_hears_so_and_cannot_ask_again_at_once() {
    let server = TestServer::start().await;
    let agent = Agent::new(&server, "laptop");
    let code = pending(&agent).await;
    server.json(&["nodes", "deny", &code]).await;
    for code in [Some(code.as_str()), None] {
        let denied = ask(&agent, code).await.unwrap();
        let ApprovalAnswer::Denied { again_in_seconds } = denied else {
            panic!("{denied:?}");
        };
        assert!((890..=900).contains(&again_in_seconds));
    }
    is_out(&agent).await;
    let refused = server
        .refused(&["nodes", "approve", &code, "--tag", "tag:a"])
        .await;
    assert!(refused.contains("no machine waits"), "{refused}");
    assert_eq!(listed(&server).await, [] as [Value; 0]);
    let log = server.json(&["audit", "list"]).await;
    assert_eq!(log[0]["action"], "nodes.deny");
    // An auth key is another way in.
    let key = server.key("alice").await;
    assert!(agent.join(&key).await.unwrap().enrolled);
}

#[tokio::test]
async fn a_request_ends_after_a_quarter_of_an_hour() {
    let server = TestServer::start().await;
    let agent = Agent::new(&server, "laptop");
    let code = pending(&agent).await;
    execute(
        &server,
        "UPDATE waiting_machines SET expires_at = asked_at - 1",
    )
    .await;
    assert_eq!(ask(&agent, Some(&code)).await, Ok(ApprovalAnswer::Expired));
    let refused = server
        .refused(&["nodes", "approve", &code, "--tag", "tag:a"])
        .await;
    assert!(refused.contains("no machine waits"), "{refused}");
    is_out(&agent).await;
    assert_ne!(pending(&agent).await, code, "a new request has a new code");
}

#[tokio::test]
async fn a_machine_waits_once_also_across_a_restart() {
    let server = TestServer::start().await;
    let mut agent = Agent::new(&server, "laptop");
    let code = pending(&agent).await;
    assert_eq!(pending(&agent).await, code);
    let server = server.restart().await;
    agent.follow(&server);
    assert_eq!(pending(&agent).await, code);
    assert_eq!(listed(&server).await.len(), 1);
    server
        .json(&["nodes", "approve", &code, "--tag", "tag:a"])
        .await;
    assert_eq!(ask(&agent, Some(&code)).await, Ok(ApprovalAnswer::Approved));
}

#[tokio::test]
async fn what_a_code_stands_for_never_changes() {
    let server = TestServer::start().await;
    let mut agent = Agent::new(&server, "laptop");
    let code = pending(&agent).await;
    agent.host.hostname = "backup-server".to_owned();
    let other = pending(&agent).await;
    assert_ne!(code, other);
    let agent = agent.advertising("0.0.0.0/0");
    let third = pending(&agent).await;
    assert_ne!(third, other);
    for old in [&code, &other] {
        assert_eq!(ask(&agent, Some(old)).await, Ok(ApprovalAnswer::Expired));
        let refused = server
            .refused(&["nodes", "approve", old, "--tag", "tag:a"])
            .await;
        assert!(refused.contains("no machine waits"), "{refused}");
    }
    assert_eq!(listed(&server).await.len(), 1);
}

#[tokio::test]
async fn nobody_comes_in_on_the_code_of_another() {
    let server = TestServer::start().await;
    let agent = Agent::new(&server, "laptop");
    let thief = Agent::new(&server, "laptop");
    let code = pending(&agent).await;
    assert_eq!(ask(&thief, Some(&code)).await, Ok(ApprovalAnswer::Expired));
    let guessed = "0".repeat(32);
    assert_eq!(
        ask(&thief, Some(&guessed)).await,
        Ok(ApprovalAnswer::Expired)
    );
    server
        .json(&["nodes", "approve", &code, "--tag", "tag:a"])
        .await;
    assert_eq!(ask(&thief, Some(&code)).await, Ok(ApprovalAnswer::Expired));
    is_out(&thief).await;
    register(&agent).await.unwrap();
    // Not with the WireGuard key of a node either.
    let mut copy = Agent::new(&server, "copy");
    copy.node_key = agent.node_key;
    let code = pending(&copy).await;
    let refused = server
        .refused(&["nodes", "approve", &code, "--tag", "tag:a"])
        .await;
    assert!(refused.contains("WireGuard key"), "{refused}");
    is_out(&copy).await;
}

#[tokio::test]
async fn what_is_not_signed_or_was_sent_before_asks_for_nothing() {
    let server = TestServer::start().await;
    let agent = Agent::new(&server, "laptop");
    let mut forged = agent.prepare(APPROVAL_PATH, &request(&agent, None));
    forged.headers = Agent::new(&server, "other")
        .prepare(APPROVAL_PATH, &json!({}))
        .headers;
    let refused = answer::<ApprovalAnswer>(agent.send(&forged).await).await;
    assert_eq!(refused.unwrap_err().code, ErrorCode::BadSignature);
    assert_eq!(listed(&server).await, [] as [Value; 0]);

    let prepared = agent.prepare(APPROVAL_PATH, &request(&agent, None));
    let first = answer::<ApprovalAnswer>(agent.send(&prepared).await).await;
    assert!(matches!(first, Ok(ApprovalAnswer::Pending { .. })));
    let replayed = answer::<ApprovalAnswer>(agent.send(&prepared).await).await;
    assert_eq!(replayed.unwrap_err().code, ErrorCode::BadSignature);
}

#[tokio::test]
async fn so_many_wait_and_no_more() {
    let server = TestServer::start().await;
    let agents: Vec<_> = (0..17)
        .map(|number| Agent::new(&server, &format!("node-{number}")))
        .collect();
    for agent in &agents[..16] {
        pending(agent).await;
    }
    let refused = ask(&agents[16], None).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::TooManyRequests);
    assert!(refused.detail.contains("127.0.0.1"), "{refused}");
    assert!(refused.detail.contains("auth key"), "{refused}");
    // Those who wait do so on, and may ask again.
    pending(&agents[0]).await;
    assert_eq!(listed(&server).await.len(), 16);
    let key = server.key("alice").await;
    assert!(agents[16].join(&key).await.unwrap().enrolled);
    // Who comes in leaves room, whichever way.
    agents[0].join(&server.key("alice").await).await.unwrap();
    pending(&Agent::new(&server, "another")).await;
    assert_eq!(listed(&server).await.len(), 16);
}

#[tokio::test]
async fn a_revoked_machine_cannot_even_ask() {
    let server = TestServer::start().await;
    let agent = Agent::new(&server, "laptop");
    agent.join(&server.key("alice").await).await.unwrap();
    server.json(&["nodes", "revoke", "laptop"]).await;
    let refused = ask(&agent, None).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::MachineRevoked);
    assert_eq!(listed(&server).await, [] as [Value; 0]);
}

#[tokio::test]
async fn a_host_that_cannot_be_true_cannot_ask() {
    let server = TestServer::start().await;
    let agent = Agent::new(&server, "laptop").advertising("127.0.0.0/8");
    let refused = ask(&agent, None).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::BadRoute);
    let agent = Agent::new(&server, "a\u{7}b");
    let refused = ask(&agent, None).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::BadRequest);
}

#[tokio::test]
async fn it_must_be_said_whose_the_node_is() {
    let server = TestServer::start().await;
    server.json(&["users", "create", "alice"]).await;
    let agent = Agent::new(&server, "laptop");
    let code = pending(&agent).await;
    let path = format!("/approvals/{code}/approve");
    let program = Api::with(&server, "nodes:write").await;
    let refused = program.post(&path, &json!({})).await;
    assert_eq!(refused.status, 400);
    assert!(refused.problem().contains("--user"), "{refused:?}");
    let both = json!({ "user": "alice", "tags": ["tag:a"] });
    assert_eq!(program.post(&path, &both).await.status, 400);
    let nobody = program.post(&path, &json!({ "user": "bob" })).await;
    assert_eq!(nobody.status, 404);
    assert!(nobody.problem().contains("no user bob"), "{nobody:?}");
    is_out(&agent).await;

    // An admin who logged in is one to whom it can belong.
    let password = "correct horse battery";
    let file = server.directory.path().join("password");
    std::fs::write(&file, password).unwrap();
    let made = Api::with(&server, "*").await;
    let admin = json!({ "name": "root@example.com", "admin": true, "password": password });
    assert_eq!(made.post("/users", &admin).await.status, 200);
    let login = json!({ "name": "root@example.com", "password": password });
    let login = Api::stranger(&server).post("/login", &login).await;
    let admin = Api::stranger(&server).bearing(login.body["token"].as_str().unwrap());
    let done = admin.post(&path, &json!({})).await;
    assert_eq!(done.status, 200, "{done:?}");
    assert_eq!(done.body["user"], "root@example.com");
}

#[tokio::test]
async fn tags_that_are_asked_for_are_given_by_those_who_own_them() {
    let server = TestServer::start().await;
    for name in ["alice@example.com", "bob@example.com"] {
        server.json(&["users", "create", name]).await;
    }
    server
        .set_policy(r#"{"tagOwners": {"tag:build": ["alice@example.com"]}, "acls": []}"#)
        .await;
    let agent = Agent::new(&server, "build");
    let asking = ApprovalRequest {
        tags: ["tag:build".parse().unwrap()].into(),
        ..request(&agent, None)
    };
    let asked: ApprovalAnswer = agent.call(APPROVAL_PATH, &asking).await.unwrap();
    let ApprovalAnswer::Pending { code, .. } = asked else {
        panic!("{asked:?}");
    };
    assert_eq!(listed(&server).await[0]["tags"], json!(["tag:build"]));
    let refused = server
        .refused(&["nodes", "approve", &code, "--user", "bob@example.com"])
        .await;
    assert!(refused.contains("tagOwners"), "{refused}");
    let node = server
        .json(&["nodes", "approve", &code, "--user", "alice@example.com"])
        .await;
    assert_eq!(node["tags"], json!(["tag:build"]));
    assert_eq!(node["user"], Value::Null);
}

#[tokio::test]
async fn an_approval_that_is_sent_twice_is_done_once() {
    let server = TestServer::start().await;
    let agent = Agent::new(&server, "laptop");
    let code = pending(&agent).await;
    let api = Api::with(&server, "nodes:write").await;
    let send = || {
        crate::api::send(
            api.request(http::Method::POST, &format!("/approvals/{code}/approve"))
                .header("idempotency-key", "one")
                .json(&json!({ "tags": ["tag:a"] })),
        )
    };
    let (first, second) = (send().await, send().await);
    assert_eq!((first.status, second.status), (200, 200), "{second:?}");
    assert_eq!(first.body["id"], second.body["id"]);
    assert_eq!(second.header("idempotency-replayed"), "true");
}

#[tokio::test]
async fn any_coordinator_of_a_network_answers_and_lets_in() {
    let database = postgres::database().await;
    let one = TestServer::start_on(database.clone()).await;
    let other = one.start_beside(database).await;
    let mut agent = Agent::new(&one, "laptop");
    let code = pending(&agent).await;
    agent.follow(&other);
    assert_eq!(pending(&agent).await, code);
    assert_eq!(listed(&other).await.len(), 1);
    // Asked at one, and decided at the other.
    agent.follow(&one);
    let long = ApprovalRequest {
        wait_seconds: 20,
        ..request(&agent, Some(&code))
    };
    let prepared = agent.prepare(APPROVAL_PATH, &long);
    let (heard, _) = tokio::join!(agent.send(&prepared), async {
        other
            .json(&["nodes", "approve", &code, "--tag", "tag:a"])
            .await
    });
    let mut heard: ApprovalAnswer = answer(heard).await.unwrap();
    // On a machine so busy that this took longer than an answer is held back, it is asked again.
    while matches!(heard, ApprovalAnswer::Pending { .. }) {
        heard = ask(&agent, Some(&code)).await.unwrap();
    }
    assert_eq!(heard, ApprovalAnswer::Approved);
    assert!(!register(&agent).await.unwrap().enrolled);
}
