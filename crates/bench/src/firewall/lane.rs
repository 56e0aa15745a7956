//! Three namespaces in a row: clients, a relay, and the network behind it.

use anyhow::{Context as _, Result, bail};
use nix::{
    ifaddrs::getifaddrs,
    sched::{CloneFlags, setns},
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, send, sendto,
        socket,
    },
};
use std::{
    fs::File,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::load::Flow;

const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const RELAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// How long one burst may take.
const BURST: Duration = Duration::from_millis(300);
const SINK_MAC: &str = "02:00:00:00:00:04";

/// A relay of its own, with clients on one side and a network on the other. What it made is taken
/// away when it is dropped.
pub(super) struct Lane {
    pub(super) name: String,
    id: String,
}

/// What one burst of packets came to.
#[derive(Clone, Copy)]
pub(super) struct Burst {
    /// Packets that reached the network behind the relay.
    pub(super) arrived: u64,
    pub(super) time: Duration,
}

impl Burst {
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of packets are far below 2^52"
    )]
    pub(super) fn rate(&self) -> f64 {
        self.arrived as f64 / self.time.as_secs_f64()
    }
}

fn run(program: &str, arguments: &str, input: &str) -> Result<String> {
    let mut child = Command::new(program)
        .args(arguments.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    let input = input.to_owned();
    let writer = thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    let written = writer.join();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said: String = said.chars().take(500).collect();
        bail!("{program} {arguments}: {said}");
    }
    if let Ok(written) = written {
        written.with_context(|| format!("cannot write to {program}"))?;
    }
    String::from_utf8(output.stdout).context("output is not text")
}

impl Lane {
    pub(super) fn new(number: usize, name: impl Into<String>) -> Result<Self> {
        let id = format!("weir-bench-{}-{number}", std::process::id());
        let lane = Self {
            name: name.into(),
            id,
        };
        let [clients, relay, sink] = ["clients", "relay", "sink"].map(|end| lane.space(end));
        for space in [&clients, &relay, &sink] {
            run("ip", &format!("netns add {space}"), "")?;
            run("ip", &format!("-n {space} link set lo up"), "")?;
        }
        let ip = |space: &str, commands: &str| run("ip", &format!("-n {space} -batch -"), commands);
        ip(
            &relay,
            &format!(
                "link add weir0 address 02:00:00:00:00:02 type veth \
                 peer name c0 address 02:00:00:00:00:01 netns {clients}\n\
                 link add eth0 address 02:00:00:00:00:03 type veth \
                 peer name s0 address {SINK_MAC} netns {sink}\n\
                 link set weir0 up\n\
                 link set eth0 up\n\
                 address add 100.64.0.1/32 dev weir0\n\
                 address add 203.0.113.7/24 dev eth0\n\
                 neighbour add 192.0.2.1 lladdr 02:00:00:00:00:01 dev weir0 nud permanent\n\
                 neighbour add 203.0.113.1 lladdr {SINK_MAC} dev eth0 nud permanent\n\
                 route add 100.64.0.0/10 via 192.0.2.1 dev weir0 onlink\n\
                 route add default via 203.0.113.1 dev eth0\n"
            ),
        )?;
        ip(&clients, "link set c0 up\n")?;
        ip(
            &sink,
            "link set s0 up\naddress add 203.0.113.1/24 dev s0\n\
             route add local 10.0.0.0/8 dev lo\n\
             neighbour add 203.0.113.7 lladdr 02:00:00:00:00:03 dev s0 nud permanent\n",
        )?;
        lane.within("relay", || {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("cannot forward")
        })?;
        lane.within("clients", || {
            std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").context("no sysctl")
        })?;
        Ok(lane)
    }

    fn space(&self, end: &str) -> String {
        format!("{}-{end}", self.id)
    }

    /// Does something in one of the namespaces, on a thread of its own.
    pub(super) fn within<T: Send>(
        &self,
        end: &str,
        work: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        let path = format!("/run/netns/{}", self.space(end));
        thread::scope(|scope| {
            let worker = scope.spawn(move || {
                let space = File::open(&path).with_context(|| format!("cannot open {path}"))?;
                setns(space, CloneFlags::CLONE_NEWNET).context("cannot enter a namespace")?;
                work()
            });
            match worker.join() {
                Ok(result) => result,
                Err(_) => bail!("a thread of the benchmark panicked"),
            }
        })
    }

    /// Runs `nft` on the relay; gives what it printed and how long it took.
    pub(super) fn nft(&self, arguments: &str, input: &str) -> Result<(String, Duration)> {
        self.within("relay", || {
            let start = Instant::now();
            let printed = run("nft", arguments, input)?;
            Ok((printed, start.elapsed()))
        })
    }

