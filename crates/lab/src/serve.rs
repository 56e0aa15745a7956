//! The little server of the lab and its clients: "who did you see?", a slow download, and a
//! transfer both ways.
//!
//! Over TCP a client sends one line, `whoami`, `download` or `transfer BYTES`. The answer is
//! `you are ADDRESS:PORT`, or a line each 50 ms until the client leaves, or as many bytes as the
//! client sent after its line. Over UDP each datagram is answered like `whoami`.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, getsockopt, socket, sockopt,
};

/// The server logs a line that starts with this when every port is open.
pub const LISTENING: &str = "listening";

/// How many clients the server talks to at the same time; more are turned away.
const MAX_CLIENTS: usize = 64;
/// The pause between two lines of a download.
const DOWNLOAD_INTERVAL: Duration = Duration::from_millis(50);
/// The longest download: nothing in the lab runs for ever.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(900);
/// The most bytes that a client can transfer.
const MAX_TRANSFER: u64 = 64 << 20;
/// How long the server waits for a client's line, and for room to send.
const CLIENT_DEADLINE: Duration = Duration::from_secs(10);
/// How long a UDP client waits before it asks again.
const UDP_RETRY: Duration = Duration::from_millis(300);

/// Opens the ports on every address and serves until the process is killed; logs to `log`.
///
/// # Errors
/// A port cannot be opened.
pub fn serve<L: Write + Send + Clone + 'static>(
    addresses: &[IpAddr],
    tcp: &[u16],
    udp: &[u16],
    mut log: L,
) -> Result<()> {
    let clients = Arc::new(AtomicUsize::new(0));
    let mut threads = Vec::new();
    for address in addresses {
        for port in tcp {
            let place = SocketAddr::new(*address, *port);
            let listener = TcpListener::bind(place).with_context(|| busy(place, "TCP"))?;
            let (clients, log) = (Arc::clone(&clients), log.clone());
            threads.push(thread::spawn(move || serve_tcp(&listener, &clients, &log)));
        }
        for port in udp {
            let place = SocketAddr::new(*address, *port);
            let socket = UdpSocket::bind(place).with_context(|| busy(place, "UDP"))?;
            let log = log.clone();
            threads.push(thread::spawn(move || serve_udp(&socket, log)));
        }
    }
    log_line(
        &mut log,
        &format!("{LISTENING} on {addresses:?}, TCP {tcp:?}, UDP {udp:?}"),
    )
    .context("cannot log")?;
    for thread in threads {
        if thread.join().is_err() {
            bail!("a listener failed");
        }
    }
    Ok(())
}

/// Writes a line in one piece, so that lines of several threads do not mix.
fn log_line(log: &mut impl Write, line: &str) -> std::io::Result<()> {
    log.write_all(format!("{line}\n").as_bytes())
}

fn busy(place: SocketAddr, protocol: &str) -> String {
    format!("cannot listen on {protocol} {place}; is the address on this host and the port free?")
}

