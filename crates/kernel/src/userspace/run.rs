//! The threads of the device process.

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};
use std::{
    io,
    net::UdpSocket,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};
use weir_overlay::InterfaceName;

use super::{
    DeviceError, control::ControlSocket, device::Device, session::OVERHEAD, tun::Tun, udp::Sockets,
};

/// How often timers are looked at, and the longest that a thread waits before it looks whether
/// its socket is still the right one, in milliseconds.
const TICK_MILLISECONDS: u16 = 250;
/// The most packets that a thread moves before it lets changes of the device through.
const BATCH: usize = 64;
/// The largest IP packet, in bytes.
const LARGEST_PACKET: usize = 65_535;

/// The device's lower side.
pub(super) struct Link {
    pub(super) sockets: Arc<Sockets>,
    pub(super) port: u16,
    pub(super) mark: u32,
}

/// What the threads share. Locks are taken in the order of the fields, never the other way.
pub(super) struct Shared {
    pub(super) device: RwLock<Device>,
    link: Mutex<Link>,
    tun: Tun,
    stop: AtomicBool,
}

impl Shared {
    pub(super) fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sockets(&self) -> Arc<Sockets> {
        Arc::clone(&self.link().sockets)
    }

    fn running(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

/// Ends the other threads when this one ends, in whatever way.
struct StopAll<'a>(&'a Shared);

impl Drop for StopAll<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// Runs the userspace WireGuard device `interface` until its link is removed or SIGTERM or SIGINT
/// comes: the whole life of a process, which leaves its parent's session first. The device has no
/// key, port or peers until it is told over its control socket.
///
/// # Errors
/// [`DeviceError`] when the link or the control socket cannot be made; nothing is left then.
pub fn run_userspace_device(interface: &InterfaceName) -> Result<(), DeviceError> {
    // Fails for the leader of a session, who has one of its own already.
    let _leader = nix::unistd::setsid();
    if nix::net::if_::if_nametoindex(interface.as_str()).is_ok() {
        return Err(DeviceError::LinkExists(interface.clone()));
    }
    let signals = signals().map_err(|errno| DeviceError::Signals(errno.into()))?;
    let tun = Tun::create(interface).map_err(|source| DeviceError::Tun {
        name: interface.clone(),
        source,
    })?;
    let control = ControlSocket::open(interface)?;
    let shared = Shared {
        device: RwLock::default(),
        link: Mutex::new(Link {
            sockets: Arc::default(),
            port: 0,
            mark: 0,
        }),
        tun,
        stop: AtomicBool::new(false),
    };
    run(&shared, &control, &signals)
}

/// Blocks the signals for all threads, so that only the descriptor gets them.
fn signals() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

fn run(shared: &Shared, control: &ControlSocket, signals: &SignalFd) -> Result<(), DeviceError> {
    thread::scope(|scope| {
        let start = |name: &'static str, body: &'static (dyn Fn(&Shared) + Sync)| {
            let thread = scope.spawn(move || {
                let _stop = StopAll(shared);
                body(shared);
            });
            (name, thread)
        };
        let threads = [
            start("to peers", &from_host),
            start("from IPv4 peers", &|shared| {
                from_peers(shared, |sockets| sockets.v4.as_ref());
            }),
            start("from IPv6 peers", &|shared| {
                from_peers(shared, |sockets| sockets.v6.as_ref());
            }),
        ];
        let controlling = scope.spawn(|| {
            let _stop = StopAll(shared);
            while shared.running() {
                wait(control.listener().as_fd());
                if control.serve(shared).is_err() {
                    break;
                }
            }
        });
        keep_time(shared, signals);
        shared.stop.store(true, Ordering::Relaxed);
        let failed = threads
            .into_iter()
            .chain([("control", controlling)])
            .filter_map(|(name, thread)| thread.join().err().map(|_| name))
            .last();
        failed.map_or(Ok(()), |name| Err(DeviceError::Thread(name)))
    })
}

/// Waits until there is something to read, a tick at most.
fn wait(file: BorrowedFd<'_>) {
    let mut files = [PollFd::new(file, PollFlags::POLLIN)];
    let _ready = poll(&mut files, PollTimeout::from(TICK_MILLISECONDS));
}

/// The main thread: timers, and the signals to end.
fn keep_time(shared: &Shared, signals: &SignalFd) {
    let mut buffer = vec![0; LARGEST_PACKET + OVERHEAD];
    while shared.running() {
        wait(signals.as_fd());
        if let Ok(Some(_)) = signals.read_signal() {
            return;
        }
        shared
            .device
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .tick(&mut buffer, &shared.sockets());
    }
}

/// Moves packets of the host to peers.
fn from_host(shared: &Shared) {
    let mut packet = vec![0; LARGEST_PACKET];
    let mut buffer = vec![0; LARGEST_PACKET + OVERHEAD];
    while shared.running() {
        wait(shared.tun.as_fd());
        let device = shared.device.read().unwrap_or_else(PoisonError::into_inner);
        let sockets = shared.sockets();
        for _ in 0..BATCH {
            match shared.tun.read(&mut packet) {
                Ok(length) => device.send(&packet[..length], &mut buffer, &sockets),
                Err(error) if is_transient(&error) => break,
                // The link was removed.
                Err(_) => return,
            }
        }
    }
}

/// Moves packets of peers to the host.
fn from_peers(shared: &Shared, choose: impl Fn(&Sockets) -> Option<&UdpSocket>) {
    let mut packet = vec![0; LARGEST_PACKET];
    let mut buffer = vec![0; LARGEST_PACKET + OVERHEAD];
    while shared.running() {
        let sockets = shared.sockets();
        let Some(socket) = choose(&sockets) else {
            thread::sleep(std::time::Duration::from_millis(TICK_MILLISECONDS.into()));
            continue;
        };
        wait(socket.as_fd());
        let device = shared.device.read().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..BATCH {
            // Errors of a UDP socket are about packets sent before; the next read is fine.
            let Ok((length, from)) = socket.recv_from(&mut packet) else {
                break;
            };
            device.receive(&packet[..length], from, &mut buffer, &sockets, &shared.tun);
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
