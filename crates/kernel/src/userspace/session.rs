//! One peer's session: what boringtun's tunnel does not keep by itself.
//!
//! The tunnel has a fixed keepalive and gives up on a peer that did not answer for 90 s until
//! there is data for it, forgets when the last handshake was once its keys expire, and counts only
//! what is inside the packets. Here the keepalive can change and goes on asking, the time of the
//! last handshake stays, and bytes are counted as the kernel's WireGuard counts them.

use boringtun::{
    noise::{Packet, Tunn, TunnResult, rate_limiter::RateLimiter},
    x25519,
};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::udp::Sockets;

/// The most that a packet grows, and the least that a handshake needs (148), in bytes.
pub(super) const OVERHEAD: usize = 160;

/// What became of a packet from the network.
pub(super) enum Received<'a> {
    /// It was for the session itself, or not acceptable.
    Consumed,
    /// It held this packet from this source address.
    Packet(&'a [u8], IpAddr),
}

/// One peer's session.
pub(super) struct Session {
    tunnel: Tunn,
    /// Where it was last heard, or was told to be.
    pub(super) endpoint: Option<SocketAddr>,
    /// Seconds between keepalives, 0 for none.
    keepalive: u16,
    /// When a packet last went either way; `None` makes a keepalive due.
    last_traffic: Option<Instant>,
    /// The index of a session that we answered for and that no packet has confirmed yet.
    unconfirmed: Option<u32>,
    pub(super) last_handshake: Option<SystemTime>,
    pub(super) received_bytes: u64,
    pub(super) sent_bytes: u64,
}

impl Session {
    /// A session without keys yet. `index` has 24 bits and is this session's alone.
    pub(super) fn new(
        private: x25519::StaticSecret,
        peer: x25519::PublicKey,
        index: u32,
        limiter: Arc<RateLimiter>,
    ) -> Self {
        Self {
            tunnel: Tunn::new(private, peer, None, None, index, Some(limiter)),
            endpoint: None,
            keepalive: 0,
            last_traffic: None,
            unconfirmed: None,
            last_handshake: None,
            received_bytes: 0,
            sent_bytes: 0,
        }
    }

    /// Takes the device's new key; sessions under the old one end.
    pub(super) fn set_private_key(
        &mut self,
        private: x25519::StaticSecret,
        public: x25519::PublicKey,
        limiter: Arc<RateLimiter>,
    ) {
        self.tunnel
            .set_static_private(private, public, Some(limiter));
    }

    /// Seconds between keepalives, 0 for none.
    pub(super) const fn keepalive(&self) -> u16 {
        self.keepalive
    }

    /// Sets the seconds between keepalives. The first is due at once when there were none.
    pub(super) const fn set_keepalive(&mut self, seconds: u16) {
        if self.keepalive == 0 {
            self.last_traffic = None;
        }
        self.keepalive = seconds;
    }

    /// Sends a packet from the host to the peer, or keeps it while a handshake is under way.
    /// `buffer` is [`OVERHEAD`] longer than the packet.
    pub(super) fn send(&mut self, packet: &[u8], buffer: &mut [u8], sockets: &Sockets) {
        // Without an endpoint there is nobody to ask for a handshake.
        if self.endpoint.is_none() {
            return;
        }
        if let TunnResult::WriteToNetwork(encrypted) = self.tunnel.encapsulate(packet, buffer) {
            transmit(&mut self.sent_bytes, self.endpoint, encrypted, sockets);
        }
        self.last_traffic = Some(Instant::now());
    }

    /// Does what is due: retries, new handshakes, keepalives.
    pub(super) fn tick(&mut self, now: Instant, buffer: &mut [u8], sockets: &Sockets) {
        // Also for a peer that was never heard: the tunnel's clock stands still in between, and a
        // session made by a clock that stands would be old already.
        if let TunnResult::WriteToNetwork(packet) = self.tunnel.update_timers(buffer) {
            transmit(&mut self.sent_bytes, self.endpoint, packet, sockets);
        }
        let interval = Duration::from_secs(self.keepalive.into());
        let due = self
            .last_traffic
            .is_none_or(|then| now.saturating_duration_since(then) >= interval);
        if self.keepalive != 0 && due {
            self.send(&[], buffer, sockets);
        }
    }

    /// Takes a packet from the network. `parsed` is the same packet, for its kind and index.
    pub(super) fn receive<'a>(
        &mut self,
        packet: &[u8],
        parsed: &Packet<'_>,
        from: SocketAddr,
        buffer: &'a mut [u8],
        sockets: &Sockets,
    ) -> Received<'a> {
        // Whether to send what waited for a session.
        let mut flush = false;
        let mut inner = None;
        match self.tunnel.decapsulate(Some(from.ip()), packet, buffer) {
            TunnResult::Err(_) => return Received::Consumed,
            TunnResult::Done => {}
            TunnResult::WriteToNetwork(answer) => {
                self.endpoint = Some(from);
                match parsed {
                    Packet::HandshakeInit(_) => self.unconfirmed = sender_index(answer),
                    Packet::HandshakeResponse(_) => {
                        self.last_handshake = Some(SystemTime::now());
                        flush = true;
                    }
                    Packet::PacketCookieReply(_) | Packet::PacketData(_) => {}
                }
                transmit(&mut self.sent_bytes, self.endpoint, answer, sockets);
            }
            TunnResult::WriteToTunnelV4(plain, source) => {
                inner = Some((plain.len(), IpAddr::V4(source)));
            }
            TunnResult::WriteToTunnelV6(plain, source) => {
                inner = Some((plain.len(), IpAddr::V6(source)));
            }
        }
        self.received_bytes += packet.len() as u64;
        self.last_traffic = Some(Instant::now());
        if let Packet::PacketData(data) = parsed {
            // It decrypted, so it is the peer's: that is where the peer is now.
            self.endpoint = Some(from);
            if self.unconfirmed == Some(data.receiver_idx) {
                self.unconfirmed = None;
                self.last_handshake = Some(SystemTime::now());
                flush = true;
            }
        }
        if flush {
            self.flush(sockets);
        }
        match inner {
            Some((length, source)) => Received::Packet(&buffer[..length], source),
            None => Received::Consumed,
        }
    }

    /// Sends what waited for a session.
    fn flush(&mut self, sockets: &Sockets) {
        let mut buffer = vec![0; usize::from(u16::MAX) + OVERHEAD];
        while let TunnResult::WriteToNetwork(packet) =
            self.tunnel.decapsulate(None, &[], &mut buffer)
        {
            transmit(&mut self.sent_bytes, self.endpoint, packet, sockets);
        }
    }
}

fn transmit(sent_bytes: &mut u64, to: Option<SocketAddr>, packet: &[u8], sockets: &Sockets) {
    if let Some(to) = to {
        sockets.send(packet, to);
        *sent_bytes += packet.len() as u64;
    }
}

/// The sender's index in a handshake message (WireGuard paper, section 5.4).
fn sender_index(message: &[u8]) -> Option<u32> {
    let bytes: [u8; 4] = message.get(4..8)?.try_into().ok()?;
    Some(u32::from_le_bytes(bytes))
}
