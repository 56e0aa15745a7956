//! A policy that follows one change of the network after another says what one that is compiled
//! anew says, and names those whose answers differ.

#![expect(
    clippy::unwrap_used,
    reason = "a test's own helpers fail like the test does"
)]

use ipnet::IpNet;
use proptest::{
    prelude::*, sample::subsequence, strategy::ValueTree as _, test_runner::TestRunner,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use weir_overlay::{GrantId, NodeId, UserId};
use weir_policy::{
    CompiledPolicy, Directory, LivePolicy, Policy, PolicyNode, Posture, Row, User, Ways, compile,
};
use weir_protocol::Grant;

const ROUTES: [&str; 8] = [
    "0.0.0.0/0",
    "::/0",
    "8.8.8.8/32",
    "10.0.0.0/8",
    "10.20.0.0/24",
    "192.168.1.0/24",
    "2001:db8:7::/48",
    // Refused by the coordinator: it holds the addresses of nodes.
    "100.64.0.0/30",
];

const GRANTS: [&str; 12] = [
    r#"{"src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["22"]}"#,
    r#"{"src": ["group:g", "u2@"], "dst": ["autogroup:self"], "ip": ["80"], "srcPosture": ["posture:linux"]}"#,
    r#"{"src": ["u1@"], "dst": ["8.8.8.8"], "ip": ["443"], "via": ["tag:v"]}"#,
    r#"{"src": ["*"], "dst": ["tag:s", "10.20.0.0/25"], "ip": ["tcp:1-80"]}"#,
    r#"{"src": ["u2@"], "dst": ["autogroup:internet"], "ip": ["*"], "via": ["tag:v"]}"#,
    r#"{"src": ["tag:s"], "dst": ["*"], "ip": ["udp:53"], "app": {"example.com/a": []}}"#,
    r#"{"src": ["group:g"], "dst": ["10.0.0.0/8", "office"], "ip": ["*"]}"#,
    r#"{"src": ["autogroup:danger-all"], "dst": ["tag:v"], "ip": ["80"]}"#,
    r#"{"src": ["autogroup:tagged"], "dst": ["10.0.0.0/8"], "app": {"example.com/b": []}}"#,
    r#"{"src": ["*"], "dst": ["ipset:i"], "ip": ["tcp:25"], "srcPosture": ["posture:linux"]}"#,
    r#"{"src": ["ipset:i", "u1@"], "dst": ["autogroup:member"], "ip": ["udp:1"]}"#,
    r#"{"src": ["user:*@example.com", "office"], "dst": ["group:g"], "ip": ["2"], "via": ["tag:s"]}"#,
];

const ACLS: [&str; 9] = [
    r#"{"action": "accept", "src": ["u1@"], "dst": ["tag:s:22,80"]}"#,
    r#"{"action": "accept", "src": ["10.20.0.0/24"], "dst": ["u1@:*"]}"#,
    r#"{"action": "accept", "src": ["*", "192.168.0.0/16"], "dst": ["8.8.8.0/24:1-443"]}"#,
    r#"{"action": "accept", "src": ["u2@"], "dst": ["*:*"], "proto": "udp"}"#,
    r#"{"action": "accept", "src": ["100.64.0.0/29"], "dst": ["autogroup:internet:*"]}"#,
    r#"{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:tagged:443"]}"#,
    r#"{"action": "accept", "src": ["tag:v", "10.0.0.0/9"], "dst": ["0.0.0.0/0:7", "u3@:8"]}"#,
    r#"{"action": "accept", "src": ["*", "tag:s"], "dst": ["100.64.0.2-100.64.0.5:9"]}"#,
    r#"{"action": "accept", "src": ["group:g"], "dst": ["user:*@example.com:11"]}"#,
];

const DENIED: [&str; 3] = [
    r#"{"action": "deny", "src": ["u2@"], "dst": ["*:22"]}"#,
    r#"{"action": "deny", "src": ["100.64.0.1"], "dst": ["tag:s:*"], "proto": "tcp"}"#,
    r#"{"action": "deny", "src": ["*"], "dst": ["8.8.8.8:53"]}"#,
];

const ATTRIBUTES: [&str; 3] = [
    "",
    r#""nodeAttrs": [{"target": ["tag:s"], "attr": ["disable-ipv4"]}],"#,
    r#""nodeAttrs": [{"target": ["group:g", "tag:v"], "attr": ["disable-ipv4"]}],"#,
];

fn policy(denied: usize) -> impl Strategy<Value = Arc<Policy>> {
    let acls = (
        subsequence(ACLS.to_vec(), 0..=ACLS.len()),
        subsequence(DENIED.to_vec(), 0..=denied),
    );
    let acls = acls.prop_map(|(acls, denied)| [acls, denied].concat());
    let grants = subsequence(GRANTS.to_vec(), 0..=GRANTS.len()).prop_shuffle();
    let attributes = prop::sample::select(ATTRIBUTES.to_vec());
    (grants, acls.prop_shuffle(), attributes).prop_map(|(grants, acls, attributes)| {
        let policy = Policy::parse(&format!(
            r#"{{"weir": {{"denyRules": true}}, "tagOwners": {{"tag:s": [], "tag:v": []}},
                "groups": {{"group:g": ["u1@", "u3@"]}}, {attributes}
                "hosts": {{"office": "192.168.1.0/25"}},
                "postures": {{"posture:linux": ["node:os == 'linux'"]}},
                "ipsets": {{"ipset:i": ["add 10.20.0.0/16", "add 100.64.0.3", "remove 10.20.1.0/24"]}},
                "grants": [{}], "acls": [{}]}}"#,
            grants.join(","),
            acls.join(",")
        ));
        Arc::new(policy.unwrap())
    })
}

