//! Follows one real packet through every table, with the kernel's own tracing.
//!
//! A rule in a table of its own asks the kernel for it. That table has the flag `owner`: it is gone
//! with the process that made it, whatever becomes of us.

use nix::sys::prctl;
use std::{fs, net::IpAddr, path::Path, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, Command},
    time::{Instant, sleep, timeout, timeout_at},
};
use weir_diagnosis::TRACE_TABLE;
use weir_kernel_plan::KernelError;
use weir_overlay::InterfaceName;
use weir_protocol::IpProtocol;

use crate::{
    error::{failed, io_failed, timed_out},
    firewall::{SECONDS, run},
    linux::LinuxKernel,
};

const OPERATION: &str = "follow a packet";
/// After the last thing that was told of a packet, in milliseconds: its answer takes about that.
const QUIET_MILLISECONDS: u64 = 1500;
/// How long nft may take to read all tables before it listens, in seconds.
const LISTEN_SECONDS: u64 = 30;
/// The most lines of one trace; a packet meets some dozens of rules.
const MAX_LINES: usize = 2000;
/// The bit of the group that traces are told to (`NFNLGRP_NFTRACE`, linux/netfilter/nfnetlink.h).
const TRACE_GROUP: u32 = 1 << 8;
/// Before everything else, connection tracking included (`NF_IP_PRI_CONNTRACK_DEFRAG` is -400).
const PRIORITY: i32 = -450;

/// Which packet to follow: the first one that fits, and the first answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceRequest {
    /// Our link, which it comes from.
    pub interface: InterfaceName,
    /// The overlay address of the node that sends it.
    pub source: IpAddr,
    /// Where it goes to.
    pub destination: IpAddr,
    /// Its protocol.
    pub protocol: IpProtocol,
    /// Its destination port, for protocols that have them.
    pub port: Option<u16>,
    /// How long to wait for it, in seconds.
    pub seconds: u64,
}

impl TraceRequest {
    /// What makes the table, in nft's language.
    fn ruleset(&self) -> String {
        let Self {
            interface,
            source,
            destination,
            protocol,
            port,
            ..
        } = self;
        let ip = if destination.is_ipv4() { "ip" } else { "ip6" };
        let port = |side: &str| port.map_or_else(String::new, |port| format!(" th {side} {port}"));
        let once = "limit rate 1/hour burst 1 packets meta nftrace set 1";
        let number = protocol.0;
        let rules = [
            format!(
                "iifname \"{interface}\" {ip} saddr {source} {ip} daddr {destination} meta l4proto \
                 {number}{} {once}",
                port("dport")
            ),
            format!(
                "iifname != \"{interface}\" {ip} saddr {destination} meta l4proto {number}{} {once}",
                port("sport")
            ),
        ];
        let mut text = format!(
            "add table inet {TRACE_TABLE} {{ flags owner; }}; add chain inet {TRACE_TABLE} follow \
             {{ type filter hook prerouting priority {PRIORITY}; policy accept; }}"
        );
        for rule in rules {
            text.push_str(&format!("; add rule inet {TRACE_TABLE} follow {rule}"));
        }
        text.push('\n');
        text
    }
}

impl LinuxKernel {
    /// Waits for the packet and gives what `nft monitor trace` tells of it and of its answer;
    /// empty when none came in time.
    ///
    /// # Errors
    /// [`KernelError`], when the kernel cannot be asked, or somebody else follows a packet.
    pub async fn trace(&self, request: &TraceRequest) -> Result<String, KernelError> {
        let nft = &self.options.nft;
        let mut monitor = start(nft, &["monitor", "trace"], Stdio::null(), Stdio::piped())?;
        listening(&monitor).await?;
        let mut owner = start(nft, &["-i"], Stdio::piped(), Stdio::null())?;
        let mut input = owner
            .stdin
            .take()
            .ok_or_else(|| failed(OPERATION, "nft takes no input"))?;
        input
            .write_all(request.ruleset().as_bytes())
            .await
            .map_err(|error| io_failed(OPERATION, &error))?;
        let told = match table_is_there(nft).await {
            Ok(()) => read(&mut monitor, request.seconds).await,
            Err(error) => Err(error),
        };
        // The end of its input ends the owner, and its end the table.
        drop(input);
        if timeout(Duration::from_secs(SECONDS), owner.wait())
            .await
            .is_err()
        {
            drop(owner.start_kill());
        }
        drop(monitor.start_kill());
        told
    }
}

