//! Situations, and what is said of each.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use weir_kernel_plan::{
    DesiredState, LinkMtu, NodeSettings, ObservedDevice, ObservedPeer, ObservedState,
    RELAYED_TABLE, RULE_RELAYED, WireguardBackend, desired_state, firewall::ObservedFirewall,
};
use weir_overlay::{Generation, GrantId, NodeId, NodePrivateKey, NodePublicKey};
use weir_protocol::{
    Destination, Grant, IpProtocol, NetworkMap, Peer, PortRange, RouteState, RouteStatus, SelfNode,
};

use super::*;
use crate::{Outcome, Place, RouteOut};

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

struct Situation {
    map: NetworkMap,
    settings: NodeSettings,
    observed: ObservedState,
    in_force: Option<Generation>,
    host: HostView,
}

fn key(number: u8) -> NodePublicKey {
    NodePublicKey::from_bytes([number; 32])
}

fn peer(number: u8, name: &str, routes: &[&str]) -> Peer {
    Peer {
        id: NodeId(u64::from(number)),
        name: name.parse().unwrap(),
        user: None,
        tags: BTreeSet::new(),
        node_key: key(number),
        addresses: [address(&format!("100.64.0.{number}"))].into(),
        routes: routes.iter().map(|route| route.parse().unwrap()).collect(),
        source_prefixes: BTreeSet::new(),
        endpoint: Some("203.0.113.7:51920".parse().unwrap()),
    }
}

fn settings() -> NodeSettings {
    NodeSettings {
        interface: "weir0".parse().unwrap(),
        backend: WireguardBackend::Kernel,
        mtu: LinkMtu::FromPath,
        listen_port: 51920,
        accept_routes: true,
        exit_node: None,
        exit_node_allow_lan_access: false,
        snat_subnet_routes: true,
        egress: BTreeSet::new(),
        route_egress: BTreeMap::new(),
        advertised: BTreeSet::new(),
        ipv6: false,
        autoconfigured_links: BTreeSet::new(),
        keepalive: false,
        direct: BTreeSet::new(),
        may_validate_marks: false,
    }
}

fn out(link: &str, table: u32, matched: &str) -> RouteAnswer {
    RouteAnswer::Out(RouteOut {
        link: link.to_owned(),
        gateway: None,
        source: Some(address("203.0.113.7")),
        table: Some(table),
        matched: Some(matched.parse().unwrap()),
    })
}

fn situation(peers: Vec<Peer>, own: SelfNode) -> Situation {
    let device = ObservedDevice {
        peers: peers
            .iter()
            .map(|peer| {
                let mut allowed_ips: BTreeSet<_> = peer.routes.clone();
                allowed_ips.extend(peer.addresses.iter().map(|own| ipnet::IpNet::from(*own)));
                let seen = ObservedPeer {
                    allowed_ips,
                    endpoint: peer.endpoint,
                    handshake_age: Some(5),
                    ..ObservedPeer::default()
                };
                (peer.node_key, seen)
            })
            .collect::<BTreeMap<_, _>>(),
        ..ObservedDevice::default()
    };
    Situation {
        map: NetworkMap {
            generation: Generation(7),
            node: own,
            peers: peers.into_iter().map(|peer| (peer.id, peer)).collect(),
            filter: Vec::new(),
            notices: Vec::new(),
        },
        settings: settings(),
        observed: ObservedState {
            device: Some(device),
            firewall: Some(ObservedFirewall {
                fingerprint: Some("x".to_owned()),
                ..ObservedFirewall::default()
            }),
            ..ObservedState::default()
        },
        in_force: Some(Generation(7)),
        host: HostView {
            outward: out("weir0", RELAYED_TABLE, "8.8.8.8/32"),
            back: None,
            rules: [
                RuleSeen {
                    priority: RULE_RELAYED,
                    ipv4: true,
                    table: Some(RELAYED_TABLE),
                },
                RuleSeen {
                    priority: 0,
                    ipv4: true,
                    table: Some(255),
                },
            ]
            .into(),
            forwarding: Some(true),
            addresses: [address("203.0.113.7")].into(),
            others: OtherFirewalls::default(),
        },
    }
}

