//! The network of the story: what its relay, its second relay and its client should have in the
//! kernel, written out, and the steps between states.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::collections::{BTreeMap, BTreeSet};
use weir_kernel_plan::{
    DEFAULT_INTERFACE, DEFAULT_LISTEN_PORT, DesiredState, EXIT_TABLE, IpFamily, LinkKind, LinkMtu,
    NodeSettings, ObservedDevice, ObservedLink, ObservedPeer, ObservedState, RELAYED_TABLE,
    RULE_EXIT, RULE_MAIN, SUBNET_TABLE, Step, SysctlKey, TUNNEL_MARK, TUNNEL_MARK_MASK,
    WireguardBackend, desired_state,
    firewall::{InForce, ObservedFirewall, change, removal},
    plan, plan_teardown, scope,
};
use weir_overlay::{AddressRange, GrantId, NodeId, NodePrivateKey};
use weir_protocol::{
    Destination, Grant, IpProtocol, NetworkMap, Peer, PortRange, RouteEgress, RouteState,
    RouteStatus, SelfNode,
};

fn key(n: u8) -> NodePrivateKey {
    NodePrivateKey::from_bytes([n; 32])
}

fn settings(advertised: &[&str]) -> NodeSettings {
    NodeSettings {
        interface: DEFAULT_INTERFACE.parse().unwrap(),
        backend: WireguardBackend::Kernel,
        mtu: LinkMtu::FromPath,
        listen_port: DEFAULT_LISTEN_PORT,
        accept_routes: true,
        exit_node: None,
        exit_node_allow_lan_access: false,
        snat_subnet_routes: true,
        egress: BTreeSet::new(),
        route_egress: BTreeMap::new(),
        advertised: advertised.iter().map(|p| p.parse().unwrap()).collect(),
        ipv6: true,
        autoconfigured_links: BTreeSet::new(),
        keepalive: false,
        direct: BTreeSet::new(),
        may_validate_marks: true,
    }
}

fn peer(id: u8, name: &str, routes: &[&str], endpoint: Option<&str>) -> Peer {
    Peer {
        id: NodeId(u64::from(id)),
        name: name.parse().unwrap(),
        user: None,
        tags: BTreeSet::new(),
        node_key: key(id).public(),
        addresses: [
            format!("100.64.0.{id}").parse().unwrap(),
            format!("fd77:6569:7200::{id}").parse().unwrap(),
        ]
        .into(),
        routes: routes.iter().map(|p| p.parse().unwrap()).collect(),
        source_prefixes: BTreeSet::new(),
        endpoint: endpoint.map(|at| at.parse().unwrap()),
    }
}

fn grant(id: u32, sources: &[&str], protocols: &[u8], to: &[&str], port: u16) -> Grant {
    let set = |items: &[&str]| {
        items
            .iter()
            .map(|i| i.parse::<AddressRange>().unwrap())
            .collect()
    };
    Grant {
        id: GrantId(id),
        sources: set(sources),
        protocols: protocols.iter().map(|p| IpProtocol(*p)).collect(),
        destinations: vec![Destination {
            addresses: set(to),
            ports: PortRange::single(port),
        }],
        origin: format!("acls[{id}], line {}", id + 3),
    }
}

fn map(id: u8, routes: &[(&str, RouteState)], peers: Vec<Peer>, filter: Vec<Grant>) -> NetworkMap {
    let own = peer(id, "self", &[], None);
    NetworkMap {
        generation: weir_overlay::Generation(7),
        node: SelfNode {
            egress: Vec::new(),
            id: own.id,
            name: own.name,
            user: None,
            tags: BTreeSet::new(),
            addresses: own.addresses,
            routes: routes
                .iter()
                .map(|(prefix, state)| RouteStatus {
                    prefix: prefix.parse().unwrap(),
                    state: *state,
                })
                .collect(),
            key: weir_protocol::KeyStatus::default(),
        },
        peers: peers.into_iter().map(|peer| (peer.id, peer)).collect(),
        filter,
        notices: Vec::new(),
    }
}

