//! What a new node is called, and its addresses: without reading those of all others, if possible.

use super::dialect::fetch_one;
use super::{StoreError, Tx};
use crate::addresses::{free_name, lowest_free, pair_of};
use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
    sync::atomic::Ordering,
};
use weir_overlay::{NodeName, OVERLAY_V4};

/// How many addresses are tried before all that are taken are read.
const TRIES: u32 = 16;

impl Tx {
    /// The name for a host. `own` is one that the node has already.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn free_name(
        &mut self,
        hostname: &str,
        own: Option<&NodeName>,
    ) -> Result<NodeName, StoreError> {
        let wanted = NodeName::from_hostname(hostname);
        if own == Some(&wanted) {
            return Ok(wanted);
        }
        let (taken,): (i64,) = fetch_one!(
            self,
            "look for a free name",
            "SELECT count(*) FROM nodes WHERE name = $1",
            wanted.as_str()
        )?;
        if taken == 0 {
            return Ok(wanted);
        }
        let all = self.names_and_addresses().await?;
        let mut names: BTreeSet<_> = all.into_iter().map(|(name, ..)| name).collect();
        if let Some(own) = own {
            names.remove(own);
        }
        Ok(free_name(hostname, &names))
    }

    /// The lowest pair of addresses of which neither is taken; none when the overlay is full. Where
    /// several coordinators share a database, a lower one that became free at another may be passed
    /// over.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn free_addresses(&mut self) -> Result<Option<(Ipv4Addr, Ipv6Addr)>, StoreError> {
        let lowest = self.lowest_address.load(Ordering::Relaxed);
        let tried = (lowest > 0).then_some(lowest..lowest.saturating_add(TRIES));
        for number in tried.into_iter().flatten() {
            let v4 = Ipv4Addr::from_bits(OVERLAY_V4.network().to_bits().saturating_add(number));
            let Ok((v4, v6)) = pair_of(v4.into()) else {
                break;
            };
            let (taken,): (i64,) = fetch_one!(
                self,
                "look for a free address",
                "SELECT count(*) FROM nodes WHERE ipv4 = $1 OR ipv6 = $2",
                v4.to_string(),
                v6.to_string()
            )?;
            if taken == 0 {
                self.lowest_address.store(number, Ordering::Relaxed);
                return Ok(Some((v4, v6)));
            }
        }
        let nodes = self.names_and_addresses().await?;
        let taken = nodes.iter().map(|(_, ipv4, _)| *ipv4).collect();
        let taken_v6 = nodes.iter().map(|(_, _, ipv6)| *ipv6).collect();
        let free = lowest_free(&taken, &taken_v6);
        if let Some((v4, _)) = free {
            let number = v4.to_bits() - OVERLAY_V4.network().to_bits();
            self.lowest_address.store(number, Ordering::Relaxed);
        }
        Ok(free)
    }

    /// Addresses become free: the lowest is looked for among all again.
    pub(super) fn frees_addresses(&self) {
        self.lowest_address.store(0, Ordering::Relaxed);
    }
}
