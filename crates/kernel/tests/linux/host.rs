//! Connections, settings, facts and notifications on the real kernel.

use crate::support::{Node, add_cable, apply, interface, kernel, observe, private_key, run, scope};
use std::{collections::BTreeSet, net::UdpSocket, time::Duration};
use tokio::time::timeout;
use weir_kernel_plan::{
    Area, DesiredDevice, Kernel, LinkFact, LinkKind, PeerUpdate, PortFact, Scope, Step, SysctlKey,
    WireguardBackend,
};

#[test]
fn connections_are_forgotten_by_mark_in_both_families() {
    Node::new().run(|| async {
        // Any rule that looks at connections turns tracking on; these also mark by port.
        run("nft add table inet t");
        run("nft add chain inet t out { type filter hook output priority 0 ; }");
        run("nft add rule inet t out udp dport 1001 ct mark set 0x00100001");
        run("nft add rule inet t out udp dport 1002 ct mark set 0x00200001");
        for (from, to) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "[::1]")] {
            let socket = UdpSocket::bind(from).unwrap();
            for port in [1000, 1001, 1002] {
                let _refused = socket.send_to(b"x", format!("{to}:{port}"));
            }
        }
        let table = || std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").ok();
        let count = |port: u16| {
            let listing = table()
                .unwrap_or_else(|| run("conntrack -L -f ipv4") + &run("conntrack -L -f ipv6"));
            listing
                .lines()
                .filter(|line| line.contains(&format!("dport={port} ")))
                .count()
        };
        assert_eq!([count(1000), count(1001), count(1002)], [2, 2, 2]);
        let kernel = kernel();
        let forget = |mark, mask| Step::ForgetConnections { mark, mask };
        apply(&kernel, forget(0x0010_0000, 0xfff0_0000)).await;
        assert_eq!([count(1000), count(1001), count(1002)], [2, 0, 2]);
        // What nobody marked is not ours to forget.
        for (mark, mask) in [(0, 0), (0, 0xfff0_0000), (0x0010_0000, 0x000f_ffff)] {
            assert!(kernel.apply(&scope(), &forget(mark, mask)).await.is_err());
        }
        assert_eq!([count(1000), count(1001), count(1002)], [2, 0, 2]);
    });
}

#[test]
fn settings_round_trip() {
    Node::new().run(|| async {
        let kernel = kernel();
        let key = SysctlKey::ipv4_forwarding();
        let missing = SysctlKey("net/ipv4/no_such_setting".to_owned());
        let scope = Scope {
            sysctls: [key.clone(), missing.clone()].into(),
            ..scope()
        };
        for value in ["1", "0"] {
            let step = Step::SetSysctl {
                key: key.clone(),
                value: value.to_owned(),
            };
            apply(&kernel, step).await;
            let seen = kernel.observe(&scope).await.unwrap().sysctls;
            assert_eq!(seen[&key].as_deref(), Some(value));
            assert_eq!(seen[&missing], None);
        }
        let step = Step::SetSysctl {
            key: missing,
            value: "1".to_owned(),
        };
        let error = kernel.apply(&scope, &step).await.unwrap_err();
        assert_eq!(error.errno, Some(libc::ENOENT));
    });
}

#[test]
fn facts_of_a_host() {
    Node::new().run(|| async {
        add_cable("eth0");
        run("ip addr add 203.0.113.7/24 dev eth0");
        run("ip addr add 2001:db8::7/64 dev eth0 nodad");
        run("ip link set eth0 up");
        let kernel = kernel();
        let taken = UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let facts = kernel.facts(&interface(), port).await.unwrap();
        assert!(facts.may_administer && facts.ipv6);
        assert!(facts.nft.unwrap().starts_with("1."));
        assert_eq!(facts.link, LinkFact::Absent);
        assert_eq!(facts.port, PortFact::Taken);
        assert!(facts.unwritable_sysctls.is_empty());
        let addresses: Vec<String> = facts.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["203.0.113.7", "2001:db8::7"]);
        let networks: Vec<String> = facts.connected_networks["eth0"]
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(networks, ["203.0.113.0/24", "2001:db8::/64"]);
        assert!(facts.autoconfigured_links.is_empty());
        drop(taken);
        let facts = kernel.facts(&interface(), port).await.unwrap();
        assert_eq!(facts.port, PortFact::Free);
        // The probe for WireGuard left nothing.
        assert!(!run("ip -o link").contains("wireguard"));
        add_cable("weir0");
        let facts = kernel.facts(&interface(), port).await.unwrap();
        let cable = LinkKind::Other("veth".to_owned());
        assert_eq!(facts.link, LinkFact::Present(cable));
    });
}