fn relay() -> DesiredState {
    let service = ["8.8.4.4", "8.8.8.8"];
    let filter = vec![
        grant(1, &["100.64.0.2", "fd77:6569:7200::2"], &[6], &service, 443),
        grant(2, &["100.64.0.2", "100.64.0.4"], &[17], &service, 53),
    ];
    let routes = [
        ("8.8.4.4/32", RouteState::Serving),
        ("8.8.8.8/32", RouteState::Serving),
    ];
    let peers = vec![peer(2, "alice", &[], None), peer(4, "build", &[], None)];
    let settings = settings(&["8.8.8.8/32", "8.8.4.4/32"]);
    desired_state(&map(1, &routes, peers, filter), &settings, key(1))
}

fn client(routes: &[&str]) -> DesiredState {
    let relay = peer(1, "relay", routes, Some("203.0.113.7:51920"));
    desired_state(
        &map(2, &[], vec![relay], Vec::new()),
        &settings(&[]),
        key(2),
    )
}

/// What the kernel looks like once every step towards `desired` was taken.
fn as_built(desired: &DesiredState) -> ObservedState {
    let mut firewall = ObservedFirewall {
        fingerprint: Some(desired.firewall.fingerprint(&desired.link.name)),
        generation: 9,
        ..ObservedFirewall::default()
    };
    firewall.chains.insert("grant_1".to_owned());
    ObservedState {
        link: Some(ObservedLink {
            kind: LinkKind::Wireguard,
            mtu: desired.link.mtu.bytes(None),
            up: true,
            addresses: desired.link.addresses.clone(),
        }),
        device: Some(ObservedDevice {
            public_key: Some(desired.device.private_key.public()),
            listen_port: desired.device.listen_port,
            firewall_mark: desired.device.firewall_mark,
            peers: desired
                .peers
                .iter()
                .map(|(key, peer)| {
                    (
                        *key,
                        ObservedPeer {
                            allowed_ips: peer.allowed_ips.clone(),
                            endpoint: peer.endpoint,
                            keepalive: peer.keepalive,
                            ..ObservedPeer::default()
                        },
                    )
                })
                .collect(),
        }),
        routes: desired.routes.clone(),
        rules: desired.rules.clone(),
        sysctls: desired
            .sysctls
            .iter()
            .map(|(k, v)| (k.clone(), Some(v.clone())))
            .collect(),
        firewall: Some(firewall),
        path_mtu: None,
    }
}

fn in_force(desired: &DesiredState) -> InForce {
    desired.firewall.clone().into()
}

fn texts(steps: &[Step]) -> Vec<String> {
    steps.iter().map(ToString::to_string).collect()
}

