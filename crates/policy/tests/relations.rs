//! What holds for all policies: `explain` agrees with the filters, `diff` is the difference of
//! what two policies allow, the canonical text of a policy is the same policy.

#![expect(
    clippy::unwrap_used,
    reason = "a test's own helpers fail like the test does"
)]

use proptest::{prelude::*, sample::subsequence};
use weir_overlay::{NodeId, UserId};
use weir_policy::{
    Change, CompiledPolicy, Directory, Miss, Packet, Policy, PolicyNode, User, compile, diff,
};
use weir_protocol::{IpProtocol, PortRange};

/// A user with two devices, another with one, a server, two relays and an exit.
fn directory() -> Directory {
    let user = |id| User {
        id: UserId(id),
        name: format!("u{id}"),
        email: None,
    };
    let node = |id: u64, user: u64, tags: &[&str], routes: &[&str]| {
        let addresses = [format!("100.64.0.{id}"), format!("fd77:6569:7200::{id}")];
        let node = PolicyNode {
            user: (user > 0).then_some(UserId(user)),
            tags: tags.iter().map(|tag| tag.parse().unwrap()).collect(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            approved_routes: routes.iter().map(|route| route.parse().unwrap()).collect(),
            ..PolicyNode::default()
        };
        (NodeId(id), node)
    };
    Directory {
        users: vec![user(1), user(2)],
        nodes: [
            node(1, 1, &[], &[]),
            node(2, 1, &[], &[]),
            node(3, 2, &[], &[]),
            node(4, 0, &["tag:s"], &[]),
            node(5, 0, &["tag:r"], &["10.20.0.0/24", "8.8.8.8/32"]),
            node(6, 0, &["tag:r", "tag:v"], &["8.8.8.8/32"]),
            node(7, 0, &["tag:v"], &["0.0.0.0/0"]),
        ]
        .into(),
        ..Directory::default()
    }
}

const GRANTS: [&str; 5] = [
    r#"{"src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["22", "udp:1-90"]}"#,
    r#"{"src": ["u1@"], "dst": ["8.8.8.8"], "ip": ["443"], "via": ["tag:v"]}"#,
    r#"{"src": ["*"], "dst": ["tag:s", "10.20.0.0/25"], "ip": ["tcp:1-80", "gre:*"]}"#,
    r#"{"src": ["u2@"], "dst": ["autogroup:internet"], "ip": ["*"]}"#,
    r#"{"src": ["tag:s"], "dst": ["*"], "ip": ["icmp:*", "udp:53"], "app": {"example.com/a": []}}"#,
];

const ACLS: [&str; 7] = [
    r#"{"action": "accept", "src": ["u1@"], "dst": ["tag:s:22,80"]}"#,
    r#"{"action": "accept", "src": ["10.20.0.0/24"], "dst": ["u1@:*"]}"#,
    r#"{"action": "accept", "src": ["*"], "dst": ["8.8.8.0/24:1-443"]}"#,
    r#"{"action": "accept", "src": ["u2@"], "dst": ["*:*"], "proto": "udp"}"#,
    r#"{"action": "deny", "src": ["u2@"], "dst": ["*:22"]}"#,
    r#"{"action": "deny", "src": ["100.64.0.1"], "dst": ["tag:s:*"], "proto": "tcp"}"#,
    r#"{"action": "deny", "src": ["*"], "dst": ["8.8.8.8:53"]}"#,
];

fn read(grants: &[&str], acls: &[&str]) -> Policy {
    Policy::parse(&format!(
        r#"{{"weir": {{"denyRules": true}}, "tagOwners": {{"tag:s": [], "tag:r": [], "tag:v": []}},
            "grants": [{}],
            "acls": [{}]}}"#,
        grants.join(",\n"),
        acls.join(",\n")
    ))
    .unwrap()
}

fn policy() -> impl Strategy<Value = Policy> {
    let acls = subsequence(ACLS.to_vec(), 0..=ACLS.len()).prop_shuffle();
    let grants = subsequence(GRANTS.to_vec(), 0..=GRANTS.len()).prop_shuffle();
    (grants, acls).prop_map(|(grants, acls)| read(&grants, &acls))
}

fn compiled() -> impl Strategy<Value = CompiledPolicy> {
    policy().prop_map(|policy| compile(&policy, &directory()))
}

fn packet() -> impl Strategy<Value = Packet> {
    let address = || {
        prop_oneof![
            (1u8..8).prop_map(|id| format!("100.64.0.{id}")),
            (1u8..8).prop_map(|id| format!("fd77:6569:7200::{id}")),
            prop::sample::select(vec![
                "10.20.0.7",
                "10.20.0.200",
                "8.8.8.8",
                "8.8.8.9",
                "192.168.1.1"
            ])
            .prop_map(str::to_owned),
        ]
    };
    let port = prop::sample::select(vec![0u16, 1, 22, 53, 80, 90, 443, 65535]);
    let protocol = prop::sample::select(vec![1u8, 6, 17, 47, 58]);
    (address(), address(), port, protocol).prop_map(|(source, destination, port, protocol)| {
        Packet {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            port,
            protocol: IpProtocol(protocol),
        }
    })
}

fn passes(ports: &PortRange, packet: &Packet) -> bool {
    match packet.protocol {
        IpProtocol::ICMP | IpProtocol::ICMPV6 => true,
        protocol if protocol.has_ports() => (ports.first..=ports.last).contains(&packet.port),
        _ => ports.is_all(),
    }
}

