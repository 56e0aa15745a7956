//! The nftables table on the real kernel.

use crate::support::{Node, add_cable, apply, kernel, observe, output, run, scope};
use std::{collections::BTreeSet, net::UdpSocket, os::fd::AsRawFd, sync::Arc};
use weir_kernel::{KernelOptions, LinuxKernel};
use weir_kernel_plan::{
    Kernel, Step,
    firewall::{DesiredFirewall, ObservedFirewall, SourceTranslation, Table, change},
};
use weir_overlay::{AddressRange, AddressSet, GrantId};
use weir_protocol::{Destination, Grant, IpProtocol, PortRange};

const RULESET: &str = r#"{"nftables": [
    {"add": {"table": {"family": "inet", "name": "weir"}}},
    {"delete": {"table": {"family": "inet", "name": "weir"}}},
    {"add": {"table": {"family": "inet", "name": "weir"}}},
    {"add": {"counter": {"family": "inet", "table": "weir", "name": "denied"}}},
    {"add": {"chain": {"family": "inet", "table": "weir", "name": "forward", "type": "filter",
        "hook": "forward", "prio": 0, "policy": "accept"}}}
]}"#;

fn load(ruleset: &str) -> Step {
    Step::LoadFirewall {
        ruleset: ruleset.to_owned(),
        table: None,
        difference: false,
    }
}

#[test]
fn the_table_is_loaded_observed_and_removed_and_others_stay() {
    Node::new().run(|| async {
        let kernel = kernel();
        run("nft add table inet other");
        assert_eq!(observe(&kernel).await.firewall, None);
        apply(&kernel, load(RULESET)).await;
        let firewall = observe(&kernel).await.firewall.unwrap();
        assert!(firewall.chains.contains("forward"));
        assert!(firewall.counters.contains_key("denied"));
        apply(&kernel, Step::DeleteFirewall).await;
        assert_eq!(observe(&kernel).await.firewall, None);
        run("nft list table inet other");
    });
}

#[test]
fn an_error_keeps_nfts_own_words_and_changes_nothing() {
    Node::new().run(|| async {
        let kernel = kernel();
        apply(&kernel, load(RULESET)).await;
        let bad = RULESET.replace("\"hook\": \"forward\"", "\"hook\": \"nowhere\"");
        let error = kernel.apply(&scope(), &load(&bad)).await.unwrap_err();
        assert!(error.to_string().contains("nft says: "), "{error}");
        assert!(error.to_string().contains("hook"), "{error}");
        assert!(
            observe(&kernel).await.firewall.is_some(),
            "the old table is gone"
        );
        let error = kernel.apply(&scope(), &load("{")).await.unwrap_err();
        assert!(error.to_string().contains("nft says: "), "{error}");
    });
}

#[test]
fn a_large_ruleset_loads_in_one_piece() {
    Node::new().run(|| async {
        let kernel = kernel();
        let elements: Vec<String> = (0..20_000u32)
            .map(|n| format!("\"{}\"", std::net::Ipv4Addr::from(0x0a00_0000 + n)))
            .collect();
        let ruleset = format!(
            r#"{{"nftables": [{{"add": {{"table": {{"family": "inet", "name": "weir"}}}}}},
            {{"add": {{"set": {{"family": "inet", "table": "weir", "name": "s", "type": "ipv4_addr",
            "elem": [{}]}}}}}}]}}"#,
            elements.join(",")
        );
        kernel.apply(&scope(), &load(&ruleset)).await.unwrap();
        let firewall = observe(&kernel).await.firewall.unwrap();
        assert_eq!(firewall.sets.get("s"), Some(&false));
    });
}

#[test]
fn a_missing_nft_names_the_package() {
    Node::new().run(|| async {
        let kernel = LinuxKernel::new(KernelOptions {
            nft: "/nonexistent/nft".into(),
            ..KernelOptions::default()
        });
        for step in [load(RULESET), Step::DeleteFirewall] {
            let error = kernel.apply(&scope(), &step).await.unwrap_err();
            assert!(
                error.to_string().contains("apt install nftables"),
                "{error}"
            );
        }
        assert!(kernel.observe(&scope()).await.is_err());
        assert!(!output("nft list table inet weir").status.success());
    });
}

