//! The way of a route from its relay to the clients, and of a policy to all.

use crate::{
    agent::Agent,
    server::{ALLOW_ALL, TestServer},
};
use ipnet::IpNet;
use weir_protocol::{NetworkMap, RouteState};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn routes_via(map: &NetworkMap, relay: weir_overlay::NodeId) -> Vec<String> {
    let peer = map.peers.get(&relay);
    peer.map(|peer| peer.routes.iter().map(ToString::to_string).collect())
        .unwrap_or_default()
}

#[tokio::test]
async fn a_route_is_used_from_its_approval_to_its_withdrawal() {
    let server = TestServer::start().await;
    server.set_policy(ALLOW_ALL).await;
    let mut relay = Agent::new(&server, "relay").advertising("8.8.8.8, 8.8.4.4");
    let relay_id = relay.join(&server.key("ops").await).await.unwrap().node_id;
    let mut relay_stream = relay.map_stream(None).await;
    let own = relay_stream.first().await.node.routes;
    assert_eq!(own.len(), 2);
    assert!(
        own.iter()
            .all(|route| route.state == RouteState::AwaitingApproval)
    );

    let alice = Agent::new(&server, "alice");
    alice.join(&server.key("alice").await).await.unwrap();
    let mut stream = alice.map_stream(None).await;
    let map = stream.until(|map| map.peers.contains_key(&relay_id)).await;
    assert!(routes_via(map, relay_id).is_empty());

    let done = server
        .json(&["routes", "approve", "relay", "8.8.8.8", "8.8.4.4/32"])
        .await;
    assert_eq!(done[0]["state"], "serving");
    let map = stream
        .until(|map| !routes_via(map, relay_id).is_empty())
        .await;
    assert_eq!(routes_via(map, relay_id), ["8.8.4.4/32", "8.8.8.8/32"]);
    relay_stream
        .until(|map| {
            map.node
                .routes
                .iter()
                .all(|route| route.state == RouteState::Serving)
        })
        .await;

    relay.host.advertised_routes = [net("8.8.8.8/32")].into();
    relay.update().await.unwrap();
    stream
        .until(|map| routes_via(map, relay_id) == ["8.8.8.8/32"])
        .await;
    // Advertised again, it is still approved.
    relay.host.advertised_routes = [net("8.8.4.4/32"), net("8.8.8.8/32")].into();
    relay.update().await.unwrap();
    stream
        .until(|map| routes_via(map, relay_id).len() == 2)
        .await;

    server
        .json(&["routes", "reject", "relay", "8.8.8.8,8.8.4.4"])
        .await;
    stream
        .until(|map| routes_via(map, relay_id).is_empty())
        .await;
    relay_stream
        .until(|map| {
            map.node
                .routes
                .iter()
                .all(|route| route.state == RouteState::Rejected)
        })
        .await;
}

#[tokio::test]
async fn a_decision_can_be_taken_back() {
    let server = TestServer::start().await;
    let mut relay = Agent::new(&server, "relay").advertising("8.8.8.8, 8.8.4.4");
    let key = server.key_with(&["--tags", "tag:relay"]).await;
    relay.join(&key).await.unwrap();
    let policy = r#"{"acls": [], "tagOwners": {"tag:relay": []},
                     "autoApprovers": {"routes": {"8.8.8.8": ["tag:relay"]}}}"#;
    server.set_policy(policy).await;
    let both = ["relay", "8.8.8.8", "8.8.4.4"];
    server
        .json(&[&["routes", "reject"], &both[..]].concat())
        .await;
    // The policy decides about the one again, nobody about the other.
    let done = server
        .json(&[&["routes", "reset"], &both[..]].concat())
        .await;
    assert_eq!(done[0]["prefix"], "8.8.4.4/32");
    assert_eq!(done[0]["state"], "awaiting-approval");
    assert_eq!(done[1]["state"], "serving");
    assert_eq!(done[1]["approved_by"], "policy");

    // What was decided about a route that is gone can be taken back, too, but once.
    server
        .json(&["routes", "approve", "relay", "8.8.4.4"])
        .await;
    relay.host.advertised_routes = [net("8.8.8.8/32")].into();
    relay.update().await.unwrap();
    let output = server.run(&["routes", "reset", "relay", "8.8.4.4"]).await;
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "nothing is decided about 8.8.4.4/32 of relay: it is not advertised\n"
    );
    let text = server
        .refused(&["routes", "reset", "relay", "8.8.4.4"])
        .await;
    assert!(text.contains("does not advertise 8.8.4.4/32"), "{text}");
    relay.host.advertised_routes = [net("8.8.4.4/32")].into();
    relay.update().await.unwrap();
    let routes = server.json(&["routes", "list"]).await;
    assert_eq!(routes[0]["state"], "awaiting-approval");
}

