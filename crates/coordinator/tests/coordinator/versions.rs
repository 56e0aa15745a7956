//! `ETag`, `If-Match` and `If-None-Match`: nobody overwrites what they have not seen.

use crate::{
    agent::Agent,
    api::{Api, Reply, send},
    server::{ALLOW_ALL, TestServer},
};
use http::Method;
use serde_json::{Value, json};

async fn put(api: &Api, path: &str, version: &str, body: &Value) -> Reply {
    send(
        api.request(Method::PUT, path)
            .header("if-match", version)
            .json(body),
    )
    .await
}

#[tokio::test]
async fn of_two_changes_of_one_policy_the_second_is_refused() {
    let server = TestServer::start().await;
    let api = Api::with(&server, "policy:read,policy:write").await;
    let text = |more: &str| json!({ "text": format!("{ALLOW_ALL}{more}") });
    let none = put(&api, "/policy", "*", &text("")).await;
    assert_eq!(none.status, 412, "there is none yet: {none:?}");
    let first = api.call(Method::PUT, "/policy", &text("")).await;
    assert_eq!((first.status, first.header("etag")), (200, "\"1\""));
    let seen = api.get("/policy").await;
    assert_eq!(seen.header("etag"), "\"1\"");
    let one = put(&api, "/policy", "\"1\"", &text("// one\n")).await;
    assert_eq!((one.status, one.header("etag")), (200, "\"2\""));
    let other = put(&api, "/policy", "\"1\"", &text("// other\n")).await;
    assert_eq!(
        (other.status, &other.body["code"]),
        (412, &json!("precondition-failed"))
    );
    assert!(other.problem().contains("ETag"), "{other:?}");
    let now = api.get("/policy").await;
    assert!(now.body["text"].as_str().unwrap().contains("one"));
    let same = api
        .request(Method::GET, "/policy")
        .header("if-none-match", "\"2\"");
    let same = send(same).await;
    assert_eq!((same.status, same.body), (304, Value::Null));
    let newer = api
        .request(Method::GET, "/policy")
        .header("if-none-match", "\"1\"");
    assert_eq!(send(newer).await.status, 200);
}

#[tokio::test]
async fn of_two_changes_of_one_node_the_second_is_refused() {
    let server = TestServer::start().await;
    let api = Api::with(&server, "nodes:read,nodes:write").await;
    let agent = Agent::new(&server, "laptop");
    agent.join(&server.key("alice").await).await.unwrap();
    let version = api.get("/nodes/laptop").await.header("etag").to_owned();
    // A sign of life is no change.
    agent.update().await.unwrap();
    assert_eq!(api.get("/nodes/laptop").await.header("etag"), version);
    let one = put(&api, "/nodes/1/name", &version, &json!({ "name": "desk" })).await;
    assert_eq!(one.status, 200, "{one:?}");
    assert_ne!(one.header("etag"), version);
    let tags = json!({ "tags": ["tag:a"] });
    let other = put(&api, "/nodes/1/tags", &version, &tags).await;
    assert_eq!(other.status, 412);
    let gone = api
        .request(Method::DELETE, "/nodes/1")
        .header("if-match", &version);
    assert_eq!(send(gone).await.status, 412);
    let version = one.header("etag");
    let tagged = put(&api, "/nodes/1/tags", version, &tags).await;
    assert_eq!(tagged.status, 200);
    let gone = api
        .request(Method::DELETE, "/nodes/1")
        .header("if-match", "*");
    assert_eq!(send(gone).await.status, 200);
}
