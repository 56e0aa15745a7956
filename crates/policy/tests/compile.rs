//! What policies mean for a small network.

#![expect(
    clippy::unwrap_used,
    reason = "a test's own helpers fail like the test does"
)]

use ipnet::IpNet;
use std::{collections::BTreeSet, fmt::Write as _};
use weir_overlay::{GrantId, NodeId, Tag, UserId};
use weir_policy::{CompiledPolicy, Directory, Policy, PolicyNode, User, compile};

const ALICE: NodeId = NodeId(1);
const BOB: NodeId = NodeId(2);
const BUILD: NodeId = NodeId(3);
const RELAY: NodeId = NodeId(4);
const OFFICE: NodeId = NodeId(5);
const EXIT: NodeId = NodeId(6);

/// alice and bob with a device each, and four tagged nodes: a server, a relay for a public
/// service, a relay for an office and an exit.
fn directory() -> Directory {
    let user = |id, name: &str, email: Option<&str>| User {
        id: UserId(id),
        name: name.to_owned(),
        email: email.map(str::to_owned),
    };
    let node = |id: NodeId, user: Option<u64>, tags: &[&str], routes: &[&str]| {
        let addresses = [format!("100.64.0.{id}"), format!("fd77:6569:7200::{id}")];
        let node = PolicyNode {
            user: user.map(UserId),
            tags: tags.iter().map(|tag| tag.parse().unwrap()).collect(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            approved_routes: routes.iter().map(|route| route.parse().unwrap()).collect(),
            ..PolicyNode::default()
        };
        (id, node)
    };
    Directory {
        users: vec![
            user(1, "alice", Some("alice@example.com")),
            user(2, "bob", None),
        ],
        nodes: [
            node(ALICE, Some(1), &[], &[]),
            node(BOB, Some(2), &[], &[]),
            // Enrolled by alice, but tagged: it is the tag's, not hers.
            node(BUILD, Some(1), &["tag:build"], &[]),
            node(RELAY, None, &["tag:relay"], &["8.8.8.8/32", "8.8.4.4/32"]),
            node(OFFICE, None, &["tag:relay"], &["10.20.0.0/24"]),
            node(EXIT, None, &["tag:exit"], &["0.0.0.0/0", "::/0"]),
        ]
        .into(),
        ..Directory::default()
    }
}

fn policy(acls: &str) -> Policy {
    let text = format!(
        r#"{{
    "groups": {{"group:staff": ["alice@example.com", "bob@"], "group:empty": []}},
    "tagOwners": {{"tag:build": ["alice@example.com"], "tag:relay": ["tag:build"], "tag:exit": [],
                   "tag:unused": ["autogroup:member"]}},
    "hosts": {{"office": "10.20.0.0/24", "dns": "8.8.8.8"}},
    "acls": [
{acls}
    ],
}}"#
    );
    Policy::parse(&text)
        .unwrap_or_else(|found| panic!("{}", weir_policy::render(&found, &text, "")))
}

fn compiled(acls: &str) -> CompiledPolicy {
    compile(&policy(acls), &directory())
}

fn rule(src: &str, dst: &str) -> CompiledPolicy {
    compiled(&format!(
        r#"{{"action": "accept", "src": [{src}], "dst": [{dst}]}}"#
    ))
}

/// A node's filter, a line for each destination.
fn filter(compiled: &CompiledPolicy, node: NodeId) -> String {
    let mut text = String::new();
    for grant in compiled.filter(node) {
        for to in &grant.destinations {
            let ports = format!("{}-{}", to.ports.first, to.ports.last);
            let (from, to) = (grant.sources.ranges(), to.addresses.ranges());
            writeln!(
                text,
                "{from:?} > {to:?}:{ports} {:?} {}",
                grant.protocols, grant.origin
            )
            .unwrap();
        }
    }
    text
}