fn node(name: &str, number: u8, routes: &[(&str, RouteState)]) -> SelfNode {
    SelfNode {
        egress: Vec::new(),
        id: NodeId(u64::from(number)),
        name: name.parse().unwrap(),
        user: None,
        tags: BTreeSet::new(),
        addresses: [address(&format!("100.64.0.{number}"))].into(),
        routes: routes
            .iter()
            .map(|(prefix, state)| RouteStatus {
                prefix: prefix.parse().unwrap(),
                state: *state,
            })
            .collect(),
        key: weir_protocol::KeyStatus::default(),
    }
}

/// alice, whom the relay serves 8.8.8.8.
fn alice() -> Situation {
    situation(
        vec![peer(1, "relay", &["8.8.8.8/32"])],
        node("alice", 2, &[]),
    )
}

/// The relay, which serves 8.8.8.8 to alice by one grant.
fn relay() -> Situation {
    let mut relay = situation(
        vec![peer(2, "alice", &[])],
        node("relay", 1, &[("8.8.8.8/32", RouteState::Serving)]),
    );
    relay.settings.advertised = ["8.8.8.8/32".parse().unwrap()].into();
    relay.map.filter = vec![Grant {
        id: GrantId(3),
        sources: [ipnet::IpNet::from(address("100.64.0.2"))]
            .into_iter()
            .collect(),
        protocols: [IpProtocol::TCP].into(),
        destinations: vec![Destination {
            addresses: [ipnet::IpNet::from(address("8.8.8.8"))]
                .into_iter()
                .collect(),
            ports: PortRange::single(443),
        }],
        origin: "acls[0], line 5".to_owned(),
    }];
    relay.host.outward = out("eth0", 254, "0.0.0.0/0");
    relay.host.back = Some(out("weir0", 254, "100.64.0.0/10"));
    relay
}

impl Situation {
    fn desired(&self) -> DesiredState {
        desired_state(
            &self.map,
            &self.settings,
            NodePrivateKey::from_bytes([9; 32]),
        )
    }

    fn ask(&self, target: &str, protocol: IpProtocol, from: Option<&str>) -> Checks {
        let desired = self.desired();
        let facts = Facts {
            map: &self.map,
            desired: &desired,
            observed: Some(&self.observed),
            in_force: self.in_force,
            failures: &[],
            disconnected: None,
        };
        let target = Target::parse(target, protocol).unwrap();
        let to = address(&target.host);
        match from {
            Some(name) => {
                let sender =
                    find_peer(&self.map, name).map_or(Sender::Unknown(name), Sender::Known);
                explain_from_node(&facts, &self.host, &target, to, sender, "as typed")
            }
            None => explain_from_here(&facts, &self.host, &target, to, "as typed"),
        }
    }

    fn tcp(&self, target: &str, from: Option<&str>) -> Checks {
        self.ask(target, IpProtocol::TCP, from)
    }
}

fn outcomes(checks: &Checks) -> Vec<(&str, Outcome)> {
    let checks = checks.0.iter();
    checks
        .map(|check| (check.name.as_str(), check.outcome))
        .collect()
}

/// The one check that failed: its name, words of its evidence, and what mends it.
fn fails(checks: &Checks, name: &str, words: &[&str], remedy: (Place, &str)) {
    let failed: Vec<_> = checks
        .0
        .iter()
        .filter(|check| check.outcome == Outcome::Failed)
        .collect();
    let [check] = failed.as_slice() else {
        panic!("not one failed check: {checks:#?}");
    };
    assert_eq!(check.name, name);
    for word in words {
        assert!(check.evidence.contains(word), "{word}: {}", check.evidence);
    }
    let found = check
        .remedies
        .iter()
        .any(|one| (&one.on, one.command.as_str()) == (&remedy.0, remedy.1));
    assert!(found, "{:#?}", check.remedies);
}

