//! The messages of the control socket: WireGuard's cross-platform userspace protocol
//! (<https://www.wireguard.com/xplatform/>), lines of `key=value` that end with an empty one.

use ipnet::IpNet;
use std::{
    collections::BTreeSet,
    fmt::Write as _,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use super::device::{Device, Refused};

/// A peer's public key, raw.
pub(super) type PublicKey = [u8; 32];

/// A private key.
pub(super) type SecretBytes = Secret<[u8; 32]>;

/// A value that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret<T>(T);

impl<T> std::ops::Deref for Secret<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> std::fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// What a client asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// The device as it is.
    Get,
    /// A change of it.
    Set(SetRequest),
}

/// A change of the device; what it does not name stays.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SetRequest {
    pub(super) private_key: Option<SecretBytes>,
    pub(super) listen_port: Option<u16>,
    pub(super) mark: Option<u32>,
    pub(super) replace_peers: bool,
    pub(super) peers: Vec<PeerChange>,
}

/// A change of one peer; what it does not name stays.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PeerChange {
    pub(super) key: PublicKey,
    pub(super) remove: bool,
    pub(super) update_only: bool,
    pub(super) replace_allowed_ips: bool,
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) keepalive: Option<u16>,
    pub(super) allowed_ips: Vec<IpNet>,
}

impl PeerChange {
    /// A change that makes the peer when it is not there, and nothing else.
    pub(super) const fn of(key: PublicKey) -> Self {
        Self {
            key,
            remove: false,
            update_only: false,
            replace_allowed_ips: false,
            endpoint: None,
            keepalive: None,
            allowed_ips: Vec::new(),
        }
    }
}

/// What is reported of one peer.
#[derive(Debug)]
pub(super) struct PeerReport<'a> {
    pub(super) key: PublicKey,
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) keepalive: u16,
    pub(super) last_handshake: Option<SystemTime>,
    pub(super) received_bytes: u64,
    pub(super) sent_bytes: u64,
    pub(super) allowed_ips: &'a BTreeSet<IpNet>,
}

const INVALID: Refused = Refused(libc::EINVAL);

/// Reads a request, without its empty last line.
pub(super) fn parse(text: &str) -> Result<Request, Refused> {
    let mut lines = text.lines();
    match lines.next() {
        Some("get=1") => Ok(Request::Get),
        Some("set=1") => parse_set(lines).map(Request::Set),
        _ => Err(INVALID),
    }
}

fn parse_set<'a>(lines: impl Iterator<Item = &'a str>) -> Result<SetRequest, Refused> {
    let mut request = SetRequest::default();
    for line in lines {
        let (key, value) = line.split_once('=').ok_or(INVALID)?;
        if key == "public_key" {
            request.peers.push(PeerChange::of(parse_key(value)?));
        } else if let Some(peer) = request.peers.last_mut() {
            parse_peer_line(peer, key, value)?;
        } else {
            parse_device_line(&mut request, key, value)?;
        }
    }
    Ok(request)
}

fn parse_device_line(request: &mut SetRequest, key: &str, value: &str) -> Result<(), Refused> {
    match key {
        "private_key" => request.private_key = Some(Secret(parse_key(value)?)),
        "listen_port" => request.listen_port = Some(number(value)?),
        "fwmark" => request.mark = Some(number(value)?),
        "replace_peers" if value == "true" => request.replace_peers = true,
        _ => return Err(INVALID),
    }
    Ok(())
}

fn parse_peer_line(peer: &mut PeerChange, key: &str, value: &str) -> Result<(), Refused> {
    match key {
        "remove" if value == "true" => peer.remove = true,
        "update_only" if value == "true" => peer.update_only = true,
        "replace_allowed_ips" if value == "true" => peer.replace_allowed_ips = true,
        "endpoint" => peer.endpoint = Some(number(value)?),
        "persistent_keepalive_interval" => peer.keepalive = Some(number(value)?),
        "allowed_ip" => peer.allowed_ips.push(number(value)?),
        "protocol_version" if value == "1" => {}
        // Only the one that means "none" is known here.
        "preshared_key" if parse_key(value)? == [0; 32] => {}
        "preshared_key" => return Err(Refused(libc::EOPNOTSUPP)),
        _ => return Err(INVALID),
    }
    Ok(())
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, Refused> {
    text.parse().map_err(|_| INVALID)
}

fn parse_key(hex: &str) -> Result<[u8; 32], Refused> {
    let mut key = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return Err(INVALID);
    }
    for (byte, digits) in key.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        let digits = std::str::from_utf8(digits).map_err(|_| INVALID)?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| INVALID)?;
    }
    Ok(key)
}

