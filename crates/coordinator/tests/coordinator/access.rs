//! Who gets in to the admin API: each endpoint, without a token, with a token for everything else,
//! and with the right one.

use crate::{
    api::{Api, make_token, send},
    server::TestServer,
};
use http::Method;
use serde_json::json;

/// Every endpoint and the scope that it takes, written down a second time on purpose.
const ENDPOINTS: &[(&str, &str, &str)] = &[
    ("GET", "/status", "status:read"),
    ("GET", "/tokens", "tokens:read"),
    ("POST", "/tokens", "tokens:write"),
    ("DELETE", "/tokens/none", "tokens:write"),
    ("GET", "/users", "users:read"),
    ("POST", "/users", "users:write"),
    ("DELETE", "/users/none", "users:write"),
    ("PUT", "/users/none/admin", "*"),
    ("DELETE", "/users/none/admin", "*"),
    ("GET", "/keys", "keys:read"),
    ("POST", "/keys", "keys:write"),
    ("DELETE", "/keys/none", "keys:write"),
    ("GET", "/nodes", "nodes:read"),
    ("GET", "/nodes/none", "nodes:read"),
    ("DELETE", "/nodes/none", "nodes:write"),
    ("PUT", "/nodes/none/name", "nodes:write"),
    ("PUT", "/nodes/none/tags", "nodes:write"),
    ("PUT", "/nodes/none/expiry", "nodes:write"),
    ("PUT", "/nodes/none/address", "nodes:write"),
    ("POST", "/nodes/none/revoke", "nodes:write"),
    ("GET", "/approvals", "nodes:read"),
    ("POST", "/approvals/none/approve", "nodes:write"),
    ("POST", "/approvals/none/deny", "nodes:write"),
    ("GET", "/routes", "routes:read"),
    ("POST", "/nodes/none/routes/approve", "routes:write"),
    ("POST", "/nodes/none/routes/reject", "routes:write"),
    ("POST", "/nodes/none/routes/reset", "routes:write"),
    ("POST", "/nodes/none/routes/egress", "routes:write"),
    ("GET", "/policy", "policy:read"),
    ("PUT", "/policy", "policy:write"),
    ("GET", "/policy/revisions", "policy:read"),
    ("GET", "/policy/revisions/1", "policy:read"),
    ("POST", "/policy/rollback", "policy:write"),
    ("POST", "/policy/test", "policy:read"),
    ("POST", "/policy/explain", "policy:read"),
    ("POST", "/policy/diff", "policy:read"),
    ("GET", "/audit", "audit:read"),
    ("GET", "/audit/verify", "audit:read"),
    ("GET", "/backup", "*"),
    ("POST", "/restore", "*"),
];

/// All scopes but `*`.
const SCOPES: [&str; 15] = [
    "audit:read",
    "keys:read",
    "keys:write",
    "metrics:read",
    "nodes:read",
    "nodes:write",
    "policy:read",
    "policy:write",
    "routes:read",
    "routes:write",
    "status:read",
    "tokens:read",
    "tokens:write",
    "users:read",
    "users:write",
];

#[tokio::test]
async fn every_endpoint_is_shut_without_its_scope() {
    let server = TestServer::start().await;
    let stranger = Api::stranger(&server);
    let liar = stranger.bearing(&format!("weir_admin_00000000_{}", "0".repeat(32)));
    for (method, path, scope) in ENDPOINTS {
        let method: Method = method.parse().unwrap();
        let what = format!("{method} {path}");
        for nobody in [&stranger, &liar] {
            let refused = nobody.call(method.clone(), path, &json!({})).await;
            assert_eq!(refused.status, 401, "{what}: {refused:?}");
            assert!(refused.problem().contains("token"), "{refused:?}");
            assert!(refused.header("www-authenticate").starts_with("Bearer"));
        }
        let others: Vec<_> = SCOPES.into_iter().filter(|other| other != scope).collect();
        let other = Api::with(&server, &others.join(",")).await;
        let refused = other.call(method.clone(), path, &json!({})).await;
        assert_eq!(refused.status, 403, "{what}: {refused:?}");
        assert!(refused.problem().contains(scope), "{refused:?}");
        let challenge = format!("scope=\"{scope}\"");
        assert!(refused.header("www-authenticate").contains(&challenge));
        for right in [*scope, "*"] {
            let right = Api::with(&server, right).await;
            let answer = right.call(method.clone(), path, &json!({})).await;
            assert!(
                !matches!(answer.status, 401 | 403 | 405 | 500),
                "{what}: {answer:?}"
            );
            if answer.status >= 400 {
                answer.problem();
            }
        }
    }
}

