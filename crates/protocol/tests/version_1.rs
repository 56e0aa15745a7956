//! Version 1 on the wire, written out: a change of these snapshots is a change of the protocol.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::collections::{BTreeMap, BTreeSet};
use weir_overlay::{Generation, GrantId, NodeId, NodePrivateKey, NodePublicKey};
use weir_protocol::{
    ApprovalAnswer, ApprovalRequest, Destination, ErrorCode, Grant, HostInfo, IpProtocol,
    ItemFailure, MapDelta, MapRequest, NetworkMap, Peer, PortRange, ProblemDetails,
    RegisterRequest, RegisterResponse, ReportRequest, RouteEgress, RouteState, RouteStatus,
    SelfNode, StreamMessage, UpdateRequest,
};

fn key(n: u8) -> NodePublicKey {
    NodePrivateKey::from_bytes([n; 32]).public()
}

fn host() -> HostInfo {
    HostInfo {
        hostname: "relay".to_owned(),
        version: "0.1.0".to_owned(),
        os: "Debian GNU/Linux 12, Linux 6.1.0".to_owned(),
        listen_port: 51920,
        addresses: ["203.0.113.7".parse().unwrap()].into(),
        endpoint: None,
        advertised_routes: ["8.8.8.8/32".parse().unwrap()].into(),
    }
}

fn node() -> SelfNode {
    SelfNode {
        egress: Vec::new(),
        id: NodeId(1),
        name: "relay".parse().unwrap(),
        user: Some("ops@example.com".to_owned()),
        tags: BTreeSet::new(),
        addresses: [
            "100.64.0.1".parse().unwrap(),
            "fd77:6569:7200::1".parse().unwrap(),
        ]
        .into(),
        routes: vec![RouteStatus {
            prefix: "8.8.8.8/32".parse().unwrap(),
            state: RouteState::AwaitingApproval,
        }],
        key: weir_protocol::KeyStatus::default(),
    }
}

fn peer() -> Peer {
    Peer {
        id: NodeId(2),
        name: "build".parse().unwrap(),
        user: None,
        tags: ["tag:build".parse().unwrap()].into(),
        node_key: key(2),
        addresses: ["100.64.0.2".parse().unwrap()].into(),
        routes: BTreeSet::new(),
        source_prefixes: ["10.20.0.0/24".parse().unwrap()].into(),
        endpoint: Some("203.0.113.30:51920".parse().unwrap()),
    }
}

fn filter() -> Vec<Grant> {
    vec![Grant {
        id: GrantId(17),
        sources: ["100.64.0.2".parse().unwrap()]
            .into_iter()
            .collect::<Vec<_>>()
            .into(),
        protocols: [IpProtocol::TCP, IpProtocol::UDP].into(),
        destinations: vec![Destination {
            addresses: vec!["8.8.8.8".parse().unwrap()].into(),
            ports: PortRange {
                first: 53,
                last: 443,
            },
        }],
        origin: "acls[0], line 4".to_owned(),
    }]
}

#[test]
fn requests_and_answers() {
    insta::assert_json_snapshot!(
        "register-request",
        RegisterRequest {
            auth_key: Some("weir-key-k1-5ec2e7-pin".to_owned()),
            node_key: key(1),
            tags: BTreeSet::new(),
            host: host(),
            reauthenticate: false,
        }
    );
    insta::assert_json_snapshot!(
        "register-response",
        RegisterResponse {
            node_id: NodeId(1),
            name: "relay".parse().unwrap(),
            addresses: ["100.64.0.1".parse().unwrap()].into(),
            enrolled: true,
        }
    );
    insta::assert_json_snapshot!(
        "approval-request",
        ApprovalRequest {
            node_key: key(1),
            tags: BTreeSet::new(),
            host: host(),
            code: Some("00c0de".to_owned()),
            wait_seconds: 20,
        }
    );
    insta::assert_json_snapshot!(
        "approval-answers",
        [
            ApprovalAnswer::Pending {
                code: "00c0de".to_owned(),
                url: "https://c.example:8443/register/00c0de".to_owned(),
                expires_in_seconds: 900,
            },
            ApprovalAnswer::Approved,
            ApprovalAnswer::Denied {
                again_in_seconds: 800
            },
            ApprovalAnswer::Expired,
        ]
    );
    insta::assert_json_snapshot!("update-request", UpdateRequest { host: host() });
    insta::assert_json_snapshot!(
        "map-request",
        MapRequest {
            held: Some(Generation(7)),
            digest: None,
        }
    );
    insta::assert_json_snapshot!(
        "report-request",
        ReportRequest {
            generation: Generation(8),
            failures: vec![ItemFailure {
                item: "add route 8.8.8.8/32 in table 5701".to_owned(),
                reason: "Operation not permitted (EPERM)".to_owned(),
            }],
        }
    );
    insta::assert_json_snapshot!(
        "problem",
        ProblemDetails {
            code: ErrorCode::UsedAuthKey,
            status: 403,
            detail: "this one-off auth key was used already".to_owned(),
        }
    );
}