fn set(text: &str) -> AddressSet {
    let items = text.split_whitespace();
    items
        .map(|item| item.parse::<AddressRange>().unwrap())
        .collect()
}

/// A relay with so many grants of one client to one port, and one of a team to a prefix.
fn firewall(grants: u16) -> DesiredFirewall {
    let grant = |id: u16, sources: &str, to: &str, ports: PortRange| Grant {
        id: GrantId(id.into()),
        sources: set(sources),
        protocols: [IpProtocol::TCP].into(),
        destinations: vec![Destination {
            addresses: set(to),
            ports,
        }],
        origin: format!("grants[{id}]"),
    };
    let mut all: Vec<Grant> = (1..=grants)
        .map(|id| grant(id, "100.64.0.2", "10.0.0.1", PortRange::single(id)))
        .collect();
    let range = PortRange {
        first: 100,
        last: 200,
    };
    all.push(grant(
        grants + 1,
        "100.64.0.2 100.64.0.4",
        "10.1.0.0/16",
        range,
    ));
    DesiredFirewall {
        own_addresses: set("100.64.0.1 fd77:6569:7200::1"),
        served: set("10.0.0.0/8"),
        exit: false,
        grants: all,
        translation: SourceTranslation {
            subnets: true,
            egress: BTreeSet::new(),
            routes: Vec::new(),
        },
        tunnel_port: None,
        relayed: AddressSet::default(),
    }
}

/// Loads what is wanted, and gives what that left and whether it was a difference.
async fn put_in_force(
    kernel: &LinuxKernel,
    wanted: &DesiredFirewall,
    known: Option<&Table>,
) -> (Arc<Table>, bool) {
    let observed = observe(kernel).await.firewall;
    let change = change(wanted, &scope().interface, observed.as_ref(), known);
    // Each once: what is there already is not added again.
    for document in change.documents() {
        let step = Step::LoadFirewall {
            ruleset: document.to_owned(),
            table: None,
            difference: change.full.is_none(),
        };
        kernel.apply(&scope(), &step).await.unwrap();
    }
    let observed = observe(kernel).await.firewall.unwrap();
    assert!(
        observed.is(&change.last.table),
        "{observed:?} {:?}",
        change.last.table
    );
    (change.last.table, change.full.is_none())
}

#[test]
fn a_change_is_a_difference_and_leaves_what_a_whole_load_would() {
    Node::new().run(|| async {
        let kernel = kernel();
        let (table, difference) = put_in_force(&kernel, &firewall(50), None).await;
        assert!(!difference, "nothing was there");
        let (table, difference) = put_in_force(&kernel, &firewall(52), Some(&table)).await;
        assert!(difference);
        let mut other = firewall(30);
        other.grants.remove(3);
        other.served = set("10.0.0.0/9 8.8.8.8");
        let (table, difference) = put_in_force(&kernel, &other, Some(&table)).await;
        assert!(difference);
        let listed = kernel.firewall_listing(false).await.unwrap().unwrap();
        // Another kernel object that never saw the differences loads it whole.
        let (whole, difference) = put_in_force(&kernel, &other, None).await;
        assert!(!difference);
        let again = kernel.firewall_listing(false).await.unwrap().unwrap();
        let plain = |listing: &str, table: &Table| -> Vec<String> {
            let mark = u32::from(table.generation()) << 20;
            let stamp = format!("{}_{}", table.fingerprint(), table.generation());
            let listing = listing
                .replace(&format!("{mark:#010x}"), "MARK")
                .replace(&stamp, "STAMP");
            // A table that was laid aside has names of its own.
            let plain = |word: &str| word.replace("4b", "4").replace("6b", "6");
            let mut lines: Vec<_> = listing
                .split([',', '\n', '{', '}'])
                .map(|line| plain(line.trim()))
                .collect();
            lines.sort_unstable();
            lines
        };
        assert_eq!(plain(&listed, &table), plain(&again, &whole));
    });
}