#[test]
fn on_a_client_all_that_is_seen_is_well() {
    let checks = alice().tcp("8.8.8.8:443", None);
    assert!(checks.all_well());
    assert_eq!(
        outcomes(&checks),
        [
            ("name", Outcome::Passed),
            ("node", Outcome::Passed),
            ("route", Outcome::Passed),
            ("routing", Outcome::Passed),
            ("handshake", Outcome::Passed),
            ("other firewalls", Outcome::Passed),
            ("at the other end", Outcome::Unknown),
        ]
    );
    let last = checks.0.last().unwrap();
    assert_eq!(
        last.remedies,
        [Remedy::node(
            "relay",
            "agent explain 8.8.8.8:443 --from=alice"
        )]
    );
}

#[test]
fn on_a_relay_everything_is_well() {
    let checks = relay().tcp("8.8.8.8:443", Some("alice"));
    assert!(
        checks
            .0
            .iter()
            .all(|check| check.outcome == Outcome::Passed),
        "{checks:#?}"
    );
    let evidence = |name: &str| {
        let check = checks.0.iter().find(|check| check.name == name).unwrap();
        check.evidence.clone()
    };
    assert!(evidence("policy").contains("grant 3 (acls[0], line 5)"));
    assert_eq!(
        evidence("source address"),
        "8.8.8.8 sees 203.0.113.7, the address of eth0"
    );
}

#[test]
fn nobody_serves_it() {
    let checks = alice().tcp("9.9.9.9:443", None);
    let command = "coordinator policy explain alice 9.9.9.9:443";
    fails(
        &checks,
        "route",
        &["no relay serves 9.9.9.9"],
        (Place::Coordinator, command),
    );
    let checks = alice().ask("100.64.0.99:53", IpProtocol::UDP, None);
    let command = "coordinator policy explain alice 100.64.0.99:53 --protocol=udp";
    fails(
        &checks,
        "route",
        &["100.64.0.99"],
        (Place::Coordinator, command),
    );
}

#[test]
fn routes_are_not_accepted() {
    let mut alice = alice();
    alice.settings.accept_routes = false;
    let command = "agent set --accept-routes=true";
    fails(
        &alice.tcp("8.8.8.8:443", None),
        "route",
        &["relay"],
        (Place::Here, command),
    );
    let relay = NodeId(1);
    alice.map.peers.get_mut(&relay).unwrap().routes = ["0.0.0.0/0".parse().unwrap()].into();
    let command = "agent set --exit-node=relay";
    fails(
        &alice.tcp("9.9.9.9:443", None),
        "route",
        &["exit"],
        (Place::Here, command),
    );
}

#[test]
fn the_node_is_behind_its_map() {
    let mut alice = alice();
    alice.in_force = Some(Generation(6));
    let checks = alice.tcp("8.8.8.8:443", None);
    fails(
        &checks,
        "node",
        &["7 is not in force"],
        (Place::Here, "agent status"),
    );
}

#[test]
fn somebody_elses_rule_or_route_wins() {
    let mut alice = alice();
    alice.host.outward = out("vpn0", 51820, "0.0.0.0/0");
    alice.host.rules.insert(RuleSeen {
        priority: 100,
        ipv4: true,
        table: Some(51820),
    });
    let command = "ip rule del priority 100";
    let words = ["vpn0", "priority 100"];
    fails(
        &alice.tcp("8.8.8.8:443", None),
        "routing",
        &words,
        (Place::Here, command),
    );

    // Without our rule, a host route in main wins.
    alice.host.outward = out("eth0", 254, "8.8.8.8/32");
    alice.host.rules.clear();
    let words = ["8.8.8.8/32", "5710 is gone"];
    fails(
        &alice.tcp("8.8.8.8:443", None),
        "routing",
        &words,
        (Place::Here, "agent up"),
    );
}