fn write_key(out: &mut String, name: &str, key: &[u8; 32]) {
    out.push_str(name);
    out.push('=');
    for byte in key {
        let _infallible = write!(out, "{byte:02x}");
    }
    out.push('\n');
}

/// The answer to a request that only succeeds or fails.
pub(super) fn outcome(result: Result<(), Refused>) -> String {
    let errno = result.err().map_or(0, |Refused(errno)| errno);
    format!("errno={errno}\n\n")
}

/// The answer to [`Request::Get`].
pub(super) fn report(device: &Device, listen_port: u16, mark: u32) -> String {
    let mut out = String::new();
    if let Some(key) = device.private_key() {
        write_key(&mut out, "private_key", key);
    }
    let _infallible = writeln!(out, "listen_port={listen_port}");
    if mark != 0 {
        let _infallible = writeln!(out, "fwmark={mark}");
    }
    for peer in device.report() {
        report_peer(&mut out, &peer);
    }
    out.push_str("errno=0\n\n");
    out
}

fn report_peer(out: &mut String, peer: &PeerReport<'_>) {
    write_key(out, "public_key", &peer.key);
    if let Some(endpoint) = peer.endpoint {
        let _infallible = writeln!(out, "endpoint={endpoint}");
    }
    let handshake = peer
        .last_handshake
        .and_then(|then| then.duration_since(SystemTime::UNIX_EPOCH).ok())
        .unwrap_or(Duration::ZERO);
    let _infallible = writeln!(
        out,
        "last_handshake_time_sec={}\nlast_handshake_time_nsec={}\nrx_bytes={}\ntx_bytes={}\n\
         persistent_keepalive_interval={}",
        handshake.as_secs(),
        handshake.subsec_nanos(),
        peer.received_bytes,
        peer.sent_bytes,
        peer.keepalive,
    );
    for prefix in peer.allowed_ips {
        let _infallible = writeln!(out, "allowed_ip={prefix}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0101010101010101010101010101010101010101010101010101010101010101";

    const SECRET: &str = "0707070707070707070707070707070707070707070707070707070707070707";

    #[test]
    fn a_set_request_is_read_whole() {
        let text = format!(
            "set=1\nprivate_key={SECRET}\nlisten_port=51920\nfwmark=1459617792\npublic_key={KEY}\n\
             replace_allowed_ips=true\nendpoint=[2001:db8::1]:51920\n\
             persistent_keepalive_interval=25\nallowed_ip=10.0.0.1/32\nallowed_ip=fd00::/64\n\
             public_key={KEY}\nremove=true\n"
        );
        let Ok(Request::Set(request)) = parse(&text) else {
            panic!("refused");
        };
        assert_eq!(request.listen_port, Some(51920));
        assert_eq!(request.mark, Some(0x5700_0000));
        assert!(!request.replace_peers);
        assert_eq!(request.peers.len(), 2);
        assert_eq!(request.peers[0].allowed_ips.len(), 2);
        assert_eq!(request.peers[0].keepalive, Some(25));
        assert!(request.peers[0].replace_allowed_ips && request.peers[1].remove);
        assert!(
            !format!("{request:?}").contains("7, 7"),
            "a key was printed"
        );
    }

    #[test]
    fn nonsense_is_refused() {
        let long = format!("set=1\nprivate_key={KEY}00\n");
        let shared = format!("set=1\npublic_key={KEY}\npreshared_key={KEY}\n");
        assert_eq!(parse(&shared), Err(Refused(libc::EOPNOTSUPP)));
        for bad in [
            "",
            "get=2",
            "set=1\nlisten_port=x",
            "set=1\nallowed_ip=10.0.0.1/32",
            &long,
        ] {
            assert_eq!(parse(bad), Err(INVALID), "{bad}");
        }
    }

    #[test]
    fn a_report_names_key_port_and_end() {
        let report = report(&Device::default(), 51920, 0);
        assert_eq!(report, "listen_port=51920\nerrno=0\n\n");
    }
}
