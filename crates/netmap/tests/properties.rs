//! What holds for every network.

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
    net::IpAddr,
};
use weir_netmap::{
    EgressChoice, KeyLife, LiveNetwork, MapHistory, Network, NetworkChange, NetworkState, Node,
    RouteDecision, Since, apply, check_map, delta,
};
use weir_overlay::{Generation, NodeId, NodePublicKey, UserId};
use weir_policy::{Policy, User};
use weir_protocol::{HostInfo, NetworkMap, RouteState};

const ROUTES: [&str; 8] = [
    "0.0.0.0/0",
    "::/0",
    "8.8.8.8/32",
    "8.8.4.4/32",
    "10.0.0.0/8",
    "10.20.0.0/24",
    "192.168.1.0/24",
    "2001:4860:4860::8888/128",
];

const GRANTS: [&str; 7] = [
    r#""src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["22"]"#,
    r#""src": ["u1@"], "dst": ["10.20.0.0/24"], "ip": ["*"], "via": ["tag:a"]"#,
    r#""src": ["*"], "dst": ["8.8.8.8", "10.0.0.0/8"], "ip": ["tcp:443"], "via": ["tag:a", "tag:b"]"#,
    r#""src": ["u2@"], "dst": ["autogroup:internet"], "ip": ["*"], "via": ["tag:b"]"#,
    r#""src": ["group:g"], "dst": ["8.8.8.8"], "ip": ["tcp:443", "udp:53"]"#,
    r#""src": ["autogroup:danger-all"], "dst": ["tag:b"], "ip": ["80"]"#,
    r#""src": ["user:*@example.com"], "dst": ["100.64.0.1-100.64.0.4"], "ip": ["*"]"#,
];

const DENIED: [&str; 4] = [
    r#""src": ["u1@"], "dst": ["8.8.8.8:443"], "proto": "tcp""#,
    r#""src": ["*"], "dst": ["10.20.0.0/25:*"]"#,
    r#""src": ["tag:a"], "dst": ["*:1-100"]"#,
    r#""src": ["100.64.0.0/29"], "dst": ["autogroup:internet:*"]"#,
];

const ENTRIES: [&str; 14] = [
    r#""src": ["*"], "dst": ["*:*"]"#,
    r#""src": ["*"], "dst": ["tag:a:22"]"#,
    r#""src": ["group:g"], "dst": ["8.8.8.8:443"], "proto": "tcp""#,
    r#""src": ["tag:a"], "dst": ["8.8.8.0/24:53"], "proto": "udp""#,
    r#""src": ["tag:b", "u1@"], "dst": ["10.20.0.0/24:*", "100.64.0.2:80"]"#,
    r#""src": ["10.20.0.0/24"], "dst": ["autogroup:member:*"]"#,
    r#""src": ["192.168.1.7"], "dst": ["10.0.0.0/8:1-1000"]"#,
    r#""src": ["autogroup:member"], "dst": ["autogroup:internet:*"]"#,
    r#""src": ["u2@"], "dst": ["0.0.0.0/0:443"]"#,
    r#""src": ["100.64.0.0/10"], "dst": ["[2001:4860:4860::8888]:53"]"#,
    r#""src": ["autogroup:tagged"], "dst": ["group:g:*"]"#,
    r#""src": ["tag:a"], "dst": ["10.0.0.0/9:*"]"#,
    r#""src": ["u1@"], "dst": ["u1@:*", "tag:b:1,2,3"]"#,
    r#""src": [], "dst": ["*:*"]"#,
];

/// Which address leaves by which route, for whom.
fn egress() -> impl Strategy<Value = BTreeMap<IpNet, EgressChoice>> {
    let selectors = vec!["u1@", "group:g", "group:h", "tag:a", "autogroup:member"];
    let address = || (1u8..4).prop_map(|last| IpAddr::from([203, 0, 113, last]));
    let chosen = (
        subsequence(selectors, 0..3),
        proptest::collection::vec(address(), 3),
        proptest::option::of(address()),
    );
    let choice = chosen.prop_map(|(selectors, addresses, address)| EgressChoice {
        by_selector: selectors
            .iter()
            .map(|text| text.parse().unwrap())
            .zip(addresses)
            .collect(),
        address,
    });
    proptest::collection::btree_map(2..6usize, choice, 0..3).prop_map(|choices| {
        let choices = choices.into_iter();
        choices
            .map(|(at, choice)| (ROUTES[at].parse().unwrap(), choice))
            .collect()
    })
}

