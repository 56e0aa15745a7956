//! Forgets connections by their mark, with one ctnetlink message.
//!
//! Neither `rtnetlink` nor `wireguard-control` speaks to conntrack, and the `conntrack` program is
//! not on every host: the message is 36 bytes.

use netlink_sys::{
    AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_NETFILTER,
};
use std::{io, time::Duration};
use tokio::time;
use weir_kernel_plan::KernelError;

use crate::error::{failed, io_failed, kernel_said, timed_out};

/// How long the kernel may take to walk its table, in seconds.
const SECONDS: u64 = 10;

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE` (linux/netfilter/nfnetlink.h).
const CT_DELETE: u16 = (1 << 8) | 2;
/// `NLM_F_REQUEST | NLM_F_ACK` (linux/netlink.h).
const REQUEST_ACK: u16 = 0x01 | 0x04;
/// `NLMSG_ERROR`: an acknowledgement when its number is 0.
const NLMSG_ERROR: u16 = 2;
/// `CTA_MARK` (linux/netfilter/nfnetlink_conntrack.h).
const CTA_MARK: u16 = 8;
/// `CTA_MARK_MASK`.
const CTA_MARK_MASK: u16 = 21;
/// The length of a netlink header, in bytes.
const HEADER: usize = 16;

/// Forgets the connections of both families whose mark has the value `mark` in the bits of `mask`.
/// Refuses a value of 0 there: connections that nobody marked are not ours.
pub(crate) async fn forget(mark: u32, mask: u32) -> Result<(), KernelError> {
    let operation = format!("forget connections marked {mark:#010x}/{mask:#010x}");
    if mark & mask == 0 {
        return Err(failed(
            operation,
            "that would forget connections that are not Weir's",
        ));
    }
    let request = request(mark, mask);
    match time::timeout(Duration::from_secs(SECONDS), ask(&request)).await {
        Err(_) => Err(timed_out(operation, SECONDS)),
        Ok(Err(error)) => Err(io_failed(operation, &error)),
        Ok(Ok(0)) => Ok(()),
        // An empty table, or one without an entry that fits.
        Ok(Ok(libc::ENOENT)) => Ok(()),
        Ok(Ok(errno)) => Err(kernel_said(operation, errno)),
    }
}

/// A delete request without a tuple is a flush; the mark makes it a filtered one.
fn request(mark: u32, mask: u32) -> Vec<u8> {
    let mut message = Vec::with_capacity(36);
    message.extend_from_slice(&36u32.to_ne_bytes());
    message.extend_from_slice(&CT_DELETE.to_ne_bytes());
    message.extend_from_slice(&REQUEST_ACK.to_ne_bytes());
    message.extend_from_slice(&1u32.to_ne_bytes()); // sequence
    message.extend_from_slice(&0u32.to_ne_bytes()); // port: the kernel fills it in
    message.extend_from_slice(&[0; 4]); // nfgenmsg: any family, version 0, resource 0
    for (kind, value) in [(CTA_MARK, mark), (CTA_MARK_MASK, mask)] {
        message.extend_from_slice(&8u16.to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&value.to_be_bytes());
    }
    message
}

/// Sends the request and reads the number of its acknowledgement.
async fn ask(request: &[u8]) -> io::Result<i32> {
    let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
    socket.socket_mut().bind_auto()?;
    socket.send_to(request, &SocketAddr::new(0, 0)).await?;
    loop {
        let (reply, _) = socket.recv_from_full().await?;
        let kind = reply.get(4..6).map(|b| [b[0], b[1]]);
        let number = reply
            .get(HEADER..HEADER + 4)
            .map(|b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
        match (kind.map(u16::from_ne_bytes), number) {
            (Some(NLMSG_ERROR), Some(number)) => return Ok(-number),
            (Some(_), _) => {}
            (None, _) => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}
