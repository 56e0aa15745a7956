//! Hosts, and what is said of each.

use serde_json::json;
use weir_kernel_plan::LinkFact;

use super::*;
use crate::{NftListing, Outcome, Place, Programs, RouteOut};

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn out(link: &str) -> RouteAnswer {
    RouteAnswer::Out(RouteOut {
        link: link.to_owned(),
        gateway: None,
        source: None,
        table: None,
        matched: None,
    })
}

/// A relay to 8.8.8.8 with nothing wrong.
fn healthy() -> Host {
    let forwarding = SysctlKey::ipv4_forwarding();
    Host {
        interface: "weir0".parse().unwrap(),
        listen_port: 51920,
        seen: Examination {
            facts: HostFacts {
                may_administer: true,
                kernel_wireguard: true,
                tun: true,
                ipv6: false,
                nft: Ok("1.0.6".to_owned()),
                link: LinkFact::Absent,
                port: PortFact::Free,
                addresses: [address("203.0.113.7")].into(),
                unwritable_sysctls: BTreeMap::new(),
                autoconfigured_links: BTreeSet::new(),
                connected_networks: BTreeMap::new(),
            },
            sysctls: [
                (forwarding.clone(), Some("1".to_owned())),
                (
                    SysctlKey("net/ipv4/conf/all/rp_filter".to_owned()),
                    Some("1".to_owned()),
                ),
            ]
            .into(),
            ways: [
                (anywhere(true), out("eth0")),
                (address("8.8.8.8"), out("eth0")),
                (address("198.51.100.9"), out("eth0")),
            ]
            .into(),
            mtus: [("eth0".to_owned(), 1500), ("weir0".to_owned(), 1420)].into(),
            others: OtherFirewalls::default(),
        },
        node: Some(NodeSeen {
            addresses: [address("100.64.0.1")].into(),
            serves: vec!["8.8.8.8/32".parse().unwrap()],
            is_reached: false,
            uses_exit: false,
            needs: [(forwarding, "1".to_owned())].into(),
            peers: vec![PeerSeen {
                name: "alice".parse().unwrap(),
                addresses: [address("100.64.0.2")].into(),
                endpoint: Some("198.51.100.9:40000".parse().unwrap()),
                shook_hands: true,
                sent_bytes: 100,
            }],
            failures: Vec::new(),
            mtu: 1420,
        }),
        coordinator: Some(CoordinatorSeen {
            url: "https://c.example:8443".to_owned(),
            unresolved: None,
            unreached: None,
            pinned: true,
            ahead: Some(1),
        }),
        disk: Some(DiskSeen {
            path: "/var/lib/weir/agent".to_owned(),
            free: 1 << 30,
        }),
    }
}

/// The one check that failed, and a command under it.
fn fails(host: &Host, name: &str, command: &str) {
    let checks = doctor(host);
    let failed: Vec<_> = checks
        .0
        .iter()
        .filter(|check| check.outcome == Outcome::Failed)
        .collect();
    let [check] = failed.as_slice() else {
        panic!("not one failed check: {checks:#?}");
    };
    assert_eq!(check.name, name);
    let commands: Vec<_> = check.remedies.iter().map(|one| &one.command).collect();
    assert!(commands.iter().any(|one| *one == command), "{check:#?}");
}

#[test]
fn a_healthy_relay_is_well_in_every_respect() {
    let checks = doctor(&healthy());
    assert!(
        checks
            .0
            .iter()
            .all(|check| check.outcome == Outcome::Passed),
        "{checks:#?}"
    );
}