/// A node, but for its id.
fn node() -> impl Strategy<Value = Node> {
    let route = prop_oneof![
        1 => Just(None),
        3 => Just(Some(RouteDecision::Approved)),
        1 => Just(Some(RouteDecision::Rejected)),
    ];
    let node = (
        0u64..3,
        subsequence(vec!["tag:a", "tag:b"], 0..=2),
        proptest::collection::btree_map(0..ROUTES.len(), (route, any::<bool>()), 0..4),
        0i64..3,
        any::<bool>(),
        egress(),
        prop_oneof![
            4 => Just(KeyLife::Unlimited),
            1 => (0i64..2).prop_map(KeyLife::Until),
            1 => (0i64..2).prop_map(KeyLife::Over),
        ],
    );
    node.prop_map(|(user, tags, routes, created, healthy, egress, key_life)| {
        let prefix = |at: &usize| ROUTES[*at].parse::<IpNet>().unwrap();
        Node {
            id: NodeId(0),
            name: "unnamed".parse().unwrap(),
            user: (user > 0).then_some(UserId(user)),
            tags: tags.iter().map(|tag| tag.parse().unwrap()).collect(),
            node_key: NodePublicKey::from_bytes([0; 32]),
            key_life,
            addresses: BTreeSet::new(),
            created,
            host: HostInfo {
                advertised_routes: routes
                    .iter()
                    .filter(|(_, (_, advertised))| *advertised)
                    .map(|(at, _)| prefix(at))
                    .collect(),
                ..HostInfo::default()
            },
            decisions: routes
                .iter()
                .filter_map(|(at, (decision, _))| Some((prefix(at), (*decision)?)))
                .collect(),
            observed_address: None,
            egress,
            healthy,
        }
    })
}

fn with_id(id: u64, node: Node) -> Node {
    let addresses = [format!("100.64.0.{id}"), format!("fd77:6569:7200::{id}")];
    Node {
        id: NodeId(id),
        name: format!("n{id}").parse().unwrap(),
        node_key: NodePublicKey::from_bytes([u8::try_from(id).unwrap(); 32]),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        ..node
    }
}

fn nodes() -> impl Strategy<Value = BTreeMap<NodeId, Node>> {
    proptest::collection::btree_map(1u64..8, node(), 1..7).prop_map(|nodes| {
        let nodes = nodes.into_iter();
        nodes
            .map(|(id, node)| (NodeId(id), with_id(id, node)))
            .collect()
    })
}

fn state() -> impl Strategy<Value = NetworkState> {
    nodes().prop_map(|nodes| {
        let user = |id| User {
            id: UserId(id),
            name: format!("u{id}"),
            email: (id == 2).then(|| "two@example.com".to_owned()),
        };
        NetworkState {
            users: (1..3).map(|id| (UserId(id), user(id))).collect(),
            nodes,
            ..NetworkState::default()
        }
    })
}

fn change() -> impl Strategy<Value = NetworkChange> {
    let rename = |name: &'static str| {
        let user = |id: u64, name: String| User {
            id: UserId(id),
            email: (id == 2).then(|| format!("{name}@example.com")),
            name,
        };
        let users = [user(1, "u1".to_owned()), user(2, name.to_owned())];
        NetworkChange::Users(users.into_iter().map(|user| (user.id, user)).collect())
    };
    prop_oneof![
        6 => (1u64..9, node()).prop_map(|(id, node)| NetworkChange::Node(Box::new(with_id(id, node)))),
        2 => (1u64..9).prop_map(|id| NetworkChange::Left(NodeId(id))),
        1 => prop::sample::select(vec!["u2", "u3"]).prop_map(rename),
        1 => policy().prop_map(|policy| NetworkChange::Policy(policy.into())),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    let entry = |action: &'static str| {
        move |entry: &'static str| format!(r#"{{"action": "{action}", {entry}}}"#)
    };
    let accepted = ENTRIES.map(entry("accept")).into_iter();
    let acls: Vec<String> = accepted.chain(DENIED.map(entry("deny"))).collect();
    let count = acls.len();
    let acls = subsequence(acls, 0..=count).prop_shuffle();
    let grants = subsequence(GRANTS.to_vec(), 0..=GRANTS.len());
    let exits = subsequence(vec!["tag:a", "group:g"], 0..=2);
    let others = subsequence(vec!["u1@", "u2@"], 0..=2);
    let set = (acls, grants, exits, others).prop_map(|(acls, grants, exits, others)| {
        let grants: Vec<_> = grants.iter().map(|grant| format!("{{{grant}}}")).collect();
        Policy::parse(&format!(
            r#"{{"groups": {{"group:g": ["u1@"], "group:h": {others:?}}}, "tagOwners": {{"tag:a": [], "tag:b": []}},
                "weir": {{"denyRules": true}},
                "autoApprovers": {{"exitNode": {exits:?}, "routes": {{"10.0.0.0/8": ["tag:b"]}}}},
                "grants": [{}], "acls": [{}]}}"#,
            grants.join(","),
            acls.join(",")
        ))
        .unwrap()
    });
    prop_oneof![1 => Just(Policy::empty()), 9 => set]
}

