//! Admins: the first one, passwords, logging in and out.

use crate::{
    api::Api,
    server::{TestServer, run},
};
use serde_json::{Value, json};
use std::process::Stdio;
use tokio::{io::AsyncWriteExt, process::Command};

const PASSWORD: &str = "correct horse battery staple";

async fn log_in(api: &Api, name: &str, password: &str) -> crate::api::Reply {
    let request = json!({ "name": name, "password": password });
    api.post("/login", &request).await
}

#[tokio::test]
async fn the_first_admin_is_made_with_the_code_of_the_console_and_no_second_one() {
    let server = TestServer::start().await;
    let code = server.setup_code().unwrap();
    let api = Api::stranger(&server);
    let ask = |code: &str, name: &str| json!({ "code": code, "name": name, "password": PASSWORD });
    let wrong = format!("weir_setup_{}", "0".repeat(32));
    let refused = api.post("/setup", &ask(&wrong, "eve")).await;
    assert_eq!(refused.status, 401);
    assert!(refused.problem().contains("--admin"), "{refused:?}");
    let short = json!({ "code": code, "name": "alice", "password": "short" });
    assert_eq!(api.post("/setup", &short).await.status, 400);
    let made = api.post("/setup", &ask(&code, "alice")).await;
    assert_eq!(made.status, 200, "{made:?}");
    assert_eq!(made.body["admin"], true);
    assert_eq!(api.post("/setup", &ask(&code, "eve")).await.status, 401);
    let token = log_in(&api, "ALICE", PASSWORD).await;
    let token = token.body["token"].as_str().unwrap().to_owned();
    let users = api.bearing(&token).get("/users").await;
    assert_eq!(users.status, 200);
    let log = server.json(&["audit", "list"]).await;
    assert_eq!(log[0]["action"], "tokens.log-in");
    assert_eq!(log[0]["actor"], "admin alice");
    assert!(!log.to_string().contains(PASSWORD));
    assert!(!log.to_string().contains("argon2id"));
    let server = server.restart().await;
    assert_eq!(server.setup_code(), None, "there is an admin");
}

#[tokio::test]
async fn a_restart_without_an_admin_makes_the_code_before_useless() {
    let server = TestServer::start().await;
    let old = server.setup_code().unwrap();
    let server = server.restart().await;
    assert_ne!(server.setup_code().unwrap(), old);
    let ask = json!({ "code": old, "name": "eve", "password": PASSWORD });
    let refused = Api::stranger(&server).post("/setup", &ask).await;
    assert_eq!(refused.status, 401);
    // Neither code nor password is written down.
    server.json(&["users", "create", "alice", "--admin"]).await;
    assert_eq!(server.restart().await.setup_code(), None);
}

async fn with_password(server: &TestServer, arguments: &[&str], password: &str) -> Value {
    let mut child = Command::new(env!("CARGO_BIN_EXE_coordinator"))
        .env(
            "WEIR_COORDINATOR_SOCKET",
            server.directory.path().join("admin.sock"),
        )
        .args(arguments)
        .args(["--password-stdin", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(password.as_bytes()).await.unwrap();
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn a_new_password_logs_out_who_had_the_old_one() {
    let server = TestServer::start().await;
    let made = server.json(&["users", "create", "alice", "--admin"]).await;
    let password = made["password"].as_str().unwrap();
    let api = Api::stranger(&server);
    let session = log_in(&api, "alice", password).await;
    assert_eq!(session.status, 200, "{session:?}");
    let session = api.bearing(session.body["token"].as_str().unwrap());
    assert_eq!(session.get("/status").await.status, 200);
    let line = format!("{PASSWORD}\n");
    let granted = with_password(&server, &["users", "grant-admin", "alice"], &line).await;
    assert_eq!(granted["admin"], true);
    assert_eq!(granted["password"], Value::Null, "it was chosen");
    assert_eq!(session.get("/status").await.status, 401);
    assert_eq!(log_in(&api, "alice", password).await.status, 401);
    let session = log_in(&api, "alice", PASSWORD).await;
    let session = api.bearing(session.body["token"].as_str().unwrap());
    server.json(&["users", "revoke-admin", "alice"]).await;
    assert_eq!(session.get("/status").await.status, 401);
    assert_eq!(log_in(&api, "alice", PASSWORD).await.status, 401);
    let text = run(
        server.directory.path(),
        &["users", "create", "bob", "--admin"],
    )
    .await;
    let shown = String::from_utf8(text.stdout).unwrap();
    let password = shown.lines().last().unwrap();
    assert_eq!(log_in(&api, "bob", password).await.status, 200, "{shown}");
    let alone = server.refused(&["users", "grant-admin", "nobody"]).await;
    assert!(alone.contains("users create"), "{alone}");
}

#[tokio::test]
async fn who_guesses_passwords_waits() {
    let server = TestServer::start().await;
    let made = server.json(&["users", "create", "alice", "--admin"]).await;
    let password = made["password"].as_str().unwrap();
    let api = Api::stranger(&server);
    // An account that does not exist is answered like one that does.
    let mut said = Vec::new();
    for name in ["alice", "nobody"] {
        let refused = loop {
            let refused = log_in(&api, name, "wrong wrong wrong wrong").await;
            if refused.status != 401 {
                break refused;
            }
            said.push(refused.problem().to_owned());
        };
        assert_eq!(refused.status, 429, "{refused:?}");
        assert!(refused.problem().contains("try again in"));
        let seconds: u64 = refused.header("retry-after").parse().unwrap();
        assert!((1..=300).contains(&seconds), "{seconds}");
    }
    said.dedup();
    assert_eq!(said.len(), 1, "{said:?}");
    // Also the right one has to wait now; what needs no password does not.
    let token = crate::api::make_token(&server, "status:read").await;
    assert_eq!(api.bearing(&token).get("/status").await.status, 200);
    loop {
        let answer = log_in(&api, "alice", password).await;
        match answer.status {
            429 => {
                let wait: u64 = answer.header("retry-after").parse().unwrap();
                tokio::time::sleep(std::time::Duration::from_secs(wait)).await;
            }
            status => break assert_eq!(status, 200, "{answer:?}"),
        }
    }
}

#[tokio::test]
async fn a_crowd_of_log_ins_is_turned_away_and_not_queued_without_end() {
    let server = TestServer::start().await;
    let api = Api::stranger(&server);
    let crowd = (0..60).map(|number| {
        let api = &api;
        async move {
            let name = format!("nobody-{number}");
            log_in(api, &name, PASSWORD).await
        }
    });
    let answers = futures_util::future::join_all(crowd).await;
    for answer in &answers {
        assert!(matches!(answer.status, 401 | 429), "{answer:?}");
        answer.problem();
    }
    assert!(answers.iter().any(|answer| answer.status == 401));
}