#[test]
fn a_lan_wins_over_a_subnet() {
    let mut alice = situation(
        vec![peer(1, "office", &["10.20.0.0/24"])],
        node("alice", 2, &[]),
    );
    alice.host.outward = out("eth1", 254, "10.20.0.0/24");
    alice.host.rules.insert(RuleSeen {
        priority: weir_kernel_plan::RULE_MAIN,
        ipv4: true,
        table: Some(254),
    });
    alice.host.rules.insert(RuleSeen {
        priority: weir_kernel_plan::RULE_SUBNET,
        ipv4: true,
        table: Some(weir_kernel_plan::SUBNET_TABLE),
    });
    let checks = alice.tcp("10.20.0.5:80", None);
    let command = "ip route del 10.20.0.0/24 dev eth1";
    fails(&checks, "routing", &["by intent"], (Place::Here, command));
}

#[test]
fn handshakes_of_all_kinds() {
    let mut alice = alice();
    let mut seen = |change: &dyn Fn(&mut ObservedPeer)| {
        let device = alice.observed.device.as_mut().unwrap();
        change(device.peers.get_mut(&key(1)).unwrap());
        let checks = alice.tcp("8.8.8.8:443", None);
        let check = checks
            .0
            .iter()
            .find(|check| check.name == "handshake")
            .unwrap();
        (check.outcome, check.evidence.clone())
    };
    assert_eq!(
        seen(&|peer| peer.handshake_age = Some(500)).0,
        Outcome::Unknown
    );
    assert_eq!(seen(&|peer| peer.handshake_age = None).0, Outcome::Unknown);
    let (outcome, evidence) = seen(&|peer| peer.sent_bytes = 296);
    assert_eq!(outcome, Outcome::Failed);
    assert!(
        evidence.contains("296 bytes went to UDP 203.0.113.7:51920"),
        "{evidence}"
    );
    alice.map.peers.get_mut(&NodeId(1)).unwrap().endpoint = None;
    let device = alice.observed.device.as_mut().unwrap();
    device.peers.get_mut(&key(1)).unwrap().endpoint = None;
    let command = "agent set --endpoint=PUBLIC-ADDRESS:51920";
    let checks = alice.tcp("8.8.8.8:443", None);
    fails(
        &checks,
        "handshake",
        &["not known"],
        (Place::Node("relay".to_owned()), command),
    );
}

#[test]
fn a_route_in_any_state_but_serving() {
    let mut relay = relay();
    let approve = "coordinator routes approve relay 8.8.8.8/32";
    for (state, words) in [
        (RouteState::AwaitingApproval, "no admin has approved"),
        (RouteState::Rejected, "rejected"),
    ] {
        relay.map.node.routes[0].state = state;
        let checks = relay.tcp("8.8.8.8:443", Some("alice"));
        fails(&checks, "route", &[words], (Place::Coordinator, approve));
    }
    relay.map.node.routes[0].state = RouteState::Standby;
    let checks = relay.tcp("8.8.8.8:443", Some("alice"));
    assert!(checks.all_well());
    assert!(
        checks
            .0
            .iter()
            .any(|check| check.outcome == Outcome::Unknown)
    );
    let command = "agent set --advertise-routes=8.8.8.8/32,9.9.9.9/32";
    let checks = relay.tcp("9.9.9.9:443", Some("alice"));
    fails(&checks, "route", &["not advertise"], (Place::Here, command));
}

#[test]
fn a_node_that_this_one_is_not_told_of() {
    let checks = relay().tcp("8.8.8.8:443", Some("mallory"));
    let command = "coordinator policy explain mallory 8.8.8.8:443";
    fails(
        &checks,
        "sender",
        &["not told of mallory"],
        (Place::Coordinator, command),
    );
}

