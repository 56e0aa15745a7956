//! Reads and changes WireGuard devices with `wireguard-control`, within its limits:
//!
//! - it refuses a peer with more than 287 IPv4 (201 IPv6) prefixes in one update: a peer's
//!   prefixes are split over several entries;
//! - it cannot take a prefix away but by replacing all of the peer's, which leaves a large peer
//!   without most of them for a moment: they are moved to a peer that is made for it and removed;
//! - it returns a peer with many prefixes as several entries: they are merged by key;
//! - it blocks, and opens a socket for each message: it runs off the async threads, one call at a
//!   time, within a deadline;
//! - its types print private keys, and one of its errors quotes a peer: neither leaves this file;
//! - applying creates a device that is not there: the caller looks first.

use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{sync::Semaphore, task, time};
use weir_kernel_plan::{
    DesiredDevice, KernelError, ObservedDevice, ObservedPeer, PeerUpdate, WireguardBackend,
};
use weir_overlay::{InterfaceName, NodePublicKey};
use wireguard_control::{Backend, Device, DeviceUpdate, Key, PeerConfigBuilder, PeerInfo};

use crate::{
    error::{failed, io_failed, timed_out},
    userspace,
};

/// How long one call may take, in seconds. Hundreds of peers take a fraction of one.
const SECONDS: u64 = 20;
/// The most prefixes in one entry: under the limit of 201 with room for the peer's other settings.
const PREFIXES_PER_ENTRY: usize = 150;
/// The most entries in one update: bounds what is lost when one of them is refused.
const ENTRIES_PER_UPDATE: usize = 512;

/// Lets one call through at a time. A call that hangs keeps the others out until they give up, so
/// that hanging threads do not pile up.
pub(crate) struct Wireguard {
    gate: Arc<Semaphore>,
}

impl Default for Wireguard {
    fn default() -> Self {
        Self {
            gate: Arc::new(Semaphore::new(1)),
        }
    }
}

impl Wireguard {
    /// Runs `call` on a thread where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        operation: &str,
        call: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, KernelError> {
        let gated = async {
            let permit = Arc::clone(&self.gate)
                .acquire_owned()
                .await
                .map_err(|_| failed(operation, "the adapter is closed"))?;
            task::spawn_blocking(move || {
                let result = call();
                drop(permit);
                result
            })
            .await
            .map_err(|_| failed(operation, "the WireGuard library panicked"))?
            .map_err(|error| io_failed(operation, &error))
        };
        time::timeout(Duration::from_secs(SECONDS), gated)
            .await
            .unwrap_or_else(|_| Err(timed_out(operation, SECONDS)))
    }

    /// Reads the device.
    pub(crate) async fn observe(
        &self,
        interface: &InterfaceName,
        backend: WireguardBackend,
    ) -> Result<ObservedDevice, KernelError> {
        let operation = "read the WireGuard device";
        let name = library_name(operation, interface)?;
        self.blocking(operation, move || {
            Device::get(&name, library_backend(backend)).map(|device| observed(&device))
        })
        .await
    }

    /// Sets key, port and mark.
    pub(crate) async fn configure(
        &self,
        interface: &InterfaceName,
        backend: WireguardBackend,
        device: &DesiredDevice,
    ) -> Result<(), KernelError> {
        let operation = format!(
            "set the WireGuard key and listen port {}",
            device.listen_port
        );
        let update = DeviceUpdate::new()
            .set_private_key(Key(clamped(*device.private_key.expose_bytes())))
            .set_listen_port(device.listen_port)
            .set_fwmark(device.firewall_mark);
        let set = self
            .update(&operation, interface, backend, vec![update])
            .await;
        match set {
            Err(error) if error.errno == Some(libc::EADDRINUSE) => Err(KernelError {
                reason: format!(
                    "{}; another process has UDP port {}: choose another with --listen-port",
                    error.reason, device.listen_port
                ),
                ..error
            }),
            other => other,
        }
    }

    /// Removes peers; those that are not there are removed already.
    pub(crate) async fn remove_peers(
        &self,
        interface: &InterfaceName,
        backend: WireguardBackend,
        keys: &BTreeSet<NodePublicKey>,
    ) -> Result<(), KernelError> {
        let entries = keys
            .iter()
            .map(|key| PeerConfigBuilder::new(&library_key(key)).remove())
            .collect();
        let operation = format!("remove {} peers", keys.len());
        self.update(&operation, interface, backend, batches(entries))
            .await
    }