#[test]
fn facts_name_links_that_learn_their_way_out_from_a_router() {
    Node::new().run(|| async {
        add_cable("eth0");
        run("ip -6 route add default dev eth0 proto ra");
        std::fs::write("/proc/sys/net/ipv6/conf/eth0/accept_ra", "1").unwrap();
        let facts = kernel().facts(&interface(), 51920).await.unwrap();
        assert!(facts.autoconfigured_links.contains("eth0"));
        std::fs::write("/proc/sys/net/ipv6/conf/eth0/accept_ra", "2").unwrap();
        let facts = kernel().facts(&interface(), 51920).await.unwrap();
        assert!(facts.autoconfigured_links.is_empty());
    });
}

#[test]
fn a_host_without_ipv6() {
    Node::new().run(|| async {
        std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        let kernel = kernel();
        assert!(!kernel.facts(&interface(), 51920).await.unwrap().ipv6);
        add_cable("weir0");
        apply(&kernel, Step::AddAddress("100.64.0.7/32".parse().unwrap())).await;
        assert_eq!(observe(&kernel).await.link.unwrap().addresses.len(), 1);
    });
}

#[test]
fn every_kind_of_change_wakes_and_silence_does_not() {
    Node::new().run(|| async {
        let kernel = kernel();
        let settle = || async {
            while timeout(Duration::from_millis(200), kernel.changed())
                .await
                .is_ok()
            {}
        };
        settle().await;
        for change in [
            "ip link add d0 type veth peer name d1",
            "ip link set d1 up",
            "ip link set d0 up",
            "ip addr add 192.0.2.1/24 dev d0",
            "ip -6 addr add 2001:db8::1/64 dev d0",
            "ip route add 198.51.100.0/24 dev d0 proto 87",
            "ip route replace 198.51.100.0/24 dev d0 proto static",
            "ip -6 route add 2001:db8:1::/64 dev d0 proto 87",
            "ip -6 route del 2001:db8:1::/64 dev d0",
            "ip rule add pref 100 lookup 100",
            "ip -6 rule add pref 100 lookup 100",
            "nft add table inet weir",
            "nft delete table inet weir",
            "sysctl -q net.ipv4.ip_forward=1",
            "sysctl -q net.ipv6.conf.all.forwarding=1",
        ] {
            // A change between two waits is not missed.
            run(change);
            timeout(Duration::from_secs(2), kernel.changed())
                .await
                .unwrap_or_else(|_| panic!("nothing woke after `{change}`"));
            settle().await;
        }
    });
}

#[test]
fn what_is_not_ours_wakes_nobody() {
    Node::new().run(|| async {
        let kernel = kernel();
        add_cable("d0");
        // The new link's own addresses take their time: duplicate address detection, a second or two.
        while timeout(Duration::from_millis(2500), kernel.changed())
            .await
            .is_ok()
        {
            let _links = kernel.pending_changes().await;
        }
        run("ip route add 198.51.100.0/24 dev d0");
        run("ip route del 198.51.100.0/24 dev d0");
        run("nft add table inet other");
        run("nft add table ip weir");
        run("nft delete table ip weir");
        assert_eq!(kernel.pending_changes().await, BTreeSet::new());
    });
}

#[test]
fn who_changed_our_table_is_known_by_name() {
    Node::new().run(|| async {
        let kernel = kernel();
        run("nft add table inet weir");
        let _subscribed = kernel.pending_changes().await;
        run("nft flush ruleset");
        let changes = kernel.pending_changes().await;
        let [change] = changes.iter().collect::<Vec<_>>()[..] else {
            panic!("not one change: {changes:?}");
        };
        assert_eq!(change.area, Area::Firewall);
        let name = change.by.as_ref().and_then(|by| by.name.as_deref());
        assert_eq!(name, Some("nft"));

        run("ip rule add pref 100 lookup 100");
        let changes = kernel.pending_changes().await;
        let by = changes.iter().find_map(|change| change.by.as_ref());
        // `ip` has ended when its number is looked up, or (its number taken) somebody is there.
        assert!(by.is_some_and(|by| by.process > 1), "{changes:?}");
    });
}

