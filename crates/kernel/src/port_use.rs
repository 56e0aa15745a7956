//! How many source ports are in use, as conntrack tells.
//!
//! A translated connection takes a port of its source address for as long as conntrack remembers
//! it; two connections to one destination cannot share one. So ports run out by source address,
//! protocol and destination.

use netlink_sys::{
    AsyncSocket, AsyncSocketExt, SocketAddr as NetlinkAddress, TokioSocket,
    protocols::NETLINK_NETFILTER,
};
use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};
use tokio::time;
use weir_kernel_plan::{CT_GENERATION_MASK, KernelError, PortUse};
use weir_protocol::IpProtocol;

use crate::error::{io_failed, kernel_said, timed_out};

/// How long the kernel may take to list its table, in seconds.
const SECONDS: u64 = 10;

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET` (linux/netfilter/nfnetlink.h).
const CT_GET: u16 = (1 << 8) | 1;
/// `NLM_F_REQUEST | NLM_F_DUMP` (linux/netlink.h).
const REQUEST_DUMP: u16 = 0x01 | 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The length of a netlink header, and of the netfilter header behind it, in bytes.
const HEADER: usize = 16;
const NETFILTER_HEADER: usize = 4;

// linux/netfilter/nfnetlink_conntrack.h: `CTA_*`, and what is nested in a tuple.
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_MARK: u16 = 8;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
/// The bits of an attribute's kind that are not flags (`NLA_TYPE_MASK`).
const KIND: u16 = 0x3fff;

/// One direction of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tuple {
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    protocol: u8,
    source_port: u16,
    destination_port: u16,
}

/// The ports in use by connections of ours that leave with another source address than they came
/// with, by source address, protocol and destination.
pub(crate) async fn ports_in_use() -> Result<Vec<PortUse>, KernelError> {
    let operation = "count the ports in use";
    let mut counts = BTreeMap::new();
    match time::timeout(Duration::from_secs(SECONDS), dump(&mut counts)).await {
        Err(_) => Err(timed_out(operation, SECONDS)),
        Ok(Err(error)) => Err(io_failed(operation, &error)),
        // A kernel that never tracked a connection has no table.
        Ok(Ok(0 | libc::EOPNOTSUPP | libc::ENOENT)) => Ok(counts
            .into_iter()
            .map(|((egress, protocol, destination), ports)| PortUse {
                egress,
                protocol: IpProtocol(protocol),
                destination,
                ports,
            })
            .collect()),
        Ok(Ok(errno)) => Err(kernel_said(operation, errno)),
    }
}

type Counts = BTreeMap<(IpAddr, u8, SocketAddr), u32>;

/// Reads the whole table; the number of the error that ended it, 0 for none.
async fn dump(counts: &mut Counts) -> io::Result<i32> {
    let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
    socket.socket_mut().bind_auto()?;
    let mut request = Vec::with_capacity(HEADER + NETFILTER_HEADER);
    request.extend_from_slice(&20u32.to_ne_bytes());
    request.extend_from_slice(&CT_GET.to_ne_bytes());
    request.extend_from_slice(&REQUEST_DUMP.to_ne_bytes());
    request.extend_from_slice(&1u32.to_ne_bytes()); // sequence
    request.extend_from_slice(&0u32.to_ne_bytes()); // port: the kernel fills it in
    request.extend_from_slice(&[0; NETFILTER_HEADER]); // any family, version 0, resource 0
    socket.send_to(&request, &NetlinkAddress::new(0, 0)).await?;
    loop {
        let (reply, _) = socket.recv_from_full().await?;
        let mut rest = reply.as_ref();
        while let Some((kind, body, after)) = message(rest) {
            rest = after;
            match kind {
                NLMSG_DONE => return Ok(0),
                NLMSG_ERROR => {
                    let number = body.get(..4).and_then(|b| b.try_into().ok());
                    return Ok(number.map_or(libc::EBADMSG, |b| -i32::from_ne_bytes(b)));
                }
                _ => count(body.get(NETFILTER_HEADER..).unwrap_or_default(), counts),
            }
        }
    }
}

/// The first netlink message of `bytes`: its kind, its body, and what comes behind it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?);
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let length = usize::try_from(length).ok()?;
    let body = bytes.get(HEADER..length)?;
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body, after))
}

/// The attributes in `bytes`, by kind.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & KIND;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into()),
        _ => None,
    }
}

fn port(value: &[u8]) -> u16 {
    value.try_into().map_or(0, u16::from_be_bytes)
}

fn tuple(value: &[u8]) -> Tuple {
    let mut tuple = Tuple::default();
    for (kind, nested) in attributes(value) {
        for (part, value) in attributes(nested) {
            match (kind, part) {
                (CTA_TUPLE_IP, CTA_IP_V4_SRC | CTA_IP_V6_SRC) => tuple.source = address(value),
                (CTA_TUPLE_IP, CTA_IP_V4_DST | CTA_IP_V6_DST) => {
                    tuple.destination = address(value);
                }
                (CTA_TUPLE_PROTO, CTA_PROTO_NUM) => {
                    tuple.protocol = value.first().copied().unwrap_or_default();
                }
                (CTA_TUPLE_PROTO, CTA_PROTO_SRC_PORT) => tuple.source_port = port(value),
                (CTA_TUPLE_PROTO, CTA_PROTO_DST_PORT) => tuple.destination_port = port(value),
                _ => {}
            }
        }
    }
    tuple
}

/// Counts a connection, when it is one of ours and its source is translated.
fn count(body: &[u8], counts: &mut Counts) {
    let (mut original, mut reply, mut mark) = (Tuple::default(), Tuple::default(), 0);
    for (kind, value) in attributes(body) {
        match kind {
            CTA_TUPLE_ORIG => original = tuple(value),
            CTA_TUPLE_REPLY => reply = tuple(value),
            CTA_MARK => mark = value.try_into().map_or(0, u32::from_be_bytes),
            _ => {}
        }
    }
    let (Some(egress), Some(service)) = (reply.destination, reply.source) else {
        return;
    };
    let translated = original.source != Some(egress);
    if mark & CT_GENERATION_MASK == 0 || !translated || !IpProtocol(reply.protocol).has_ports() {
        return;
    }
    let destination = SocketAddr::new(service, reply.source_port);
    *counts
        .entry((egress, reply.protocol, destination))
        .or_default() += 1;
}