    /// Makes and changes peers, leaving what the updates do not name.
    pub(crate) async fn update_peers(
        &self,
        interface: &InterfaceName,
        backend: WireguardBackend,
        updates: &[PeerUpdate],
    ) -> Result<(), KernelError> {
        let mut entries: Vec<_> = updates.iter().flat_map(entries).map(Entry::build).collect();
        entries.extend(discard(
            updates
                .iter()
                .flat_map(|update| update.remove_allowed_ips.iter().copied()),
        )?);
        let operation = format!("update {} peers", updates.len());
        self.update(&operation, interface, backend, batches(entries))
            .await
    }

    async fn update(
        &self,
        operation: &str,
        interface: &InterfaceName,
        backend: WireguardBackend,
        updates: Vec<DeviceUpdate>,
    ) -> Result<(), KernelError> {
        let name = library_name(operation, interface)?;
        let applied = self
            .blocking(operation, move || {
                updates
                    .into_iter()
                    .try_for_each(|update| update.apply(&name, library_backend(backend)))
            })
            .await;
        match (applied, backend) {
            // The library keeps no number of what a userspace device answers.
            (Err(error), WireguardBackend::Userspace) if error.errno.is_none() => {
                Err(KernelError {
                    reason: format!(
                        "the userspace WireGuard process refused it; see {}",
                        userspace::log_file(interface).display()
                    ),
                    ..error
                })
            }
            (applied, _) => applied,
        }
    }
}

const fn library_backend(backend: WireguardBackend) -> Backend {
    match backend {
        WireguardBackend::Kernel => Backend::Kernel,
        WireguardBackend::Userspace => Backend::Userspace,
    }
}

fn library_name(
    operation: &str,
    interface: &InterfaceName,
) -> Result<wireguard_control::InterfaceName, KernelError> {
    interface
        .as_str()
        .parse()
        .map_err(|_| failed(operation, "that is not an interface name"))
}

const fn library_key(key: &NodePublicKey) -> Key {
    Key(*key.as_bytes())
}

/// The key as Curve25519 uses it (RFC 7748, section 5). The kernel keeps it like this, and takes
/// any other form of the same key for a new one, which ends every session.
const fn clamped(mut key: [u8; 32]) -> [u8; 32] {
    key[0] &= 0b1111_1000;
    key[31] &= 0b0111_1111;
    key[31] |= 0b0100_0000;
    key
}

/// One entry of an update: a peer, and some of its prefixes.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    key: NodePublicKey,
    prefixes: Vec<IpNet>,
    endpoint: Option<SocketAddr>,
    keepalive: Option<u16>,
}

impl Entry {
    fn build(self) -> PeerConfigBuilder {
        let mut peer = PeerConfigBuilder::new(&library_key(&self.key));
        if let Some(endpoint) = self.endpoint {
            peer = peer.set_endpoint(endpoint);
        }
        if let Some(seconds) = self.keepalive {
            peer = peer.set_persistent_keepalive_interval(seconds);
        }
        self.prefixes.iter().fold(peer, |peer, prefix| {
            peer.add_allowed_ip(prefix.network(), prefix.prefix_len())
        })
    }
}

/// The entries that carry what one peer gets: the first with everything but most of the prefixes.
/// None for an update that only takes prefixes away.
fn entries(update: &PeerUpdate) -> Vec<Entry> {
    let gets_nothing = update.add_allowed_ips.is_empty()
        && update.endpoint.is_none()
        && update.keepalive.is_none();
    if gets_nothing && !update.remove_allowed_ips.is_empty() {
        return Vec::new();
    }
    let prefixes: Vec<IpNet> = update.add_allowed_ips.iter().copied().collect();
    let (first, rest) = prefixes.split_at(prefixes.len().min(PREFIXES_PER_ENTRY));
    let mut entries = vec![Entry {
        key: update.key,
        prefixes: first.to_vec(),
        endpoint: update.endpoint,
        keepalive: update.keepalive,
    }];
    entries.extend(rest.chunks(PREFIXES_PER_ENTRY).map(|chunk| Entry {
        key: update.key,
        prefixes: chunk.to_vec(),
        endpoint: None,
        keepalive: None,
    }));
    entries
}

/// The entries that take prefixes from whoever has them: they move to a peer with a key that
/// nobody has, and that peer is removed. Should only the first half arrive, the next pass finds a
/// peer that nobody asked for.
fn discard(prefixes: impl Iterator<Item = IpNet>) -> Result<Vec<PeerConfigBuilder>, KernelError> {
    let prefixes: Vec<IpNet> = prefixes.collect();
    if prefixes.is_empty() {
        return Ok(Vec::new());
    }
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| failed("take prefixes away", format!("no random number: {error}")))?;
    let key = NodePublicKey::from_bytes(bytes);
    let mut entries: Vec<_> = prefixes
        .chunks(PREFIXES_PER_ENTRY)
        .map(|chunk| {
            let entry = Entry {
                key,
                prefixes: chunk.to_vec(),
                endpoint: None,
                keepalive: None,
            };
            entry.build()
        })
        .collect();
    entries.push(PeerConfigBuilder::new(&library_key(&key)).remove());
    Ok(entries)
}

