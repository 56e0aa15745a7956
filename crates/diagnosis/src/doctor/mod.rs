//! Whether a host is fit to take part, whatever the connection: the checks of `agent doctor`.

mod firewalls;
#[cfg(test)]
mod tests;

use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use weir_kernel_plan::{HostFacts, PortFact, SysctlKey};
use weir_overlay::{InterfaceName, NodeName};
use weir_protocol::ItemFailure;

use crate::{Checks, OtherFirewalls, Remedy, RouteAnswer, explain::seconds};

/// How far two clocks may be apart before signed requests are refused, in seconds (the coordinator
/// takes requests of the last 60 s).
const MAX_SKEW: u64 = 60;
/// Apart by more than this, in seconds, clocks are on their way to trouble.
const NOTABLE_SKEW: u64 = 10;
/// A disk with less than this left cannot hold the next network map for long, in bytes.
const LOW_DISK: u64 = 16 << 20;
/// What WireGuard adds to a packet over IPv4 and over IPv6, in bytes (20 or 40 IP, 8 UDP, 32 its
/// own).
const OVERHEAD: [(bool, u32); 2] = [(true, 60), (false, 80)];

/// What was looked at on the host.
#[derive(Clone, Debug)]
pub struct Examination {
    /// What `up` asks as well.
    pub facts: HostFacts,
    /// Kernel settings by name; none for those that this kernel does not have.
    pub sysctls: BTreeMap<SysctlKey, Option<String>>,
    /// The ways to the addresses that were asked for.
    pub ways: BTreeMap<IpAddr, RouteAnswer>,
    /// The MTU of each link, in bytes.
    pub mtus: BTreeMap<String, u32>,
    /// Other programs' firewalls.
    pub others: OtherFirewalls,
}

/// What the coordinator answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoordinatorSeen {
    /// Where it is.
    pub url: String,
    /// Why its name is not known; none when it is, or is an address.
    pub unresolved: Option<String>,
    /// Why it was not reached; none when it was, and has the key that is expected of it.
    pub unreached: Option<String>,
    /// Whether its key was compared with a pin.
    pub pinned: bool,
    /// Seconds that its clock is ahead of ours.
    pub ahead: Option<i64>,
}

/// The disk with the agent's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSeen {
    /// The directory.
    pub path: String,
    /// What is left for the agent, in bytes.
    pub free: u64,
}

/// Another node, as far as its session goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSeen {
    /// Its name.
    pub name: NodeName,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Where its WireGuard is, in words.
    pub endpoint: Option<std::net::SocketAddr>,
    /// Whether there ever was a handshake.
    pub shook_hands: bool,
    /// Bytes sent to it.
    pub sent_bytes: u64,
}

/// The node's part, when it is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSeen {
    /// Its overlay addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// The routes it relays to.
    pub serves: Vec<IpNet>,
    /// Whether others may open connections to this node itself.
    pub is_reached: bool,
    /// Whether it uses an exit.
    pub uses_exit: bool,
    /// The kernel settings it needs, and their values.
    pub needs: BTreeMap<SysctlKey, String>,
    /// The other nodes.
    pub peers: Vec<PeerSeen>,
    /// What could not be done.
    pub failures: Vec<ItemFailure>,
    /// The MTU of our link, in bytes.
    pub mtu: u32,
}

/// All that is known of a host.
#[derive(Clone, Debug)]
pub struct Host {
    /// Our link's name.
    pub interface: InterfaceName,
    /// WireGuard's UDP port.
    pub listen_port: u16,
    /// What was looked at.
    pub seen: Examination,
    /// The node, when it is up.
    pub node: Option<NodeSeen>,
    /// The coordinator, when one is known.
    pub coordinator: Option<CoordinatorSeen>,
    /// The disk; none when it cannot be asked.
    pub disk: Option<DiskSeen>,
}

/// An address out on the internet that stands for any: the way to it is the default route's.
#[must_use]
pub const fn anywhere(ipv4: bool) -> IpAddr {
    if ipv4 {
        // TEST-NET-1 (RFC 5737) and the documentation prefix (RFC 3849): nobody's.
        IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1))
    } else {
        IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))
    }
}

/// The first address of a prefix that a host may have: what stands for the prefix.
#[must_use]
pub fn stands_for(prefix: &IpNet) -> IpAddr {
    if prefix.prefix_len() == 0 {
        return anywhere(prefix.addr().is_ipv4());
    }
    prefix.hosts().next().unwrap_or(prefix.addr())
}

