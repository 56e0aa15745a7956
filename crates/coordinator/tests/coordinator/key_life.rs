//! Keys that expire, are renewed, changed and revoked; nodes that are removed and moved: through
//! TLS, with several agents that watch.

use crate::{
    agent::{Agent, MapStream, now},
    server::{ALLOW_ALL, TestServer},
};
use weir_overlay::{NodeId, NodePrivateKey};
use weir_protocol::{
    DOWN_PATH, DownRequest, DownResponse, ErrorCode, ProblemDetails, REGISTER_PATH,
    RegisterResponse,
};

/// A machine under test, and two others that watch.
struct Watched {
    server: TestServer,
    agent: Agent,
    joined: RegisterResponse,
    stream: MapStream,
    watchers: Vec<MapStream>,
}

async fn watched() -> Watched {
    let server = TestServer::start().await;
    server.set_policy(ALLOW_ALL).await;
    let agent = Agent::new(&server, "laptop");
    let joined = agent.join(&server.key("alice").await).await.unwrap();
    let stream = agent.map_stream(None).await;
    let mut watchers = Vec::new();
    for name in ["watcher-1", "watcher-2"] {
        let watcher = Agent::new(&server, name);
        watcher.join(&server.key("bob").await).await.unwrap();
        watchers.push(watcher.map_stream(None).await);
    }
    let mut watched = Watched {
        server,
        agent,
        joined,
        stream,
        watchers,
    };
    watched.all_have_it(true).await;
    watched.stream.until(|map| map.peers.len() == 2).await;
    watched
}

impl Watched {
    const fn id(&self) -> NodeId {
        self.joined.node_id
    }

    /// Waits until all the others have the machine as a peer, or none has.
    async fn all_have_it(&mut self, have: bool) {
        let id = self.joined.node_id;
        for watcher in &mut self.watchers {
            watcher
                .until(|map| map.peers.contains_key(&id) == have)
                .await;
        }
    }

    async fn register(&self, key: Option<&str>) -> Result<RegisterResponse, ProblemDetails> {
        let request = self.agent.join_request(key, &[]);
        self.agent.call(REGISTER_PATH, &request).await
    }
}

#[tokio::test]
async fn a_node_whose_key_expires_is_cut_off_and_comes_back_as_the_same() {
    let mut net = watched().await;
    let shown = net.server.json(&["nodes", "expire", "laptop"]).await;
    assert_eq!(shown["key_expired"], true);
    net.all_have_it(false).await;
    let own = net.stream.until(|map| map.node.key.expired).await.clone();
    assert!(own.peers.is_empty() && own.filter.is_empty(), "{own:?}");
    assert!(own.notices.join(" ").contains("--force-reauth"), "{own:?}");

    // Its word alone lets it in no more, nor does somebody else's key.
    let refused = net.register(None).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::NodeKeyExpired);
    assert!(refused.detail.contains("--user alice"), "{refused}");
    let refused = net.register(Some(&net.server.key("bob").await)).await;
    assert_eq!(refused.unwrap_err().code, ErrorCode::Conflict);
    let tagged = net.server.key_with(&["--tags", "tag:a"]).await;
    let refused = net.register(Some(&tagged)).await;
    assert_eq!(refused.unwrap_err().code, ErrorCode::Conflict);

    let key = net.server.key("alice").await;
    let back = net.register(Some(&key)).await.unwrap();
    assert!(!back.enrolled);
    assert_eq!(
        (back.node_id, &back.name, &back.addresses),
        (net.id(), &net.joined.name, &net.joined.addresses)
    );
    net.all_have_it(true).await;
    let own = net.stream.until(|map| map.peers.len() == 2).await;
    assert!(!own.node.key.expired && own.node.key.expires.is_some());
    // That key is used up, and being in again needs none.
    let other = Agent::new(&net.server, "other").join(&key).await;
    assert_eq!(other.unwrap_err().code, ErrorCode::UsedAuthKey);
    net.register(None).await.unwrap();
}

