//! Agents that lie: about whose key it is, where they are, what they relay, and what they hold.

use crate::{
    agent::{Agent, refused_or_done},
    server::{ALLOW_ALL, TestServer},
};
use serde_json::json;
use weir_overlay::{Generation, NodePublicKey};
use weir_protocol::{
    ErrorCode, MAP_PATH, MapRequest, NetworkMap, REGISTER_PATH, REPORT_PATH, RegisterResponse,
    ReportRequest, StreamMessage,
};

/// A victim, a liar, and one who sees both.
async fn three() -> (TestServer, Agent, Agent, Agent) {
    let server = TestServer::start().await;
    server.set_policy(ALLOW_ALL).await;
    let mut agents = Vec::new();
    for name in ["victim", "liar", "watcher"] {
        let mut agent = Agent::new(&server, name);
        if name == "victim" {
            agent.host.endpoint = Some(([203, 0, 113, 7], 51920).into());
        }
        agent.join(&server.key(name).await).await.unwrap();
        agents.push(agent);
    }
    let [victim, liar, watcher] = agents.try_into().ok().unwrap();
    (server, victim, liar, watcher)
}

fn keys(map: &NetworkMap) -> Vec<(String, NodePublicKey)> {
    let peers = map.peers.values();
    peers
        .map(|peer| (peer.name.to_string(), peer.node_key))
        .collect()
}

#[tokio::test]
async fn anothers_key_is_had_by_nobody() {
    let (server, victim, liar, watcher) = three().await;
    // To join with it, which also leaves the auth key as it was.
    let mut newcomer = Agent::new(&server, "newcomer");
    let own = std::mem::replace(&mut newcomer.node_key, victim.node_key);
    let key = server.key("mallory").await;
    let refused = newcomer.join(&key).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Conflict);
    assert!(refused.detail.contains("victim"), "{refused}");
    newcomer.node_key = own;
    newcomer.join(&key).await.unwrap();
    // To change to it.
    let mut change = liar.join_request(None, &[]);
    change.node_key = victim.node_key;
    let refused = liar.call::<_, RegisterResponse>(REGISTER_PATH, &change);
    assert_eq!(refused.await.unwrap_err().code, ErrorCode::Conflict);
    // To say that the other one signed.
    let mut forged = liar.prepare(REPORT_PATH, &ReportRequest::default());
    let (own, other) = (liar.machine.public(), victim.machine.public());
    let signed = &mut forged.headers.signature_input;
    *signed = signed.replace(&own.to_string(), &other.to_string());
    let refused = refused_or_done(liar.send(&forged).await).await;
    assert_eq!(refused.unwrap_err().code, ErrorCode::BadSignature);
    // Nothing of this is seen by anybody.
    let map = watcher.map_stream(None).await.first().await;
    let mut wanted = vec![
        ("victim".to_owned(), victim.node_key),
        ("liar".to_owned(), liar.node_key),
        ("newcomer".to_owned(), newcomer.node_key),
    ];
    let mut seen = keys(&map);
    wanted.sort();
    seen.sort();
    assert_eq!(seen, wanted);
}

#[tokio::test]
async fn an_endpoint_that_is_nobodys_way_in_is_refused() {
    let (_server, _victim, mut liar, watcher) = three().await;
    for endpoint in [
        "127.0.0.1:51920",
        "[::1]:51920",
        "[::ffff:127.0.0.1]:51920",
        "0.0.0.0:51920",
        "[::]:51920",
        "203.0.113.9:0",
        "224.0.0.1:51920",
        "255.255.255.255:51920",
        "[ff02::1]:51920",
        "[fe80::1]:51920",
        // The tunnel's packets would go into the tunnel.
        "100.64.0.1:51920",
        "[fd77:6569:7200::1]:51920",
    ] {
        liar.host.endpoint = Some(endpoint.parse().unwrap());
        let refused = liar.update().await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::BadRequest, "{endpoint}");
        assert!(refused.detail.contains("--endpoint"), "{refused}");
    }
    let map = watcher.map_stream(None).await.first().await;
    assert!(map.peers.values().all(|peer| {
        let at = peer.endpoint.map(|endpoint| endpoint.ip().to_string());
        peer.name.as_str() != "liar" || at.as_deref() == Some("127.0.0.1")
    }));
}

#[tokio::test]
async fn who_claims_anothers_endpoint_takes_nothing_from_it() {
    let (_server, victim, mut liar, watcher) = three().await;
    liar.host.endpoint = victim.host.endpoint;
    liar.update().await.unwrap();
    let map = watcher.map_stream(None).await.first().await;
    let peer = |name: &str| {
        let mut peers = map.peers.values();
        peers.find(|peer| peer.name.as_str() == name).unwrap()
    };
    // The key decides who answers there, and that is the victim's.
    assert_eq!(peer("victim").endpoint, victim.host.endpoint);
    assert_eq!(peer("victim").node_key, victim.node_key);
    assert_eq!(peer("liar").node_key, liar.node_key);
    assert!(
        peer("liar")
            .addresses
            .is_disjoint(&peer("victim").addresses)
    );
}

#[tokio::test]
async fn routes_that_nobody_may_advertise_are_refused_and_others_wait() {
    let (server, victim, mut liar, watcher) = three().await;
    let mut relay = victim;
    relay.host.advertised_routes = ["8.8.8.8/32".parse().unwrap()].into();
    relay.update().await.unwrap();
    server
        .json(&["routes", "approve", "victim", "8.8.8.8"])
        .await;
    for prefix in [
        "100.64.0.0/16",
        "fd77:6569:7200::/64",
        "127.0.0.0/8",
        "224.0.0.0/4",
        "8.8.8.8/24",
    ] {
        liar.host.advertised_routes = [prefix.parse().unwrap()].into();
        let refused = liar.update().await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::BadRoute, "{prefix}");
    }
    // What is another's is advertised, and no more than that.
    liar.host.advertised_routes = relay.host.advertised_routes.clone();
    liar.update().await.unwrap();
    let map = watcher.map_stream(None).await.first().await;
    for peer in map.peers.values() {
        let serves = peer.name.as_str() == "victim";
        assert_eq!(!peer.routes.is_empty(), serves, "{}", peer.name);
    }
}

#[tokio::test]
async fn a_number_of_the_future_is_worth_nothing() {
    let (server, _victim, liar, watcher) = three().await;
    let request = MapRequest {
        held: Some(Generation(u64::MAX)),
        digest: None,
    };
    for number in [u64::MAX, u64::MAX / 2, 1 << 40] {
        let report = json!({ "generation": number, "failures": [] });
        let report = liar.prepare(REPORT_PATH, &report);
        refused_or_done(liar.send(&report).await).await.unwrap();
        let shown = server.json(&["nodes", "show", "liar"]).await;
        assert_eq!(shown["name"], "liar");
    }
    // It is told the whole map, and others are told what they would have been.
    let response = liar.send(&liar.prepare(MAP_PATH, &request)).await;
    let mut stream = Agent::read_stream(response);
    let first = stream.next().await.unwrap();
    assert!(matches!(first, StreamMessage::Full { .. }), "{first:?}");
    let before = watcher.map_stream(None).await.first().await.generation;
    server.json(&["nodes", "rename", "liar", "named"]).await;
    let mut stream = watcher.map_stream(None).await;
    let renamed = |map: &NetworkMap| {
        let mut peers = map.peers.values();
        peers.any(|peer| peer.name.as_str() == "named")
    };
    let after = stream.until(renamed).await.generation;
    assert!(after > before && after.0 < 1 << 32, "{before} {after}");
}
