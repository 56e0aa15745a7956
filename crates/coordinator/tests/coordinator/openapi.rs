//! `docs/openapi.json` against what the server does: every path is there and served, nothing else
//! is, and every answer that a test of this suite gets over TLS has the shape that it promises.

use crate::{
    agent::Agent,
    api::{Api, send},
    server::{ALLOW_ALL, TestServer},
};
use http::Method;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
});

/// The operation that a request is for.
fn operation(method: &Method, path: &str) -> Option<&'static Value> {
    let method = method.as_str().to_ascii_lowercase();
    let matches = |template: &str| {
        let (one, other): (Vec<_>, Vec<_>) =
            (template.split('/').collect(), path.split('/').collect());
        let alike = |(part, real): (&&str, &&str)| part.starts_with('{') || part == real;
        one.len() == other.len() && one.iter().zip(&other).all(alike)
    };
    // A path without parameters is meant before one with them.
    let paths = DOCUMENT["paths"].as_object()?;
    let exact = paths.get(path).and_then(|methods| methods.get(&method));
    exact.or_else(|| {
        let mut paths = paths.iter().filter(|(template, _)| matches(template));
        paths.find_map(|(_, methods)| methods.get(&method))
    })
}

/// Holds an answer against what the document says of it.
pub(crate) fn check_answer(method: &Method, path: &str, status: u16, body: &Value) {
    if status == 304 || (!path.starts_with("/api/v1") && status == 200) {
        return;
    }
    let what = format!("{method} {path} {status}: {body}");
    if status >= 400 {
        let problem = &DOCUMENT["components"]["schemas"]["AdminProblem"];
        return check(problem, body).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    let Some(operation) = operation(method, path) else {
        panic!("{what} is not in docs/openapi.json");
    };
    let content = &operation["responses"]["200"]["content"];
    let Some(schema) = content.get("application/json") else {
        return;
    };
    check(&schema["schema"], body).unwrap_or_else(|error| panic!("{what}: {error}"));
}

/// Whether a value is what a schema says, with no field that it does not name.
fn check(schema: &Value, value: &Value) -> Result<(), String> {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let pointer = reference.strip_prefix('#').unwrap();
        return check(DOCUMENT.pointer(pointer).unwrap(), value);
    }
    for choice in ["anyOf", "oneOf"] {
        if let Some(choices) = schema.get(choice).and_then(Value::as_array) {
            let fits = choices.iter().any(|choice| check(choice, value).is_ok());
            return fits
                .then_some(())
                .ok_or(format!("{value} is none of {choices:?}"));
        }
    }
    if let Some(constant) = schema.get("const") {
        let same = constant == value;
        return same
            .then_some(())
            .ok_or(format!("{value} is not {constant}"));
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        let known = values.contains(value);
        return known
            .then_some(())
            .ok_or(format!("{value} is none of {values:?}"));
    }
    let kinds = match schema.get("type") {
        Some(Value::String(kind)) => vec![kind.as_str()],
        Some(Value::Array(kinds)) => kinds.iter().map(|kind| kind.as_str().unwrap()).collect(),
        _ => return Ok(()),
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if !kinds.contains(&kind) {
        return Err(format!("{value} is not {kinds:?}"));
    }
    match value {
        Value::Array(items) => items
            .iter()
            .try_for_each(|item| check(&schema["items"], item)),
        Value::Object(fields) => check_fields(schema, fields),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

fn check_fields(schema: &Value, fields: &Map<String, Value>) -> Result<(), String> {
    let known = schema["properties"].as_object();
    let Some(known) = known else {
        return Ok(());
    };
    for (name, value) in fields {
        let field = known.get(name).ok_or(format!("{name} is not described"))?;
        check(field, value).map_err(|error| format!("{name}: {error}"))?;
    }
    let required = schema["required"].as_array().into_iter().flatten();
    let mut missing = required.filter(|name| !fields.contains_key(name.as_str().unwrap()));
    missing
        .next()
        .map_or(Ok(()), |name| Err(format!("{name} is missing")))
}

#[test]
fn the_check_finds_what_differs() {
    let user = |body: Value| {
        std::panic::catch_unwind(|| check_answer(&Method::GET, "/api/v1/users", 200, &body))
    };
    let fine = json!({ "id": 1, "name": "a", "created": "x", "nodes": 0, "admin": false });
    assert!(user(json!({ "items": [fine], "next": null })).is_ok());
    for (field, wrong) in [
        ("id", json!("1")),
        ("more", json!(1)),
        ("nodes", json!(null)),
    ] {
        let mut other = fine.clone();
        other[field] = wrong;
        assert!(
            user(json!({ "items": [other], "next": null })).is_err(),
            "{field}"
        );
    }
    assert!(user(json!({ "items": [] , "following": null })).is_err());
    assert!(user(json!([])).is_err());
}

#[tokio::test]
async fn what_is_described_is_served_and_nothing_else_is() {
    let server = TestServer::start().await;
    let api = Api::stranger(&server);
    let served = api.get("/openapi.json").await;
    assert_eq!(&served.body, &*DOCUMENT);
    for (path, methods) in DOCUMENT["paths"].as_object().unwrap() {
        let real = path.replace("{revision}", "1").replace(['{', '}'], "");
        let methods = methods.as_object().unwrap();
        for method in ["get", "post", "put", "delete", "patch"] {
            let known: Method = method.to_ascii_uppercase().parse().unwrap();
            let reply = send(api.request_to(known, &real).json(&json!({}))).await;
            match methods.get(method) {
                None => assert_eq!(reply.status, 405, "{method} {path}"),
                // Shut, and so there.
                Some(operation) if operation.get("security").is_some() => {
                    assert_eq!(reply.status, 401, "{method} {path}");
                    let scope = operation["security"][0]["token"][0].as_str();
                    assert!(scope.is_some(), "{method} {path}");
                }
                Some(_) => assert!(!matches!(reply.status, 404 | 405), "{method} {path}"),
            }
        }
    }
}

#[tokio::test]
async fn the_answers_of_all_endpoints_have_the_shape_that_is_described() {
    // Each answer is checked where it comes in; here are those that no other test asks for.
    let server = TestServer::start().await;
    let api = Api::with(&server, "*").await;
    let agent = Agent::new(&server, "relay").advertising("8.8.8.8,8.8.4.4");
    agent.join(&server.key("alice").await).await.unwrap();
    let mut stream = agent.map_stream(None).await;
    stream.first().await;
    server.set_policy(ALLOW_ALL).await;
    let prefixes = json!({ "prefixes": ["8.8.8.8/32"] });
    let explain =
        json!({ "source": "relay-2", "destination": "8.8.8.8", "port": 53, "protocol": 17 });
    let diff = json!({ "old": { "revision": 0 }, "new": "current" });
    for (method, path, body) in [
        (
            Method::POST,
            "/nodes/relay/routes/approve",
            prefixes.clone(),
        ),
        (Method::POST, "/nodes/relay/routes/reset", prefixes.clone()),
        (Method::POST, "/nodes/relay/routes/reject", prefixes),
        (
            Method::PUT,
            "/nodes/relay/name",
            json!({ "name": "relay-2" }),
        ),
        (
            Method::PUT,
            "/nodes/relay-2/tags",
            json!({ "tags": ["tag:relay"] }),
        ),
        (Method::GET, "/nodes/relay-2", json!(null)),
        (Method::GET, "/status", json!(null)),
        (Method::GET, "/routes", json!(null)),
        (Method::GET, "/audit/verify", json!(null)),
        (Method::POST, "/policy/test", json!({ "text": ALLOW_ALL })),
        (Method::POST, "/policy/explain", explain),
        (Method::POST, "/policy/diff", diff),
        (Method::PUT, "/policy", json!({ "text": "{}" })),
        (Method::POST, "/policy/rollback", json!({ "revision": 1 })),
        (Method::GET, "/policy/revisions/2", json!(null)),
        (
            Method::POST,
            "/keys",
            json!({ "tags": ["tag:a"], "expires_in_seconds": 60 }),
        ),
        (Method::PUT, "/users/alice/admin", json!({})),
        (Method::DELETE, "/users/alice/admin", json!(null)),
        (Method::DELETE, "/nodes/relay-2", json!(null)),
        (Method::DELETE, "/users/alice", json!(null)),
    ] {
        let reply = api.call(method.clone(), path, &body).await;
        assert_eq!(reply.status, 200, "{method} {path}: {reply:?}");
    }
    let bad = api
        .call(Method::PUT, "/policy", &json!({ "text": "{" }))
        .await;
    assert_eq!((bad.status, &bad.body["code"]), (422, &json!("bad-policy")));
    assert!(bad.body["findings"][0]["line"].is_u64(), "{bad:?}");
    let backup = api.request(Method::GET, "/backup").send().await.unwrap();
    let restore = api
        .request(Method::POST, "/restore")
        .body(backup.bytes().await.unwrap());
    assert_eq!(send(restore).await.status, 200);
}