#[tokio::test]
async fn a_key_expires_by_itself_unless_it_is_renewed_before() {
    let mut net = watched().await;
    net.server
        .json(&["nodes", "expire", "laptop", "--in", "1s"])
        .await;
    net.all_have_it(false).await;
    net.server
        .json(&["nodes", "expire", "laptop", "--never"])
        .await;
    net.all_have_it(true).await;

    // Who asks to be let in anew uses the key, and its time begins again.
    net.server
        .json(&["nodes", "expire", "laptop", "--in", "1h"])
        .await;
    let in_a_day = now() + 24 * 3600;
    net.stream
        .until(|map| map.node.key.expires.is_some_and(|end| end < in_a_day))
        .await;
    let key = net.server.key("alice").await;
    let mut request = net.agent.join_request(Some(&key), &[]);
    request.reauthenticate = true;
    let renewed: RegisterResponse = net.agent.call(REGISTER_PATH, &request).await.unwrap();
    assert_eq!(renewed.node_id, net.id());
    net.stream
        .until(|map| map.node.key.expires > Some(in_a_day))
        .await;
    let refused = net
        .agent
        .call::<_, RegisterResponse>(REGISTER_PATH, &request);
    assert_eq!(refused.await.unwrap_err().code, ErrorCode::UsedAuthKey);
}

#[tokio::test]
async fn how_long_keys_are_good_is_said_by_the_auth_key() {
    let server = TestServer::start().await;
    server.key("alice").await;
    let cases = [
        (vec!["--user", "alice"], Some(180 * 24 * 3600)),
        (vec!["--user", "alice", "--node-expiry", "never"], None),
        (vec!["--user", "alice", "--node-expiry", "1h"], Some(3600)),
        (vec!["--tags", "tag:a"], None),
        (vec!["--tags", "tag:a", "--node-expiry", "1h"], Some(3600)),
    ];
    for (flags, life) in cases {
        let agent = Agent::new(&server, "node");
        let joined = agent.join(&server.key_with(&flags).await).await.unwrap();
        let map = agent.map_stream(None).await.first().await;
        assert_eq!(map.node.key.public, Some(agent.node_key));
        let id = joined.node_id.to_string();
        let shown = server.json(&["nodes", "show", &id]).await;
        let time = |field: &str| shown[field].as_str()?.parse::<jiff::Timestamp>().ok();
        let enrolled = time("enrolled").unwrap().as_second();
        let expires = time("key_expires").map(jiff::Timestamp::as_second);
        assert_eq!(expires.map(|end| end - enrolled), life, "{flags:?}");
        assert_eq!(expires, map.node.key.expires);
        // Whoever carries tags has nobody in front of it who would renew its key.
        let tagged = server.json(&["nodes", "tag", &id, "tag:b"]).await;
        if flags.contains(&"--user") {
            assert_eq!(tagged["key_expires"], serde_json::Value::Null);
        }
    }
    let refused = server
        .refused(&["keys", "create", "--user", "alice", "--node-expiry", "0d"])
        .await;
    assert!(refused.contains("0d"), "{refused}");
}

#[tokio::test]
async fn a_new_node_key_reaches_the_node_and_its_peers_alike() {
    let mut net = watched().await;
    net.agent.node_key = NodePrivateKey::from_bytes([77; 32]).public();
    let key = net.agent.node_key;
    net.register(None).await.unwrap();
    let own = net
        .stream
        .until(|map| map.node.key.public == Some(key))
        .await
        .clone();
    assert_eq!(own.peers.len(), 2);
    let id = net.id();
    for watcher in &mut net.watchers {
        let seen = watcher
            .until(|map| map.peers.get(&id).is_some_and(|peer| peer.node_key == key))
            .await;
        assert_eq!(seen.peers[&id].addresses, net.joined.addresses);
    }
}

