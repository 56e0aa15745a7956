//! The maps of a small network: a relay for a public service that two teams use differently, and
//! an office behind a second relay.

#![expect(
    clippy::unwrap_used,
    reason = "a test's own helpers fail like the test does"
)]

use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};
use weir_netmap::{
    NO_POLICY_NOTICE, Network, NetworkState, Node, RouteDecision, apply, check_map, delta,
};
use weir_overlay::{Generation, NodeId, NodePublicKey, UserId};
use weir_policy::{Policy, User};
use weir_protocol::{HostInfo, NetworkMap, RouteState};

const ALICE: NodeId = NodeId(1);
const BOB: NodeId = NodeId(2);
const BUILD: NodeId = NodeId(3);
const RELAY: NodeId = NodeId(4);
const OFFICE: NodeId = NodeId(5);

const POLICY: &str = r#"{
    "groups": {
        "group:finance": ["alice@example.com"],
        "group:staff": ["alice@example.com", "bob@"],
    },
    "tagOwners": {"tag:build": [], "tag:relay": []},
    "hosts": {"service": "8.8.8.8", "office": "10.20.0.0/24"},
    "acls": [
        // The service admits our relay's address only; finance may use it.
        {"action": "accept", "src": ["group:finance"], "dst": ["service:443"], "proto": "tcp"},
        {"action": "accept", "src": ["group:finance", "tag:build"], "dst": ["service:53"], "proto": "udp"},
        {"action": "accept", "src": ["group:staff"], "dst": ["office:*"]},
    ],
}"#;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn node(id: NodeId, name: &str) -> Node {
    let addresses = [format!("100.64.0.{id}"), format!("fd77:6569:7200::{id}")];
    Node {
        id,
        name: name.parse().unwrap(),
        user: None,
        tags: BTreeSet::new(),
        node_key: NodePublicKey::from_bytes([u8::try_from(id.0).unwrap(); 32]),
        key_life: weir_netmap::KeyLife::Unlimited,
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        created: 1_700_000_000 + i64::try_from(id.0).unwrap(),
        host: HostInfo {
            hostname: name.to_owned(),
            listen_port: 51920,
            ..HostInfo::default()
        },
        decisions: [].into(),
        observed_address: None,
        egress: BTreeMap::new(),
        healthy: true,
    }
}

fn of_user(user: u64, node: Node) -> Node {
    let addresses = [format!("192.168.{user}.10").parse().unwrap()];
    Node {
        user: Some(UserId(user)),
        host: HostInfo {
            addresses: addresses.into(),
            ..node.host
        },
        // Both are behind NAT.
        observed_address: Some(format!("198.51.100.{user}").parse().unwrap()),
        ..node
    }
}

fn relay(node: Node, public: &str, routes: &[&str]) -> Node {
    Node {
        tags: ["tag:relay".parse().unwrap()].into(),
        host: HostInfo {
            addresses: [public.parse().unwrap()].into(),
            advertised_routes: routes.iter().map(|route| net(route)).collect(),
            ..node.host
        },
        observed_address: Some(public.parse().unwrap()),
        ..node
    }
}

/// The network before an admin has approved anything.
fn network() -> NetworkState {
    let user = |id, name: &str, email: Option<&str>| User {
        id: UserId(id),
        name: name.to_owned(),
        email: email.map(str::to_owned),
    };
    let build = Node {
        tags: ["tag:build".parse().unwrap()].into(),
        ..node(BUILD, "build")
    };
    let nodes = [
        of_user(1, node(ALICE, "alice")),
        of_user(2, node(BOB, "bob")),
        build,
        relay(
            node(RELAY, "relay"),
            "203.0.113.7",
            &["8.8.8.8/32", "8.8.4.4/32"],
        ),
        relay(node(OFFICE, "office"), "203.0.113.20", &["10.20.0.0/24"]),
    ];
    let users = [
        user(1, "alice", Some("alice@example.com")),
        user(2, "bob", None),
    ];
    NetworkState {
        users: users.into_iter().map(|user| (user.id, user)).collect(),
        nodes: nodes.into_iter().map(|node| (node.id, node)).collect(),
        ..NetworkState::default()
    }
}

fn decide(state: &mut NetworkState, node: NodeId, route: &str, decision: RouteDecision) {
    let node = state.nodes.get_mut(&node).unwrap();
    node.decisions.insert(net(route), decision);
}

