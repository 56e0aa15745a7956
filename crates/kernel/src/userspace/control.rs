//! The control socket.

use nix::sys::stat::{Mode, umask};
use std::{
    fs,
    io::{self, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::Duration,
};
use weir_overlay::InterfaceName;

use super::{
    DeviceError,
    device::Refused,
    messages::{self, Request, SetRequest},
    run::Shared,
    socket_file,
    udp::Sockets,
};

/// How long a client may take to send a request or read an answer.
const CLIENT_DEADLINE: Duration = Duration::from_secs(5);
/// The longest request, in bytes: about 100,000 peers.
const LONGEST_REQUEST: usize = 32 * 1024 * 1024;

/// The listening socket; its file goes with it.
pub(super) struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Listens on the socket of that link, for root only.
    pub(super) fn open(interface: &InterfaceName) -> Result<Self, DeviceError> {
        let path = socket_file(interface);
        match listen(&path) {
            Ok(listener) => Ok(Self { listener, path }),
            Err(source) => Err(DeviceError::ControlSocket { path, source }),
        }
    }

    pub(super) const fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Answers one client, if one is there.
    pub(super) fn serve(&self, shared: &Shared) -> io::Result<()> {
        let (mut client, _) = match self.listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        client.set_nonblocking(false)?;
        client.set_read_timeout(Some(CLIENT_DEADLINE))?;
        client.set_write_timeout(Some(CLIENT_DEADLINE))?;
        // A client that goes away or stalls is its own problem.
        let _gone = converse(&mut client, shared);
        Ok(())
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.path);
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // The link is ours alone, so a socket of its name is what a killed process left.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    // The key passes over it.
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    let listener = listener?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Answers requests until the client has no more.
fn converse(client: &mut UnixStream, shared: &Shared) -> io::Result<()> {
    let mut pending = Vec::new();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        if let Some(end) = pending.windows(2).position(|pair| pair == b"\n\n") {
            let answer = answer(&pending[..=end], shared);
            client.write_all(answer.as_bytes())?;
            pending.drain(..end + 2);
            continue;
        }
        let length = client.read(&mut chunk)?;
        if length == 0 || pending.len() + length > LONGEST_REQUEST {
            return Ok(());
        }
        pending.extend_from_slice(&chunk[..length]);
    }
}

fn answer(request: &[u8], shared: &Shared) -> String {
    let parsed = std::str::from_utf8(request)
        .map_err(|_| Refused(libc::EINVAL))
        .and_then(messages::parse);
    match parsed {
        Ok(Request::Get) => {
            let device = shared.device.read().unwrap_or_else(PoisonError::into_inner);
            let link = shared.link();
            messages::report(&device, link.port, link.mark)
        }
        Ok(Request::Set(request)) => messages::outcome(set(&request, shared)),
        Err(refused) => messages::outcome(Err(refused)),
    }
}

/// Opens sockets first: that can fail, and then nothing has changed.
fn set(request: &SetRequest, shared: &Shared) -> Result<(), Refused> {
    let refused = |error: io::Error| Refused(error.raw_os_error().unwrap_or(libc::EIO));
    let mut link = shared.link();
    let mark = request.mark.unwrap_or(link.mark);
    let port = request.listen_port.unwrap_or(link.port);
    if port != link.port || (request.listen_port.is_some() && link.sockets.v4.is_none()) {
        let (sockets, port) = Sockets::open(port, mark).map_err(refused)?;
        link.sockets = Arc::new(sockets);
        link.port = port;
    } else if mark != link.mark {
        link.sockets.mark(mark).map_err(refused)?;
    }
    link.mark = mark;
    drop(link);
    shared
        .device
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .set(request)
}