/// Whether a node's filter lets a packet in.
fn lets_in(compiled: &CompiledPolicy, node: NodeId, packet: &Packet) -> bool {
    compiled.filter(node).iter().any(|grant| {
        grant.protocols.contains(&packet.protocol)
            && grant.sources.contains(packet.source)
            && grant
                .destinations
                .iter()
                .any(|to| to.addresses.contains(packet.destination) && passes(&to.ports, packet))
    })
}

fn has(changes: &[Change], node: NodeId, packet: &Packet) -> usize {
    let is_it = |change: &&Change| {
        change.at == node
            && change.protocols.contains(&packet.protocol)
            && change.sources.contains(packet.source)
            && change.destinations.contains(packet.destination)
            && change.ports.iter().any(|ports| passes(ports, packet))
    };
    changes.iter().filter(is_it).count()
}

proptest! {
    #[test]
    fn an_explanation_agrees_with_the_filters(
        compiled in compiled(), packets in proptest::collection::vec(packet(), 30),
    ) {
        for packet in packets {
            let explanation = compiled.explain(&packet);
            for node in (1..=7).map(NodeId) {
                let allowed = explanation.allowed.iter().any(|by| by.at == node);
                prop_assert_eq!(allowed, lets_in(&compiled, node, &packet), "{:?}", packet);
            }
            prop_assert!(explanation.allowed.is_empty() || explanation.closest.is_none());
            if let Some(closest) = explanation.closest {
                prop_assert!(!closest.misses.is_empty());
            }
        }
    }

    #[test]
    fn a_difference_is_what_only_one_allows(
        old in compiled(), new in compiled(), packets in proptest::collection::vec(packet(), 30),
    ) {
        let diff = diff(&old, &new);
        for packet in packets {
            for node in (1..=7).map(NodeId) {
                let (before, after) = (lets_in(&old, node, &packet), lets_in(&new, node, &packet));
                // Once, if at all: nothing is told twice.
                prop_assert_eq!(has(&diff.gains, node, &packet), usize::from(after && !before));
                prop_assert_eq!(has(&diff.losses, node, &packet), usize::from(before && !after));
            }
        }
    }

    #[test]
    fn the_canonical_text_of_a_policy_is_the_same_policy(policy in policy()) {
        let text = policy.to_hujson();
        let again = Policy::parse(&text).unwrap();
        prop_assert_eq!(again.to_hujson(), text);
        let (one, two) = (compile(&policy, &directory()), compile(&again, &directory()));
        prop_assert!(one.grants().map(|(id, _)| id).eq(two.grants().map(|(id, _)| id)));
        for node in (1..=7).map(NodeId) {
            // Ids and all; where it is written is not part of it.
            let filter = |compiled: &CompiledPolicy| {
                let mut filter = compiled.filter(node);
                filter.iter_mut().for_each(|grant| grant.origin.clear());
                filter
            };
            prop_assert_eq!(filter(&one), filter(&two));
            prop_assert_eq!(one.rows(node), two.rows(node));
            prop_assert_eq!(one.peers(node), two.peers(node));
        }
        prop_assert_eq!(diff(&one, &two), weir_policy::PolicyDiff::default());
    }

    #[test]
    fn a_policy_does_not_differ_from_itself(compiled in compiled()) {
        prop_assert_eq!(diff(&compiled, &compiled), weir_policy::PolicyDiff::default());
    }
}

fn packet_of(source: &str, destination: &str, port: u16) -> Packet {
    Packet {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        port,
        protocol: IpProtocol::TCP,
    }
}

#[test]
fn what_comes_closest_is_named_with_all_that_is_missing() {
    let compiled = |grants: &[&str], acls: &[&str]| compile(&read(grants, acls), &directory());
    let all = compiled(&GRANTS[1..3], &ACLS[..2]);
    let closest = |packet: Packet| {
        let closest = all.explain(&packet).closest.unwrap();
        (closest.origin, closest.misses)
    };
    let by = |origin: &str, misses: &[Miss]| (origin.to_owned(), misses.to_vec());
    assert_eq!(
        closest(packet_of("100.64.0.1", "100.64.0.4", 443)),
        by("grants[1], line 3", &[Miss::Port])
    );
    assert_eq!(
        closest(packet_of("100.64.0.3", "8.8.8.8", 443)),
        by("grants[0], line 2", &[Miss::Source])
    );
    // In the prefix that a rule names, but nobody serves it.
    let unserved = compiled(
        &[r#"{"src": ["*"], "dst": ["10.0.0.0/8"], "ip": ["*"]}"#],
        &[],
    );
    let explanation = unserved.explain(&packet_of("100.64.0.1", "10.99.0.1", 80));
    assert!(explanation.served_by.is_empty());
    assert_eq!(explanation.closest.unwrap().misses, [Miss::NotServed]);
    let denied = compiled(&[], &[ACLS[5], ACLS[0]]);
    let explanation = denied.explain(&packet_of("100.64.0.1", "100.64.0.4", 22));
    assert_eq!(explanation.closest.unwrap().misses, [Miss::Denied]);
    let allowed = denied.explain(&packet_of("100.64.0.2", "100.64.0.4", 22));
    assert_eq!(allowed.allowed[0].origin, "acls[1], line 4");
    assert_eq!(allowed.allowed[0].at, NodeId(4));
}

#[test]
fn a_difference_names_who_and_what() {
    let one = |acl: &str| compile(&read(&[], &[acl]), &directory());
    let old = one(r#"{"action": "accept", "src": ["u1@", "u2@"], "dst": ["tag:s:22-80"]}"#);
    let new = one(r#"{"action": "accept", "src": ["u1@"], "dst": ["tag:s:22,443"]}"#);
    insta::assert_json_snapshot!(diff(&old, &new));
}