#[tokio::test]
async fn a_removed_node_is_gone_everywhere_and_a_revoked_machine_never_comes_back() {
    let mut net = watched().await;
    net.server.json(&["nodes", "delete", "laptop"]).await;
    net.all_have_it(false).await;
    while net.stream.next().await.is_some() {}
    // Deleted, it may join again with a new key.
    net.joined = net
        .register(Some(&net.server.key("alice").await))
        .await
        .unwrap();
    assert!(net.joined.enrolled);
    net.all_have_it(true).await;

    net.server.json(&["nodes", "revoke", "laptop"]).await;
    net.all_have_it(false).await;
    let key = net.server.key("alice").await;
    for key in [None, Some(key.as_str())] {
        let refused = net.register(key).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::MachineRevoked);
        assert!(refused.detail.contains("never let in again"), "{refused}");
    }
    assert_eq!(
        net.agent.update().await.unwrap_err().code,
        ErrorCode::MachineRevoked
    );
    net.server = net.server.restart().await;
    net.agent.follow(&net.server);
    let refused = net.register(Some(&key)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::MachineRevoked);
    // The key is still good, for another machine.
    Agent::new(&net.server, "new").join(&key).await.unwrap();
    let log = net.server.json(&["audit", "list"]).await.to_string();
    assert!(log.contains("nodes.revoke"), "{log}");
}

#[tokio::test]
async fn an_admin_chooses_a_nodes_address_and_peers_follow_in_one_change() {
    let mut net = watched().await;
    let id = net.id();
    let shown = net
        .server
        .json(&["nodes", "set-address", "laptop", "100.64.1.7"])
        .await;
    let wanted = serde_json::json!(["100.64.1.7", "fd77:6569:7200::107"]);
    assert_eq!(shown["addresses"], wanted);
    let wanted = ["100.64.1.7", "fd77:6569:7200::107"].map(|text| text.parse().unwrap());
    for watcher in &mut net.watchers {
        watcher
            .until(|map| map.peers[&id].addresses == wanted.into())
            .await;
    }
    net.stream
        .until(|map| map.node.addresses == wanted.into())
        .await;
    for (address, part) in [
        ("100.64.0.2", "watcher-1"),
        ("fd77:6569:7200::3", "watcher-2"),
        ("10.0.0.1", "not an address of the overlay"),
        ("100.64.0.0", "cannot be given to a node"),
        ("fd77:6569:7200::ffff:1", "cannot be given to a node"),
        ("relay", "invalid IP address"),
    ] {
        let refused = net
            .server
            .refused(&["nodes", "set-address", "laptop", address])
            .await;
        assert!(refused.contains(part), "{address}: {refused}");
    }
    // What it has already is no change; and what it had is free for the next one.
    net.server
        .json(&["nodes", "set-address", "laptop", "fd77:6569:7200::107"])
        .await;
    let next = Agent::new(&net.server, "next");
    let next = next.join(&net.server.key("bob").await).await.unwrap();
    assert!(next.addresses.contains(&"100.64.0.1".parse().unwrap()));
}

#[tokio::test]
async fn an_ephemeral_node_that_goes_down_is_gone_at_once_and_no_other() {
    let mut net = watched().await;
    let down = async |agent: &Agent| {
        let said = agent
            .call::<_, DownResponse>(DOWN_PATH, &DownRequest {})
            .await;
        said.map(|response| response.deleted)
    };
    assert!(!down(&net.agent).await.unwrap());
    let key = net
        .server
        .key_with(&["--user", "alice", "--ephemeral"])
        .await;
    let job = Agent::new(&net.server, "job");
    job.join(&key).await.unwrap();
    net.stream.until(|map| map.peers.len() == 3).await;
    assert!(down(&job).await.unwrap());
    net.stream.until(|map| map.peers.len() == 2).await;
    assert_eq!(down(&job).await.unwrap_err().code, ErrorCode::NotEnrolled);
    // The other one only went down.
    net.agent.update().await.unwrap();
    net.all_have_it(true).await;
}
