//! What people ask about a policy: why this is allowed, and what a change would do.

use crate::{agent::Agent, server::TestServer};
use serde_json::json;

const BANK: &str = r#"{
    "groups": {"group:finance": ["alice@"]}, "tagOwners": {"tag:relay": [], "tag:build": []},
    "acls": [
        {"action": "accept", "src": ["alice@"], "dst": ["8.8.8.8:443"]},
        {"action": "accept", "src": ["tag:build"], "proto": "udp", "dst": ["8.8.8.8:53"]},
    ],
    "autoApprovers": {"routes": {"8.8.8.8/32": ["tag:relay"]}},
}"#;

/// A relay for 8.8.8.8 (100.64.0.1), alice's laptop and phone, and a build server.
async fn network() -> TestServer {
    let server = TestServer::start().await;
    let relay = Agent::new(&server, "relay").advertising("8.8.8.8");
    let key = server.key_with(&["--tags", "tag:relay"]).await;
    relay.join(&key).await.unwrap();
    for (name, key) in [
        ("laptop", server.key("alice").await),
        ("phone", server.key("alice").await),
        ("builder", server.key_with(&["--tags", "tag:build"]).await),
    ] {
        Agent::new(&server, name).join(&key).await.unwrap();
    }
    server.set_policy(BANK).await;
    server
}