#[test]
fn each_thing_that_is_wrong_is_found_alone_and_has_its_command() {
    type Break = fn(&mut Host);
    let broken: [(Break, &str, &str); 10] = [
        (
            |host| {
                host.seen.facts.kernel_wireguard = false;
                host.seen.facts.tun = false;
            },
            "WireGuard",
            "modprobe wireguard",
        ),
        (
            |host| host.seen.facts.nft = Err("the program nft is not there".to_owned()),
            "nft",
            "apt install nftables",
        ),
        (
            |host| host.seen.facts.port = PortFact::Taken,
            "UDP port",
            "ss -ulpn sport = :51920",
        ),
        (
            |host| {
                let key = SysctlKey::ipv4_forwarding();
                host.seen.sysctls.insert(key, Some("0".to_owned()));
            },
            "forwarding",
            "sysctl -w net.ipv4.ip_forward=1",
        ),
        (
            |host| {
                host.seen.mtus.insert("eth0".to_owned(), 1400);
            },
            "MTU",
            "ip link set eth0 mtu 1480",
        ),
        (
            |host| {
                for peer in &mut host.node.as_mut().unwrap().peers {
                    peer.shook_hands = false;
                }
            },
            "handshakes",
            "agent doctor",
        ),
        (
            |host| host.disk.as_mut().unwrap().free = 1000,
            "disk",
            "df -h /var/lib/weir/agent",
        ),
        (
            |host| {
                let seen = host.coordinator.as_mut().unwrap();
                seen.unreached = Some("connection refused".to_owned());
                seen.ahead = None;
            },
            "coordinator",
            "coordinator status",
        ),
        (
            |host| host.coordinator.as_mut().unwrap().ahead = Some(-300),
            "clock",
            "timedatectl set-ntp true",
        ),
        (
            |host| {
                let failure = ItemFailure {
                    item: "add a route".to_owned(),
                    reason: "file exists".to_owned(),
                };
                host.node.as_mut().unwrap().failures = vec![failure];
            },
            "node",
            "agent status",
        ),
    ];
    for (break_it, name, command) in broken {
        let mut host = healthy();
        break_it(&mut host);
        fails(&host, name, command);
    }
}

#[test]
fn a_firewall_that_lets_no_stranger_in_hides_a_relay_and_no_client() {
    let listing = NftListing {
        json: json!({"nftables": [
            {"table": {"family": "inet", "name": "site", "handle": 1}},
            {"chain": {"family": "inet", "table": "site", "name": "in", "handle": 1,
                       "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}},
            {"rule": {"family": "inet", "table": "site", "chain": "in", "handle": 2, "expr": [
                {"match": {"op": "in", "left": {"ct": {"key": "state"}},
                           "right": ["established", "related"]}}, {"accept": null}]}}
        ]}),
        text: String::new(),
    };
    let mut host = healthy();
    host.seen.others = OtherFirewalls::read(&[listing], &[], Vec::new(), Programs::default());
    let command = "nft insert rule inet site in udp dport 51920 accept";
    fails(&host, "other firewalls", command);
    host.node.as_mut().unwrap().serves.clear();
    assert!(doctor(&host).all_well());
    host.node.as_mut().unwrap().is_reached = true;
    let command = "nft insert rule inet site in iifname weir0 accept";
    fails(&host, "other firewalls", command);
}

#[test]
fn strictness_matters_to_who_uses_an_exit() {
    let mut host = healthy();
    host.node.as_mut().unwrap().uses_exit = true;
    let checks = doctor(&host);
    let check = checks.0.iter().find(|check| check.name == "rp_filter");
    assert_eq!(check.map(|check| check.outcome), Some(Outcome::Unknown));
}

#[test]
fn a_host_that_is_down_and_belongs_nowhere() {
    let host = Host {
        node: None,
        coordinator: None,
        disk: None,
        ..healthy()
    };
    let checks = doctor(&host);
    assert!(checks.all_well());
    let unknown: Vec<_> = checks
        .0
        .iter()
        .filter(|check| check.outcome == Outcome::Unknown)
        .map(|check| {
            (
                check.name.as_str(),
                check.remedies.first().map(|one| &one.on),
            )
        })
        .collect();
    assert_eq!(
        unknown,
        [
            ("node", Some(&Place::Here)),
            ("disk", None),
            ("coordinator", Some(&Place::Here)),
        ]
    );
}
