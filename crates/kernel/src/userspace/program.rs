//! Starts and stops the device's process.

use nix::{
    sys::{
        signal::{Signal, kill},
        socket::{getsockopt, sockopt},
    },
    unistd::Pid,
};
use std::{fs, io, os::unix::net::UnixStream, path::PathBuf, process::Stdio, time::Duration};
use tokio::{
    process::{Child, Command},
    time::{self, Instant},
};
use weir_kernel_plan::KernelError;
use weir_overlay::InterfaceName;

use super::{folder, log_file, socket_file};
use crate::error::{failed, io_failed, timed_out};

const START: &str = "create the userspace WireGuard link";
const STOP: &str = "remove the userspace WireGuard link";
/// How long the process may take to answer on its socket, in seconds.
const START_SECONDS: u64 = 10;
/// How long it may take to end by itself, and again after it was killed.
const STOP_DEADLINE: Duration = Duration::from_secs(3);
/// How often to look.
const INTERVAL: Duration = Duration::from_millis(20);

/// The program that is a userspace device when started with an interface name at the end of its
/// arguments: it calls [`super::run_userspace_device`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceProgram {
    /// The program.
    pub program: PathBuf,
    /// What comes before the interface name.
    pub arguments: Vec<String>,
}

impl Default for DeviceProgram {
    /// This very program, with the command `userspace-wireguard`.
    fn default() -> Self {
        Self {
            program: std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe")),
            arguments: vec!["userspace-wireguard".to_owned()],
        }
    }
}

/// Whether a device listens on that link's control socket.
pub(crate) async fn answers(interface: &InterfaceName) -> bool {
    let connect = tokio::net::UnixStream::connect(socket_file(interface));
    matches!(
        time::timeout(Duration::from_secs(1), connect).await,
        Ok(Ok(_))
    )
}

/// The process that listens on that link's control socket, which only root can put there.
pub(crate) fn process(interface: &InterfaceName) -> Option<Pid> {
    let stream = UnixStream::connect(socket_file(interface)).ok()?;
    let peer = getsockopt(&stream, sockopt::PeerCredentials).ok()?;
    let process = Pid::from_raw(peer.pid());
    (process.as_raw() > 1 && process != Pid::this()).then_some(process)
}

/// Starts the device of that link and waits until it answers. One that answers already is left
/// as it is.
pub(crate) async fn start(
    program: &DeviceProgram,
    interface: &InterfaceName,
) -> Result<(), KernelError> {
    if answers(interface).await {
        return Ok(());
    }
    fs::create_dir_all(folder()).map_err(|error| io_failed(START, &error))?;
    let log = fs::File::create(log_file(interface)).map_err(|error| io_failed(START, &error))?;
    let mut child = Command::new(&program.program)
        .args(&program.arguments)
        .arg(interface.as_str())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(|error| {
            failed(
                START,
                format!("cannot start {}: {error}", program.program.display()),
            )
        })?;
    match wait_until_it_answers(&mut child, interface).await {
        // From here on it lives by itself; tokio reaps it should it end before us.
        Ok(()) => Ok(()),
        Err(error) => {
            let _ended = child.kill().await;
            Err(error)
        }
    }
}

async fn wait_until_it_answers(
    child: &mut Child,
    interface: &InterfaceName,
) -> Result<(), KernelError> {
    let deadline = Instant::now() + Duration::from_secs(START_SECONDS);
    while Instant::now() < deadline {
        if answers(interface).await {
            return Ok(());
        }
        if let Some(status) = child.try_wait().map_err(|error| io_failed(START, &error))? {
            let said = fs::read_to_string(log_file(interface)).unwrap_or_default();
            let said = said.trim();
            let reason = if said.is_empty() {
                format!("its process ended with {status}")
            } else {
                format!("its process says: {said}")
            };
            return Err(failed(START, reason));
        }
        time::sleep(INTERVAL).await;
    }
    Err(timed_out(START, START_SECONDS))
}

/// Waits until the process of a removed link has ended, kills it if it does not, and removes what
/// it leaves. `process` is the one that was found before the link was removed.
pub(crate) async fn stop(
    interface: &InterfaceName,
    process: Option<Pid>,
) -> Result<(), KernelError> {
    if let Some(process) = process
        && !ended(interface, process).await
    {
        kill(process, Signal::SIGKILL).map_err(|errno| io_failed(STOP, &errno.into()))?;
        if !ended(interface, process).await {
            return Err(failed(
                STOP,
                format!("its process {process} does not end, not even when killed"),
            ));
        }
    }
    if answers(interface).await {
        return Err(failed(
            STOP,
            "another process listens on its control socket",
        ));
    }
    for left in [socket_file(interface), log_file(interface)] {
        match fs::remove_file(&left) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_failed(STOP, &error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    // Stays where other devices have their sockets.
    let _in_use = fs::remove_dir(folder());
    Ok(())
}

async fn ended(interface: &InterfaceName, process: Pid) -> bool {
    let deadline = Instant::now() + STOP_DEADLINE;
    while Instant::now() < deadline {
        if self::process(interface) != Some(process) {
            return true;
        }
        time::sleep(INTERVAL).await;
    }
    false
}
