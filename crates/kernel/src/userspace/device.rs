//! The device: its key, its peers, and whose prefixes are whose.

use boringtun::{
    noise::{Packet, handshake::parse_handshake_anon, rate_limiter::RateLimiter},
    x25519,
};
use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{
    messages::{PeerChange, PeerReport, PublicKey, SetRequest},
    session::{OVERHEAD, Received, Session},
    tun::Tun,
    udp::Sockets,
};

/// How many handshakes are answered each second before senders must prove their address.
const HANDSHAKES_PER_SECOND: u64 = 100;
/// The bits of a session index that boringtun leaves to us.
const INDEX_MASK: u32 = 0x00ff_ffff;

/// Why a change was refused, as an error number for the control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused(pub(super) i32);

type SharedSession = Arc<Mutex<Session>>;

/// The device's own key, and the guards against floods of handshakes under it.
struct Identity {
    private: x25519::StaticSecret,
    public: x25519::PublicKey,
    /// Judges every packet, once.
    gate: Arc<RateLimiter>,
    /// For the tunnels, which would count each handshake a second time.
    open: Arc<RateLimiter>,
}

struct Peer {
    session: SharedSession,
    index: u32,
    allowed_ips: BTreeSet<IpNet>,
}

/// Whose a prefix is.
struct Owner {
    key: PublicKey,
    session: SharedSession,
}

/// The device.
#[derive(Default)]
pub(super) struct Device {
    identity: Option<Identity>,
    peers: BTreeMap<PublicKey, Peer>,
    by_index: BTreeMap<u32, SharedSession>,
    prefixes: JointPrefixMap<IpNet, Owner>,
}