fn batches(entries: Vec<PeerConfigBuilder>) -> Vec<DeviceUpdate> {
    entries
        .chunks(ENTRIES_PER_UPDATE)
        .map(|batch| DeviceUpdate::new().add_peers(batch))
        .collect()
}

fn observed(device: &Device) -> ObservedDevice {
    let now = SystemTime::now();
    let mut peers = BTreeMap::new();
    for part in &device.peers {
        let key = NodePublicKey::from_bytes(part.config.public_key.0);
        merge(peers.entry(key).or_default(), part, now);
    }
    ObservedDevice {
        public_key: device
            .public_key
            .as_ref()
            .filter(|key| key.0 != [0; 32])
            .map(|key| NodePublicKey::from_bytes(key.0)),
        listen_port: device.listen_port.unwrap_or_default(),
        firewall_mark: device.fwmark.unwrap_or_default(),
        peers,
    }
}

/// Adds one part of a peer to what is known of it. Only the first part that the kernel sends has
/// more than prefixes.
fn merge(peer: &mut ObservedPeer, part: &PeerInfo, now: SystemTime) {
    peer.allowed_ips.extend(
        part.config
            .allowed_ips
            .iter()
            .filter_map(|allowed| IpNet::new(allowed.address, allowed.cidr).ok()),
    );
    peer.endpoint = peer.endpoint.or(part.config.endpoint);
    peer.keepalive = peer.keepalive.or(part
        .config
        .persistent_keepalive_interval
        .filter(|seconds| *seconds != 0));
    let age = part
        .stats
        .last_handshake_time
        .map(|then| now.duration_since(then).map_or(0, |age| age.as_secs()));
    peer.handshake_age = match (peer.handshake_age, age) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (known, new) => known.or(new),
    };
    peer.received_bytes = peer.received_bytes.max(part.stats.rx_bytes);
    peer.sent_bytes = peer.sent_bytes.max(part.stats.tx_bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use wireguard_control::AllowedIp;

    fn prefixes(count: u32) -> BTreeSet<IpNet> {
        (0..count)
            .map(|n| IpNet::from(std::net::IpAddr::from(Ipv4Addr::from(0x0a00_0000 + n))))
            .collect()
    }

    fn update(add: u32, remove: u32) -> PeerUpdate {
        PeerUpdate {
            add_allowed_ips: prefixes(add),
            remove_allowed_ips: prefixes(remove),
            ..PeerUpdate::of(NodePublicKey::from_bytes([1; 32]))
        }
    }

    #[test]
    fn prefixes_are_split_and_the_rest_said_once() {
        let entries = entries(&PeerUpdate {
            endpoint: "192.0.2.1:51920".parse().ok(),
            keepalive: Some(25),
            ..update(1000, 0)
        });
        assert_eq!(entries.len(), 7);
        assert!(
            entries
                .iter()
                .all(|e| e.prefixes.len() <= PREFIXES_PER_ENTRY)
        );
        assert_eq!(
            entries.iter().map(|e| e.prefixes.len()).sum::<usize>(),
            1000
        );
        assert!(entries[0].endpoint.is_some() && entries[0].keepalive.is_some());
        assert!(entries[1..].iter().all(|e| e.endpoint.is_none()));
    }

    #[test]
    fn an_update_without_prefixes_makes_the_peer_and_one_that_takes_away_does_not() {
        assert_eq!(entries(&update(0, 0)).len(), 1);
        assert_eq!(entries(&update(0, 5)).len(), 0);
        assert_eq!(discard(prefixes(1000).into_iter()).unwrap().len(), 8);
        assert_eq!(discard(std::iter::empty()).unwrap().len(), 0);
    }

    #[test]
    fn parts_of_a_peer_become_one() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let mut first = PeerInfo::from_public_key(Key([1; 32]));
        first.config.persistent_keepalive_interval = Some(25);
        first.stats.rx_bytes = 7;
        first.stats.last_handshake_time = Some(now - Duration::from_secs(9));
        let mut second = PeerInfo::from_public_key(Key([1; 32]));
        second.config.allowed_ips = vec![AllowedIp {
            address: Ipv4Addr::new(10, 0, 0, 1).into(),
            cidr: 32,
        }];
        let mut peer = ObservedPeer::default();
        merge(&mut peer, &first, now);
        merge(&mut peer, &second, now);
        assert_eq!(peer.allowed_ips.len(), 1);
        assert_eq!(peer.handshake_age, Some(9));
        assert_eq!(peer.received_bytes, 7);
        assert_eq!(peer.keepalive, Some(25));
    }
}