fn maps(state: &NetworkState, policy: &Policy, generation: u64) -> BTreeMap<NodeId, NetworkMap> {
    let network = Network::new(state, policy);
    let map = |id: &NodeId| (*id, network.map(*id, Generation(generation)).unwrap());
    state.nodes.keys().map(map).collect()
}

/// Makes the changes one by one, and compares with a new network after each. Tells how many nodes
/// were named, and how many of these without need.
fn follow(
    state: NetworkState,
    policy: Policy,
    changes: Vec<NetworkChange>,
) -> Result<(usize, usize), TestCaseError> {
    let mut live = LiveNetwork::new(state.clone(), policy.into());
    let mut before = maps(&state, live.policy(), 0);
    let (mut named, mut in_vain) = (0, 0);
    for change in changes {
        let touched = live.apply(change.clone());
        let after = maps(live.state(), live.policy(), 0);
        let ids: BTreeSet<_> = before.keys().chain(after.keys()).copied().collect();
        for id in ids {
            prop_assert_eq!(live.map(id, Generation(0)), after.get(&id).cloned());
            let is_named = touched.nodes().any(|touched| touched == id);
            let differs = before.get(&id) != after.get(&id);
            prop_assert!(is_named || !differs, "{} is not told of {:?}", id, change);
            named += usize::from(is_named);
            in_vain += usize::from(is_named && !differs);
        }
        for (id, peers) in &touched.peers {
            // Nothing but these peers differs.
            let (mut old, new) = (before[id].clone(), &after[id]);
            for peer in peers {
                old.peers.remove(peer);
                let seen = live.peer(*id, *peer);
                prop_assert_eq!(new.peers.get(peer), seen.as_ref());
                old.peers.extend(seen.map(|seen| (*peer, seen)));
            }
            prop_assert_eq!(&old, new);
        }
        prop_assert!(live.apply(change).is_empty());
        before = after;
    }
    Ok((named, in_vain))
}

#[test]
fn few_nodes_are_named_in_vain() {
    let mut runner = TestRunner::deterministic();
    let (mut named, mut in_vain) = (0, 0);
    for _ in 0..30 {
        let changes = proptest::collection::vec(change(), 8);
        let sample = (state(), policy(), changes).new_tree(&mut runner).unwrap();
        let (state, policy, changes) = sample.current();
        let (more, vainly) = follow(state, policy, changes).unwrap();
        named += more;
        in_vain += vainly;
    }
    assert!(in_vain * 50 < named, "{in_vain} of {named}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_network_that_lives_is_like_a_new_one_and_tells_whose_maps_differ(
        state in state(), policy in policy(),
        changes in proptest::collection::vec(change(), 1..8),
    ) {
        follow(state, policy, changes)?;
    }
}

