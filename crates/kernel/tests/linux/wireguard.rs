//! WireGuard on the real kernel: the same tests for the kernel's device, where there is one, and
//! for the userspace one.

use crate::support::{
    Node, add_cable, apply, interface, kernel, observe, output, private_key, run, scope, scratch,
};
use ipnet::IpNet;
use nix::{
    sys::socket::{getsockopt, sockopt},
    unistd::Pid,
};
use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
    os::unix::net::UnixStream,
    sync::Arc,
    time::{Duration, Instant},
};
use weir_kernel::LinuxKernel;
use weir_kernel_plan::{
    DesiredDevice, Kernel, LinkKind, ObservedPeer, PeerUpdate, PortFact, Route, RouteTarget, Step,
    TUNNEL_MARK, WireguardBackend,
};
use weir_overlay::NodePublicKey;

const PORT: u16 = 51920;

/// Runs `test` with each backend that this kernel has.
fn with_each_backend(test: impl Fn(WireguardBackend)) {
    let has_kernel = Node::new().run(|| async {
        kernel()
            .facts(&interface(), PORT)
            .await
            .unwrap()
            .kernel_wireguard
    });
    if has_kernel {
        test(WireguardBackend::Kernel);
    } else {
        println!("this kernel has no WireGuard: tested with the userspace device only");
    }
    test(WireguardBackend::Userspace);
}

fn device(seed: u8) -> DesiredDevice {
    DesiredDevice {
        private_key: private_key(seed),
        listen_port: PORT,
        firewall_mark: TUNNEL_MARK,
    }
}

pub(crate) fn update(key: NodePublicKey, add: &[&str]) -> PeerUpdate {
    PeerUpdate {
        add_allowed_ips: add.iter().map(|text| text.parse().unwrap()).collect(),
        ..PeerUpdate::of(key)
    }
}

pub(crate) async fn bring_up(
    kernel: &LinuxKernel,
    backend: WireguardBackend,
    seed: u8,
    address: &str,
) {
    apply(kernel, Step::CreateLink { backend, mtu: 1420 }).await;
    apply(kernel, Step::ConfigureDevice(device(seed))).await;
    apply(kernel, Step::AddAddress(address.parse().unwrap())).await;
    apply(kernel, Step::SetLinkUp).await;
    apply(kernel, Step::AddRoute(overlay(address))).await;
}

fn overlay(address: &str) -> Route {
    let address: IpNet = address.parse().unwrap();
    Route {
        table: 254,
        destination: "100.64.0.0/10".parse().unwrap(),
        target: RouteTarget::Link {
            source: Some(address.addr()),
        },
    }
}

async fn peer(kernel: &LinuxKernel, key: NodePublicKey) -> ObservedPeer {
    observe(kernel).await.device.unwrap().peers[&key].clone()
}

/// The process that listens on the control socket.
pub(crate) fn device_process() -> Pid {
    let stream = UnixStream::connect("/run/wireguard/weir0.sock").unwrap();
    Pid::from_raw(getsockopt(&stream, sockopt::PeerCredentials).unwrap().pid())
}

/// Two nodes with a cable between them, WireGuard up, each the other's peer.
struct Pair {
    a: Node,
    b: Node,
    a_kernel: Arc<LinuxKernel>,
    b_kernel: Arc<LinuxKernel>,
}

impl Pair {
    fn new(backend: WireguardBackend) -> Self {
        let (a, b) = (Node::new(), Node::new());
        a.sh(&format!(
            "ip link add eth0 type veth peer name eth0 netns {}",
            b.thread_id
        ));
        let pair = Self {
            a,
            b,
            a_kernel: Arc::new(kernel()),
            b_kernel: Arc::new(kernel()),
        };
        for (node, own, kernel, seed, other_seed, other) in [
            (&pair.a, 1, &pair.a_kernel, 1, 2, 2),
            (&pair.b, 2, &pair.b_kernel, 2, 1, 1),
        ] {
            let kernel = Arc::clone(kernel);
            node.run(move || async move {
                run(&format!("ip addr add 192.0.2.{own}/24 dev eth0"));
                run("ip link set eth0 up");
                bring_up(&kernel, backend, seed, &format!("100.64.0.{own}/32")).await;
                let peer = PeerUpdate {
                    endpoint: format!("192.0.2.{other}:{PORT}").parse().ok(),
                    ..update(
                        private_key(other_seed).public(),
                        &[&format!("100.64.0.{other}/32")],
                    )
                };
                apply(&kernel, Step::UpdatePeers(vec![peer])).await;
            });
        }
        pair
    }
}

