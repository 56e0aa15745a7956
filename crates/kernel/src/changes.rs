//! Waits for the kernel to say that something changed.
//!
//! Raw netlink sockets: a subscription by `rtnetlink` queues what it parsed without bound. Here the
//! sockets' own buffers are the bound, and one that overran is a change like any other. What is
//! certainly not ours is passed over, so that a router with a busy table is not looked at all day.

mod messages;

use netlink_sys::{
    AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket,
    protocols::{NETLINK_NETFILTER, NETLINK_ROUTE},
};
use std::{collections::BTreeSet, fs, future, io};
use tokio::sync::Mutex;
use weir_kernel_plan::{Author, Change};

use messages::{Batch, Hint, Writer, route_hints};

/// Links, addresses, routes and rules of both families, and forwarding settings (`RTNLGRP_*`,
/// linux/rtnetlink.h).
const ROUTE_GROUPS: [u32; 9] = [1, 5, 7, 8, 9, 11, 19, 24, 25];
/// nftables (`NFNLGRP_NFTABLES`, linux/netfilter/nfnetlink.h).
const NETFILTER_GROUPS: [u32; 1] = [7];
/// The most that the kernel puts into one notification is 8 KiB; what is longer is cut off.
const READ_BYTES: usize = 32 * 1024;
/// How many notifications are read in a row before others get their turn. Bounds what one look
/// through the queue costs while others keep filling it.
const READ_AT_ONCE: usize = 4096;

/// The subscriptions, made on first use and kept, so that nothing is missed between two waits.
#[derive(Default)]
pub(crate) struct Changes {
    sockets: Mutex<Option<Sockets>>,
}

struct Sockets {
    route: Option<TokioSocket>,
    netfilter: Option<TokioSocket>,
    /// What the nftables transaction that is being told of has touched so far.
    batch: Batch,
    buffer: Vec<u8>,
    /// Hints that were read and not yet taken.
    queue: BTreeSet<Change>,
}

fn subscribe(protocol: isize, groups: &[u32]) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(protocol)?;
    socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
    for group in groups {
        socket.socket_mut().add_membership(*group)?;
    }
    Ok(socket)
}

/// The name of a process, while it is there.
fn name_of(process: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{process}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

fn change(hint: Hint) -> Change {
    let by = match hint.by {
        Writer::Unknown => None,
        Writer::Named(process, name) => Some(Author {
            process,
            name: Some(name),
        }),
        Writer::Process(process) => Some(Author {
            process,
            name: name_of(process),
        }),
    };
    Change {
        area: hint.area,
        by,
    }
}

/// Whose turn it was to be read.
enum Source {
    Route,
    Netfilter,
}

impl Sockets {
    fn open() -> Self {
        let open = |what, protocol, groups: &[u32]| {
            subscribe(protocol, groups)
                .inspect_err(|error| {
                    tracing::warn!(
                        "cannot watch {what}, changes to it are found by the timer: {error}"
                    );
                })
                .ok()
        };
        Self {
            route: open("links and routes", NETLINK_ROUTE, &ROUTE_GROUPS),
            netfilter: open("nftables", NETLINK_NETFILTER, &NETFILTER_GROUPS),
            batch: Batch::default(),
            buffer: Vec::with_capacity(READ_BYTES),
            queue: BTreeSet::new(),
        }
    }

    /// Takes what was read, or why it could not be. Any error but an overrun would come back at
    /// once and for ever: then the subscription is given up.
    fn take(&mut self, source: &Source, read: io::Result<()>) {
        match (read, source) {
            (Ok(()), Source::Route) => {
                self.queue
                    .extend(route_hints(&self.buffer).into_iter().map(change));
            }
            (Ok(()), Source::Netfilter) => {
                let hints = self.batch.read(&self.buffer);
                self.queue.extend(hints.into_iter().map(change));
            }
            (Err(error), _) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                self.batch = Batch::default();
                self.queue.insert(Change::UNKNOWN);
            }
            (Err(error), source) => {
                tracing::warn!("cannot watch the kernel for changes any more: {error}");
                match source {
                    Source::Route => self.route = None,
                    Source::Netfilter => self.netfilter = None,
                }
                self.queue.insert(Change::UNKNOWN);
            }
        }
    }

    /// Waits for a notification of either kind. Cancelled, it loses nothing: what was not read
    /// stays queued.
    async fn read(&mut self) {
        self.buffer.clear();
        let Self {
            route, netfilter, ..
        } = self;
        let (mut of_route, mut of_netfilter) = (
            Vec::with_capacity(READ_BYTES),
            Vec::with_capacity(READ_BYTES),
        );
        let (source, read) = tokio::select! {
            read = receive(route.as_ref(), &mut of_route) => (Source::Route, read),
            read = receive(netfilter.as_ref(), &mut of_netfilter) => (Source::Netfilter, read),
        };
        self.buffer = match source {
            Source::Route => of_route,
            Source::Netfilter => of_netfilter,
        };
        self.take(&source, read);
    }

    /// Reads what is there, without waiting.
    fn read_pending(&mut self) {
        for source in [Source::Route, Source::Netfilter] {
            for _ in 0..READ_AT_ONCE {
                let socket = match source {
                    Source::Route => self.route.as_ref(),
                    Source::Netfilter => self.netfilter.as_ref(),
                };
                let Some(socket) = socket else { break };
                self.buffer.clear();
                let read = socket
                    .socket_ref()
                    .recv(&mut self.buffer, libc::MSG_DONTWAIT);
                match read {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    read => self.take(&source, read.map(drop)),
                }
            }
        }
    }
}

async fn receive(socket: Option<&TokioSocket>, buffer: &mut Vec<u8>) -> io::Result<()> {
    match socket {
        Some(socket) => socket.recv(buffer).await,
        None => future::pending().await,
    }
}

impl Changes {
    /// Waits for the next change that may be to something of ours.
    pub(crate) async fn wait(&self) -> Change {
        let mut sockets = self.sockets.lock().await;
        let sockets = sockets.get_or_insert_with(Sockets::open);
        loop {
            if let Some(change) = sockets.queue.pop_first() {
                return change;
            }
            sockets.read().await;
        }
    }

    /// The changes that were told of so far.
    pub(crate) async fn pending(&self) -> BTreeSet<Change> {
        let mut sockets = self.sockets.lock().await;
        let sockets = sockets.get_or_insert_with(Sockets::open);
        sockets.read_pending();
        std::mem::take(&mut sockets.queue)
    }
}