#[test]
fn the_relays_ruleset_reads_so() {
    let relay = relay();
    let ruleset = change(&relay.firewall, &relay.link.name, None, None);
    let document: serde_json::Value = serde_json::from_str(&ruleset.last.document).unwrap();
    let lines: Vec<_> = document["nftables"]
        .as_array()
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn a_bare_host_gets_the_firewall_before_the_link() {
    let steps = texts(&plan(&relay(), &ObservedState::default(), None));
    insta::assert_debug_snapshot!(steps);
}

#[test]
fn nothing_is_done_to_a_host_that_is_as_it_should_be() {
    for desired in [relay(), client(&["8.8.8.8/32", "10.20.0.0/24"])] {
        let steps = plan(&desired, &as_built(&desired), Some(&in_force(&desired)));
        assert_eq!(steps, Vec::new());
    }
}

#[test]
fn a_client_looks_relayed_prefixes_up_before_main_and_subnets_after() {
    insta::assert_debug_snapshot!((
        client(&["8.8.8.8/32", "10.20.0.0/24"]).routes,
        client(&["8.8.8.8/32", "10.20.0.0/24"]).rules
    ));
    assert!(
        client(&[]).rules.is_empty(),
        "without routes there are no rules"
    );
    assert!(
        client(&["0.0.0.0/0"]).rules.is_empty(),
        "an exit is not taken unasked"
    );
}

#[test]
fn the_link_carries_what_the_paths_to_its_peers_do() {
    let desired = client(&["8.8.8.8/32"]);
    // One peer, in a known place: its path counts, and no other.
    let relay: std::net::IpAddr = "203.0.113.7".parse().unwrap();
    assert_eq!(scope(&desired).paths, [relay].into());
    let mut observed = as_built(&desired);
    let steps =
        |observed: &ObservedState| texts(&plan(&desired, observed, Some(&in_force(&desired))));
    for (path, link) in [
        (1500, 1420),
        (1492, 1412),
        (9000, 8920),
        (1300, 1280),
        (80, 1280),
    ] {
        observed.path_mtu = Some(path);
        observed.link.as_mut().unwrap().mtu = 1000;
        assert_eq!(steps(&observed), [format!("set the link's MTU to {link}")]);
        observed.link.as_mut().unwrap().mtu = link;
        assert_eq!(steps(&observed), Vec::<String>::new());
    }
    let mut fixed = desired.clone();
    fixed.link.mtu = LinkMtu::Fixed(1300);
    assert_eq!(scope(&fixed).paths, BTreeSet::new());
    // Clients come from anywhere.
    assert!(
        scope(&relay_with_clients())
            .paths
            .contains(&"1.1.1.1".parse().unwrap())
    );
}

fn relay_with_clients() -> DesiredState {
    let mut state = relay();
    for peer in state.peers.values_mut() {
        peer.endpoint = None;
    }
    state
}

fn routes_of(state: &DesiredState, table: u32) -> Vec<String> {
    let of_table = state.routes.iter().filter(|route| route.table == table);
    of_table
        .map(|route| format!("{} {:?}", route.destination, route.target))
        .collect()
}

#[test]
fn a_chosen_exit_is_closed_with_and_without_the_exit() {
    let with = |routes: &[&str], lan: bool| {
        let mut settings = settings(&[]);
        settings.exit_node = Some("relay".to_owned());
        settings.exit_node_allow_lan_access = lan;
        settings.direct = ["192.0.2.1".parse().unwrap()].into();
        let relay = peer(1, "relay", routes, Some("203.0.113.7:51920"));
        let map = map(2, &[], vec![relay], vec![]);
        assert_eq!(settings.lacks_its_exit(&map), routes.is_empty());
        desired_state(&map, &settings, key(2))
    };
    let refused = "Unreachable";
    // An exit without IPv6 does not leave IPv6 open.
    for routes in [&["0.0.0.0/0"][..], &[]] {
        let state = with(routes, false);
        let exit = routes_of(&state, EXIT_TABLE);
        for prefix in ["0.0.0.0/0", "::/0"] {
            assert!(exit.contains(&format!("{prefix} {refused}")), "{exit:?}");
        }
        let taken = exit.iter().any(|route| route.starts_with("0.0.0.0/0 Link"));
        assert_eq!(taken, !routes.is_empty(), "{exit:?}");
        // The overlay and the coordinator are reached all the same.
        assert!(
            exit.iter()
                .any(|route| route.starts_with("100.64.0.0/10 Link"))
        );
        assert!(
            exit.contains(&"192.0.2.1/32 NextRule".to_owned()),
            "{exit:?}"
        );
        let rules = |state: &DesiredState| -> Vec<u32> {
            let v4 = state
                .rules
                .iter()
                .filter(|rule| rule.family == IpFamily::V4);
            v4.map(|rule| rule.priority).collect()
        };
        assert_eq!(rules(&state), [RULE_EXIT]);
        assert_eq!(rules(&with(routes, true)), [RULE_MAIN, RULE_EXIT]);
        // A strict check of sources heeds the tunnel's mark.
        assert_eq!(state.sysctls[&SysctlKey::validate_marks()], "1");
        assert_eq!(state.firewall.tunnel_port, Some(DEFAULT_LISTEN_PORT));
    }
    // The refusal is in force before the rule leads to it, and outlives the link.
    let desired = with(&[], false);
    let steps = texts(&plan(&desired, &ObservedState::default(), None));
    let at = |text: &str| steps.iter().position(|step| step.contains(text)).unwrap();
    assert!(at("add unreachable route 0.0.0.0/0") < at("add IPv4 rule 5740"));
    let mut gone = as_built(&desired);
    gone.link = None;
    gone.device = None;
    gone.routes.retain(|route| !route.goes_with_the_link());
    let steps = texts(&plan(&desired, &gone, Some(&in_force(&desired))));
    assert!(
        !steps.iter().any(|step| step.contains("unreachable")),
        "{steps:?}"
    );
    // An exit that leaves the map takes its route along, not the refusal.
    let steps = texts(&plan(
        &desired,
        &as_built(&with(&["0.0.0.0/0"], false)),
        None,
    ));
    assert!(
        steps.contains(&"remove route 0.0.0.0/0 from table 5703".to_owned()),
        "{steps:?}"
    );
    assert!(
        !steps.iter().any(|step| step.contains("unreachable")),
        "{steps:?}"
    );
}

#[test]
fn a_relay_that_takes_no_route_has_no_rule_and_marks_nothing() {
    let relay = relay();
    assert!(relay.rules.is_empty());
    assert!(!relay.sysctls.contains_key(&SysctlKey::validate_marks()));
    assert_eq!(relay.firewall.tunnel_port, None);
}

/// The kernel's WireGuard hands its encrypted packets over as come in by its link: a rule about
/// what comes from the link would give them another port, or the address for relayed connections.
#[test]
fn the_tunnels_own_packets_leave_with_their_own_address_and_port() {
    let mut relay = relay();
    relay.firewall.translation.egress = ["203.0.113.8".parse().unwrap()].into();
    for state in [relay, client(&["0.0.0.0/0"])] {
        let ruleset = change(&state.firewall, &state.link.name, None, None);
        let document: serde_json::Value = serde_json::from_str(&ruleset.last.document).unwrap();
        let first = document["nftables"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| &item["add"]["rule"])
            .find(|rule| rule["chain"] == "postrouting")
            .unwrap();
        let mark = serde_json::json!({"&": [{"meta": {"key": "mark"}}, TUNNEL_MARK_MASK]});
        assert_eq!(
            first["expr"],
            serde_json::json!([
                {"match": {"left": mark, "op": "==", "right": TUNNEL_MARK}},
                {"return": null},
            ]),
        );
    }
}

#[test]
fn what_the_coordinator_chose_goes_before_what_the_host_did() {
    let routes = [
        ("8.8.4.4/32", RouteState::Serving),
        ("8.8.8.8/32", RouteState::Serving),
    ];
    let mut map = map(1, &routes, Vec::new(), Vec::new());
    let mut settings = settings(&["8.8.8.8/32", "8.8.4.4/32"]);
    let chosen = |route: &str, of: Option<&str>, address: &str| RouteEgress {
        route: route.parse().unwrap(),
        sources: of.map(|of| [of.parse::<AddressRange>().unwrap()].into_iter().collect()),
        address: address.parse().unwrap(),
    };
    settings.egress = ["203.0.113.1".parse().unwrap()].into();
    let own = "203.0.113.2".parse().unwrap();
    settings.route_egress = [("8.8.8.8/32".parse().unwrap(), own)].into();
    map.node.egress = vec![chosen("8.8.8.8/32", Some("100.64.0.2"), "203.0.113.3")];
    let leaves = |map: &NetworkMap, from: &str, to: &str| {
        let firewall = desired_state(map, &settings, key(1)).firewall;
        let address = firewall.egress_for(from.parse().unwrap(), to.parse().unwrap());
        address.unwrap().to_string()
    };
    assert_eq!(leaves(&map, "100.64.0.2", "8.8.8.8"), "203.0.113.3");
    assert_eq!(leaves(&map, "100.64.0.4", "8.8.8.8"), "203.0.113.2");
    assert_eq!(leaves(&map, "100.64.0.2", "8.8.4.4"), "203.0.113.1");
    map.node
        .egress
        .push(chosen("8.8.8.8/32", None, "203.0.113.4"));
    assert_eq!(leaves(&map, "100.64.0.2", "8.8.8.8"), "203.0.113.3");
    assert_eq!(leaves(&map, "100.64.0.4", "8.8.8.8"), "203.0.113.4");
}

#[test]
fn a_subnet_that_may_only_begin_is_answered_through_its_relay() {
    let mut office = peer(1, "office", &[], Some("203.0.113.20:51920"));
    office.source_prefixes = ["10.20.0.0/24", "8.8.8.8/32"]
        .map(|prefix| prefix.parse().unwrap())
        .into();
    let map = map(2, &[], vec![office], vec![]);
    let state = desired_state(&map, &settings(&[]), key(2));
    let subnets = routes_of(&state, SUBNET_TABLE);
    assert_eq!(subnets.len(), 1, "{subnets:?}");
    assert!(subnets[0].starts_with("10.20.0.0/24 Link"));
    // What a public host sends is no reason to send our own traffic its way.
    assert_eq!(routes_of(&state, RELAYED_TABLE), Vec::<String>::new());
    for without in [
        NodeSettings {
            accept_routes: false,
            ..settings(&[])
        },
        settings(&["10.20.0.0/24"]),
    ] {
        let state = desired_state(&map, &without, key(2));
        assert_eq!(routes_of(&state, SUBNET_TABLE), Vec::<String>::new());
    }
}

#[test]
fn the_coordinator_is_reached_directly_in_spite_of_a_route() {
    let mut settings = settings(&[]);
    settings.direct = ["192.0.2.1".parse().unwrap(), "8.8.8.8".parse().unwrap()].into();
    let relay = peer(1, "relay", &["192.0.2.0/24", "8.8.8.8/32"], None);
    let state = desired_state(&map(2, &[], vec![relay], vec![]), &settings, key(2));
    let relayed = routes_of(&state, RELAYED_TABLE);
    assert!(
        relayed.contains(&"192.0.2.1/32 NextRule".to_owned()),
        "{relayed:?}"
    );
    assert!(
        relayed
            .iter()
            .any(|route| route.starts_with("192.0.2.0/24 Link"))
    );
    assert!(
        !relayed
            .iter()
            .any(|route| route.starts_with("8.8.8.8/32 Link"))
    );
}

#[test]
fn a_revocation_comes_first_and_a_grant_last() {
    let before = relay();
    let mut after = before.clone();
    after.firewall.grants.remove(0);
    let more_peers = peer(9, "carol", &[], None);
    after.peers.insert(
        more_peers.node_key,
        weir_kernel_plan::DesiredPeer::default(),
    );
    let observed = as_built(&before);
    let revoke = texts(&plan(&after, &observed, Some(&in_force(&before))));
    assert_eq!(revoke[1..], ["load the firewall table", "update 1 peers"]);
    let mut back = before.clone();
    back.peers = after.peers.clone();
    let grant = texts(&plan(
        &back,
        &as_built(&{
            let mut state = after.clone();
            state.peers = before.peers;
            state
        }),
        Some(&in_force(&after)),
    ));
    assert_eq!(grant[0], "update 1 peers");
    assert_eq!(grant.last().unwrap(), "load the firewall table");
}

#[test]
fn a_table_that_is_not_what_was_loaded_is_loaded_again_at_once() {
    let desired = relay();
    let mut observed = as_built(&desired);
    observed.firewall = None;
    let steps = texts(&plan(&desired, &observed, Some(&in_force(&desired))));
    assert_eq!(steps[1..], ["load the firewall table"]);
    let mut changed = as_built(&desired);
    changed.firewall.as_mut().unwrap().fingerprint = None;
    assert_eq!(
        texts(&plan(&desired, &changed, Some(&in_force(&desired))))[1..],
        ["load the firewall table"]
    );
}

#[test]
fn a_live_session_keeps_its_roamed_endpoint() {
    let desired = client(&[]);
    let mut observed = as_built(&desired);
    let relay = observed
        .device
        .as_mut()
        .unwrap()
        .peers
        .values_mut()
        .next()
        .unwrap();
    relay.endpoint = Some("198.51.100.9:4000".parse().unwrap());
    relay.handshake_age = Some(20);
    assert_eq!(
        plan(&desired, &observed, Some(&in_force(&desired))),
        Vec::new()
    );
    let relay = observed
        .device
        .as_mut()
        .unwrap()
        .peers
        .values_mut()
        .next()
        .unwrap();
    relay.handshake_age = Some(900);
    assert_eq!(
        texts(&plan(&desired, &observed, Some(&in_force(&desired)))),
        ["update 1 peers"]
    );
}

#[test]
fn teardown_takes_everything_of_ours_and_gives_settings_back() {
    let desired = relay();
    let saved = BTreeMap::from([(SysctlKey::ipv4_forwarding(), "0".to_owned())]);
    insta::assert_debug_snapshot!(texts(&plan_teardown(&as_built(&desired), &saved)));
    assert_eq!(plan_teardown(&ObservedState::default(), &saved), Vec::new());
    assert!(removal().contains("delete"));
}