/// How many of `count` pings, 20 in a second, were answered.
async fn pings_answered(to: &str, count: u32) -> u32 {
    let output = tokio::process::Command::new("ping")
        .args(["-q", "-i", "0.05", "-W", "30", "-c", &count.to_string(), to])
        .output()
        .await
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    printed
        .lines()
        .find_map(|line| line.split(", ").nth(1)?.split(' ').next()?.parse().ok())
        .unwrap_or_else(|| panic!("ping printed {printed:?} {output:?}"))
}

#[test]
fn a_device_is_made_observed_and_removed_without_a_trace() {
    with_each_backend(|backend| {
        Node::new().run(move || async move {
            let before = scratch();
            let kernel = kernel();
            bring_up(&kernel, backend, 1, "100.64.0.1/32").await;
            let state = observe(&kernel).await;
            let (link, device) = (state.link.unwrap(), state.device.unwrap());
            let kind = match backend {
                WireguardBackend::Kernel => LinkKind::Wireguard,
                WireguardBackend::Userspace => LinkKind::Tun,
            };
            assert_eq!((link.kind, link.mtu, link.up), (kind, 1420, true));
            assert_eq!(link.addresses.len(), 1);
            assert_eq!(device.public_key, Some(private_key(1).public()));
            assert_eq!(device.listen_port, PORT);
            assert_eq!(device.firewall_mark, TUNNEL_MARK);
            assert!(device.peers.is_empty());
            assert_eq!(state.routes, [overlay("100.64.0.1/32")].into());
            // No address or route of the kernel's own choice.
            assert!(!run("ip -6 addr show dev weir0").contains("inet6"));
            let routes = run("ip route show table all dev weir0 proto kernel");
            assert!(!routes.contains("100.64.0.0"), "{routes}");
            // Its own port does not stand in its way.
            let facts = kernel.facts(&interface(), PORT).await.unwrap();
            assert_eq!(facts.port, PortFact::Free);
            apply(&kernel, Step::SetMtu(1300)).await;
            assert_eq!(observe(&kernel).await.link.unwrap().mtu, 1300);
            apply(&kernel, Step::DeleteLink).await;
            assert_eq!(observe(&kernel).await.link, None);
            assert_eq!(scratch(), before);
        });
    });
}

