//! Packets in flight while the policy changes a thousand times: each has the verdict of the policy
//! before or after, never another.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use nix::{
    sched::{CloneFlags, setns},
    sys::socket::{setsockopt, sockopt},
};
use std::{
    collections::BTreeMap,
    fs::File,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use weir_kernel_plan::firewall::{DesiredFirewall, ObservedFirewall, Table, change};
use weir_lab::{Lab, Node, patient};
use weir_overlay::{AddressRange, AddressSet, GrantId};
use weir_protocol::{Destination, Grant, IpProtocol, PortRange};

const ALWAYS: &str = "100.64.0.2";
const SOMETIMES: &str = "100.64.0.3";
const NEVER: &str = "100.64.0.4";
const SERVICE: &str = "8.8.8.8:53";
/// What waits for the collector while the tests' host does something else, in bytes.
const RECEIVE_BUFFER: usize = 64 << 20;
/// How long the relay remembers a flow without an answer, in seconds. In the kernel's 30 s there
/// would be more new flows than the relay's address has ports, and the kernel drops what gets none.
const FLOW_TIMEOUT: u32 = 2;

fn set(items: &[&str]) -> AddressSet {
    let ranges = items
        .iter()
        .map(|item| item.parse::<AddressRange>().unwrap());
    ranges.collect()
}

/// The policy with `sometimes` and without, with other grants around that also come and go.
fn firewall(round: u32, sometimes: bool) -> DesiredFirewall {
    let grant = |id: u32, sources: &[&str], to: &str, port: u16| Grant {
        id: GrantId(id),
        sources: set(sources),
        protocols: [IpProtocol::UDP].into(),
        destinations: vec![Destination {
            addresses: set(&[to]),
            ports: PortRange::single(port),
        }],
        origin: format!("grants[{id}]"),
    };
    let mut grants: Vec<Grant> = (10..60)
        .filter(|id| !(id + round).is_multiple_of(7))
        .map(|id| grant(id, &["100.64.1.0/24"], "10.20.0.0/24", 1000 + id as u16))
        .collect();
    // Who allows it changes as well: another grant, another class, the same packets.
    grants.push(match round / 2 % 3 {
        0 => grant(1, &[ALWAYS], "8.8.8.8", 53),
        1 => grant(2, &[ALWAYS, "100.64.2.0/24"], "8.8.8.8", 53),
        _ => grant(3, &[ALWAYS], "8.8.0.0/16", 53),
    });
    if sometimes {
        grants.push(grant(4, &[SOMETIMES], "8.8.8.8", 53));
    }
    DesiredFirewall {
        own_addresses: set(&["100.64.0.1"]),
        served: set(&["8.8.8.8", "10.20.0.0/24"]),
        grants,
        ..DesiredFirewall::default()
    }
}

/// Runs on a thread in the node's network.
fn within<T: Send + 'static>(
    node: &Node,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let space = File::open(format!("/proc/{}/ns/net", node.pid())).unwrap();
    thread::spawn(move || {
        setns(space, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
}

/// A packet, which is judged between the two moments or a little after.
struct Sent {
    from: &'static str,
    established: bool,
    at: Instant,
    done: Instant,
}

/// Sends from all three, on a flow that goes on and on a new one each time, until told to stop.
fn flood(stop: &AtomicBool) -> Vec<Sent> {
    let socket = |from: &str| UdpSocket::bind(format!("{from}:0")).unwrap();
    let senders = [ALWAYS, SOMETIMES, NEVER].map(|from| (from, socket(from)));
    let to: SocketAddr = SERVICE.parse().unwrap();
    let mut sent = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        for (from, flow) in &senders {
            for established in [true, false] {
                let number = u32::try_from(sent.len()).unwrap().to_be_bytes();
                let at = Instant::now();
                if established {
                    flow.send_to(&number, to).unwrap();
                } else {
                    socket(from).send_to(&number, to).unwrap();
                }
                sent.push(Sent {
                    from,
                    established,
                    at,
                    done: Instant::now(),
                });
            }
        }
        thread::sleep(Duration::from_micros(500));
    }
    sent
}

fn collect(stop: &AtomicBool) -> BTreeMap<usize, Instant> {
    let socket = UdpSocket::bind(SERVICE).unwrap();
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let mut arrived = BTreeMap::new();
    let mut last = Instant::now();
    // What is on its way when the sender stops still counts.
    while !stop.load(Ordering::Relaxed) || last.elapsed() < Duration::from_millis(300) {
        let mut number = [0; 4];
        if socket.recv(&mut number).is_ok() {
            last = Instant::now();
            arrived.insert(u32::from_be_bytes(number) as usize, last);
        }
    }
    arrived
}

/// A time in which nothing was loaded, and whether `sometimes` was allowed in it.
struct Calm {
    from: Instant,
    until: Instant,
    allowed: bool,
}

fn observed(relay: &Node) -> ObservedFirewall {
    let listed = relay
        .run(["nft", "-j", "list", "table", "inet", "weir"])
        .unwrap();
    ObservedFirewall::from_listing(&serde_json::from_str(&listed.stdout).unwrap())
}

/// Changes the policy many times, and says when the first is in force.
fn swap(relay: &Node, swaps: u32, in_force: &mpsc::Sender<()>) -> Vec<Calm> {
    let link = "weir0".parse().unwrap();
    let mut known: Option<Arc<Table>> = None;
    let mut calm: Vec<Calm> = Vec::new();
    for round in 0..swaps {
        let allowed = round % 2 == 0;
        let wanted = firewall(round, allowed);
        // Now and then as after a restart, which does not know what it loaded.
        let forgotten = round % 100 == 99;
        let seen = match &known {
            Some(_) if forgotten => Some(observed(relay)),
            Some(table) => Some(ObservedFirewall {
                fingerprint: Some(table.fingerprint().to_owned()),
                generation: table.generation(),
                ..ObservedFirewall::default()
            }),
            None => None,
        };
        let believed = known.as_deref().filter(|_| !forgotten);
        let change = change(&wanted, &link, seen.as_ref(), believed);
        assert_eq!(
            change.full.is_some(),
            forgotten || round == 0,
            "round {round}"
        );
        // Now and then both policies are left in force for longer than a packet may be on its way.
        if round % 25 == 0 {
            thread::sleep(patient(Duration::from_millis(60)));
        }
        if let Some(calm) = calm.last_mut() {
            calm.until = Instant::now();
        }
        for document in change.documents() {
            relay
                .command(["nft", "-j", "-f", "-"])
                .stdin(document)
                .run()
                .unwrap();
        }
        if round == 0 {
            let timeout = "/proc/sys/net/netfilter/nf_conntrack_udp_timeout";
            let set = format!("echo {FLOW_TIMEOUT} > {timeout}");
            relay.run(["sh", "-e", "-c", &set]).unwrap();
            in_force.send(()).unwrap();
        }
        let now = Instant::now();
        calm.push(Calm {
            from: now,
            until: now,
            allowed,
        });
        known = Some(change.last.table);
    }
    thread::sleep(Duration::from_millis(60));
    if let Some(calm) = calm.last_mut() {
        calm.until = Instant::now();
    }
    assert!(observed(relay).is(&known.unwrap()));
    calm
}

#[test]
fn every_packet_of_a_flood_is_judged_by_the_policy_before_or_after() {
    let in_emulation = patient(Duration::from_secs(1)) > Duration::from_secs(1);
    let swaps = if in_emulation { 60 } else { 1000 };
    let lab = Lab::new().unwrap();
    let [clients, relay, service] =
        ["clients", "relay", "service"].map(|name| lab.node(name).unwrap());
    lab.connect((&clients, "weir0"), (&relay, "weir0")).unwrap();
    lab.connect((&relay, "eth0"), (&service, "eth0")).unwrap();
    clients
        .ip(&format!(
            "address add {ALWAYS}/32 dev weir0\n\
             address add {SOMETIMES}/32 dev weir0\n\
             address add {NEVER}/32 dev weir0\n\
             route add 100.64.0.1 dev weir0\n\
             route add default via 100.64.0.1 dev weir0"
        ))
        .unwrap();
    relay
        .ip("address add 100.64.0.1/32 dev weir0\n\
             route add 100.64.0.0/10 dev weir0\n\
             address add 203.0.113.7/24 dev eth0\n\
             route add default via 203.0.113.1")
        .unwrap();
    service
        .ip("address add 203.0.113.1/24 dev eth0\naddress add 8.8.8.8/32 dev lo")
        .unwrap();
    relay.forward().unwrap();

    let stops = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let [stop_sending, stop_collecting] = stops.clone();
    let collector = within(&service, move || collect(&stop_collecting));
    let mut all = Vec::new();
    let (in_force, first) = mpsc::channel();
    let swapping = thread::scope(|scope| {
        let relay = &relay;
        let swapper = scope.spawn(move || swap(relay, swaps, &in_force));
        first.recv().unwrap();
        let sender = within(&clients, move || flood(&stop_sending));
        let calm = swapper.join().unwrap();
        stops[0].store(true, Ordering::Relaxed);
        all.extend(sender.join().unwrap());
        calm
    });
    stops[1].store(true, Ordering::Relaxed);
    let arrived = collector.join().unwrap();

    // What the kernel drops by itself says nothing about rules.
    let drops = [
        (&relay, "/proc/net/stat/nf_conntrack"),
        (&service, "/proc/net/snmp"),
    ]
    .map(|(node, file)| node.run(["cat", file]).unwrap().stdout);

    // A packet may wait a little in a queue between the links before it is judged.
    let margin = patient(Duration::from_millis(25));
    let (mut denied, mut passed) = (0, 0);
    for (number, packet) in all.iter().enumerate() {
        let arrival = arrived.get(&number);
        let what = || {
            format!(
                "packet {number} of {}, established: {}",
                packet.from, packet.established
            )
        };
        match packet.from {
            ALWAYS => assert!(
                arrival.is_some(),
                "{} was dropped\n{}",
                what(),
                drops.join("\n")
            ),
            NEVER => assert!(arrival.is_none(), "{} passed", what()),
            _ => {
                let in_calm = |calm: &&Calm| calm.from <= packet.at && packet.at <= calm.until;
                let Some(calm) = swapping.iter().find(in_calm) else {
                    continue;
                };
                if calm.allowed && packet.done + margin <= calm.until {
                    assert!(arrival.is_some(), "{} was dropped", what());
                    passed += 1;
                } else if !calm.allowed {
                    // After the commit: none.
                    assert!(
                        arrival.is_none_or(|at| *at > calm.until),
                        "{} passed",
                        what()
                    );
                    denied += 1;
                }
            }
        }
    }
    assert!(
        passed > 10 && denied > 10,
        "{passed} and {denied} of {}",
        all.len()
    );
    lab.finish().unwrap();
}
