//! `Idempotency-Key`: what is sent twice is done once, also when the coordinator dies in between.

use crate::{
    agent::client,
    api::{Api, Reply, send},
    process::Process,
    server::{TestServer, run},
};
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::{task::JoinSet, time::sleep};

async fn post(api: &Api, path: &str, key: &str, body: &Value) -> Reply {
    let request = api.request(Method::POST, path);
    send(request.header("idempotency-key", key).json(body)).await
}

#[tokio::test]
async fn a_repeated_request_gets_the_same_answer() {
    let server = TestServer::start().await;
    let api = Api::with(&server, "*").await;
    let alice = json!({ "name": "alice" });
    let first = post(&api, "/users", "one", &alice).await;
    assert_eq!(first.status, 200, "{first:?}");
    assert!(!first.headers.contains_key("idempotency-replayed"));
    let server = server.restart().await;
    let api = Api::with(&server, "*").await;
    // Another token is another sender: its keys are its own.
    let other = post(&api, "/users", "one", &alice).await;
    assert_eq!(
        (other.status, &other.body["code"]),
        (409, &json!("conflict"))
    );
    let bob = json!({ "name": "bob" });
    let first = post(&api, "/users", "one", &bob).await;
    let again = post(&api, "/users", "one", &bob).await;
    assert_eq!((again.status, &again.body), (200, &first.body));
    assert_eq!(again.header("idempotency-replayed"), "true");
    let misused = post(&api, "/users", "one", &json!({ "name": "carol" })).await;
    assert_eq!(misused.status, 422);
    assert_eq!(misused.body["code"], "key-reused");
    misused.problem();
    let elsewhere = post(&api, "/keys", "one", &bob).await;
    assert_eq!(elsewhere.status, 422, "the path is a part of the request");
    let long = post(&api, "/users", &"x".repeat(256), &bob).await;
    assert_eq!(long.status, 400);
    // What was refused was not done, and may be tried again as it is.
    let key = json!({ "user": "dave", "expires_in_seconds": 60 });
    assert_eq!(post(&api, "/keys", "two", &key).await.status, 404);
    server.json(&["users", "create", "dave"]).await;
    assert_eq!(post(&api, "/keys", "two", &key).await.status, 200);
}

#[tokio::test]
async fn a_secret_is_shown_once_and_made_once() {
    let server = TestServer::start().await;
    let api = Api::with(&server, "*").await;
    server.json(&["users", "create", "alice"]).await;
    let key = json!({ "user": "alice", "expires_in_seconds": 60 });
    let made = post(&api, "/keys", "k", &key).await;
    assert_eq!(made.status, 200, "{made:?}");
    let token = json!({ "name": "t", "scopes": ["nodes:read"], "expires_in_seconds": 60 });
    assert_eq!(post(&api, "/tokens", "t", &token).await.status, 200);
    let admin = json!({ "name": "carol", "admin": true });
    assert_eq!(post(&api, "/users", "u", &admin).await.status, 200);
    for (path, id, body) in [
        ("/keys", "k", &key),
        ("/tokens", "t", &token),
        ("/users", "u", &admin),
    ] {
        let again = post(&api, path, id, body).await;
        assert_eq!(again.status, 409, "{path}: {again:?}");
        assert!(again.problem().contains("of the audit log"), "{again:?}");
    }
    let id = made.body["details"]["id"].as_str().unwrap();
    let again = post(&api, "/keys", "k", &key).await;
    assert!(
        again.problem().contains(id),
        "it says what was made: {again:?}"
    );
    assert_eq!(
        server
            .json(&["keys", "list"])
            .await
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn of_many_at_the_same_time_one_is_done() {
    let server = TestServer::start().await;
    let api = Api::with(&server, "*").await;
    let body = json!({ "name": "t", "scopes": ["nodes:read"], "expires_in_seconds": 60 });
    let crowd = (0..8).map(|_| post(&api, "/tokens", "same", &body));
    let answers = futures_util::future::join_all(crowd).await;
    let done = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(done, 1, "{answers:?}");
    assert!(
        answers
            .iter()
            .all(|answer| matches!(answer.status, 200 | 409))
    );
    let tokens = server.json(&["tokens", "list"]).await;
    let made = tokens
        .as_array()
        .unwrap()
        .iter()
        .filter(|token| token["name"] == "t");
    assert_eq!(made.count(), 1);
}

#[tokio::test]
async fn what_a_killed_coordinator_did_is_not_done_again() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(directory.path(), None).await;
    let json = async |arguments: &[&str]| -> Value {
        let output = run(directory.path(), &[arguments, &["--json"]].concat()).await;
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let made = ["tokens", "create", "--name", "t", "--scope", "users:write"];
    let token = json(&made).await["token"].as_str().unwrap().to_owned();
    let ask = |process: &Process, number: usize| {
        client(process.pin)
            .post(format!("https://{}/api/v1/users", process.address))
            .header("authorization", format!("Bearer {token}"))
            .header("idempotency-key", format!("user {number}"))
            .json(&json!({ "name": format!("user-{number}") }))
    };
    // Each asks until the coordinator is gone, and does not know what became of its last one.
    let mut senders = JoinSet::new();
    for sender in 0..4 {
        let requests: Vec<_> = (0..200)
            .map(|number| ask(&process, sender * 200 + number))
            .collect();
        senders.spawn(async move {
            for (number, request) in requests.into_iter().enumerate() {
                if request.send().await.is_err() {
                    return number;
                }
            }
            200
        });
    }
    while json(&["users", "list"]).await.as_array().unwrap().len() < 12 {
        sleep(Duration::from_millis(10)).await;
    }
    process.kill().await;
    let mut asked = Vec::new();
    while let Some(number) = senders.join_next().await {
        asked.push(number.unwrap());
    }
    let process = Process::start(directory.path(), None).await;
    let before = json(&["users", "list"]).await.as_array().unwrap().len();
    let mut done_now = 0;
    for sender in 0..4 {
        for number in 0..=asked.iter().copied().max().unwrap().min(199) {
            let reply = send(ask(&process, sender * 200 + number)).await;
            match reply.status {
                200 if reply.headers.contains_key("idempotency-replayed") => {}
                200 => done_now += 1,
                // Done, and killed before its answer was kept: it says so, and not that somebody
                // else has the name.
                409 => assert!(reply.problem().contains("done already"), "{reply:?}"),
                _ => panic!("{reply:?}"),
            }
        }
    }
    let after = json(&["users", "list"]).await.as_array().unwrap().len();
    assert_eq!(after, before + done_now);
    process.kill().await;
}