#[test]
fn a_peer_with_a_thousand_prefixes_is_one_peer() {
    with_each_backend(|backend| {
        Node::new().run(move || async move {
            let kernel = kernel();
            bring_up(&kernel, backend, 1, "100.64.0.1/32").await;
            let key = private_key(2).public();
            let mut prefixes = BTreeSet::new();
            for n in 0..500u32 {
                let v4 = Ipv4Addr::from(0x0a00_0000 + n);
                let v6 = Ipv6Addr::from((0x2001_0db8u128 << 96) + u128::from(n));
                prefixes.insert(IpNet::from(std::net::IpAddr::from(v4)));
                prefixes.insert(IpNet::from(std::net::IpAddr::from(v6)));
            }
            let all = PeerUpdate {
                add_allowed_ips: prefixes.clone(),
                endpoint: "[2001:db8::1]:51920".parse().ok(),
                keepalive: Some(25),
                ..update(key, &[])
            };
            // Another peer has one of them: it moves.
            let other = private_key(3).public();
            apply(
                &kernel,
                Step::UpdatePeers(vec![update(other, &["10.0.0.7/32"])]),
            )
            .await;
            apply(&kernel, Step::UpdatePeers(vec![all])).await;
            let device = observe(&kernel).await.device.unwrap();
            assert_eq!(device.peers.len(), 2);
            assert!(device.peers[&other].allowed_ips.is_empty());
            let seen = &device.peers[&key];
            assert_eq!(seen.allowed_ips, prefixes);
            assert_eq!(seen.endpoint, "[2001:db8::1]:51920".parse().ok());
            assert_eq!((seen.keepalive, seen.handshake_age), (Some(25), None));

            // Most of them go, and with them nothing else of the peer, and nobody comes.
            let (lost, kept): (BTreeSet<IpNet>, BTreeSet<IpNet>) = prefixes
                .into_iter()
                .enumerate()
                .fold(Default::default(), |(mut lost, mut kept), (n, prefix)| {
                    let _new = if n < 300 {
                        lost.insert(prefix)
                    } else {
                        kept.insert(prefix)
                    };
                    (lost, kept)
                });
            let fewer = PeerUpdate {
                remove_allowed_ips: lost,
                keepalive: Some(0),
                ..update(key, &[])
            };
            apply(&kernel, Step::UpdatePeers(vec![fewer])).await;
            let seen = peer(&kernel, key).await;
            assert_eq!(seen.allowed_ips, kept);
            assert_eq!((seen.keepalive, seen.endpoint.is_some()), (None, true));
            assert_eq!(observe(&kernel).await.device.unwrap().peers.len(), 2);
            apply(&kernel, Step::RemovePeers([key].into())).await;
            assert_eq!(observe(&kernel).await.device.unwrap().peers.len(), 1);
        });
    });
}

#[test]
fn six_hundred_peers_in_one_step() {
    with_each_backend(|backend| {
        Node::new().run(move || async move {
            let kernel = kernel();
            bring_up(&kernel, backend, 1, "100.64.0.1/32").await;
            let updates: Vec<PeerUpdate> = (1..=600u16)
                .map(|n| {
                    let mut key = [9; 32];
                    key[..2].copy_from_slice(&n.to_le_bytes());
                    let address = Ipv4Addr::from(0x6440_0100 + u32::from(n));
                    update(NodePublicKey::from_bytes(key), &[&format!("{address}/32")])
                })
                .collect();
            let started = Instant::now();
            let step = Step::UpdatePeers(updates);
            kernel.apply(&scope(), &step).await.unwrap();
            let device = observe(&kernel).await.device.unwrap();
            assert_eq!(device.peers.len(), 600);
            assert!(
                device
                    .peers
                    .values()
                    .all(|peer| peer.allowed_ips.len() == 1)
            );
            println!(
                "600 peers set and read with {backend} in {:?}",
                started.elapsed()
            );
        });
    });
}