/// Examines a host.
#[must_use]
pub fn doctor(host: &Host) -> Checks {
    let mut checks = Checks::default();
    wireguard(&host.seen.facts, &mut checks);
    nft(&host.seen.facts, &mut checks);
    port(host, &mut checks);
    match &host.node {
        Some(node) => {
            works(node, &mut checks);
            settings(host, node, &mut checks);
            reverse_path(host, node, &mut checks);
            mtu(host, node, &mut checks);
            sessions(node, &mut checks);
        }
        None => checks.unknown(
            "node",
            "it is down, so what it would relay and reach is not checked",
            [Remedy::here("agent up")],
        ),
    }
    disk(host.disk.as_ref(), &mut checks);
    coordinator(host.coordinator.as_ref(), &mut checks);
    firewalls::check(host, &mut checks);
    checks
}

fn wireguard(facts: &HostFacts, checks: &mut Checks) {
    match (facts.kernel_wireguard, facts.tun) {
        (true, _) => checks.passed("WireGuard", "the kernel has it"),
        (false, true) => checks.unknown(
            "WireGuard",
            "the kernel has none: the userspace device stands in, which is slower",
            [Remedy::here("modprobe wireguard")],
        ),
        (false, false) => checks.failed(
            "WireGuard",
            "the kernel has none, and /dev/net/tun, with which the userspace device would stand \
             in, cannot be opened",
            [
                Remedy::here("modprobe wireguard"),
                Remedy::here("modprobe tun"),
            ],
        ),
    }
}

fn nft(facts: &HostFacts, checks: &mut Checks) {
    match &facts.nft {
        Ok(version) => checks.passed("nft", version.clone()),
        Err(reason) => checks.failed(
            "nft",
            reason.clone(),
            [Remedy::here("apt install nftables")],
        ),
    }
}

fn port(host: &Host, checks: &mut Checks) {
    let port = host.listen_port;
    match host.seen.facts.port {
        PortFact::Taken => checks.failed(
            "UDP port",
            format!("{port} is in use by another program"),
            [
                Remedy::here(format!("ss -ulpn sport = :{port}")),
                Remedy::here("agent set --listen-port=PORT"),
            ],
        ),
        PortFact::Free if host.node.is_some() => {
            checks.passed("UDP port", format!("WireGuard has {port}"));
        }
        PortFact::Free => checks.passed("UDP port", format!("{port} can be had")),
    }
}

fn works(node: &NodeSeen, checks: &mut Checks) {
    if node.failures.is_empty() {
        checks.passed("node", "the kernel is as the network map has it");
    }
    for failure in &node.failures {
        checks.failed(
            "node",
            format!("cannot {}: {}", failure.item, failure.reason),
            [Remedy::here("agent status")],
        );
    }
}

fn settings(host: &Host, node: &NodeSeen, checks: &mut Checks) {
    let forwarding = [SysctlKey::ipv4_forwarding(), SysctlKey::ipv6_forwarding()];
    if !node.needs.keys().any(|key| forwarding.contains(key)) {
        checks.passed("forwarding", "not needed: this node relays nothing");
    }
    for (key, wanted) in &node.needs {
        let dotted = key.0.replace('/', ".");
        let name = if forwarding.contains(key) {
            "forwarding"
        } else {
            "kernel setting"
        };
        match host.seen.sysctls.get(key) {
            Some(Some(value)) if value == wanted => {
                checks.passed(name, format!("{dotted} is {value}"));
            }
            Some(Some(value)) => checks.failed(
                name,
                format!("{dotted} is {value} and must be {wanted}"),
                [Remedy::here(format!("sysctl -w {dotted}={wanted}"))],
            ),
            Some(None) | None => {
                checks.unknown(name, format!("{dotted} cannot be read"), []);
            }
        }
    }
}

/// The kernel takes the stricter of the setting for all links and that of the link.
fn reverse_path(host: &Host, node: &NodeSeen, checks: &mut Checks) {
    let value = |link: &str| {
        let key = SysctlKey(format!("net/ipv4/conf/{link}/rp_filter"));
        host.seen
            .sysctls
            .get(&key)
            .and_then(|value| value.as_ref()?.parse::<u8>().ok())
    };
    let Some(link) = out_link(host, true) else {
        return;
    };
    let strictest = value("all").max(value(&link));
    // With this setting, the kernel heeds the tunnel's mark when it looks for the way back.
    let heeds_marks = node.needs.contains_key(&SysctlKey::validate_marks());
    match strictest {
        Some(1) if node.uses_exit && !heeds_marks => checks.unknown(
            "rp_filter",
            format!(
                "strict on {link}, while this node uses an exit: answers to the tunnel's own \
                 packets may be dropped"
            ),
            [Remedy::here(format!(
                "sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.{link}.rp_filter=2"
            ))],
        ),
        Some(1) => checks.passed(
            "rp_filter",
            format!("strict on {link}, which fits this node"),
        ),
        Some(2) => checks.passed("rp_filter", format!("loose on {link}")),
        Some(_) => checks.passed("rp_filter", format!("off on {link}")),
        None => {}
    }
}