async fn said(server: &TestServer, arguments: &[&str]) -> String {
    let output = server.run(&[&["policy"], arguments].concat()).await;
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn the_rule_that_allows_is_named_and_quoted() {
    let server = network().await;
    assert_eq!(
        said(&server, &["explain", "laptop", "8.8.8.8:443"]).await,
        "allowed: laptop (100.64.0.2) to 8.8.8.8 port 443, tcp\n  \
           by acls[0], line 4, on relay\n    \
             | {\"action\": \"accept\", \"src\": [\"alice@\"], \"dst\": [\"8.8.8.8:443\"]},\n"
    );
    let answers = server
        .json(&[
            "policy",
            "explain",
            "alice",
            "8.8.8.8",
            "--protocol",
            "icmp",
        ])
        .await;
    let answers = answers.as_array().unwrap();
    assert_eq!(answers.len(), 2, "one for each of her machines");
    for (answer, name) in answers.iter().zip(["laptop", "phone"]) {
        assert_eq!(answer["source"]["node"], name);
        assert_eq!(answer["allowed"], true);
        assert_eq!(answer["rules"][0]["at"], json!(["relay"]));
    }
    let of_group = server
        .json(&["policy", "explain", "group:finance", "relay:443"])
        .await;
    assert_eq!(of_group.as_array().unwrap().len(), 2);
    let text = said(
        &server,
        &["explain", "tag:build", "8.8.8.8:53", "--protocol", "UDP"],
    )
    .await;
    assert!(text.starts_with("allowed: builder (100.64.0.4)"), "{text}");
}

#[tokio::test]
async fn names_of_addresses_are_known() {
    let server = network().await;
    let named = BANK.replacen(
        '{',
        "{\"hosts\": {\"bank\": \"8.8.8.8\", \"lab\": \"10.1.0.0/16\", \"me\": \"100.64.0.2\"}, \
         \"ipsets\": {\"ipset:rest\": [\"lab\", \"remove 10.1.0.0/17\", \"bank\"]},",
        1,
    );
    server.set_policy(&named).await;
    for (source, destination, beginning) in [
        (
            "me",
            "bank:443",
            "allowed: laptop (100.64.0.2) to 8.8.8.8 port 443, tcp",
        ),
        (
            "laptop",
            "lab:443",
            "denied: laptop (100.64.0.2) to 10.1.0.0 (the first of 10.1.0.0/16) port 443, tcp",
        ),
        (
            "10.1.0.0/24",
            "host:bank:443",
            "denied: 10.1.0.0 (the first of 10.1.0.0/24) to 8.8.8.8 port 443, tcp",
        ),
        (
            "laptop",
            "10.1.0.9-10.1.0.11:443",
            "denied: laptop (100.64.0.2) to 10.1.0.9 (the first of 10.1.0.9-10.1.0.11) port 443, tcp",
        ),
    ] {
        let text = said(&server, &["explain", source, destination]).await;
        assert!(
            text.starts_with(beginning),
            "{beginning:?} does not begin: {text}"
        );
    }
    let of_set = server
        .json(&["policy", "explain", "laptop", "ipset:rest:443"])
        .await;
    assert_eq!(of_set[0]["destination"]["address"], "8.8.8.8");
    assert_eq!(of_set[0]["allowed"], true);
    assert_eq!(of_set[1]["destination"]["first_of"], "10.1.128.0/17");
    assert_eq!(of_set[1]["allowed"], false);
}

#[tokio::test]
async fn what_nothing_allows_is_answered_with_the_closest_rule() {
    let server = network().await;
    for (arguments, part) in [
        (
            ["100.64.0.2", "8.8.8.8:22"],
            "the closest is acls[0], line 4: the port is not among its ports",
        ),
        (
            ["tag:build", "8.8.8.8:53"],
            "the closest is acls[1], line 5: the protocol is not among its protocols",
        ),
        (["laptop", "9.9.9.9:443"], "no node has the address 9.9.9.9"),
        (
            ["relay", "phone:22"],
            "no rule is for this source or this destination",
        ),
    ] {
        let text = said(&server, &[&["explain"], &arguments[..]].concat()).await;
        assert!(text.starts_with("denied: "), "{text}");
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    for (arguments, part) in [
        (
            ["nobody", "8.8.8.8:443"],
            "is no node, user, group, tag, host, set or address here",
        ),
        (["tag:none", "8.8.8.8:443"], "no node carries tag:none"),
        (["laptop", "8.8.8.8"], "names no port"),
        (
            ["100.64.0.2", "[2001:db8::1]:443"],
            "no addresses of one family",
        ),
    ] {
        let text = server
            .refused(&[&["policy", "explain"], &arguments[..]].concat())
            .await;
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[tokio::test]
async fn a_difference_says_who_gains_and_who_loses_what() {
    let server = network().await;
    let file = server.directory.path().join("new.hujson");
    let new = BANK
        .replace(
            "\"src\": [\"alice@\"]",
            "\"src\": [\"alice@\", \"tag:build\"]",
        )
        .replace("\"8.8.8.8:53\"", "\"tag:relay:22\"");
    std::fs::write(&file, &new).unwrap();
    let file = file.to_str().unwrap();
    let text = said(&server, &["diff", "current", file]).await;
    assert_eq!(
        text,
        "builder gains 8.8.8.8: icmp/icmpv6, tcp/udp 443 (on relay, acls[0], line 4)\n\
         builder gains relay: udp 22 (on relay, acls[1], line 5)\n\
         builder loses 8.8.8.8: udp 53 (on relay, acls[1], line 5)\n"
    );
    assert_eq!(
        said(&server, &["diff", "1", "current"]).await,
        "no difference: both allow the same in the network as it is\n"
    );
    let back = server.json(&["policy", "diff", file, "1"]).await;
    assert_eq!(back["gains"][0]["nodes"], json!(["builder"]));
    assert_eq!(
        back["gains"][0]["ports"],
        json!([{ "first": 53, "last": 53 }])
    );
    assert_eq!(back["routes_lost"], json!([]));

    let nothing = server.json(&["policy", "diff", "current", "0"]).await;
    assert_eq!(nothing["gains"], json!([]));
    assert_eq!(
        nothing["routes_lost"],
        json!([{ "node": "relay", "prefix": "8.8.8.8/32" }])
    );
    let text = server.refused(&["policy", "diff", "current", "8"]).await;
    assert!(text.contains("there is no policy revision 8"), "{text}");
    std::fs::write(file, "{\"acl\": []}").unwrap();
    let text = server.refused(&["policy", "diff", "current", file]).await;
    assert!(text.contains("new.hujson:1:2"), "{text}");
}
