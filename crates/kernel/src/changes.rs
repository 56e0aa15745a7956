//! Waits for the kernel to say that something changed.
//!
//! Raw netlink sockets: a subscription by `rtnetlink` queues what it parsed without bound. Here the
//! sockets' own buffers are the bound, and one that overran is a change like any other.

use netlink_sys::{
    AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket,
    protocols::{NETLINK_NETFILTER, NETLINK_ROUTE},
};
use std::{future, io};
use tokio::sync::Mutex;

/// Links, addresses, routes and rules of both families (`RTNLGRP_*`, linux/rtnetlink.h).
const ROUTE_GROUPS: [u32; 7] = [1, 5, 7, 8, 9, 11, 19];
/// nftables (`NFNLGRP_NFTABLES`, linux/netfilter/nfnetlink.h).
const NETFILTER_GROUPS: [u32; 1] = [7];
/// How much of a message is read: its content does not matter, the rest is cut off.
const READ_BYTES: usize = 4096;

/// The subscriptions, made on first use and kept, so that nothing is missed between two waits.
#[derive(Default)]
pub(crate) struct Changes {
    sockets: Mutex<Option<Sockets>>,
}

struct Sockets {
    route: Option<TokioSocket>,
    netfilter: Option<TokioSocket>,
}

fn subscribe(protocol: isize, groups: &[u32]) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(protocol)?;
    socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
    for group in groups {
        socket.socket_mut().add_membership(*group)?;
    }
    Ok(socket)
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
        }
    }
}

/// Waits for a message and drops it. An overrun (`ENOBUFS`) is a message too.
async fn message(socket: Option<&TokioSocket>) {
    let Some(socket) = socket else {
        return future::pending().await;
    };
    let mut content = Vec::with_capacity(READ_BYTES);
    // Any error but an overrun would come back at once and for ever.
    if let Err(error) = socket.recv(&mut content).await
        && error.raw_os_error() != Some(libc::ENOBUFS)
    {
        tracing::warn!("cannot watch the kernel for changes: {error}");
        future::pending::<()>().await;
    }
}

impl Changes {
    /// Waits for the next change. Cancelled, it loses nothing: what was not read stays queued.
    pub(crate) async fn wait(&self) {
        let mut sockets = self.sockets.lock().await;
        let sockets = sockets.get_or_insert_with(Sockets::open);
        tokio::select! {
            () = message(sockets.route.as_ref()) => {}
            () = message(sockets.netfilter.as_ref()) => {}
        }
    }
}