#[test]
fn a_changed_wireguard_device_is_found_without_a_word_of_the_kernel() {
    Node::new().run(|| async {
        let kernel = kernel();
        let facts = kernel.facts(&interface(), 51920).await.unwrap();
        let backend = if facts.kernel_wireguard {
            WireguardBackend::Kernel
        } else {
            WireguardBackend::Userspace
        };
        apply(&kernel, Step::CreateLink { backend, mtu: 1420 }).await;
        let device = DesiredDevice {
            private_key: private_key(1),
            listen_port: 51920,
            firewall_mark: 0,
        };
        apply(&kernel, Step::ConfigureDevice(device)).await;
        let peer = PeerUpdate {
            add_allowed_ips: ["100.64.0.2/32".parse().unwrap()].into(),
            ..PeerUpdate::of(private_key(2).public())
        };
        apply(&kernel, Step::UpdatePeers(vec![peer])).await;
        observe(&kernel).await;
        let _ours = kernel.pending_changes().await;
        let quiet = timeout(Duration::from_millis(1200), kernel.changed()).await;
        assert!(quiet.is_err(), "woke for nothing: {quiet:?}");
        let key = private_key(2).public();
        for change in [
            format!("wg set weir0 peer {key} allowed-ips 100.64.0.3/32"),
            format!("wg set weir0 peer {key} remove"),
            "wg set weir0 listen-port 51921".to_owned(),
        ] {
            run(&change);
            let woken = timeout(Duration::from_secs(20), kernel.changed()).await;
            assert_eq!(woken.unwrap().area, Area::Wireguard, "{change}");
            observe(&kernel).await;
        }
    });
}

#[test]
fn an_overrun_is_a_change() {
    Node::new().run(|| async {
        let kernel = kernel();
        let _subscribed = timeout(Duration::from_millis(50), kernel.changed()).await;
        add_cable("d0");
        let script = "for i in $(seq 1 3000); do echo route add 198.18.$((i/250)).$((i%250))/32 dev d0; done | ip -batch -";
        let flood = std::process::Command::new("sh").args(["-c", script]).status();
        assert!(flood.unwrap().success());
        // However much was lost, each wait ends, and then there is silence again.
        let drained = async {
            while timeout(Duration::from_millis(300), kernel.changed()).await.is_ok() {}
        };
        timeout(Duration::from_secs(30), drained).await.unwrap();
        run("ip link del d0");
        timeout(Duration::from_secs(2), kernel.changed()).await.unwrap();
    });
}

#[test]
fn ports_in_use_are_counted_by_address_and_destination() {
    Node::new().run(|| async {
        add_cable("wan0");
        run("ip address add 203.0.113.7/24 dev wan0");
        run("ip address add 203.0.113.8/24 dev wan0");
        run("ip neigh add 203.0.113.1 lladdr 02:00:00:00:00:01 dev wan0");
        run("ip route add default via 203.0.113.1");
        for command in [
            "add table inet ours",
            "add chain inet ours out { type filter hook output priority 0 ; }",
            "add chain inet ours leave { type nat hook postrouting priority 100 ; }",
            // What is not marked is not ours, and what is not translated takes no port.
            "add rule inet ours out udp dport { 53, 123 } ct mark set 0x00100001",
            "add rule inet ours leave udp dport { 53, 99 } snat ip to 203.0.113.8 fully-random",
        ] {
            run(&format!("nft {command}"));
        }
        // Held open: a socket that ends gives its port to the next, whose packet is then one more of
        // the same connection.
        let mut sockets = Vec::new();
        let mut send = |to: &str| {
            let socket = UdpSocket::bind("203.0.113.7:0").unwrap();
            socket.send_to(b"x", to).unwrap();
            sockets.push(socket);
        };
        for _connection in 0..40 {
            send("8.8.8.8:53");
        }
        for to in ["8.8.4.4:53", "8.8.8.8:123", "8.8.8.8:99"] {
            send(to);
        }
        let found: Vec<_> = kernel()
            .ports_in_use()
            .await
            .unwrap()
            .into_iter()
            .map(|one| {
                (
                    one.egress.to_string(),
                    one.destination.to_string(),
                    one.ports,
                )
            })
            .collect();
        let egress = "203.0.113.8".to_owned();
        assert_eq!(
            found,
            [
                (egress.clone(), "8.8.4.4:53".to_owned(), 1),
                (egress, "8.8.8.8:53".to_owned(), 40),
            ]
        );
    });
}
