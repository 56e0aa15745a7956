//! `changed_nodes` names exactly those whose filter, peers or ways into routes differ, whether the
//! policy changed or the network.

#![expect(
    clippy::unwrap_used,
    reason = "a test's own helpers fail like the test does"
)]

use ipnet::IpNet;
use proptest::{prelude::*, sample::subsequence};
use std::collections::BTreeSet;
use weir_overlay::{NodeId, UserId};
use weir_policy::{
    CompiledPolicy, Directory, Policy, PolicyNode, User, Ways, changed_nodes, compile,
};
use weir_protocol::Grant;

const ROUTES: [&str; 6] = [
    "0.0.0.0/0",
    "::/0",
    "8.8.8.8/32",
    "10.0.0.0/8",
    "10.20.0.0/24",
    "192.168.1.0/24",
];

const GRANTS: [&str; 8] = [
    r#"{"src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["22"]}"#,
    r#"{"src": ["u1@"], "dst": ["8.8.8.8"], "ip": ["443"], "via": ["tag:v"]}"#,
    r#"{"src": ["*"], "dst": ["tag:s", "10.20.0.0/25"], "ip": ["tcp:1-80"]}"#,
    r#"{"src": ["u2@"], "dst": ["autogroup:internet"], "ip": ["*"], "via": ["tag:v"]}"#,
    r#"{"src": ["tag:s"], "dst": ["*"], "ip": ["udp:53"], "app": {"example.com/a": []}}"#,
    r#"{"src": ["group:g"], "dst": ["10.0.0.0/8"], "ip": ["*"]}"#,
    r#"{"src": ["autogroup:danger-all"], "dst": ["tag:v"], "ip": ["80"]}"#,
    r#"{"src": ["autogroup:tagged"], "dst": ["10.0.0.0/8"], "app": {"example.com/b": []}}"#,
];

const ACLS: [&str; 9] = [
    r#"{"action": "accept", "src": ["u1@"], "dst": ["tag:s:22,80"]}"#,
    r#"{"action": "accept", "src": ["10.20.0.0/24"], "dst": ["u1@:*"]}"#,
    r#"{"action": "accept", "src": ["*"], "dst": ["8.8.8.0/24:1-443"]}"#,
    r#"{"action": "accept", "src": ["u2@"], "dst": ["*:*"], "proto": "udp"}"#,
    r#"{"action": "accept", "src": ["100.64.0.0/29"], "dst": ["autogroup:internet:*"]}"#,
    r#"{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:tagged:443"]}"#,
    r#"{"action": "deny", "src": ["u2@"], "dst": ["*:22"]}"#,
    r#"{"action": "deny", "src": ["100.64.0.1"], "dst": ["tag:s:*"], "proto": "tcp"}"#,
    r#"{"action": "deny", "src": ["*"], "dst": ["8.8.8.8:53"]}"#,
];

fn policy() -> impl Strategy<Value = Policy> {
    let acls = subsequence(ACLS.to_vec(), 0..=ACLS.len()).prop_shuffle();
    let grants = subsequence(GRANTS.to_vec(), 0..=GRANTS.len()).prop_shuffle();
    let attributes = prop::sample::select(vec![
        "",
        r#""nodeAttrs": [{"target": ["tag:s"], "attr": ["disable-ipv4"]}],"#,
    ]);
    (grants, acls, attributes).prop_map(|(grants, acls, attributes)| {
        Policy::parse(&format!(
            r#"{{"weir": {{"denyRules": true}}, "tagOwners": {{"tag:s": [], "tag:v": []}},
                "groups": {{"group:g": ["u1@", "u3@"]}}, {attributes}
                "grants": [{}], "acls": [{}]}}"#,
            grants.join(","),
            acls.join(",")
        ))
        .unwrap()
    })
}

fn node() -> impl Strategy<Value = (u64, Vec<&'static str>, Vec<&'static str>)> {
    (
        0u64..4,
        subsequence(vec!["tag:s", "tag:v"], 0..=2),
        subsequence(ROUTES.to_vec(), 0..=3),
    )
}

fn set(
    directory: &mut Directory,
    id: u64,
    (user, tags, routes): (u64, Vec<&'static str>, Vec<&'static str>),
) {
    let addresses = [format!("100.64.0.{id}"), format!("fd77:6569:7200::{id}")];
    let node = PolicyNode {
        user: (user > 0).then_some(UserId(user)),
        tags: tags.iter().map(|tag| tag.parse().unwrap()).collect(),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        approved_routes: routes.iter().map(|route| route.parse().unwrap()).collect(),
        ..PolicyNode::default()
    };
    directory.nodes.insert(NodeId(id), node);
}

fn directory() -> impl Strategy<Value = Directory> {
    proptest::collection::vec(node(), 1..8).prop_map(|nodes| {
        let user = |id| User {
            id: UserId(id),
            name: format!("u{id}"),
            email: None,
        };
        let mut directory = Directory {
            users: (1..4).map(user).collect(),
            ..Directory::default()
        };
        for (node, id) in nodes.into_iter().zip(1..) {
            set(&mut directory, id, node);
        }
        directory
    })
}

type Told = (bool, Vec<Grant>, BTreeSet<NodeId>, Vec<(Ways, bool)>, bool);

/// All that a compiled policy says about a node.
fn told(compiled: &CompiledPolicy, directory: &Directory, node: NodeId) -> Told {
    let routes = ROUTES.iter().map(|route| route.parse::<IpNet>().unwrap());
    let routes = routes.map(|route| {
        let hears = compiled.may_hear_from(node, &route);
        (compiled.ways_into(node, &route), hears)
    });
    (
        directory.nodes.contains_key(&node),
        compiled.filter(node),
        compiled.peers(node),
        routes.collect(),
        compiled.is_without_ipv4(node),
    )
}

fn by_asking_all(
    (old, before): (&CompiledPolicy, &Directory),
    (new, after): (&CompiledPolicy, &Directory),
) -> BTreeSet<NodeId> {
    let nodes = before.nodes.keys().chain(after.nodes.keys()).copied();
    nodes
        .filter(|node| told(old, before, *node) != told(new, after, *node))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn an_edit_touches_those_whose_answers_differ(
        directory in directory(), one in policy(), other in policy(),
    ) {
        let (old, new) = (compile(&one, &directory), compile(&other, &directory));
        prop_assert_eq!(
            changed_nodes(&old, &new),
            by_asking_all((&old, &directory), (&new, &directory))
        );
        prop_assert_eq!(changed_nodes(&old, &old), BTreeSet::new());
    }

    #[test]
    fn a_change_of_the_network_touches_those_whose_answers_differ(
        directory in directory(), policy in policy(),
        changes in proptest::collection::vec((1u64..10, proptest::option::of(node())), 1..6),
    ) {
        let mut before = directory;
        let mut old = compile(&policy, &before);
        for (id, change) in changes {
            let mut after = before.clone();
            match change {
                Some(node) => set(&mut after, id, node),
                None => drop(after.nodes.remove(&NodeId(id))),
            }
            let new = compile(&policy, &after);
            prop_assert_eq!(
                changed_nodes(&old, &new),
                by_asking_all((&old, &before), (&new, &after))
            );
            (before, old) = (after, new);
        }
    }
}