fn approved() -> NetworkState {
    let mut state = network();
    for (node, route) in [
        (RELAY, "8.8.8.8/32"),
        (RELAY, "8.8.4.4/32"),
        (OFFICE, "10.20.0.0/24"),
    ] {
        decide(&mut state, node, route, RouteDecision::Approved);
    }
    state
}

fn map_under(state: &NetworkState, policy: &Policy, node: NodeId) -> NetworkMap {
    let map = Network::new(state, policy)
        .map(node, Generation(7))
        .unwrap();
    assert_eq!(check_map(&map), []);
    map
}

fn map(state: &NetworkState, node: NodeId) -> NetworkMap {
    map_under(state, &Policy::parse(POLICY).unwrap(), node)
}

/// A map as a person would sum it up.
fn summary(map: &NetworkMap) -> String {
    let mut text = format!("{} {:?}\n", map.node.name, map.node.addresses);
    for route in &map.node.routes {
        writeln!(text, "  route {} {:?}", route.prefix, route.state).unwrap();
    }
    for peer in map.peers.values() {
        write!(
            text,
            "  peer {} of {:?} {:?}",
            peer.name, peer.user, peer.tags
        )
        .unwrap();
        write!(text, " routes {:?}", peer.routes).unwrap();
        if !peer.source_prefixes.is_empty() {
            write!(text, " sources {:?}", peer.source_prefixes).unwrap();
        }
        writeln!(text, " at {:?}", peer.endpoint).unwrap();
    }
    for grant in &map.filter {
        for to in &grant.destinations {
            let (from, addresses) = (grant.sources.ranges(), to.addresses.ranges());
            let (first, last) = (to.ports.first, to.ports.last);
            write!(text, "  accept {from:?} > {addresses:?}:{first}-{last}").unwrap();
            writeln!(text, " {:?} ({})", grant.protocols, grant.origin).unwrap();
        }
    }
    for notice in &map.notices {
        writeln!(text, "  notice {notice}").unwrap();
    }
    text
}