#[test]
fn an_exit_relays_to_public_addresses_only() {
    let mut relay = relay();
    relay.map.node.routes = node("relay", 1, &[("0.0.0.0/0", RouteState::Serving)]).routes;
    relay.settings.advertised = ["0.0.0.0/0".parse().unwrap()].into();
    let command = "agent set --advertise-routes=10.0.0.5/32";
    let checks = relay.tcp("10.0.0.5:80", Some("alice"));
    fails(
        &checks,
        "route",
        &["public addresses only"],
        (Place::Here, command),
    );
}

#[test]
fn the_relay_does_not_forward() {
    let mut relay = relay();
    relay.host.forwarding = Some(false);
    let command = "sysctl -w net.ipv4.ip_forward=1";
    let checks = relay.tcp("8.8.8.8:443", Some("alice"));
    fails(
        &checks,
        "forwarding",
        &["ip_forward is 0"],
        (Place::Here, command),
    );
}

#[test]
fn the_policy_says_no_and_what_it_says_yes_to() {
    let checks = relay().ask("8.8.8.8:443", IpProtocol::UDP, Some("alice"));
    let command = "coordinator policy explain alice 8.8.8.8:443 --protocol=udp";
    let words = ["no grant", "grant 3 (acls[0], line 5) allows tcp 443"];
    fails(&checks, "policy", &words, (Place::Coordinator, command));
}

#[test]
fn our_table_is_gone() {
    let mut relay = relay();
    relay.observed.firewall = None;
    let checks = relay.tcp("8.8.8.8:443", Some("alice"));
    fails(
        &checks,
        "firewall",
        &["inet weir"],
        (Place::Here, "agent up"),
    );
}

#[test]
fn the_fixed_source_is_no_address_of_the_relay() {
    let mut relay = relay();
    relay.settings.egress = [address("203.0.113.8")].into();
    let command = "ip address add 203.0.113.8/32 dev eth0";
    let checks = relay.tcp("8.8.8.8:443", Some("alice"));
    fails(
        &checks,
        "source address",
        &["203.0.113.8"],
        (Place::Here, command),
    );
    relay.host.addresses.insert(address("203.0.113.8"));
    assert!(relay.tcp("8.8.8.8:443", Some("alice")).all_well());
}

#[test]
fn there_is_no_way_on_or_back() {
    let mut relay = relay();
    relay.host.outward = RouteAnswer::Nowhere("network is unreachable".to_owned());
    let checks = relay.tcp("8.8.8.8:443", Some("alice"));
    let command = "ip route get 8.8.8.8";
    fails(&checks, "way out", &["unreachable"], (Place::Here, command));

    let mut relay = self::relay();
    relay.host.back = Some(out("eth0", 254, "100.64.0.0/24"));
    let checks = relay.tcp("8.8.8.8:443", Some("alice"));
    let command = "ip route del 100.64.0.0/24 dev eth0";
    fails(
        &checks,
        "way back",
        &["100.64.0.0/24"],
        (Place::Here, command),
    );
}

#[test]
fn somebody_elses_firewall_drops_it() {
    let save = crate::IptablesSave {
        family: crate::firewall::Family::Ip,
        manager: crate::firewall::Manager::IptablesNft,
        text: "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -i weir0 -j DROP\nCOMMIT\n".to_owned(),
    };
    let mut relay = relay();
    let programs = crate::Programs::default();
    relay.host.others = OtherFirewalls::read(&[], &[save], Vec::new(), programs);
    let checks = relay.tcp("8.8.8.8:443", Some("alice"));
    let command = "iptables -I FORWARD -i weir0 -j ACCEPT";
    let words = ["rule 1: -A FORWARD -i weir0 -j DROP"];
    fails(&checks, "other firewalls", &words, (Place::Here, command));
}

#[test]
fn a_name_that_nobody_knows() {
    let target = Target::parse("nowhere.example:443", IpProtocol::TCP).unwrap();
    let checks = unresolved(&target, "no such name");
    let command = "getent hosts nowhere.example";
    fails(&checks, "name", &["no such name"], (Place::Here, command));
}