fn lock(session: &SharedSession) -> MutexGuard<'_, Session> {
    session.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Device {
    /// Carries out a request's changes to the key and the peers. Sessions of peers that it
    /// changes, and of all others, go on.
    pub(super) fn set(&mut self, request: &SetRequest) -> Result<(), Refused> {
        if let Some(private) = &request.private_key {
            self.set_private_key(x25519::StaticSecret::from(**private));
        }
        if request.replace_peers {
            let keys: Vec<PublicKey> = self.peers.keys().copied().collect();
            for key in &keys {
                self.remove_peer(key);
            }
        }
        request
            .peers
            .iter()
            .try_for_each(|change| self.change_peer(change))
    }

    fn set_private_key(&mut self, private: x25519::StaticSecret) {
        let same = |identity: &Identity| identity.private.as_bytes() == private.as_bytes();
        if self.identity.as_ref().is_some_and(same) {
            return;
        }
        let public = x25519::PublicKey::from(&private);
        // As the kernel does: nobody is a peer of itself.
        self.remove_peer(public.as_bytes());
        let open = Arc::new(RateLimiter::new(&public, u64::MAX));
        for peer in self.peers.values() {
            lock(&peer.session).set_private_key(private.clone(), public, Arc::clone(&open));
        }
        self.identity = Some(Identity {
            gate: Arc::new(RateLimiter::new(&public, HANDSHAKES_PER_SECOND)),
            open,
            private,
            public,
        });
    }

    fn change_peer(&mut self, change: &PeerChange) -> Result<(), Refused> {
        let exists = self.peers.contains_key(&change.key);
        if change.remove {
            self.remove_peer(&change.key);
            return Ok(());
        }
        if !exists {
            if change.update_only {
                return Ok(());
            }
            self.add_peer(change.key)?;
        }
        if change.replace_allowed_ips {
            self.release_prefixes(&change.key);
        }
        let Some(peer) = self.peers.get(&change.key) else {
            return Ok(());
        };
        let session = Arc::clone(&peer.session);
        {
            let mut session = lock(&session);
            if let Some(endpoint) = change.endpoint {
                session.endpoint = Some(endpoint);
            }
            if let Some(seconds) = change.keepalive {
                session.set_keepalive(seconds);
            }
        }
        for prefix in &change.allowed_ips {
            self.give_prefix(&change.key, &session, prefix.trunc());
        }
        Ok(())
    }

    fn add_peer(&mut self, key: PublicKey) -> Result<(), Refused> {
        let identity = self.identity.as_ref().ok_or(Refused(libc::ENOKEY))?;
        if *identity.public.as_bytes() == key {
            return Err(Refused(libc::EINVAL));
        }
        let index = self.free_index()?;
        let session = Arc::new(Mutex::new(Session::new(
            identity.private.clone(),
            x25519::PublicKey::from(key),
            index,
            Arc::clone(&identity.open),
        )));
        self.by_index.insert(index, Arc::clone(&session));
        self.peers.insert(
            key,
            Peer {
                session,
                index,
                allowed_ips: BTreeSet::new(),
            },
        );
        Ok(())
    }

    /// A random index that no session has: it must not tell how many peers there are.
    fn free_index(&self) -> Result<u32, Refused> {
        loop {
            let index = getrandom::u32().map_err(|_| Refused(libc::EIO))? & INDEX_MASK;
            if !self.by_index.contains_key(&index) {
                return Ok(index);
            }
        }
    }

    fn remove_peer(&mut self, key: &PublicKey) {
        self.release_prefixes(key);
        if let Some(peer) = self.peers.remove(key) {
            self.by_index.remove(&peer.index);
        }
    }

    fn release_prefixes(&mut self, key: &PublicKey) {
        if let Some(peer) = self.peers.get_mut(key) {
            for prefix in std::mem::take(&mut peer.allowed_ips) {
                self.prefixes.remove(&prefix);
            }
        }
    }

    /// Gives the prefix to a peer, and so takes it from the one that had it.
    fn give_prefix(&mut self, key: &PublicKey, session: &SharedSession, prefix: IpNet) {
        let owner = Owner {
            key: *key,
            session: Arc::clone(session),
        };
        if let Some(before) = self.prefixes.insert(prefix, owner)
            && let Some(peer) = self.peers.get_mut(&before.key)
        {
            peer.allowed_ips.remove(&prefix);
        }
        if let Some(peer) = self.peers.get_mut(key) {
            peer.allowed_ips.insert(prefix);
        }
    }

    /// The private key, for the report on the control socket.
    pub(super) fn private_key(&self) -> Option<&[u8; 32]> {
        self.identity
            .as_ref()
            .map(|identity| identity.private.as_bytes())
    }

    /// All peers, by key.
    pub(super) fn report(&self) -> impl Iterator<Item = PeerReport<'_>> {
        self.peers.iter().map(|(key, peer)| {
            let session = lock(&peer.session);
            PeerReport {
                key: *key,
                endpoint: session.endpoint,
                keepalive: session.keepalive(),
                last_handshake: session.last_handshake,
                received_bytes: session.received_bytes,
                sent_bytes: session.sent_bytes,
                allowed_ips: &peer.allowed_ips,
            }
        })
    }

    fn owner(&self, address: IpAddr) -> Option<&Owner> {
        self.prefixes
            .get_lpm(&IpNet::from(address))
            .map(|(_, owner)| owner)
    }

    /// Sends a packet of the host to the peer that has its destination.
    pub(super) fn send(&self, packet: &[u8], buffer: &mut [u8], sockets: &Sockets) {
        let destination = boringtun::noise::Tunn::dst_address(packet);
        if let Some(owner) = destination.and_then(|address| self.owner(address)) {
            lock(&owner.session).send(packet, buffer, sockets);
        }
    }

    /// Takes a packet from the network; hands what it held to the host when its source address
    /// belongs to the peer that sent it.
    pub(super) fn receive(
        &self,
        packet: &[u8],
        from: SocketAddr,
        buffer: &mut [u8],
        sockets: &Sockets,
        tun: &Tun,
    ) {
        let Some(identity) = &self.identity else {
            return;
        };
        let mut cookie = [0; OVERHEAD];
        let parsed = match identity
            .gate
            .verify_packet(Some(from.ip()), packet, &mut cookie)
        {
            Ok(parsed) => parsed,
            Err(boringtun::noise::TunnResult::WriteToNetwork(cookie)) => {
                sockets.send(cookie, from);
                return;
            }
            Err(_) => return,
        };
        let Some(session) = self.session_of(identity, &parsed) else {
            return;
        };
        let received = lock(session).receive(packet, &parsed, from, buffer, sockets);
        if let Received::Packet(plain, source) = received
            && self
                .owner(source)
                .is_some_and(|owner| Arc::ptr_eq(&owner.session, session))
        {
            tun.write(plain);
        }
    }

    /// Whose a packet is: by the key in a first handshake message, by our index in the others.
    fn session_of(&self, identity: &Identity, packet: &Packet<'_>) -> Option<&SharedSession> {
        let index = match packet {
            Packet::HandshakeInit(message) => {
                let half =
                    parse_handshake_anon(&identity.private, &identity.public, message).ok()?;
                return self
                    .peers
                    .get(&half.peer_static_public)
                    .map(|peer| &peer.session);
            }
            Packet::HandshakeResponse(message) => message.receiver_idx,
            Packet::PacketCookieReply(message) => message.receiver_idx,
            Packet::PacketData(message) => message.receiver_idx,
        };
        // The low byte numbers the sessions of one peer.
        self.by_index.get(&(index >> 8))
    }

    /// Does what is due for every peer.
    pub(super) fn tick(&self, buffer: &mut [u8], sockets: &Sockets) {
        if let Some(identity) = &self.identity {
            identity.gate.reset_count();
        }
        let now = Instant::now();
        for peer in self.peers.values() {
            lock(&peer.session).tick(now, buffer, sockets);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_key() -> Device {
        let mut device = Device::default();
        device.set_private_key(x25519::StaticSecret::from([1; 32]));
        device
    }

    fn change(key: u8, allowed: &[&str]) -> PeerChange {
        PeerChange {
            allowed_ips: allowed.iter().map(|text| text.parse().unwrap()).collect(),
            ..PeerChange::of([key; 32])
        }
    }

    fn prefixes_of(device: &Device, key: u8) -> Vec<String> {
        device.peers[&[key; 32]]
            .allowed_ips
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_changed_peer_keeps_its_session() {
        let mut device = with_key();
        device.change_peer(&change(2, &["10.0.0.1/32"])).unwrap();
        let before = Arc::clone(&device.peers[&[2; 32]].session);
        device.change_peer(&change(2, &["10.0.0.2/32"])).unwrap();
        assert!(Arc::ptr_eq(&before, &device.peers[&[2; 32]].session));
        assert_eq!(prefixes_of(&device, 2), ["10.0.0.1/32", "10.0.0.2/32"]);
    }

    #[test]
    fn a_prefix_moves_and_the_longest_wins() {
        let mut device = with_key();
        device
            .change_peer(&change(2, &["10.0.0.0/24", "10.0.0.1/32"]))
            .unwrap();
        device.change_peer(&change(3, &["10.0.0.1/32"])).unwrap();
        assert_eq!(prefixes_of(&device, 2), ["10.0.0.0/24"]);
        let owner = |text: &str| {
            device
                .owner(text.parse().unwrap())
                .map(|owner| owner.key[0])
        };
        assert_eq!(owner("10.0.0.1"), Some(3));
        assert_eq!(owner("10.0.0.2"), Some(2));
        assert_eq!(owner("10.0.1.1"), None);
    }

    #[test]
    fn replacing_prefixes_and_removing_a_peer_leave_nothing_behind() {
        let mut device = with_key();
        device
            .change_peer(&change(2, &["10.0.0.1/32", "fd00::/64"]))
            .unwrap();
        let replace = PeerChange {
            replace_allowed_ips: true,
            ..change(2, &["10.0.0.9/32"])
        };
        device.change_peer(&replace).unwrap();
        assert_eq!(prefixes_of(&device, 2), ["10.0.0.9/32"]);
        assert!(device.owner("fd00::1".parse().unwrap()).is_none());
        let remove = PeerChange {
            remove: true,
            ..PeerChange::of([2; 32])
        };
        device.change_peer(&remove).unwrap();
        assert!(device.peers.is_empty() && device.by_index.is_empty());
        assert!(device.owner("10.0.0.9".parse().unwrap()).is_none());
    }

    #[test]
    fn a_peer_needs_a_key_to_talk_to_it() {
        let refused = Device::default().change_peer(&change(2, &[]));
        assert_eq!(refused, Err(Refused(libc::ENOKEY)));
    }
}