#[test]
fn everyone_is_told_what_concerns_them() {
    let state = approved();
    let all: String = state
        .nodes
        .keys()
        .map(|id| summary(&map(&state, *id)))
        .collect();
    insta::assert_snapshot!(all, @r#"
    alice {100.64.0.1, fd77:6569:7200::1}
      peer relay of None {"tag:relay"} routes {8.8.8.8/32} at Some(203.0.113.7:51920)
      peer office of None {"tag:relay"} routes {10.20.0.0/24} at Some(203.0.113.20:51920)
    bob {100.64.0.2, fd77:6569:7200::2}
      peer office of None {"tag:relay"} routes {10.20.0.0/24} at Some(203.0.113.20:51920)
    build {100.64.0.3, fd77:6569:7200::3}
      peer relay of None {"tag:relay"} routes {8.8.8.8/32} at Some(203.0.113.7:51920)
    relay {100.64.0.4, fd77:6569:7200::4}
      route 8.8.4.4/32 Serving
      route 8.8.8.8/32 Serving
      peer alice of Some("alice") {} routes {} at None
      peer build of None {"tag:build"} routes {} at None
      accept [100.64.0.1, fd77:6569:7200::1] > [8.8.8.8]:443-443 {tcp} (acls[0], line 10)
      accept [100.64.0.1, 100.64.0.3, fd77:6569:7200::1, fd77:6569:7200::3] > [8.8.8.8]:53-53 {udp} (acls[1], line 11)
    office {100.64.0.5, fd77:6569:7200::5}
      route 10.20.0.0/24 Serving
      peer alice of Some("alice") {} routes {} at None
      peer bob of Some("bob") {} routes {} at None
      accept [100.64.0.1-100.64.0.2, fd77:6569:7200::1-fd77:6569:7200::2] > [10.20.0.0/24]:0-65535 {icmp, tcp, udp, icmpv6} (acls[2], line 12)
    "#);
}

#[test]
fn the_map_on_the_wire() {
    insta::assert_json_snapshot!(map(&approved(), RELAY));
}

#[test]
fn nothing_comes_of_a_route_that_nobody_approved() {
    let mut state = network();
    decide(&mut state, OFFICE, "10.20.0.0/24", RouteDecision::Rejected);
    insta::assert_snapshot!(summary(&map(&state, RELAY)), @"
    relay {100.64.0.4, fd77:6569:7200::4}
      route 8.8.4.4/32 AwaitingApproval
      route 8.8.8.8/32 AwaitingApproval
    ");
    assert_eq!(
        map(&state, OFFICE).node.routes[0].state,
        RouteState::Rejected
    );
    assert!(map(&state, ALICE).peers.is_empty());
}

#[test]
fn without_a_policy_nothing_is_allowed_and_everyone_knows_why() {
    let state = approved();
    for id in state.nodes.keys() {
        let map = map_under(&state, &Policy::empty(), *id);
        assert!(map.peers.is_empty() && map.filter.is_empty());
        assert_eq!(map.notices, [NO_POLICY_NOTICE]);
    }
}

#[test]
fn a_second_relay_stands_by_and_takes_over() {
    let mut state = approved();
    let second = relay(node(NodeId(6), "second"), "203.0.113.8", &["8.8.8.8/32"]);
    state.nodes.insert(second.id, second);
    decide(&mut state, NodeId(6), "8.8.8.8/32", RouteDecision::Approved);
    let route_of = |map: &NetworkMap, peer: NodeId| map.peers[&peer].routes.clone();

    let before = map(&state, ALICE);
    assert_eq!(route_of(&before, RELAY), [net("8.8.8.8/32")].into());
    assert_eq!(route_of(&before, NodeId(6)), [].into());
    let standby = map(&state, NodeId(6));
    assert_eq!(standby.node.routes[0].state, RouteState::Standby);
    // Ready to serve: it has the primary's filter already.
    assert_eq!(standby.filter, map(&state, RELAY).filter);

    state.nodes.get_mut(&RELAY).unwrap().healthy = false;
    let after = map(&state, ALICE);
    assert_eq!(route_of(&after, RELAY), [].into());
    assert_eq!(route_of(&after, NodeId(6)), [net("8.8.8.8/32")].into());

    // Nobody healthy: the oldest may still carry traffic.
    state.nodes.get_mut(&NodeId(6)).unwrap().healthy = false;
    assert_eq!(map(&state, ALICE), before);
}

#[test]
fn a_peer_speaks_for_its_office_where_nobody_may_go_there() {
    let policy = |acl: &str| {
        let text = format!(
            r#"{{"tagOwners": {{"tag:build": [], "tag:relay": []}}, "acls": [
                {{"action": "accept", {acl}}}]}}"#
        );
        Policy::parse(&text).unwrap()
    };
    let office = net("10.20.0.0/24");
    let mut state = approved();

    let from_office = policy(r#""src": ["10.20.0.0/24"], "dst": ["tag:build:22"]"#);
    let peer = &map_under(&state, &from_office, BUILD).peers[&OFFICE];
    assert!(peer.routes.is_empty());
    assert_eq!(peer.source_prefixes, [office].into());

    // A second relay of the office goes there by itself, not through the first.
    let second = relay(node(NodeId(6), "second"), "203.0.113.21", &["10.20.0.0/24"]);
    state.nodes.insert(second.id, second);
    decide(
        &mut state,
        NodeId(6),
        "10.20.0.0/24",
        RouteDecision::Approved,
    );
    let to_office = policy(r#""src": ["tag:relay"], "dst": ["10.20.0.0/24:*"]"#);
    let peer = &map_under(&state, &to_office, NodeId(6)).peers[&OFFICE];
    assert!(peer.routes.is_empty());
    assert_eq!(peer.source_prefixes, [office].into());
    let peer = &map_under(&state, &to_office, OFFICE).peers[&NodeId(6)];
    assert!(peer.routes.is_empty() && peer.source_prefixes.is_empty());
}

#[test]
fn policy_approves_routes_and_steers_to_them() {
    let policy = Policy::parse(
        r#"{
    "tagOwners": {"tag:relay": [], "tag:second": []},
    "autoApprovers": {"routes": {"8.8.8.0/24": ["tag:relay"]}, "exitNode": ["alice@example.com"]},
    "grants": [
        {"src": ["alice@example.com"], "dst": ["8.8.8.8"], "ip": ["tcp:443"]},
        {"src": ["bob@"], "dst": ["8.8.8.8"], "ip": ["tcp:443"], "via": ["tag:second"]},
    ],
}"#,
    )
    .unwrap();
    let mut state = network();
    let mut second = relay(node(NodeId(6), "second"), "203.0.113.8", &["8.8.8.8/32"]);
    second.tags = ["tag:relay".parse().unwrap(), "tag:second".parse().unwrap()].into();
    state.nodes.insert(second.id, second);
    let states = |state: &NetworkState, node| -> Vec<_> {
        let map = map_under(state, &policy, node);
        map.node.routes.iter().map(|route| route.state).collect()
    };
    assert_eq!(
        states(&state, RELAY),
        [RouteState::AwaitingApproval, RouteState::Serving]
    );
    assert_eq!(states(&state, NodeId(6)), [RouteState::Standby]);
    assert_eq!(states(&state, OFFICE), [RouteState::AwaitingApproval]);

    // alice uses the older relay; bob is steered to the other one, and knows of no third.
    let through = |state: &NetworkState, viewer| -> Vec<u64> {
        let peers = map_under(state, &policy, viewer).peers;
        let offering = peers.values().filter(|peer| !peer.routes.is_empty());
        offering.map(|peer| peer.id.0).collect()
    };
    assert_eq!(through(&state, ALICE), [RELAY.0]);
    assert_eq!(through(&state, BOB), [6]);
    assert_eq!(map_under(&state, &policy, BOB).peers.len(), 1);

    // What an admin rejected stays rejected.
    decide(&mut state, RELAY, "8.8.8.8/32", RouteDecision::Rejected);
    assert_eq!(states(&state, RELAY)[1], RouteState::Rejected);
    assert_eq!(states(&state, NodeId(6)), [RouteState::Serving]);
    assert_eq!(through(&state, ALICE), [6]);
}