/// A node as it is from now on, or none any more. A few have another's address.
fn change(strange: u32) -> impl Strategy<Value = (NodeId, Option<PolicyNode>)> {
    let routes = ROUTES.len() - usize::from(strange == 0);
    let node = (
        0u64..4,
        prop_oneof![3 => Just(vec![]), 4 => subsequence(vec!["tag:s", "tag:v"], 1..=2)],
        prop_oneof![2 => Just(vec![]), 3 => subsequence(ROUTES[..routes].to_vec(), 0..=3)],
        prop::sample::select(vec![None, Some("linux"), Some("macos")]),
        prop_oneof![9 => Just(false), strange => Just(true)],
    );
    let node = prop_oneof![1 => Just(None), 3 => node.prop_map(Some)];
    (1u64..9, node).prop_map(|(id, node)| {
        let node = node.map(|(user, tags, routes, os, is_strange)| {
            let at = if is_strange { 1 } else { id };
            let addresses = [format!("100.64.0.{at}"), format!("fd77:6569:7200::{at}")];
            PolicyNode {
                user: (user > 0).then_some(UserId(user)),
                tags: tags.iter().map(|tag| tag.parse().unwrap()).collect(),
                addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
                approved_routes: routes.iter().map(|route| route.parse().unwrap()).collect(),
                posture: Posture {
                    os: os.map(str::to_owned),
                    ..Posture::default()
                },
            }
        });
        (NodeId(id), node)
    })
}

fn network() -> Directory {
    let user = |id| User {
        id: UserId(id),
        name: format!("u{id}"),
        email: (id > 1).then(|| format!("u{id}@example.com")),
    };
    Directory {
        users: (1..4).map(user).collect(),
        ..Directory::default()
    }
}

#[derive(Debug, PartialEq)]
struct Told {
    filter: Vec<Grant>,
    peers: BTreeSet<NodeId>,
    routes: Vec<(Ways, bool)>,
    ways: BTreeMap<IpNet, Ways>,
    heard: BTreeSet<IpNet>,
    without_ipv4: bool,
}

