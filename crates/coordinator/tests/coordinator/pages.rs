//! Long lists over the admin API, while they change.

use crate::{
    agent::Agent,
    api::Api,
    server::{ALLOW_ALL, TestServer},
};
use http::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// All pages of a list, with so many things on each; `between` is done after each page.
async fn walk(api: &Api, path: &str, limit: usize, between: impl AsyncFn(usize)) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    for page in 0.. {
        let reply = api.get(&format!("{path}?limit={limit}{cursor}")).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let items = reply.body["items"].as_array().unwrap();
        assert!(items.len() <= limit);
        all.extend(items.iter().cloned());
        let Some(next) = reply.body["next"].as_str() else {
            break;
        };
        cursor = format!("&cursor={next}");
        between(page).await;
    }
    all
}

fn texts(list: &[Value], field: &str) -> Vec<String> {
    let text = |item: &Value| {
        let value = &item[field];
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    };
    list.iter().map(text).collect()
}

#[tokio::test]
async fn following_the_pages_misses_nothing_while_others_come_and_go() {
    let server = TestServer::start().await;
    let api = Api::with(&server, "*").await;
    for number in 10..22 {
        let user = json!({ "name": format!("user-{number}") });
        assert_eq!(api.post("/users", &user).await.status, 200);
    }
    let change = async |page: usize| {
        for name in [
            format!("a-{page}"),
            format!("user-15-{page}"),
            format!("z-{page}"),
        ] {
            if page < 4 {
                let added = api.post("/users", &json!({ "name": name })).await;
                assert_eq!(added.status, 200);
            }
        }
        let gone = format!("/users/user-1{page}");
        api.call(Method::DELETE, &gone, &json!({})).await;
    };
    let all = walk(&api, "/users", 3, change).await;
    let names = texts(&all, "name");
    let unique: BTreeSet<_> = names.iter().collect();
    assert_eq!(unique.len(), names.len(), "nothing comes twice: {names:?}");
    assert!(names.is_sorted(), "{names:?}");
    for number in 18..22 {
        let name = format!("user-{number}");
        assert!(
            names.contains(&name),
            "{name} was there all the time: {names:?}"
        );
    }
}

#[tokio::test]
async fn every_list_has_pages() {
    let server = TestServer::start().await;
    let api = Api::with(&server, "*").await;
    server.set_policy(ALLOW_ALL).await;
    for number in 0..3 {
        let name = format!("node-{number}");
        let agent = Agent::new(&server, &name).advertising("8.8.8.8,8.8.4.4,9.9.9.9");
        agent.join(&server.key("alice").await).await.unwrap();
        server
            .set_policy(&format!("{ALLOW_ALL}// {number}\n"))
            .await;
        Api::with(&server, "status:read").await;
    }
    for (path, id, number) in [
        ("/nodes", "id", 3),
        ("/routes", "prefix", 9),
        ("/keys", "id", 3),
        ("/tokens", "id", 4),
        ("/policy/revisions", "revision", 4),
        ("/users", "name", 1),
    ] {
        let whole = api.get(path).await;
        let whole = texts(whole.body["items"].as_array().unwrap(), id);
        assert_eq!(whole.len(), number, "{path}");
        let walked = walk(&api, path, 2, async |_| {}).await;
        assert_eq!(texts(&walked, id), whole, "{path}");
    }
    // The log grows at its beginning, and what was there is seen once.
    let before = api.get("/audit?limit=1").await.body["items"][0]["id"].as_u64();
    let grow = async |page: usize| {
        if page < 3 {
            server
                .json(&["users", "create", &format!("new-{page}")])
                .await;
        }
    };
    let log = walk(&api, "/audit", 2, grow).await;
    let ids: Vec<_> = log
        .iter()
        .map(|entry| entry["id"].as_u64().unwrap())
        .collect();
    let expected: Vec<_> = (1..=before.unwrap()).rev().collect();
    assert_eq!(ids, expected);
}

#[tokio::test]
async fn a_cursor_of_another_list_and_a_wild_limit_are_refused() {
    let server = TestServer::start().await;
    let api = Api::with(&server, "*").await;
    for name in ["alice", "bob"] {
        server.json(&["users", "create", name]).await;
    }
    let page = api.get("/users?limit=1").await;
    let next = page.body["next"].as_str().unwrap();
    for path in [
        format!("/nodes?cursor={next}"),
        "/users?cursor=x".to_owned(),
        "/users?limit=0".to_owned(),
        "/users?limit=1001".to_owned(),
        "/users?limit=-1".to_owned(),
        "/users?page=2".to_owned(),
    ] {
        let refused = api.get(&path).await;
        assert_eq!(refused.status, 400, "{path}");
        refused.problem();
    }
}