#[test]
fn what_others_do_to_the_table_is_found_and_to_their_own_is_not() {
    Node::new().run(|| async {
        let kernel = kernel();
        put_in_force(&kernel, &firewall(20), None).await;
        let as_it_was = async || -> bool {
            let seen: ObservedFirewall = observe(&kernel).await.firewall.unwrap();
            seen.fingerprint.is_some()
        };
        for harmless in [
            "nft add table inet other",
            "nft add chain inet other x",
            "nft delete table inet other",
        ] {
            run(harmless);
            assert!(as_it_was().await, "{harmless}");
        }
        // Each leaves as many rules and elements as there were.
        for meddling in [
            "nft delete element inet weir grants_ports4 { 100.64.0.2 . 10.0.0.1 . tcp . 3 } ; \
             add element inet weir grants_ports4 { 100.64.0.9 . 10.0.0.1 . tcp . 3 : 0x3 }",
            "nft flush chain inet weir deny_relay ; add rule inet weir deny_relay accept ; \
             add rule inet weir deny_relay accept ; add rule inet weir deny_relay accept ; \
             add rule inet weir deny_relay accept",
            "nft delete element inet weir subnets4 { 10.0.0.0/8 } ; \
             add element inet weir subnets4 { 11.0.0.0/8 }",
        ] {
            run(meddling);
            assert!(!as_it_was().await, "{meddling}");
            put_in_force(&kernel, &firewall(20), None).await;
            assert!(as_it_was().await);
        }
    });
}

/// Has a socket's packets leave by a link, as systemd-resolved does for the resolver of a link.
#[expect(unsafe_code, reason = "nix has no name for this option")]
fn leave_by(socket: &UdpSocket, link: &str) {
    let shown = run(&format!("ip -o link show {link}"));
    let index: u32 = shown.split(':').next().unwrap().parse().unwrap();
    let index = index.to_be();
    // SAFETY: the option takes a pointer to four bytes and their number.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_UNICAST_IF,
            (&raw const index).cast(),
            4,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_resolver_bound_to_a_link_takes_the_tunnel_all_the_same() {
    Node::new().run(|| async {
        let kernel = kernel();
        for (link, address) in [("lan0", "192.168.1.2/24"), ("weir0", "100.64.0.2/32")] {
            add_cable(link);
            run(&format!("ip address add {address} dev {link}"));
        }
        run("ip neigh add 192.168.1.1 lladdr 02:00:00:00:00:01 dev lan0");
        run("ip neigh add 8.8.8.8 lladdr 02:00:00:00:00:02 dev weir0");
        // As networkd makes it for a resolver that DHCP named.
        run("ip route add 8.8.8.8 via 192.168.1.1 dev lan0 proto dhcp src 192.168.1.2");
        run("ip route add 8.8.8.8 dev weir0 src 100.64.0.2 table 5701");
        run("ip rule add pref 5710 not fwmark 0x57000000/0xff000000 lookup 5701");
        let desired = DesiredFirewall {
            own_addresses: set("100.64.0.2"),
            served: AddressSet::default(),
            exit: false,
            grants: Vec::new(),
            translation: SourceTranslation {
                subnets: true,
                egress: BTreeSet::new(),
                routes: Vec::new(),
            },
            tunnel_port: Some(51920),
            relayed: set("8.8.8.8"),
        };
        let asks = || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            leave_by(&socket, "lan0");
            socket.connect("8.8.8.8:53").unwrap();
            socket.send(b"where do I go?").unwrap();
            let port = socket.local_addr().unwrap().port();
            run("conntrack -L -p udp")
                .lines()
                .find(|line| line.contains(&format!("sport={port} ")))
                .map(str::to_owned)
        };
        run("nft add table inet seen");
        run("nft add chain inet seen out { type filter hook postrouting priority 300 ; }");
        run("nft add rule inet seen out oifname weir0 ip daddr 8.8.8.8 counter");
        let in_the_tunnel = || {
            let rules = run("nft list chain inet seen out");
            let count = rules.split("counter packets ").nth(1).unwrap();
            count.split(' ').next().unwrap().parse::<u32>().unwrap()
        };
        asks();
        assert_eq!(in_the_tunnel(), 0, "it needs no new way");
        let ruleset = change(&desired, &"weir0".parse().unwrap(), None, None)
            .last
            .document;
        kernel.apply(&scope(), &load(&ruleset)).await.unwrap();
        let known = asks().unwrap();
        assert_eq!(in_the_tunnel(), 1);
        // And is answered at the address that the tunnel knows.
        assert!(known.contains("dst=100.64.0.2"), "{known}");
    });
}