#[test]
fn changes_of_peers_lose_no_packet_and_renew_no_handshake() {
    with_each_backend(|backend| {
        let pair = Pair::new(backend);
        let kernel = Arc::clone(&pair.a_kernel);
        pair.a.run(move || async move {
            // The first waits for the handshake.
            assert_eq!(pings_answered("100.64.0.2", 3).await, 3);
            let key = private_key(2).public();
            let first = peer(&kernel, key).await;
            assert!(first.handshake_age.is_some_and(|age| age < 5));
            assert!(first.received_bytes > 0 && first.sent_bytes > 0);
            tokio::time::sleep(Duration::from_secs(2)).await;
            let changes = async {
                for n in 10..30u8 {
                    let other = private_key(n).public();
                    let prefix = format!("100.64.1.{n}/32");
                    let steps = [
                        Step::UpdatePeers(vec![update(other, &[&prefix])]),
                        // The prefix moves to the peer that is being talked to.
                        Step::UpdatePeers(vec![update(key, &[&prefix])]),
                        Step::ConfigureDevice(device(1)),
                        Step::RemovePeers([other].into()),
                    ];
                    for step in steps {
                        kernel.apply(&scope(), &step).await.unwrap();
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            let (answered, ()) = tokio::join!(pings_answered("100.64.0.2", 60), changes);
            assert_eq!(answered, 60, "packets were lost");
            let after = peer(&kernel, key).await;
            assert_eq!(after.allowed_ips.len(), 21);
            assert!(after.handshake_age >= Some(4), "{after:?}");
            assert!(after.received_bytes > first.received_bytes);
        });
        // The other end saw one handshake as well, and no less traffic.
        let kernel = Arc::clone(&pair.b_kernel);
        pair.b.run(move || async move {
            let seen = peer(&kernel, private_key(1).public()).await;
            assert!(seen.handshake_age >= Some(4), "{seen:?}");
        });
    });
}

#[test]
fn a_peer_with_a_new_key_loses_no_packet() {
    with_each_backend(|backend| {
        let pair = Pair::new(backend);
        let (a, b) = (Arc::clone(&pair.a_kernel), Arc::clone(&pair.b_kernel));
        pair.a.run(move || async move {
            assert_eq!(pings_answered("100.64.0.2", 3).await, 3);
            // The steps of the plan for a map with the new key: the heir takes over the
            // prefix and the last known endpoint, and then the old key goes.
            let heir = PeerUpdate {
                endpoint: format!("192.0.2.2:{PORT}").parse().ok(),
                ..update(private_key(3).public(), &["100.64.0.2/32"])
            };
            apply(&a, Step::UpdatePeers(vec![heir])).await;
            apply(&a, Step::RemovePeers([private_key(2).public()].into())).await;
        });
        // What is sent before the other end has its new key waits for the handshake. (A packet on
        // its way in the moment a key goes is lost with it: none is, here.)
        let pinging = pair.a.start(|| pings_answered("100.64.0.2", 60));
        pair.b.run(move || async move {
            tokio::time::sleep(Duration::from_millis(500)).await;
            apply(&b, Step::ConfigureDevice(device(3))).await;
        });
        assert_eq!(pinging.recv().unwrap(), 60, "packets were lost");
        let kernel = Arc::clone(&pair.a_kernel);
        pair.a.run(move || async move {
            let peers = observe(&kernel).await.device.unwrap().peers;
            assert_eq!(peers.len(), 1);
            assert!(peers[&private_key(3).public()].handshake_age.is_some());
        });
    });
}

#[test]
fn only_a_peers_own_prefixes_come_from_it() {
    with_each_backend(|backend| {
        let pair = Pair::new(backend);
        pair.a.run(|| async {
            assert_eq!(pings_answered("100.64.0.2", 2).await, 2);
            run("ip addr add 100.64.0.99/32 dev weir0");
        });
        let forged = pair
            .a
            .run(|| async { output("ping -q -I 100.64.0.99 -W 1 -c 2 100.64.0.2") });
        assert!(!forged.status.success(), "a forged source was answered");
        let kernel = Arc::clone(&pair.b_kernel);
        pair.b.run(move || async move {
            let own = private_key(1).public();
            let step = Step::UpdatePeers(vec![update(own, &["100.64.0.99/32"])]);
            apply(&kernel, step).await;
        });
        let honest = pair
            .a
            .run(|| async { output("ping -q -I 100.64.0.99 -W 20 -c 2 100.64.0.2") });
        assert!(honest.status.success());
    });
}

#[test]
fn a_peer_that_moves_is_followed() {
    with_each_backend(|backend| {
        let pair = Pair::new(backend);
        let kernel = Arc::clone(&pair.a_kernel);
        pair.a.run(move || async move {
            assert_eq!(pings_answered("100.64.0.2", 2).await, 2);
            run("ip addr del 192.0.2.1/24 dev eth0");
            run("ip addr add 192.0.2.77/24 dev eth0");
            let key = private_key(2).public();
            let endpoint = PeerUpdate {
                endpoint: format!("192.0.2.2:{PORT}").parse().ok(),
                ..update(key, &[])
            };
            apply(&kernel, Step::UpdatePeers(vec![endpoint])).await;
            assert_eq!(pings_answered("100.64.0.2", 2).await, 2);
        });
        let kernel = Arc::clone(&pair.b_kernel);
        pair.b.run(move || async move {
            let seen = peer(&kernel, private_key(1).public()).await;
            assert_eq!(seen.endpoint, format!("192.0.2.77:{PORT}").parse().ok());
        });
    });
}

#[test]
fn encrypted_packets_bear_the_mark() {
    with_each_backend(|backend| {
        let pair = Pair::new(backend);
        pair.a.run(move || async move {
            run("nft add table inet t");
            run("nft add chain inet t out { type filter hook output priority 0 ; }");
            run("nft add rule inet t out meta mark 0x57000000 udp dport 51920 counter");
            assert_eq!(pings_answered("100.64.0.2", 2).await, 2);
            let printed = run("nft list table inet t");
            assert!(!printed.contains("packets 0 "), "{printed}");
        });
    });
}

#[test]
fn a_keepalive_asks_for_a_handshake_by_itself() {
    with_each_backend(|backend| {
        let pair = Pair::new(backend);
        let kernel = Arc::clone(&pair.a_kernel);
        pair.a.run(move || async move {
            let key = private_key(2).public();
            assert_eq!(peer(&kernel, key).await.handshake_age, None);
            let keepalive = PeerUpdate {
                keepalive: Some(1),
                ..update(key, &[])
            };
            apply(&kernel, Step::UpdatePeers(vec![keepalive])).await;
            tokio::time::sleep(Duration::from_millis(1500)).await;
            let shaken = peer(&kernel, key).await;
            assert!(shaken.handshake_age.is_some());
            tokio::time::sleep(Duration::from_millis(2500)).await;
            assert!(peer(&kernel, key).await.sent_bytes >= shaken.sent_bytes + 64);
        });
    });
}

#[test]
fn a_new_key_takes_effect_and_the_same_one_changes_nothing() {
    with_each_backend(|backend| {
        let pair = Pair::new(backend);
        let kernel = Arc::clone(&pair.a_kernel);
        pair.a.run(move || async move {
            assert_eq!(pings_answered("100.64.0.2", 2).await, 2);
            apply(&kernel, Step::ConfigureDevice(device(7))).await;
            let device = observe(&kernel).await.device.unwrap();
            assert_eq!(device.public_key, Some(private_key(7).public()));
            assert!(!output("ping -q -W 1 -c 1 100.64.0.2").status.success());
        });
        let kernel = Arc::clone(&pair.b_kernel);
        pair.b.run(move || async move {
            let peer = PeerUpdate {
                endpoint: format!("192.0.2.1:{PORT}").parse().ok(),
                ..update(private_key(7).public(), &["100.64.0.1/32"])
            };
            apply(&kernel, Step::UpdatePeers(vec![peer])).await;
            assert_eq!(pings_answered("100.64.0.1", 2).await, 2);
        });
    });
}

#[test]
fn a_taken_port_and_a_foreign_link_are_refused_without_the_key() {
    with_each_backend(|backend| {
        Node::new().run(move || async move {
            let kernel = kernel();
            let _taken = std::net::UdpSocket::bind(("0.0.0.0", PORT)).unwrap();
            apply(&kernel, Step::CreateLink { backend, mtu: 1420 }).await;
            // The kernel's device takes its port when it goes up.
            let configure = Step::ConfigureDevice(device(7));
            let error = match kernel.apply(&scope(), &configure).await {
                Err(error) => error,
                Ok(()) => kernel.apply(&scope(), &Step::SetLinkUp).await.unwrap_err(),
            };
            let text = format!("{error} {error:?} {configure:?} {kernel:?}");
            for secret in [
                private_key(7).reveal(),
                "BwcHBwcH".into(),
                "0707070707".into(),
            ] {
                assert!(!text.contains(&secret), "{text}");
            }
            apply(&kernel, Step::DeleteLink).await;
            add_cable("weir0");
            for step in [Step::CreateLink { backend, mtu: 1420 }, configure] {
                let error = kernel.apply(&scope(), &step).await.unwrap_err();
                assert!(!error.to_string().is_empty());
            }
            assert!(run("ip -d link show weir0").contains("veth"));
        });
    });
}
