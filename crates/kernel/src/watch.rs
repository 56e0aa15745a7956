//! Finds changes to the WireGuard device, of which the kernel says nothing: by looking again.
//!
//! A look lists every peer. The pause after one grows with what it cost, so that looking takes
//! a twentieth of one processor at most: half a second for a few hundred peers, longer where
//! listing them takes longer than 25 ms.

use std::{
    future,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, sleep_until};
use weir_kernel_plan::{ObservedDevice, WireguardBackend};
use weir_overlay::InterfaceName;

use crate::wireguard::Wireguard;

/// The shortest pause between two looks.
const SHORTEST_PAUSE: Duration = Duration::from_millis(500);
/// How many times as long as a look the pause after it is, at least.
const PAUSES_PER_LOOK: u32 = 20;

/// The device as it was seen last.
#[derive(Clone)]
struct Seen {
    interface: InterfaceName,
    backend: WireguardBackend,
    settings: u64,
    next_look: Instant,
}

/// Remembers what the device looked like, and compares.
#[derive(Default)]
pub(crate) struct Watch {
    seen: Mutex<Option<Seen>>,
}

/// What is configured, in one number: without what WireGuard changes by itself (endpoints that
/// roam, handshakes, counters).
fn settings(device: &ObservedDevice) -> u64 {
    let mut hasher = DefaultHasher::new();
    device.public_key.hash(&mut hasher);
    device.listen_port.hash(&mut hasher);
    device.firewall_mark.hash(&mut hasher);
    for (key, peer) in &device.peers {
        key.hash(&mut hasher);
        peer.allowed_ips.hash(&mut hasher);
        peer.keepalive.hash(&mut hasher);
    }
    hasher.finish()
}

impl Watch {
    fn seen(&self) -> MutexGuard<'_, Option<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a look and what it cost.
    pub(crate) fn saw(
        &self,
        interface: &InterfaceName,
        backend: WireguardBackend,
        device: &ObservedDevice,
        cost: Duration,
    ) {
        *self.seen() = Some(Seen {
            interface: interface.clone(),
            backend,
            settings: settings(device),
            next_look: Instant::now() + SHORTEST_PAUSE.max(cost * PAUSES_PER_LOOK),
        });
    }

    /// There is nothing to compare with until the next look.
    pub(crate) fn forget(&self) {
        *self.seen() = None;
    }

    /// Waits until the device is not as it was seen last. For ever, while it was not seen: the one
    /// who waits looks from time to time, and asks anew.
    pub(crate) async fn differs(&self, wireguard: &Wireguard) {
        loop {
            let Some(seen) = self.seen().clone() else {
                return future::pending().await;
            };
            sleep_until(seen.next_look).await;
            let started = Instant::now();
            let found = wireguard.observe(&seen.interface, seen.backend).await;
            let differs = match &found {
                Ok(device) => settings(device) != seen.settings,
                // It is gone, or its process is.
                Err(_) => true,
            };
            if differs {
                self.forget();
                return;
            }
            if let Some(seen) = self.seen().as_mut() {
                seen.next_look =
                    Instant::now() + SHORTEST_PAUSE.max(started.elapsed() * PAUSES_PER_LOOK);
            }
        }
    }
}
