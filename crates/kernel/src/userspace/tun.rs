//! The TUN link: packets that programs send arrive here, packets from peers leave here.

use nix::libc;
use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    os::unix::fs::OpenOptionsExt,
};
use weir_overlay::InterfaceName;

nix::ioctl_write_ptr_bad!(
    /// Attaches the file to a TUN link (`TUNSETIFF`, linux/if_tun.h).
    attach,
    libc::TUNSETIFF,
    libc::ifreq
);

/// A TUN link that lives as long as this value.
#[derive(Debug)]
pub(super) struct Tun(File);

impl Tun {
    /// Makes the link: IP packets without a header in front, one queue.
    #[expect(unsafe_code, reason = "a TUN link is made by an ioctl")]
    pub(super) fn create(name: &InterfaceName) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")?;
        // SAFETY: `ifreq` is plain data (a byte array and a union of plain data), for which all
        // zeroes is a valid value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // An interface name has at most 15 bytes, so the last of the 16 stays 0.
        for (to, from) in request.ifr_name.iter_mut().zip(name.as_str().bytes()) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        // IFF_TUN_EXCL: never attach to a link that somebody else made.
        let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_TUN_EXCL;
        request.ifr_ifru.ifru_flags = flags.to_le_bytes_short();
        // SAFETY: the descriptor is open, and TUNSETIFF reads one `ifreq` from the pointer, which
        // is to a live value of that type.
        unsafe { attach(file.as_raw_fd(), &raw const request) }?;
        Ok(Self(file))
    }

    /// Reads one packet; `WouldBlock` when there is none.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.0).read(buffer)
    }

    /// Hands a packet to the host. One that it does not take (the link is down, its queue is
    /// full) is dropped, as on any link.
    pub(super) fn write(&self, packet: &[u8]) {
        let _dropped = (&self.0).write(packet);
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The low 16 bits of the flags, which is all that `ifr_flags` holds.
trait Short {
    fn to_le_bytes_short(self) -> libc::c_short;
}

impl Short for libc::c_int {
    fn to_le_bytes_short(self) -> libc::c_short {
        let [low, high, ..] = self.to_le_bytes();
        libc::c_short::from_le_bytes([low, high])
    }
}