proptest! {
    #[test]
    fn every_map_is_sound(state in state(), policy in policy()) {
        for map in maps(&state, &policy, 1).values() {
            prop_assert_eq!(check_map(map), []);
        }
    }

    #[test]
    fn addresses_are_chosen_for_peers_and_each_once(state in state(), policy in policy()) {
        for map in maps(&state, &policy, 1).values() {
            let own = &state.nodes[&map.node.id];
            for (route, choice) in &own.egress {
                let told: Vec<_> = map.node.egress.iter().filter(|told| told.route == *route).collect();
                if !own.host.advertised_routes.contains(route) {
                    prop_assert!(told.is_empty());
                    continue;
                }
                for peer in map.peers.values() {
                    let of_peer = |address: &IpAddr| {
                        let mut choices = told.iter();
                        let first = choices.find(|told| told.sources.as_ref().is_none_or(|s| s.contains(*address)));
                        first.map(|told| told.address)
                    };
                    let node = &state.nodes[&peer.id];
                    let owner = node.user.and_then(|user| state.users.get(&user));
                    let mut chosen = choice.by_selector.iter();
                    let chosen = chosen.find(|(selector, _)| policy.selects(selector, &node.tags, owner));
                    let chosen = chosen.map(|(_, address)| *address).or(choice.address);
                    prop_assert!(peer.addresses.iter().all(|address| of_peer(address) == chosen));
                }
                let peers: weir_overlay::AddressSet =
                    map.peers.values().flat_map(|peer| &peer.addresses).copied().map(IpNet::from).collect();
                prop_assert!(told.iter().all(|told| told.sources.iter().all(|s| s.difference(&peers).is_empty())));
            }
        }
    }

    #[test]
    fn peers_are_mutual(state in state(), policy in policy()) {
        let maps = maps(&state, &policy, 1);
        for (id, map) in &maps {
            for peer in map.peers.keys() {
                prop_assert!(maps[peer].peers.contains_key(id), "{} {}", id, peer);
            }
        }
    }

    #[test]
    fn a_route_that_is_not_approved_appears_nowhere(state in state(), policy in policy()) {
        let network = Network::new(&state, &policy);
        for node in state.nodes.values() {
            let rejected = |route: &IpNet| node.decisions.get(route) == Some(&RouteDecision::Rejected);
            prop_assert!(!network.approved_routes(node.id).any(|route| rejected(&route)));
            let in_force: BTreeSet<_> = network.approved_routes(node.id).collect();
            let by_hand: BTreeSet<_> = node.approved_routes().collect();
            prop_assert!(node.key_life.is_over() || by_hand.is_subset(&in_force));
        }
        for map in maps(&state, &policy, 1).values() {
            for (id, peer) in &map.peers {
                let approved: BTreeSet<_> = network.approved_routes(*id).collect();
                prop_assert!(peer.routes.union(&peer.source_prefixes).all(|r| approved.contains(r)));
            }
            let own = &state.nodes[&map.node.id];
            let serves: BTreeSet<_> = network.approved_routes(own.id).collect();
            if own.key_life.is_over() {
                prop_assert!(serves.is_empty() && map.peers.is_empty() && map.filter.is_empty());
                prop_assert!(map.node.key.expired);
                continue;
            }
            for route in &map.node.routes {
                let approved = matches!(route.state, RouteState::Serving | RouteState::Standby);
                prop_assert_eq!(approved, serves.contains(&route.prefix));
            }
            // And what a node forwards or takes in is its own, or in an approved route.
            let hosts = own.addresses.iter().copied().map(IpNet::from);
            let mine = hosts.chain(serves.iter().copied()).collect();
            for grant in &map.filter {
                for to in &grant.destinations {
                    prop_assert!(to.addresses.difference(&mine).is_empty());
                }
            }
        }
    }

    #[test]
    fn a_route_is_offered_by_one_peer_whose_filter_lets_the_user_in(state in state(), policy in policy()) {
        let maps = maps(&state, &policy, 1);
        let network = Network::new(&state, &policy);
        for map in maps.values() {
            let me = map.node.addresses.iter().copied().map(IpNet::from).collect();
            for (id, peer) in &map.peers {
                for route in peer.routes.iter().filter(|route| route.prefix_len() > 0) {
                    let route = [*route].into_iter().collect();
                    let own: weir_overlay::AddressSet = network
                        .approved_routes(map.node.id)
                        .filter(|route| route.prefix_len() > 0)
                        .collect();
                    let lets_in = maps[id].filter.iter().any(|grant| {
                        (grant.sources.overlaps(&me) || grant.sources.overlaps(&own))
                            && grant.destinations.iter().any(|to| to.addresses.overlaps(&route))
                    });
                    prop_assert!(lets_in);
                }
            }
        }
    }

    #[test]
    fn a_primary_stays_while_it_is_healthy_and_serves(
        state in state(), policy in policy(),
        changes in proptest::collection::vec(change(), 1..8),
    ) {
        let mut live = LiveNetwork::new(state, policy.into());
        for change in changes {
            let before = live.state().primaries.clone();
            live.apply(change);
            let network = live.network();
            for (route, primary) in before {
                let serves = network.approved_routes(primary).any(|served| served == route);
                let node = live.state().nodes.get(&primary);
                if serves && node.is_some_and(|node| node.healthy) {
                    prop_assert_eq!(network.primary(&route), Some(primary));
                }
            }
            // And a healthy relay is never passed over for one that is not.
            for (route, primary) in &live.state().primaries {
                let nodes = live.state().nodes.values();
                let mut healthy = nodes.filter(|node| node.healthy);
                let some_healthy = healthy.any(|node| network.approved_routes(node.id).any(|served| served == *route));
                prop_assert_eq!(live.state().nodes[primary].healthy, some_healthy);
            }
        }
    }

    #[test]
    fn a_removed_node_is_gone_from_every_map(state in state(), policy in policy(), pick in any::<prop::sample::Index>()) {
        let ids: Vec<_> = state.nodes.keys().copied().collect();
        let gone = *pick.get(&ids);
        let addresses: weir_overlay::AddressSet =
            state.nodes[&gone].addresses.iter().copied().map(IpNet::from).collect();
        let mut state = state;
        state.nodes.remove(&gone);
        prop_assert!(Network::new(&state, &policy).map(gone, Generation(1)).is_none());
        for map in maps(&state, &policy, 1).values() {
            prop_assert!(!map.peers.contains_key(&gone));
            for grant in &map.filter {
                for to in &grant.destinations {
                    prop_assert!(!to.addresses.overlaps(&addresses));
                }
            }
        }
    }

    #[test]
    fn applying_the_delta_gives_the_new_map(
        a in state(), b in state(), one in policy(), other in policy(),
    ) {
        let (old, new) = (maps(&a, &one, 1), maps(&b, &other, 2));
        for (id, before) in &old {
            let Some(after) = new.get(id) else { continue };
            let mut map = before.clone();
            if let Some(delta) = delta(before, after) {
                let text = serde_json::to_string(&delta).unwrap();
                let delta = serde_json::from_str(&text).unwrap();
                apply(&mut map, &delta).unwrap();
                prop_assert_eq!(&map, after);
                // A second time it is for another map.
                prop_assert!(apply(&mut map, &delta).is_err());
                prop_assert_eq!(&map, after);
            } else {
                map.generation = after.generation;
                prop_assert_eq!(&map, after);
            }
        }
    }

    #[test]
    fn a_history_leads_from_every_generation_it_knows_to_the_newest_map(
        state in state(), policy in policy(),
        changes in proptest::collection::vec(change(), 1..20),
    ) {
        let hasher = std::hash::RandomState::new();
        let mut live = LiveNetwork::new(state, policy.into());
        let mut given: BTreeMap<NodeId, (MapHistory, BTreeMap<Generation, NetworkMap>)> = BTreeMap::new();
        for (number, change) in (1..).map(Generation).zip(changes) {
            let touched = live.apply(change);
            given.retain(|id, _| live.state().nodes.contains_key(id));
            for id in live.state().nodes.keys() {
                let mut map = live.map(*id, number).unwrap();
                let (history, maps) = given
                    .entry(*id)
                    .or_insert_with(|| (MapHistory::new(&map, &hasher), BTreeMap::new()));
                let seen = |peer: NodeId| live.peer(*id, peer);
                match touched.peers.get(id) {
                    Some(peers) => {
                        let peers: Vec<_> = peers.iter().map(|peer| (*peer, seen(*peer))).collect();
                        let peers = peers.iter().map(|(id, peer)| (*id, peer.as_ref()));
                        history.follow_peers(number, peers, &hasher);
                    }
                    None => history.follow(&map, &hasher),
                }
                map.generation = history.newest();
                maps.insert(map.generation, map.clone());
                for (held, old) in maps.iter() {
                    let of_peers = history.peers_since(*held, seen);
                    if of_peers != Since::Unknown {
                        prop_assert_eq!(of_peers, history.since(*held, &map));
                    }
                    match history.since(*held, &map) {
                        Since::Same => prop_assert_eq!(old, &map),
                        Since::Changed(delta) => {
                            let mut old = old.clone();
                            apply(&mut old, &delta).unwrap();
                            prop_assert_eq!(&old, &map);
                        }
                        // Only what is long past is forgotten.
                        Since::Unknown => {
                            let since = maps.range(held..).count();
                            prop_assert!(since > 16, "{} of {} maps", since, maps.len());
                        }
                    }
                }
                prop_assert_eq!(history.since(number.next(), &map), Since::Unknown);
                if maps.len() > 1 {
                    prop_assert!(!matches!(history.since(*maps.keys().rev().nth(1).unwrap(), &map), Since::Unknown));
                }
            }
        }
    }

    #[test]
    fn a_digest_tells_maps_apart_whatever_their_number(
        a in state(), b in state(), one in policy(), other in policy(),
    ) {
        let (old, new) = (maps(&a, &one, 1), maps(&b, &other, 2));
        for (before, after) in old.values().zip(new.values()) {
            let same = delta(before, after).is_none();
            prop_assert_eq!(before.digest() == after.digest(), same);
        }
    }

    #[test]
    fn the_same_state_gives_the_same_maps(state in state(), policy in policy()) {
        let text = |maps: BTreeMap<NodeId, NetworkMap>| serde_json::to_string(&maps).unwrap();
        let again = NetworkState { nodes: state.nodes.clone().into_iter().rev().collect(), ..state.clone() };
        prop_assert_eq!(text(maps(&state, &policy, 1)), text(maps(&again, &policy, 1)));
    }
}