/// All that a policy says to its nodes.
fn told(compiled: &CompiledPolicy, directory: &Directory) -> BTreeMap<NodeId, Told> {
    let routes = ROUTES.map(|route| route.parse::<IpNet>().unwrap());
    let told = |node: NodeId| Told {
        filter: compiled.filter(node),
        peers: compiled.peers(node),
        routes: (routes.iter())
            .map(|route| {
                let hears = compiled.may_hear_from(node, route);
                (compiled.ways_into(node, route), hears)
            })
            .collect(),
        ways: compiled.ways(node),
        heard: compiled.heard_routes(node),
        without_ipv4: compiled.is_without_ipv4(node),
    };
    let nodes = directory.nodes.keys().copied();
    nodes.map(|node| (node, told(node))).collect()
}

fn differing(before: &BTreeMap<NodeId, Told>, after: &BTreeMap<NodeId, Told>) -> BTreeSet<NodeId> {
    let nodes = before.keys().chain(after.keys()).copied();
    nodes.filter(|id| before.get(id) != after.get(id)).collect()
}

/// What it says to people.
fn shown(
    compiled: &CompiledPolicy,
    directory: &Directory,
) -> (BTreeMap<GrantId, String>, Vec<Vec<Row>>) {
    let grants = compiled.grants();
    let rows = directory.nodes.keys().map(|node| compiled.rows(*node));
    (
        grants.map(|(id, origin)| (id, origin.to_owned())).collect(),
        rows.collect(),
    )
}

/// Makes the changes one by one. Tells how many nodes were named, and how many of these without
/// need.
fn follow(
    policy: &Arc<Policy>,
    changes: Vec<(NodeId, Option<PolicyNode>)>,
) -> Result<(usize, usize), TestCaseError> {
    let mut live = LivePolicy::new(Arc::clone(policy), network());
    let mut before = told(live.compiled(), live.directory());
    let (mut named, mut in_vain) = (0, 0);
    for (id, node) in changes {
        let touched = live.set_node(id, node.clone());
        let anew = compile(policy, live.directory());
        let after = told(&anew, live.directory());
        prop_assert_eq!(&told(live.compiled(), live.directory()), &after);
        prop_assert_eq!(
            shown(live.compiled(), live.directory()),
            shown(&anew, live.directory())
        );
        let differing = differing(&before, &after);
        prop_assert!(
            touched.is_superset(&differing),
            "{touched:?} are named, {differing:?} differ, after {id} became {node:?}"
        );
        named += touched.len();
        in_vain += touched
            .difference(&differing)
            .filter(|other| **other != id)
            .count();
        prop_assert_eq!(live.set_node(id, node), BTreeSet::new());
        before = after;
    }
    Ok((named, in_vain))
}

/// What happens to a network and its policy.
#[derive(Clone, Debug)]
enum Event {
    Node(NodeId, Box<Option<PolicyNode>>),
    Policy(Arc<Policy>),
}

/// A policy of these rules, and of others that hold the rules' ends.
fn edited(rules: &[usize], ports: &[u16]) -> Arc<Policy> {
    const ENDS: [(&str, &str); 9] = [
        ("tag:s", "tag:v"),
        ("tag:v", "tag:s"),
        ("group:g", "10.20.0.0/24"),
        ("u1@", "autogroup:self"),
        ("*", "tag:s"),
        ("10.20.0.0/24", "u1@"),
        ("autogroup:member", "autogroup:internet"),
        ("tag:s", "8.8.8.8"),
        ("u2@", "*"),
    ];
    let rule = |(end, port): (&usize, &u16)| {
        let (from, to) = ENDS[*end % ENDS.len()];
        format!(r#"{{"action": "accept", "src": ["{from}"], "dst": ["{to}:{port}"]}},"#)
    };
    let rules: String = rules.iter().zip(ports).map(rule).collect();
    let policy = Policy::parse(&format!(
        r#"{{"tagOwners": {{"tag:s": [], "tag:v": []}}, "groups": {{"group:g": ["u1@", "u3@"]}},
            "acls": [{rules}]}}"#
    ));
    Arc::new(policy.unwrap())
}