    /// Lets a packet of each flow through and its answer back, so that the relay knows the flows as
    /// established; then has the sink drop what comes, before it costs anything.
    pub(super) fn establish(&self, flows: &[Flow]) -> Result<()> {
        let answered = self.within("sink", || {
            let mut sockets = Vec::new();
            for flow in flows {
                let at = SocketAddr::V4(SocketAddrV4::new(flow.to, flow.port));
                let socket = UdpSocket::bind(at).with_context(|| format!("cannot bind {at}"))?;
                socket.set_read_timeout(Some(Duration::from_secs(5)))?;
                sockets.push(socket);
            }
            self.flood(&frames(flows), 1)?;
            let mut answered = 0_usize;
            for socket in &sockets {
                let mut buffer = [0; 64];
                if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    socket.send_to(b"answer", from)?;
                    answered += 1;
                }
            }
            Ok(answered)
        })?;
        if answered != flows.len() {
            bail!(
                "{}: {answered} of {} flows got through",
                self.name,
                flows.len()
            );
        }
        let drop = "table inet sink { chain first { type filter hook prerouting priority -500; drop; }\n }\n";
        self.within("sink", || run("nft", "-f -", drop).map(drop_text))
    }

    /// Sends these frames so many times, as fast as it goes and for [`BURST`] at most; counts what
    /// reached the sink.
    pub(super) fn flood(&self, frames: &[[u8; FRAME]], times: usize) -> Result<Burst> {
        let before = self.arrived()?;
        let time = self.within("clients", || {
            let socket = packet_socket("c0")?;
            let start = Instant::now();
            let some = frames.chunks(64).cycle();
            for frames in some.take(frames.len().div_ceil(64) * times) {
                for frame in frames {
                    // A full queue loses packets, and they are not counted.
                    let _ = send(socket.as_raw_fd(), frame, MsgFlags::empty());
                }
                if start.elapsed() > BURST {
                    break;
                }
            }
            Ok(start.elapsed())
        })?;
        Ok(Burst {
            arrived: self.arrived()? - before,
            time,
        })
    }

    fn arrived(&self) -> Result<u64> {
        self.within("sink", || {
            let devices = std::fs::read_to_string("/proc/thread-self/net/dev")?;
            let line = devices
                .lines()
                .find_map(|line| line.trim().strip_prefix("s0:"));
            line.and_then(|line| line.split_whitespace().nth(1))
                .and_then(|packets| packets.parse().ok())
                .context("no counter of packets")
        })
    }

    /// Makes the relay forget its flows, so that the next packets begin new ones.
    pub(super) fn forget_flows(&self) -> Result<()> {
        self.within("relay", || {
            let socket = socket(
                AddressFamily::Netlink,
                SockType::Raw,
                SockFlag::empty(),
                SockProtocol::NetlinkNetFilter,
            )?;
            // IPCTNL_MSG_CT_DELETE without a tuple (linux/netfilter/nfnetlink_conntrack.h).
            let mut message = Vec::new();
            message.extend_from_slice(&20_u32.to_ne_bytes());
            message.extend_from_slice(&0x0102_u16.to_ne_bytes());
            message.extend_from_slice(&0x0001_u16.to_ne_bytes());
            message.extend_from_slice(&[0; 12]);
            let to = NetlinkAddr::new(0, 0);
            sendto(socket.as_raw_fd(), &message, &to, MsgFlags::empty())?;
            Ok(())
        })
    }
}

fn drop_text(_: String) {}

impl Drop for Lane {
    fn drop(&mut self) {
        for end in ["clients", "relay", "sink"] {
            let _ = run("ip", &format!("netns delete {}", self.space(end)), "");
        }
    }
}

fn packet_socket(link: &str) -> Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::empty(),
        None,
    )
    .context("cannot open a packet socket")?;
    let address = getifaddrs()?
        .filter(|found| found.interface_name == link)
        .find_map(|found| found.address?.as_link_addr().copied())
        .with_context(|| format!("no link {link}"))?;
    bind(socket.as_raw_fd(), &address).context("cannot bind a packet socket")?;
    Ok(socket)
}

/// The length of a frame: the least that Ethernet has, without its checksum.
pub(super) const FRAME: usize = 60;

/// Ethernet frames with a small UDP packet, as a client would send it to the relay.
pub(super) fn frames(flows: &[Flow]) -> Vec<[u8; FRAME]> {
    flows.iter().map(frame).collect()
}

fn frame(flow: &Flow) -> [u8; FRAME] {
    let mut bytes = Vec::with_capacity(FRAME);
    bytes.extend_from_slice(&RELAY_MAC);
    bytes.extend_from_slice(&CLIENT_MAC);
    bytes.extend_from_slice(&[0x08, 0x00]);
    let header = ip_header(flow.from, flow.to);
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(&flow.from_port.to_be_bytes());
    bytes.extend_from_slice(&flow.port.to_be_bytes());
    // UDP: its length, and no checksum.
    bytes.extend_from_slice(&26_u16.to_be_bytes());
    bytes.resize(FRAME, 0);
    let mut frame = [0; FRAME];
    frame.copy_from_slice(&bytes);
    frame
}

fn ip_header(from: Ipv4Addr, to: Ipv4Addr) -> [u8; 20] {
    let mut header = [0_u8; 20];
    let fields: [&[u8]; 5] = [
        &[0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17],
        &[0, 0],
        &from.octets(),
        &to.octets(),
        &[],
    ];
    header.copy_from_slice(&fields.concat());
    let sum: u32 = header
        .chunks_exact(2)
        .map(|pair| {
            pair.iter()
                .fold(0_u32, |word, byte| word << 8 | u32::from(*byte))
        })
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    let checksum = u16::try_from(0xffff - folded)
        .unwrap_or_default()
        .to_be_bytes();
    for (to, from) in header.iter_mut().skip(10).zip(checksum) {
        *to = from;
    }
    header
}