fn serve_tcp<L: Write + Send + Clone + 'static>(
    listener: &TcpListener,
    clients: &Arc<AtomicUsize>,
    log: &L,
) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        if clients.fetch_add(1, Ordering::SeqCst) >= MAX_CLIENTS {
            clients.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let (clients, mut log) = (Arc::clone(clients), log.clone());
        thread::spawn(move || {
            // A client that leaves in the middle is its own business.
            let _ = answer(stream, &mut log);
            clients.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

fn answer(mut stream: TcpStream, log: &mut impl Write) -> std::io::Result<()> {
    let client = stream.peer_addr()?;
    stream.set_read_timeout(Some(CLIENT_DEADLINE))?;
    stream.set_write_timeout(Some(CLIENT_DEADLINE))?;
    stream.set_nodelay(true)?;
    let mut request = String::new();
    let mut reader = BufReader::new(stream.try_clone()?);
    (&mut reader).take(64).read_line(&mut request)?;
    let request = request.trim_end();
    log_line(log, &format!("tcp {request} from {client}"))?;
    if let Some(bytes) = request.strip_prefix("transfer ") {
        let bytes = bytes.parse().unwrap_or(0).min(MAX_TRANSFER);
        let received = std::io::copy(&mut reader.take(bytes), &mut std::io::sink())?;
        return std::io::copy(&mut std::io::repeat(b'x').take(received), &mut stream).map(drop);
    }
    if request != "download" {
        return writeln!(stream, "you are {client}");
    }
    let started = Instant::now();
    let mut number = 0_u64;
    while started.elapsed() < DOWNLOAD_LIMIT {
        number += 1;
        writeln!(stream, "line {number}")?;
        thread::sleep(DOWNLOAD_INTERVAL);
    }
    Ok(())
}

fn serve_udp(socket: &UdpSocket, mut log: impl Write) {
    let mut buffer = [0_u8; 2048];
    loop {
        let Ok((_, client)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        // An answer that cannot be sent, or a log that cannot be written, is the client's to miss.
        let _ = log_line(&mut log, &format!("udp from {client}"));
        let _ = socket.send_to(format!("you are {client}\n").as_bytes(), client);
    }
}

/// Asks over TCP who we are; the answer's line.
///
/// # Errors
/// Refused, unreachable, or no answer within the deadline.
pub fn ask_tcp(server: SocketAddr, from: Option<IpAddr>, deadline: Duration) -> Result<String> {
    let mut stream = open_tcp(server, from, deadline)?;
    stream
        .write_all(b"whoami\n")
        .with_context(|| format!("cannot send to {server}"))?;
    let mut line = String::new();
    match BufReader::new(stream).read_line(&mut line) {
        Ok(0) => bail!("{server} closed the connection without an answer"),
        Ok(_) => Ok(line.trim_end().to_owned()),
        Err(error) => Err(error).with_context(|| format!("no answer from {server}")),
    }
}

/// Asks over UDP who we are, again and again until there is an answer.
///
/// # Errors
/// Unreachable, or no answer within the deadline.
pub fn ask_udp(server: SocketAddr, from: Option<IpAddr>, deadline: Duration) -> Result<String> {
    let local = from.unwrap_or_else(|| unspecified(server));
    let socket = UdpSocket::bind((local, 0)).with_context(|| format!("cannot bind to {local}"))?;
    socket
        .connect(server)
        .with_context(|| format!("no way to {server}"))?;
    socket
        .set_read_timeout(Some(UDP_RETRY))
        .context("cannot set a time limit")?;
    let started = Instant::now();
    let mut buffer = [0_u8; 2048];
    while started.elapsed() < deadline {
        socket
            .send(b"whoami\n")
            .with_context(|| format!("cannot send to {server}"))?;
        match socket.recv(&mut buffer) {
            Ok(length) => {
                return Ok(String::from_utf8_lossy(&buffer[..length])
                    .trim_end()
                    .to_owned());
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error).with_context(|| format!("no answer from {server}")),
        }
    }
    bail!("no answer from {server} within {deadline:?}")
}

/// Asks over UDP again and again from one socket, answers or not, as a program does that keeps a
/// connection open. Ends after as long as a download may take.
///
/// # Errors
/// There is no socket to be had.
pub fn talk(server: SocketAddr, every: Duration) -> Result<()> {
    let local = unspecified(server);
    let socket = UdpSocket::bind((local, 0)).with_context(|| format!("cannot bind to {local}"))?;
    let started = Instant::now();
    while started.elapsed() < DOWNLOAD_LIMIT {
        // What is refused here and now may be allowed later.
        let _ = socket.send_to(b"whoami\n", server);
        thread::sleep(every);
    }
    Ok(())
}

/// Downloads until nothing comes for `idle`, and prints each line with the time it arrived
/// (milliseconds since 1970).
///
/// # Errors
/// Refused, unreachable, or stalled: a download in the lab ends only by force.
pub fn download(server: SocketAddr, idle: Duration, mut output: impl Write) -> Result<()> {
    let mut stream = open_tcp(server, None, idle)?;
    stream
        .write_all(b"download\n")
        .with_context(|| format!("cannot send to {server}"))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        match reader.read_line(&mut line) {
            Ok(0) => bail!("{server} ended the download"),
            Ok(_) => {
                let now = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                write!(output, "{} {line}", now.as_millis()).context("cannot print")?;
                output.flush().context("cannot print")?;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                bail!("stalled: nothing came from {server} for {idle:?}");
            }
            Err(error) => {
                return Err(error).with_context(|| format!("the download from {server} broke"));
            }
        }
    }
}

/// Sends that many bytes to the server, and takes as many from it: full segments both ways.
///
/// # Errors
/// Refused, unreachable, or nothing goes on for `idle`.
pub fn transfer(server: SocketAddr, bytes: u64, idle: Duration) -> Result<()> {
    let mut stream = open_tcp(server, None, idle)?;
    writeln!(stream, "transfer {bytes}").with_context(|| format!("cannot send to {server}"))?;
    std::io::copy(&mut std::io::repeat(b'x').take(bytes), &mut stream)
        .with_context(|| format!("sending to {server} came to a halt"))?;
    let received = std::io::copy(&mut stream.take(bytes), &mut std::io::sink())
        .with_context(|| format!("receiving from {server} came to a halt"))?;
    if received < bytes {
        bail!("{server} sent {received} bytes of {bytes}");
    }
    Ok(())
}

/// Connects with a deadline, from an address of our choice: the standard library offers one or
/// the other.
fn open_tcp(server: SocketAddr, from: Option<IpAddr>, deadline: Duration) -> Result<TcpStream> {
    let stream = match from {
        None => TcpStream::connect_timeout(&server, deadline)
            .with_context(|| format!("cannot connect to {server}"))?,
        Some(local) => connect_from(server, local, deadline)?,
    };
    stream
        .set_read_timeout(Some(deadline))
        .context("cannot set a time limit")?;
    stream
        .set_write_timeout(Some(deadline))
        .context("cannot set a time limit")?;
    Ok(stream)
}

fn connect_from(server: SocketAddr, local: IpAddr, deadline: Duration) -> Result<TcpStream> {
    let family = if server.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let handle = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .context("cannot make a socket")?;
    let local = SockaddrStorage::from(SocketAddr::new(local, 0));
    bind(std::os::fd::AsRawFd::as_raw_fd(&handle), &local)
        .context("cannot bind to that address")?;
    let stream = TcpStream::from(handle);
    stream
        .set_nonblocking(true)
        .context("cannot change the socket's mode")?;
    let raw = std::os::fd::AsRawFd::as_raw_fd(&stream);
    match connect(raw, &SockaddrStorage::from(server)) {
        Ok(()) | Err(nix::errno::Errno::EINPROGRESS) => {}
        Err(error) => return Err(error).with_context(|| format!("cannot connect to {server}")),
    }
    let started = Instant::now();
    while stream.peer_addr().is_err() {
        let pending = getsockopt(&stream, sockopt::SocketError).context("cannot ask the socket")?;
        if pending != 0 {
            return Err(std::io::Error::from_raw_os_error(pending))
                .with_context(|| format!("cannot connect to {server}"));
        }
        if started.elapsed() >= deadline {
            bail!("cannot connect to {server} within {deadline:?}");
        }
        thread::sleep(Duration::from_millis(5));
    }
    stream
        .set_nonblocking(false)
        .context("cannot change the socket's mode")?;
    Ok(stream)
}

fn unspecified(server: SocketAddr) -> IpAddr {
    if server.is_ipv4() {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct Nowhere;

    impl Write for Nowhere {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn start() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap();
        thread::spawn(move || serve_tcp(&listener, &Arc::default(), &Nowhere));
        place
    }

    #[test]
    fn tells_a_tcp_client_who_it_is() {
        let place = start();
        let answer = ask_tcp(place, None, Duration::from_secs(5)).unwrap();
        assert!(answer.starts_with("you are 127.0.0.1:"), "{answer}");
    }

    #[test]
    fn a_transfer_goes_both_ways() {
        transfer(start(), 1 << 20, Duration::from_secs(5)).unwrap();
    }

    #[test]
    fn a_client_chooses_its_address() {
        let place = start();
        let from = "127.0.0.2".parse().unwrap();
        let answer = ask_tcp(place, Some(from), Duration::from_secs(5)).unwrap();
        assert!(answer.starts_with("you are 127.0.0.2:"), "{answer}");
    }

    #[test]
    fn tells_a_udp_client_who_it_is() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let place = socket.local_addr().unwrap();
        thread::spawn(move || serve_udp(&socket, Nowhere));
        let answer = ask_udp(place, None, Duration::from_secs(5)).unwrap();
        assert!(answer.starts_with("you are 127.0.0.1:"), "{answer}");
    }

    #[test]
    fn a_closed_port_is_an_error() {
        let free = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        assert!(ask_tcp(free, None, Duration::from_secs(2)).is_err());
        assert!(ask_tcp(free, Some(free.ip()), Duration::from_secs(2)).is_err());
    }
}