fn event() -> impl Strategy<Value = Event> {
    let ports = prop::sample::select(vec![1_u16, 2]);
    // Mostly with all ends, in any order.
    let more = proptest::collection::vec(0_usize..9, 5..8);
    let rules = more.prop_map(|more| (0..9).chain(more).take(15).collect::<Vec<_>>());
    let policy = (rules.prop_shuffle(), proptest::collection::vec(ports, 15));
    prop_oneof![
        change(0).prop_map(|(id, node)| Event::Node(id, Box::new(node))),
        policy.prop_map(|(rules, ports)| Event::Policy(edited(&rules, &ports))),
    ]
}

/// Policies and nodes take turns. Tells how often a policy was put in force rule by rule.
fn edit(events: Vec<Event>) -> Result<usize, TestCaseError> {
    let ports = [1; 15];
    let mut policy = edited(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3, 4, 5], &ports);
    let mut live = LivePolicy::new(Arc::clone(&policy), network());
    let mut before = told(live.compiled(), live.directory());
    let mut patched = 0;
    for event in events {
        let touched = match event.clone() {
            Event::Node(id, node) => live.set_node(id, *node),
            Event::Policy(next) => {
                policy = next;
                let mut prepared = live.prepare(Arc::clone(&policy), None);
                patched += usize::from(prepared.compiled().is_none());
                live.put_in_force(&mut prepared)
            }
        };
        let anew = compile(&policy, live.directory());
        let after = told(&anew, live.directory());
        prop_assert_eq!(&told(live.compiled(), live.directory()), &after);
        prop_assert_eq!(
            shown(live.compiled(), live.directory()),
            shown(&anew, live.directory())
        );
        let differing = differing(&before, &after);
        prop_assert!(
            touched.is_superset(&differing),
            "{touched:?} are named, {differing:?} differ, after {event:?}"
        );
        before = after;
    }
    Ok(patched)
}

#[test]
fn a_policy_with_a_few_other_rules_is_put_in_force_rule_by_rule() {
    let mut runner = TestRunner::deterministic();
    let mut patched = 0;
    for _ in 0..15 {
        let events = proptest::collection::vec(event(), 12..20);
        let events = events.new_tree(&mut runner).unwrap().current();
        patched += edit(events).unwrap();
    }
    // What the property below is about happens.
    assert!(patched > 40, "{patched}");
}

#[test]
fn hardly_a_node_is_named_in_vain() {
    let mut runner = TestRunner::deterministic();
    let (mut named, mut in_vain) = (0, 0);
    for _ in 0..60 {
        let policy = policy(0).new_tree(&mut runner).unwrap().current();
        let changes = proptest::collection::vec(change(0), 12..20);
        let changes = changes.new_tree(&mut runner).unwrap().current();
        let (more, vainly) = follow(&policy, changes).unwrap();
        named += more;
        in_vain += vainly;
    }
    assert!(in_vain * 100 < named, "{in_vain} of {named}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_policy_whose_rules_are_replaced_is_like_a_new_one(
        events in proptest::collection::vec(event(), 1..12),
    ) {
        edit(events)?;
    }

    #[test]
    fn a_policy_that_lives_is_like_a_new_one(
        policy in policy(0), changes in proptest::collection::vec(change(0), 1..12),
    ) {
        follow(&policy, changes)?;
    }

    #[test]
    fn so_it_is_where_one_node_decides_about_others(
        policy in policy(DENIED.len()), changes in proptest::collection::vec(change(1), 1..8),
    ) {
        follow(&policy, changes)?;
    }
}
