//! The WireGuard device for kernels that have none: a process of its own with a TUN link.
//!
//! `boringtun` gives the protocol ([`boringtun::noise::Tunn`]); its own device panics when an
//! existing peer is changed, so the device around it is here: `device.rs` holds the peers and
//! whose prefixes are whose, `session.rs` one peer's session, `udp.rs` and `tun.rs` the two ends,
//! `control.rs` and `messages.rs` the control socket that `wg` and `wireguard-control` speak to,
//! and `run.rs` the threads. `program.rs` starts and stops the process from the agent.
//!
//! The process outlives the agent, so that a restart of the agent costs no packet. It ends when
//! its link is removed, or on SIGTERM.

mod control;
mod device;
mod messages;
mod program;
mod run;
mod session;
mod tun;
pub(crate) mod udp;

use std::{io, path::PathBuf};
use weir_overlay::InterfaceName;

pub use program::DeviceProgram;
pub(crate) use program::{answers, process, start, stop};
pub use run::run_userspace_device;

/// Why the userspace device cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Something of that name is there already.
    #[error("the link {0} exists already: remove it, or choose another with --interface")]
    LinkExists(InterfaceName),
    /// The TUN link could not be made.
    #[error(
        "cannot make the TUN link {name}: that takes the module tun, a /dev/net/tun that may be \
         opened, and CAP_NET_ADMIN"
    )]
    Tun {
        /// Its name.
        name: InterfaceName,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The control socket could not be made.
    #[error("cannot make the control socket {}", path.display())]
    ControlSocket {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Signals could not be set up.
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
    /// A thread of the device ended by itself.
    #[error("the thread {0} of the device failed")]
    Thread(&'static str),
}

/// Where `wg` and `wireguard-control` look for control sockets: the second where only it exists.
const FOLDERS: [&str; 2] = ["/var/run/wireguard", "/run/wireguard"];

/// The folder of the control sockets.
fn folder() -> PathBuf {
    let exists = FOLDERS
        .iter()
        .map(PathBuf::from)
        .find(|folder| folder.exists());
    exists.unwrap_or_else(|| PathBuf::from(FOLDERS[0]))
}

/// The control socket of that link's device.
fn socket_file(interface: &InterfaceName) -> PathBuf {
    folder().join(format!("{interface}.sock"))
}

/// What the process of that link's device wrote to its standard error.
pub(crate) fn log_file(interface: &InterfaceName) -> PathBuf {
    folder().join(format!("{interface}.log"))
}