#[tokio::test]
async fn a_token_is_refused_the_moment_it_is_revoked_or_expired() {
    let server = TestServer::start().await;
    let token = make_token(&server, "users:read").await;
    let api = Api::stranger(&server).bearing(&token);
    assert_eq!(api.get("/users").await.status, 200);
    let listed = server.json(&["tokens", "list"]).await;
    let listed = &listed[0];
    assert_eq!(listed["state"], "usable");
    assert!(listed["last_used"].is_string(), "{listed}");
    assert!(!listed.to_string().contains(&token), "{listed}");
    let id = listed["id"].as_str().unwrap();
    server.json(&["tokens", "revoke", id]).await;
    let refused = api.get("/users").await;
    assert_eq!(refused.status, 401);
    assert!(refused.problem().contains("revoked"), "{refused:?}");

    let made = [
        "tokens",
        "create",
        "--name",
        "short",
        "--scope",
        "users:read",
    ];
    let made = server
        .json(&[&made[..], &["--expires", "1s"]].concat())
        .await;
    let api = api.bearing(made["token"].as_str().unwrap());
    // The same second may be its last, and its last may be over already.
    while api.get("/users").await.status == 200 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let refused = api.get("/users").await;
    assert_eq!(refused.status, 401);
    assert!(refused.problem().contains("expired"), "{refused:?}");
}

#[tokio::test]
async fn no_token_makes_one_that_may_do_more() {
    let server = TestServer::start().await;
    let api = Api::with(&server, "tokens:write,nodes:read,users:write").await;
    let ask =
        |scopes: &[&str]| json!({ "name": "more", "scopes": scopes, "expires_in_seconds": 60 });
    for more in [&["*"][..], &["nodes:write"], &["nodes:read", "policy:read"]] {
        let refused = api.post("/tokens", &ask(more)).await;
        assert_eq!(refused.status, 403, "{refused:?}");
        refused.problem();
    }
    let made = api.post("/tokens", &ask(&["nodes:read"])).await;
    assert_eq!(made.status, 200, "{made:?}");
    let token = made.body["token"].as_str().unwrap();
    assert_eq!(api.bearing(token).get("/nodes").await.status, 200);
    // An admin may do everything, so only who may do everything makes or deletes one.
    let admin = json!({ "name": "eve", "admin": true });
    assert_eq!(api.post("/users", &admin).await.status, 403);
    server.json(&["users", "create", "alice", "--admin"]).await;
    let gone = api.call(Method::DELETE, "/users/alice", &json!({})).await;
    assert_eq!(gone.status, 403, "{gone:?}");
    let log = server.json(&["audit", "list"]).await;
    let log = log.as_array().unwrap();
    let made = log.iter().find(|entry| {
        let actor = entry["actor"].as_str().unwrap();
        entry["action"] == "tokens.create" && actor.starts_with("token ")
    });
    let made = made.expect("the log names the token");
    assert_eq!(made["origin"], "127.0.0.1");
    assert!(
        made["actor"].as_str().unwrap().ends_with("(test)"),
        "{made}"
    );
}

#[tokio::test]
async fn what_is_no_request_is_answered_as_a_problem() {
    let server = TestServer::start().await;
    let api = Api::with(&server, "*").await;
    let reply = api.get("/nothing").await;
    assert_eq!(
        (reply.status, &reply.body["code"]),
        (404, &json!("not-found"))
    );
    reply.problem();
    let reply = api.call(Method::PATCH, "/users", &json!({})).await;
    assert_eq!(reply.status, 405);
    reply.problem();
    let text = api.request(Method::POST, "/users").body("name=alice");
    let reply = send(text).await;
    assert_eq!(reply.status, 415);
    assert!(reply.problem().contains("application/json"));
    for bad in [
        json!([]),
        json!({}),
        json!({ "name": 7 }),
        json!({ "name": "a", "more": 1 }),
    ] {
        let reply = api.post("/users", &bad).await;
        assert_eq!(reply.status, 400, "{bad}");
        reply.problem();
    }
    let cut = api.request(Method::POST, "/users");
    let cut = cut
        .header("content-type", "application/json")
        .body("{\"name\": ");
    assert_eq!(send(cut).await.status, 400);
    let reply = api.get("/policy/revisions/many").await;
    assert_eq!(reply.status, 400);
    reply.problem();
    let reply = api.get("/audit?limit=many").await;
    assert_eq!(reply.status, 400);
    reply.problem();
    let long = json!({ "text": "x".repeat(9 << 20) });
    let reply = api.post("/policy/test", &long).await;
    assert_eq!(reply.status, 413);
    reply.problem();
    // Of who is not known yet, little is read.
    let long = json!({ "name": "alice", "password": "x".repeat(5 << 10) });
    let reply = Api::stranger(&server).post("/login", &long).await;
    assert_eq!(reply.status, 413);
}