/// The link of the default route.
fn out_link(host: &Host, ipv4: bool) -> Option<String> {
    let way = host.seen.ways.get(&anywhere(ipv4))?;
    way.out()
        .map(|out| out.link.clone())
        .filter(|link| *link != host.interface.as_str())
}

fn mtu(host: &Host, node: &NodeSeen, checks: &mut Checks) {
    let ours = host
        .seen
        .mtus
        .get(host.interface.as_str())
        .copied()
        .unwrap_or(node.mtu);
    let mut fits = true;
    for peer in &node.peers {
        let Some(endpoint) = peer.endpoint else {
            continue;
        };
        let link = host
            .seen
            .ways
            .get(&endpoint.ip())
            .and_then(RouteAnswer::out)
            .map(|out| out.link.as_str());
        let Some((link, carrier)) = link.and_then(|link| Some((link, *host.seen.mtus.get(link)?)))
        else {
            continue;
        };
        let overhead = OVERHEAD
            .iter()
            .find(|(ipv4, _)| *ipv4 == endpoint.is_ipv4())
            .map_or(0, |(_, bytes)| *bytes);
        if ours + overhead > carrier {
            fits = false;
            checks.failed(
                "MTU",
                format!(
                    "packets of {ours} bytes and {overhead} of WireGuard do not fit {link} \
                     (MTU {carrier}), which leads to {}",
                    peer.name
                ),
                [Remedy::here(format!(
                    "ip link set {link} mtu {}",
                    ours + overhead
                ))],
            );
            break;
        }
    }
    if fits {
        checks.passed(
            "MTU",
            format!("{ours} bytes, which the links below can carry"),
        );
    }
}

fn sessions(node: &NodeSeen, checks: &mut Checks) {
    let silent: Vec<_> = node
        .peers
        .iter()
        .filter(|peer| !peer.shook_hands && peer.sent_bytes > 0)
        .collect();
    if let Some(first) = silent.first() {
        let at = first
            .endpoint
            .map_or_else(String::new, |endpoint| format!(" at UDP {endpoint}"));
        let more = match silent.len() {
            1 => String::new(),
            count => format!(", and {} more", count - 1),
        };
        checks.failed(
            "handshakes",
            format!(
                "{} bytes went to {}{at} and nothing came back{more}: something on the way drops \
                 UDP, or it is down",
                first.sent_bytes, first.name
            ),
            [Remedy::node(&first.name, "agent doctor")],
        );
    } else {
        let shook = node.peers.iter().filter(|peer| peer.shook_hands).count();
        checks.passed(
            "handshakes",
            format!(
                "{shook} of {} nodes; none is asked in vain",
                node.peers.len()
            ),
        );
    }
}

fn disk(disk: Option<&DiskSeen>, checks: &mut Checks) {
    match disk {
        None => checks.unknown("disk", "it cannot be asked for the space left", []),
        Some(DiskSeen { path, free }) if *free < LOW_DISK => checks.failed(
            "disk",
            format!("{} kB are left for {path}", free / 1000),
            [Remedy::here(format!("df -h {path}"))],
        ),
        Some(DiskSeen { path, free }) => checks.passed(
            "disk",
            format!("{} MB are left for {path}", free / 1_000_000),
        ),
    }
}

fn coordinator(seen: Option<&CoordinatorSeen>, checks: &mut Checks) {
    let Some(seen) = seen else {
        checks.unknown(
            "coordinator",
            "none is configured",
            [Remedy::here(
                "agent up --coordinator=https://HOST:8443 --auth-key=KEY",
            )],
        );
        return;
    };
    if let Some(reason) = &seen.unresolved {
        checks.failed(
            "DNS",
            format!("the coordinator's name is not known: {reason}"),
            [Remedy::here("cat /etc/resolv.conf")],
        );
    }
    match &seen.unreached {
        Some(reason) => checks.failed(
            "coordinator",
            reason.clone(),
            [Remedy::coordinator("coordinator status")],
        ),
        None => checks.passed(
            "coordinator",
            if seen.pinned {
                format!("{} answers, with the key that its pin names", seen.url)
            } else {
                format!("{} answers", seen.url)
            },
        ),
    }
    let Some(ahead) = seen.ahead else { return };
    let apart = ahead.unsigned_abs();
    let direction = if ahead > 0 { "behind" } else { "ahead of" };
    let remedy = [Remedy::here("timedatectl set-ntp true")];
    if apart >= MAX_SKEW {
        checks.failed(
            "clock",
            format!(
                "{} {direction} the coordinator's, which refuses requests older than {MAX_SKEW} s",
                seconds(apart)
            ),
            remedy,
        );
    } else if apart >= NOTABLE_SKEW {
        checks.unknown(
            "clock",
            format!("{} {direction} the coordinator's", seconds(apart)),
            remedy,
        );
    } else {
        checks.passed("clock", "as the coordinator's, to a few seconds");
    }
}