fn has_filter(compiled: &CompiledPolicy) -> Vec<NodeId> {
    (1..=6)
        .map(NodeId)
        .filter(|node| !compiled.filter(*node).is_empty())
        .collect()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[test]
fn without_a_policy_nothing_is_allowed() {
    for nothing in [Policy::empty(), policy("")] {
        let compiled = compile(&nothing, &directory());
        assert!(has_filter(&compiled).is_empty());
        assert!((1..=6).all(|node| compiled.peers(NodeId(node)).is_empty()));
    }
    assert!(!compile(&Policy::empty(), &directory()).is_set());
    assert!(compiled("").is_set());
}

#[test]
fn users_and_groups_are_their_untagged_nodes() {
    let to_alice = rule(r#""bob@""#, r#""alice@example.com:22,80-90""#);
    insta::assert_snapshot!(filter(&to_alice, ALICE), @"
    [100.64.0.2, fd77:6569:7200::2] > [100.64.0.1, fd77:6569:7200::1]:22-22 {icmp, tcp, udp, icmpv6} acls[0], line 7
    [100.64.0.2, fd77:6569:7200::2] > [100.64.0.1, fd77:6569:7200::1]:80-90 {icmp, tcp, udp, icmpv6} acls[0], line 7
    ");
    assert_eq!(has_filter(&to_alice), [ALICE]);
    assert_eq!(
        has_filter(&rule(r#""*""#, r#""group:staff:22""#)),
        [ALICE, BOB]
    );
    assert!(has_filter(&rule(r#""group:empty""#, r#""*:*""#)).is_empty());
    assert!(has_filter(&rule(r#""tag:unused""#, r#""*:*""#)).is_empty());
    assert_eq!(
        has_filter(&rule(r#""*""#, r#""autogroup:member:*""#)),
        [ALICE, BOB]
    );
    assert_eq!(
        has_filter(&rule(r#""*""#, r#""autogroup:tagged:*""#)),
        [BUILD, RELAY, OFFICE, EXIT]
    );
}

#[test]
fn a_relay_is_told_only_what_it_serves() {
    let relayed = rule(r#""alice@""#, r#""8.8.8.0/24:53", "office:*""#);
    insta::assert_snapshot!(filter(&relayed, RELAY), @"[100.64.0.1, fd77:6569:7200::1] > [8.8.8.8]:53-53 {icmp, tcp, udp, icmpv6} acls[0], line 7");
    insta::assert_snapshot!(filter(&relayed, OFFICE), @"[100.64.0.1, fd77:6569:7200::1] > [10.20.0.0/24]:0-65535 {icmp, tcp, udp, icmpv6} acls[0], line 7");
    assert_eq!(relayed.peers(ALICE), [RELAY, OFFICE].into());
    assert!(relayed.peers(BOB).is_empty());
    assert!(relayed.may_send_into(ALICE, &net("8.8.8.8/32")));
    assert!(!relayed.may_send_into(ALICE, &net("8.8.4.4/32")));
    assert!(!relayed.may_send_into(BOB, &net("8.8.8.8/32")));
}

#[test]
fn an_exit_serves_the_internet_and_nothing_private() {
    let exit = rule(r#""alice@""#, r#""autogroup:internet:*""#);
    insta::assert_snapshot!(filter(&exit, EXIT), @"[100.64.0.1, fd77:6569:7200::1] > [0.0.0.0-9.255.255.255, 11.0.0.0-100.63.255.255, 100.128.0.0-169.253.255.255, 169.255.0.0-172.15.255.255, 172.32.0.0-192.167.255.255, 192.169.0.0-255.255.255.255, 2000::/3]:0-65535 {icmp, tcp, udp, icmpv6} acls[0], line 7");
    assert_eq!(has_filter(&exit), [EXIT]);
    assert!(exit.may_send_into(ALICE, &net("0.0.0.0/0")));
    // Named services stay with those whom the policy names.
    assert!(!exit.may_send_into(ALICE, &net("8.8.8.8/32")));
    assert!(filter(&rule(r#""alice@""#, r#""10.0.0.0/8:*""#), EXIT).is_empty());
    assert!(!rule(r#""alice@""#, r#""10.0.0.0/8:*""#).may_send_into(ALICE, &net("0.0.0.0/0")));
    let everything = rule(r#""alice@""#, r#""*:*""#);
    assert!(everything.may_send_into(ALICE, &net("::/0")));
    assert!(!filter(&everything, EXIT).contains("192.168."));
}

#[test]
fn anywhere_is_the_overlay_and_the_approved_subnets() {
    insta::assert_snapshot!(filter(&rule(r#""*""#, r#""tag:build:22""#), BUILD), @"[8.8.4.4, 8.8.8.8, 10.20.0.0/24, 100.64.0.0/10, fd77:6569:7200::/48] > [100.64.0.3, fd77:6569:7200::3]:22-22 {icmp, tcp, udp, icmpv6} acls[0], line 7");
    let from_office = rule(r#""office""#, r#""tag:build:22""#);
    assert!(from_office.may_hear_from(BUILD, &net("10.20.0.0/24")));
    assert!(!from_office.may_hear_from(ALICE, &net("10.20.0.0/24")));
    assert!(!from_office.may_send_into(BUILD, &net("10.20.0.0/24")));
    assert_eq!(from_office.peers(BUILD), [OFFICE].into());
}

#[test]
fn protocols_and_ports() {
    let udp = r#"{"action": "accept", "src": ["tag:build"], "dst": ["dns:53"], "proto": "udp"}"#;
    insta::assert_snapshot!(filter(&compiled(udp), RELAY), @"[100.64.0.3, fd77:6569:7200::3] > [8.8.8.8]:53-53 {udp} acls[0], line 7");
    let literal = rule(
        r#""fd77:6569:7200::1""#,
        r#""[fd77:6569:7200::3]:22", "100.64.0.3/32:22""#,
    );
    insta::assert_snapshot!(filter(&literal, BUILD), @"
    [fd77:6569:7200::1] > [fd77:6569:7200::3]:22-22 {icmp, tcp, udp, icmpv6} acls[0], line 7
    [fd77:6569:7200::1] > [100.64.0.3]:22-22 {icmp, tcp, udp, icmpv6} acls[0], line 7
    ");
    assert_eq!(literal.peers(BUILD), [ALICE].into());
}

fn ids(policy: &Policy) -> BTreeSet<GrantId> {
    compile(policy, &directory())
        .grants()
        .map(|(id, _)| id)
        .collect()
}

#[test]
fn ids_survive_edits_elsewhere_and_lead_back_to_the_policy() {
    let staff =
        r#"{"action": "accept", "src": ["group:staff", "tag:build"], "dst": ["office:*"]},"#;
    let other =
        r#"{"action": "accept", "src": ["bob@"], "dst": ["dns:53", "dns:443", "office:80"]},"#;
    let before = ids(&policy(staff));
    let after = ids(&policy(&format!(
        "{other}\n// moved\n{}",
        staff.replace(", ", " ,  ")
    )));
    // One id for each destination of an entry, the ports of one destination together.
    assert_eq!((before.len(), after.len()), (1, 3));
    assert!(before.is_subset(&after));
    let turned =
        r#"{"action": "accept", "dst": ["office:*"], "src": ["tag:build", "group:staff"]},"#;
    assert_eq!(ids(&policy(turned)), before);

    let compiled = compiled(&format!("{other}\n{staff}\n{staff}"));
    let origins: Vec<_> = compiled.grants().map(|(_, origin)| origin).collect();
    assert_eq!(
        origins,
        [
            "acls[0], line 7",
            "acls[0], line 7",
            "acls[1], line 8",
            "acls[2], line 9"
        ]
    );
    let ids: BTreeSet<_> = compiled.grants().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), 4);
    assert!(ids.iter().all(|id| compiled.origin(*id).is_some()));
}

#[test]
fn tags_are_given_by_their_owners() {
    let policy = policy("");
    let directory = directory();
    let [alice, bob] = directory.users.as_slice() else {
        panic!("two users");
    };
    let tag = |text: &str| text.parse::<Tag>().unwrap();
    let none = BTreeSet::new();
    assert!(policy.may_take_tag(&tag("tag:build"), Some(alice), &none));
    assert!(!policy.may_take_tag(&tag("tag:build"), Some(bob), &none));
    assert!(policy.may_take_tag(&tag("tag:unused"), Some(bob), &none));
    assert!(!policy.may_take_tag(&tag("tag:unused"), None, &none));
    assert!(policy.may_take_tag(&tag("tag:relay"), None, &[tag("tag:build")].into()));
    assert!(!policy.may_take_tag(&tag("tag:exit"), Some(alice), &none));
    assert!(!policy.may_take_tag(&tag("tag:other"), Some(alice), &none));
}

#[test]
fn peers_are_mutual() {
    let compiled = compiled(
        r#"{"action": "accept", "src": ["group:staff"], "dst": ["office:*", "tag:build:22"]},
           {"action": "accept", "src": ["10.20.0.0/24"], "dst": ["bob@:*"]},
           {"action": "accept", "src": ["tag:build"], "dst": ["autogroup:internet:*"]},"#,
    );
    for a in (1..=6).map(NodeId) {
        for b in compiled.peers(a) {
            assert!(compiled.peers(b).contains(&a), "{a} {b}");
        }
        assert!(!compiled.peers(a).contains(&a));
    }
}