/// Starts nft so that it does not outlive us.
fn start(
    nft: &Path,
    arguments: &[&str],
    input: Stdio,
    output: Stdio,
) -> Result<Child, KernelError> {
    let mut command = Command::new(nft);
    command
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(input)
        .stdout(output)
        .stderr(Stdio::null())
        .kill_on_drop(true);
    #[expect(
        unsafe_code,
        reason = "there is no other way to run something before exec"
    )]
    // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(Into::into)
        });
    }
    command
        .spawn()
        .map_err(|error| io_failed(OPERATION, &error))
}

/// Waits until nft has joined the group that traces are told to: it says nothing of it itself.
async fn listening(monitor: &Child) -> Result<(), KernelError> {
    let Some(process) = monitor.id() else {
        return Err(failed(OPERATION, "`nft monitor trace` ended at once"));
    };
    let deadline = Instant::now() + Duration::from_secs(LISTEN_SECONDS);
    while Instant::now() < deadline {
        let sockets = fs::read_to_string("/proc/self/net/netlink").unwrap_or_default();
        // Columns: address, protocol, port (the process, mostly), groups.
        let joined = sockets.lines().any(|line| {
            let mut columns = line.split_whitespace().skip(2);
            let port = columns.next().and_then(|port| port.parse::<u32>().ok());
            let groups = columns
                .next()
                .and_then(|groups| u32::from_str_radix(groups, 16).ok());
            port == Some(process) && groups.is_some_and(|groups| groups & TRACE_GROUP != 0)
        });
        if joined {
            return Ok(());
        }
        sleep(Duration::from_millis(20)).await;
    }
    Err(timed_out(OPERATION, LISTEN_SECONDS))
}

/// Waits until our table is there: interactive nft tells of an error nowhere else.
async fn table_is_there(nft: &Path) -> Result<(), KernelError> {
    let list = ["list", "chain", "inet", TRACE_TABLE, "follow"];
    for _ in 0..100 {
        let listed = run(nft, OPERATION, &list, Stdio::null(), SECONDS).await;
        if listed.is_ok_and(|text| String::from_utf8_lossy(&text).matches("nftrace").count() == 2) {
            return Ok(());
        }
        sleep(Duration::from_millis(50)).await;
    }
    Err(failed(
        OPERATION,
        format!(
            "nft does not make the table {TRACE_TABLE}: is another trace under way, or the kernel \
             older than 5.12?"
        ),
    ))
}

async fn read(monitor: &mut Child, seconds: u64) -> Result<String, KernelError> {
    let output = monitor
        .stdout
        .take()
        .ok_or_else(|| failed(OPERATION, "nft has no output"))?;
    let mut lines = BufReader::new(output).lines();
    let mut told = String::new();
    let mut deadline = Instant::now() + Duration::from_secs(seconds);
    let last = deadline + Duration::from_secs(SECONDS);
    for _ in 0..MAX_LINES {
        match timeout_at(deadline, lines.next_line()).await {
            Ok(Ok(Some(line))) => {
                told.push_str(&line);
                told.push('\n');
                let quiet = Instant::now() + Duration::from_millis(QUIET_MILLISECONDS);
                deadline = quiet.min(last);
            }
            Ok(Ok(None)) | Err(_) => break,
            Ok(Err(error)) => return Err(io_failed(OPERATION, &error)),
        }
    }
    Ok(told)
}