#[test]
fn every_exit_is_offered() {
    let mut state = approved();
    for id in [6, 7] {
        let exit = relay(
            node(NodeId(id), &format!("exit{id}")),
            &format!("203.0.113.{id}0"),
            &["0.0.0.0/0", "::/0"],
        );
        state.nodes.insert(exit.id, exit);
        decide(&mut state, NodeId(id), "0.0.0.0/0", RouteDecision::Approved);
    }
    let policy =
        r#"{"acls": [{"action": "accept", "src": ["alice@"], "dst": ["autogroup:internet:*"]}]}"#;
    let policy = Policy::parse(policy).unwrap();
    let alice = map_under(&state, &policy, ALICE);
    let offered: Vec<_> = alice
        .peers
        .values()
        .map(|peer| (peer.id.0, &peer.routes))
        .collect();
    let v4 = [net("0.0.0.0/0")].into();
    assert_eq!(offered, [(6, &v4), (7, &v4)]);
    assert!(map_under(&state, &policy, BOB).peers.is_empty());
    let exit = map_under(&state, &policy, NodeId(6));
    let states: Vec<_> = exit.node.routes.iter().map(|route| route.state).collect();
    assert_eq!(states, [RouteState::Serving, RouteState::AwaitingApproval]);
    assert!(
        exit.filter[0].destinations[0]
            .addresses
            .ranges()
            .iter()
            .all(|r| r.is_ipv4())
    );
}

#[test]
fn a_change_is_told_to_those_whom_it_touches() {
    let before = approved();
    let old = Policy::parse(POLICY).unwrap();
    let swapped = POLICY.replace(
        r#""group:finance": ["alice@example.com"]"#,
        r#""group:finance": ["bob@"]"#,
    );
    let new = Policy::parse(&swapped).unwrap();
    let change = |id| {
        let mut map = map_under(&before, &old, id);
        let target = Network::new(&before, &new).map(id, Generation(8)).unwrap();
        let delta = delta(&map, &target)?;
        apply(&mut map, &delta).unwrap();
        assert_eq!(map, target);
        Some(delta)
    };
    assert_eq!(change(BUILD), None);
    assert_eq!(change(OFFICE), None);
    assert_eq!(change(ALICE).unwrap().peers_removed, [RELAY].into());
    let bob = change(BOB).unwrap();
    assert!(bob.peers_changed.contains_key(&RELAY) && bob.filter.is_none());
    let relay = change(RELAY).unwrap();
    assert!(relay.peers_changed.contains_key(&BOB));
    assert_eq!(relay.peers_removed, [ALICE].into());
    // The grants are the same ones, for other people.
    let ids = |filter: &[weir_protocol::Grant]| filter.iter().map(|g| g.id).collect::<Vec<_>>();
    assert_eq!(
        ids(&relay.filter.unwrap()),
        ids(&map_under(&before, &old, RELAY).filter)
    );
}

#[test]
fn an_endpoint_is_told_where_there_is_a_fixed_way_in() {
    let relay = relay(node(RELAY, "relay"), "203.0.113.7", &[]);
    assert_eq!(relay.endpoint(), Some("203.0.113.7:51920".parse().unwrap()));
    let mut fixed = of_user(1, node(ALICE, "alice"));
    assert_eq!(fixed.endpoint(), None);
    fixed.host.endpoint = Some("198.51.100.1:4000".parse().unwrap());
    assert_eq!(fixed.endpoint(), fixed.host.endpoint);
}
