//! The UDP sockets that encrypted packets go through.

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind as bind_socket, setsockopt, socket,
    sockopt,
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
};

/// The receive and send buffers asked for, in bytes: a burst of some thousand packets.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// How often another free port is tried when the one chosen for IPv4 is taken for IPv6.
const PORT_ATTEMPTS: u32 = 10;

/// A socket on `port` (0 for a free one) whose packets bear `mark` (0 for none). It does not
/// block, and an IPv6 one is for IPv6 only.
pub(crate) fn bind(address: IpAddr, port: u16, mark: u32) -> io::Result<UdpSocket> {
    let family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Datagram, flags, None)?;
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    bind_socket(
        socket.as_raw_fd(),
        &SockaddrStorage::from(SocketAddr::new(address, port)),
    )?;
    let socket = UdpSocket::from(socket);
    set_mark(&socket, mark)?;
    if address.is_ipv4() {
        allow_fragments(&socket)?;
    }
    Ok(socket)
}

/// As the kernel's WireGuard sends: without the flag that forbids fragments. What is too large for
/// a link on the way arrives in pieces then, instead of nowhere when that link's router is mute.
#[expect(unsafe_code, reason = "nix has no name for this option")]
fn allow_fragments(socket: &UdpSocket) -> io::Result<()> {
    let value: libc::c_int = libc::IP_PMTUDISC_DONT;
    // SAFETY: the option takes a pointer to one int and its size, and both outlive the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn set_mark(socket: &UdpSocket, mark: u32) -> io::Result<()> {
    // An unmarked socket needs no privilege.
    if mark != 0 {
        setsockopt(socket, sockopt::Mark, &mark)?;
    }
    Ok(())
}

/// The sockets of both families; `None` for a family that this host does not have.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    pub(super) v4: Option<UdpSocket>,
    pub(super) v6: Option<UdpSocket>,
}

impl Sockets {
    /// Sockets of both families on one port, 0 for a free one; gives the port with them.
    pub(super) fn open(port: u16, mark: u32) -> io::Result<(Self, u16)> {
        let mut attempt = 1;
        loop {
            match Self::open_once(port, mark) {
                Err(error)
                    if port == 0
                        && attempt < PORT_ATTEMPTS
                        && error.kind() == io::ErrorKind::AddrInUse =>
                {
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    fn open_once(port: u16, mark: u32) -> io::Result<(Self, u16)> {
        let v4 = optional(bind(Ipv4Addr::UNSPECIFIED.into(), port, mark))?;
        let chosen = match &v4 {
            Some(socket) => socket.local_addr()?.port(),
            None => port,
        };
        let v6 = optional(bind(Ipv6Addr::UNSPECIFIED.into(), chosen, mark))?;
        let chosen = match &v6 {
            Some(socket) => socket.local_addr()?.port(),
            None => chosen,
        };
        for socket in v4.iter().chain(&v6) {
            // Past the limits of the host where we may; smaller buffers only lose bursts.
            let _smaller = setsockopt(socket, sockopt::RcvBufForce, &BUFFER_BYTES);
            let _smaller = setsockopt(socket, sockopt::SndBuf, &BUFFER_BYTES);
        }
        Ok((Self { v4, v6 }, chosen))
    }

    /// Sets the mark on packets sent from now on.
    pub(super) fn mark(&self, mark: u32) -> io::Result<()> {
        self.v4
            .iter()
            .chain(&self.v6)
            .try_for_each(|socket| Ok(setsockopt(socket, sockopt::Mark, &mark)?))
    }

    /// Sends a packet. One that cannot be sent is dropped, as any datagram may be.
    pub(super) fn send(&self, packet: &[u8], to: SocketAddr) {
        let socket = match to {
            SocketAddr::V4(_) => &self.v4,
            SocketAddr::V6(_) => &self.v6,
        };
        if let Some(socket) = socket {
            let _dropped = socket.send_to(packet, to);
        }
    }
}

/// A missing address family is no error.
fn optional(bound: io::Result<UdpSocket>) -> io::Result<Option<UdpSocket>> {
    match bound {
        Ok(socket) => Ok(Some(socket)),
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