#[tokio::test]
async fn only_what_is_advertised_can_be_approved() {
    let server = TestServer::start().await;
    let relay = Agent::new(&server, "relay").advertising("8.8.8.8");
    relay.join(&server.key("ops").await).await.unwrap();
    let text = server
        .refused(&["routes", "approve", "relay", "8.8.8.8,1.1.1.1"])
        .await;
    assert!(text.contains("does not advertise 1.1.1.1/32"), "{text}");
    assert!(text.contains("it advertises 8.8.8.8/32"), "{text}");
    let routes = server.json(&["routes", "list"]).await;
    assert_eq!(routes[0]["state"], "awaiting-approval", "all or none");
    let text = server
        .refused(&["routes", "approve", "relay", "8.8.8.8/24"])
        .await;
    assert!(text.contains("the prefix is 8.8.8.0/24"), "{text}");
    let text = server
        .refused(&["routes", "approve", "nobody", "8.8.8.8"])
        .await;
    assert!(text.contains("no node"), "{text}");
}

#[tokio::test]
async fn a_policy_change_reaches_the_filters_at_once() {
    let server = TestServer::start().await;
    let relay = Agent::new(&server, "relay").advertising("8.8.8.8");
    relay.join(&server.key("ops").await).await.unwrap();
    let alice = Agent::new(&server, "alice");
    let alice_id = alice
        .join(&server.key("alice").await)
        .await
        .unwrap()
        .node_id;
    server
        .json(&["routes", "approve", "relay", "8.8.8.8"])
        .await;
    let mut stream = relay.map_stream(None).await;
    assert!(stream.first().await.filter.is_empty());

    let for_alice =
        r#"{"acls": [{"action": "accept", "src": ["alice@"], "dst": ["8.8.8.8:443"]}]}"#;
    assert_eq!(server.set_policy(for_alice).await, 1);
    let map = stream.until(|map| !map.filter.is_empty()).await;
    assert!(map.peers.contains_key(&alice_id));

    assert_eq!(server.set_policy(r#"{"acls": []}"#).await, 2);
    stream
        .until(|map| map.filter.is_empty() && map.peers.is_empty())
        .await;
}

#[tokio::test]
async fn a_bad_policy_changes_nothing() {
    let server = TestServer::start().await;
    server.set_policy(ALLOW_ALL).await;
    let file = server.directory.path().join("bad.hujson");
    std::fs::write(
        &file,
        r#"{"acls": [{"action": "accept", "src": ["group:x"], "dst": ["*:*"]}]}"#,
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let text = server.refused(&["policy", "set", file]).await;
    assert!(text.contains("bad.hujson:1:"), "the place is named: {text}");
    assert!(text.contains("group:x"), "{text}");
    let policy = server.json(&["policy", "get"]).await;
    assert_eq!(policy["revision"], 1);
    assert_eq!(policy["text"], ALLOW_ALL);
    assert_eq!(policy["in_force"], true);

    std::fs::write(file, r#"{"acls": []}"#).unwrap();
    let text = server
        .refused(&["policy", "set", "--if-revision", "7", file])
        .await;
    assert!(text.contains("revision 1 is the newest"), "{text}");
    let done = server
        .json(&["policy", "set", "--if-revision", "1", file])
        .await;
    assert_eq!(
        (&done["revision"], &done["changed"]),
        (&2.into(), &true.into())
    );
    let again = server.json(&["policy", "set", file]).await;
    assert_eq!(
        (&again["revision"], &again["changed"]),
        (&2.into(), &false.into())
    );
}

/// What the relay of a map is told that traffic to 8.8.8.8 from an address leaves with.
fn leaves_with(map: &NetworkMap, source: &str) -> Option<String> {
    let source = source.parse().unwrap();
    let mut choices = map.node.egress.iter();
    let first = choices.find(|choice| {
        let sources = choice.sources.as_ref();
        choice.route == net("8.8.8.8/32") && sources.is_none_or(|all| all.contains(source))
    });
    first.map(|choice| choice.address.to_string())
}

#[tokio::test]
async fn an_admin_chooses_the_address_by_route_and_by_group() {
    let server = TestServer::start().await;
    let policy = |finance: &str| {
        format!(
            r#"{{"groups": {{"group:finance": ["{finance}@"], "group:none": []}},
                "tagOwners": {{"tag:relay": []}},
                "acls": [{{"action": "accept", "src": ["alice@", "bob@"], "dst": ["8.8.8.8:443"]}}]}}"#
        )
    };
    let mut relay = Agent::new(&server, "relay").advertising("8.8.8.8");
    relay.host.addresses = ["203.0.113.7", "203.0.113.8", "203.0.113.9", "2001:db8::7"]
        .map(|address| address.parse().unwrap())
        .into();
    relay.join(&server.key("ops").await).await.unwrap();
    let (alice, bob) = (Agent::new(&server, "alice"), Agent::new(&server, "bob"));
    alice.join(&server.key("alice").await).await.unwrap();
    bob.join(&server.key("bob").await).await.unwrap();
    // Somebody of the group whom the policy does not connect with the relay.
    let stranger = Agent::new(&server, "stranger");
    stranger.join(&server.key("carol").await).await.unwrap();
    server.set_policy(&policy("alice")).await;
    server
        .json(&["routes", "approve", "relay", "8.8.8.8"])
        .await;
    let nodes = server.json(&["nodes", "list"]).await;
    let at = |name: &str| {
        let nodes = nodes.as_array().unwrap();
        let node = nodes.iter().find(|node| node["name"] == name).unwrap();
        node["addresses"][0].as_str().unwrap().to_owned()
    };
    let (alice_at, bob_at, stranger_at) = (at("alice"), at("bob"), at("stranger"));

    let egress = ["routes", "egress", "relay"];
    let entries = server.json(&["audit", "list"]).await;
    for (arguments, words) in [
        (
            vec!["8.8.8.8", "--address", "203.0.113.99"],
            "is not an address of relay: it has 203.0.113.7, 203.0.113.8, 203.0.113.9",
        ),
        (
            vec!["8.8.8.8", "--address", "2001:db8::7"],
            "is an IPv6 address, and 8.8.8.8/32 an IPv4 route",
        ),
        (
            vec!["9.9.9.9", "--address", "203.0.113.8"],
            "does not advertise 9.9.9.9/32",
        ),
        (vec!["9.9.9.9", "--clear"], "does not advertise 9.9.9.9/32"),
        (
            vec![
                "8.8.8.8",
                "--address",
                "203.0.113.8",
                "--for",
                "group:finanse",
            ],
            "did you mean \"group:finance\"?",
        ),
        (
            vec!["8.8.8.8", "--address", "203.0.113.8", "--for", "finance"],
            "does not name nodes",
        ),
        (
            vec!["8.8.8.8", "--address", "203.0.113.8", "--for", "dave@"],
            "no user \"dave@\"",
        ),
        (
            vec!["8.8.8.8", "--address", "203.0.113.8", "--clear"],
            "cannot be used with",
        ),
        (vec!["8.8.8.8"], "--address"),
    ] {
        let text = server.refused(&[&egress[..], &arguments].concat()).await;
        assert!(text.contains(words), "{arguments:?}: {text}");
    }
    let routes = server.json(&["routes", "list"]).await;
    assert_eq!(routes[0]["egress"], serde_json::json!([]));
    let after = server.json(&["audit", "list"]).await;
    assert_eq!(entries, after, "what is refused changes nothing");

    let mut stream = relay.map_stream(None).await;
    assert_eq!(leaves_with(&stream.first().await, &alice_at), None);
    let general = ["8.8.8.8", "--address", "203.0.113.8"];
    server.json(&[&egress[..], &general].concat()).await;
    let map = stream.until(|map| !map.node.egress.is_empty()).await;
    assert_eq!(leaves_with(map, &alice_at).as_deref(), Some("203.0.113.8"));
    let finance = [
        "8.8.8.8",
        "--address",
        "203.0.113.9",
        "--for",
        "group:finance",
    ];
    let done = server.json(&[&egress[..], &finance].concat()).await;
    assert_eq!(
        done[0]["egress"],
        serde_json::json!([
            {"for": "group:finance", "address": "203.0.113.9", "on_host": true},
            {"for": null, "address": "203.0.113.8", "on_host": true},
        ])
    );
    let nine = |at: &str| {
        let at = at.to_owned();
        move |map: &NetworkMap| leaves_with(map, &at).as_deref() == Some("203.0.113.9")
    };
    let map = stream.until(nine(&alice_at)).await;
    assert_eq!(leaves_with(map, &bob_at).as_deref(), Some("203.0.113.8"));
    // Another member, by the policy alone.
    server.set_policy(&policy("bob")).await;
    let map = stream.until(nine(&bob_at)).await;
    assert_eq!(leaves_with(map, &alice_at).as_deref(), Some("203.0.113.8"));
    server.set_policy(&policy("carol")).await;
    let map = stream.until(|map| !nine(&bob_at)(map)).await;
    let told = |address: &str| {
        let address = address.parse().unwrap();
        let mut choices = map.node.egress.iter();
        choices.any(|one| {
            one.sources
                .as_ref()
                .is_some_and(|all| all.contains(address))
        })
    };
    assert!(!told(&stranger_at), "who is no peer does not occur");
    server.set_policy(&policy("alice")).await;
    stream.until(nine(&alice_at)).await;

    // The relay loses the address: it is still the one that was chosen, and people are told.
    relay.host.addresses.remove(&"203.0.113.9".parse().unwrap());
    relay.update().await.unwrap();
    let output = server.run(&["routes", "list"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("group:finance 203.0.113.9 (NOT ON THE HOST), 203.0.113.8"),
        "{text}"
    );
    let map = relay.map_stream(None).await.first().await;
    assert_eq!(leaves_with(&map, &alice_at).as_deref(), Some("203.0.113.9"));

    let cleared = ["8.8.8.8", "--clear", "--for", "group:finance"];
    server.json(&[&egress[..], &cleared].concat()).await;
    stream.until(|map| !nine(&alice_at)(map)).await;
    let entries = server.json(&["audit", "list"]).await;
    let entry = entries
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["action"] == "routes.egress")
        .unwrap();
    assert_eq!(
        entry["before"]["8.8.8.8/32"],
        serde_json::json!({"group:finance": "203.0.113.9", "everybody else": "203.0.113.8"})
    );
    assert_eq!(
        entry["after"]["8.8.8.8/32"],
        serde_json::json!({"everybody else": "203.0.113.8"})
    );
    // A choice outlives the route, and can be taken back all the same.
    relay.host.advertised_routes.clear();
    relay.update().await.unwrap();
    let output = server
        .run(&[&egress[..], &["8.8.8.8", "--clear"]].concat())
        .await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        text,
        "8.8.8.8/32 of relay: new connections leave as the relay's own settings say\n"
    );
}

#[tokio::test]
async fn of_two_relays_the_older_serves() {
    let server = TestServer::start().await;
    server.set_policy(ALLOW_ALL).await;
    let key = server
        .key_with(&["--tags", "tag:relay", "--reusable"])
        .await;
    let mut ids = Vec::new();
    for name in ["first", "second"] {
        let relay = Agent::new(&server, name).advertising("8.8.8.8");
        ids.push(relay.join(&key).await.unwrap().node_id);
        server.json(&["routes", "approve", name, "8.8.8.8"]).await;
    }
    let routes = server.json(&["routes", "list"]).await;
    assert_eq!(routes[0]["state"], "serving");
    assert_eq!(routes[1]["state"], "standby");
    let alice = Agent::new(&server, "alice");
    alice.join(&server.key("alice").await).await.unwrap();
    let map = alice.map_stream(None).await.first().await;
    assert_eq!(routes_via(&map, ids[0]), ["8.8.8.8/32"]);
    assert!(routes_via(&map, ids[1]).is_empty());
    server.json(&["nodes", "delete", "first"]).await;
    let map = alice.map_stream(None).await.first().await;
    assert_eq!(routes_via(&map, ids[1]), ["8.8.8.8/32"]);
}