fn full() -> StreamMessage {
    StreamMessage::Full {
        map: Box::new(NetworkMap {
            generation: Generation(8),
            node: node(),
            peers: BTreeMap::from([(NodeId(2), peer())]),
            filter: filter(),
            notices: vec!["no policy is set".to_owned()],
        }),
    }
}

fn delta() -> StreamMessage {
    StreamMessage::Delta {
        delta: Box::new(MapDelta {
            from: Generation(8),
            to: Generation(9),
            node: None,
            peers_changed: BTreeMap::from([(NodeId(2), peer())]),
            peers_removed: [NodeId(3)].into(),
            filter: Some(filter()),
            notices: Some(Vec::new()),
        }),
    }
}

#[test]
fn stream_messages() {
    insta::assert_json_snapshot!("full", full());
    insta::assert_json_snapshot!("delta", delta());
    insta::assert_json_snapshot!(
        "heartbeat",
        StreamMessage::Heartbeat {
            generation: Generation(9)
        }
    );
    insta::assert_json_snapshot!(
        "closing",
        StreamMessage::Closing {
            reconnect_in_ms: 750
        }
    );
}

#[test]
fn the_addresses_of_routes_are_told_where_there_are_any() {
    let mut node = node();
    let without = serde_json::to_value(&node).unwrap();
    assert!(without.get("egress").is_none(), "as before there were any");
    assert_eq!(serde_json::from_value::<SelfNode>(without).unwrap(), node);
    let choice = |sources, address: &str| RouteEgress {
        route: "8.8.8.8/32".parse().unwrap(),
        sources,
        address: address.parse().unwrap(),
    };
    let some = vec!["100.64.0.2".parse().unwrap()].into();
    node.egress = vec![
        choice(Some(some), "203.0.113.9"),
        choice(None, "203.0.113.8"),
    ];
    let told = serde_json::to_value(&node).unwrap();
    assert_eq!(
        told["egress"],
        serde_json::json!([
            {"route": "8.8.8.8/32", "sources": ["100.64.0.2"], "address": "203.0.113.9"},
            {"route": "8.8.8.8/32", "address": "203.0.113.8"},
        ])
    );
    assert_eq!(serde_json::from_value::<SelfNode>(told).unwrap(), node);
}

#[test]
fn stream_messages_read_back() {
    for message in [full(), delta()] {
        let text = serde_json::to_string(&message).unwrap();
        let read: StreamMessage = serde_json::from_str(&text).unwrap();
        assert_eq!(read, message);
    }
}

#[test]
fn what_a_newer_writer_adds_is_passed_over() {
    let newer = r#"{"type":"heartbeat","generation":9,"load":0.5}"#;
    let read: StreamMessage = serde_json::from_str(newer).unwrap();
    assert_eq!(
        read,
        StreamMessage::Heartbeat {
            generation: Generation(9)
        }
    );
    let older: MapRequest = serde_json::from_str(r#"{"held":7}"#).unwrap();
    assert_eq!((older.held, older.digest), (Some(Generation(7)), None));
    let code: ErrorCode = serde_json::from_str("\"teapot\"").unwrap();
    assert_eq!(code, ErrorCode::Unknown);
}

#[test]
fn a_request_prints_without_its_auth_key() {
    let request = RegisterRequest {
        auth_key: Some("weir-key-k1-5ec2e7-pin".to_owned()),
        node_key: key(1),
        tags: BTreeSet::new(),
        host: host(),
        reauthenticate: false,
    };
    assert!(!format!("{request:?}").contains("5ec2e7"));
}
