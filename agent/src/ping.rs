//! `ping`: echo requests to another node, over the tunnel.

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket},
};
use serde::Serialize;
use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

/// What is sent with each request, besides its header.
const PAYLOAD: &[u8] = b"weir ping, 32 bytes of no meaning";
/// The header of an echo request, in bytes (RFC 792, RFC 4443).
const HEADER: usize = 8;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct PingReport {
    /// Whom, by name, where it is a node that this one knows.
    pub(crate) node: Option<String>,
    /// The address.
    pub(crate) address: IpAddr,
    /// Where the node's WireGuard is: directly there, without anything in between.
    pub(crate) endpoint: Option<SocketAddr>,
    /// Seconds since the last handshake, after the last request.
    pub(crate) handshake_age: Option<u64>,
    /// How many requests were sent.
    pub(crate) sent: u16,
    /// How many were answered.
    pub(crate) received: u16,
    /// The times that the answers took, in milliseconds.
    pub(crate) milliseconds: Vec<f64>,
}

/// A socket for echo requests to one address.
#[derive(Debug)]
pub(crate) struct Pinger {
    socket: UdpSocket,
    ipv4: bool,
    raw: bool,
    id: u16,
}

impl Pinger {
    /// Opens the socket.
    ///
    /// # Errors
    /// No right to send echo requests, or no way to the address.
    pub(crate) fn open(address: IpAddr) -> Result<Self> {
        let (family, protocol) = match address {
            IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
            IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
        };
        let open = |kind| socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol);
        // Users may send echo requests where net.ipv4.ping_group_range says so; root always.
        let (opened, raw): (OwnedFd, bool) = match open(SockType::Datagram) {
            Ok(opened) => (opened, false),
            Err(_) => match open(SockType::Raw) {
                Ok(opened) => (opened, true),
                Err(Errno::EPERM | Errno::EACCES) => bail!(
                    "no right to send echo requests: run this as root, or let the group do so \
                     with net.ipv4.ping_group_range"
                ),
                Err(error) => {
                    return Err(error).context("cannot open a socket for echo requests");
                }
            },
        };
        let socket = UdpSocket::from(opened);
        socket
            .connect((address, 0))
            .with_context(|| format!("there is no way to {address}: `agent explain` tells why"))?;
        Ok(Self {
            socket,
            ipv4: address.is_ipv4(),
            raw,
            id: u16::try_from(std::process::id() & 0xffff).unwrap_or_default(),
        })
    }

    /// Sends a request and waits for its answer; none when it does not come in time.
    ///
    /// # Errors
    /// The request cannot be sent.
    pub(crate) fn ask(&self, sequence: u16, patience: Duration) -> Result<Option<Duration>> {
        let began = Instant::now();
        match self.socket.send(&request(self.ipv4, self.id, sequence)) {
            Ok(_) => {}
            Err(error) if leads_nowhere(&error) => return Ok(None),
            Err(error) => return Err(error).context("cannot send an echo request"),
        }
        let mut buffer = [0; 2048];
        loop {
            let left = patience.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            match self.socket.recv(&mut buffer) {
                Ok(length) => {
                    let packet = buffer.get(..length).unwrap_or_default();
                    let id = self.raw.then_some(self.id);
                    if answers(packet, self.ipv4, self.raw, id, sequence) {
                        return Ok(Some(began.elapsed()));
                    }
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return Ok(None);
                }
                // The kernel's own word on an earlier request, such as "host unreachable".
                Err(_) => {}
            }
        }
    }
}

/// Whether the kernel said that there is no way for the packet, which is no fault of this program:
/// nothing will answer. The kernel's WireGuard says so of an address that no peer has (`ENOKEY`)
/// and of a peer without an endpoint (`EDESTADDRREQ`), a firewall of a packet that it drops
/// (`EPERM`).
fn leads_nowhere(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw);
    matches!(
        code,
        Some(
            Errno::ENOKEY
                | Errno::EDESTADDRREQ
                | Errno::EPERM
                | Errno::ENETUNREACH
                | Errno::EHOSTUNREACH
                | Errno::ECONNREFUSED
        )
    )
}

fn request(ipv4: bool, id: u16, sequence: u16) -> Vec<u8> {
    let kind = if ipv4 { 8 } else { 128 };
    let mut packet = vec![kind, 0, 0, 0];
    packet.extend(id.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.extend(PAYLOAD);
    // For IPv6 the kernel does it, with addresses that it chooses.
    if ipv4 {
        let sum = checksum(&packet).to_be_bytes();
        packet.splice(2..4, sum);
    }
    packet
}

/// The internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| {
            let high = pair.first().copied().unwrap_or(0);
            let low = pair.get(1).copied().unwrap_or(0);
            u32::from(u16::from_be_bytes([high, low]))
        })
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

/// Whether a packet answers this request. Raw sockets of IPv4 hand out the IP header as well.
fn answers(packet: &[u8], ipv4: bool, raw: bool, id: Option<u16>, sequence: u16) -> bool {
    let skipped = if ipv4 && raw {
        packet
            .first()
            .map_or(0, |first| usize::from(first & 0x0f) * 4)
    } else {
        0
    };
    let Some(header) = packet.get(skipped..skipped + HEADER) else {
        return false;
    };
    let number = |at: usize| {
        let high = header.get(at).copied().unwrap_or(0);
        let low = header.get(at + 1).copied().unwrap_or(0);
        u16::from_be_bytes([high, low])
    };
    let kind = if ipv4 { 0 } else { 129 };
    header.first() == Some(&kind) && number(6) == sequence && id.is_none_or(|id| number(4) == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_without_a_way_is_a_lost_one_and_a_fault_of_ours_is_an_error() {
        for code in [Errno::ENOKEY, Errno::EDESTADDRREQ, Errno::EHOSTUNREACH] {
            assert!(leads_nowhere(&code.into()), "{code}");
        }
        for code in [Errno::EMSGSIZE, Errno::EBADF] {
            assert!(!leads_nowhere(&code.into()), "{code}");
        }
    }

    #[test]
    fn requests_and_their_answers_fit() {
        for ipv4 in [true, false] {
            let mut packet = request(ipv4, 7, 3);
            if ipv4 {
                assert_eq!(checksum(&packet), 0);
            }
            assert!(!answers(&packet, ipv4, false, None, 3));
            packet[0] = if ipv4 { 0 } else { 129 };
            assert!(answers(&packet, ipv4, false, Some(7), 3));
            assert!(!answers(&packet, ipv4, false, Some(8), 3));
            assert!(!answers(&packet, ipv4, false, None, 4));
        }
        let mut framed = vec![0x45; 20];
        let mut packet = request(true, 7, 3);
        packet[0] = 0;
        framed.extend(&packet);
        assert!(answers(&framed, true, true, Some(7), 3));
        assert!(!answers(&framed[..24], true, true, Some(7), 3));
    }
}
