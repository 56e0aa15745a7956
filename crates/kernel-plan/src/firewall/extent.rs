//! How far a firewall reaches: what it serves, what two of them both allow, and its fingerprint.

use ipnet::IpNet;
use sha2::{Digest, Sha256};
use weir_overlay::{AddressRange, AddressSet, InterfaceName, TrafficClass};

use super::DesiredFirewall;

/// Changes when the shape of the ruleset does, so that a new version of the agent loads its own.
const LAYOUT: &str = "1";

impl DesiredFirewall {
    /// Names the ruleset that this makes. Equal firewalls have equal fingerprints.
    #[must_use]
    pub fn fingerprint(&self, interface: &InterfaceName) -> String {
        let mut hash = Sha256::new();
        hash.update(LAYOUT);
        hash.update(interface.as_str());
        hash.update(serde_json::to_vec(self).unwrap_or_default());
        hash.finalize()
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// The firewall with only those grants that `other` has as well: what both allow. Loaded before
    /// a change takes anything away, so that no moment is wider than before or after.
    #[must_use]
    pub fn tightened_to(&self, other: &Self) -> Self {
        let mut both = self.clone();
        both.grants.retain(|grant| other.grants.contains(grant));
        both.own_addresses = self.own_addresses.intersection(&other.own_addresses);
        both.served = self.served.intersection(&other.served);
        both.exit = self.exit && other.exit;
        both.translation = other.translation.clone();
        both
    }

    /// The private prefixes among what this node relays to.
    pub(super) fn subnets(&self) -> Vec<IpNet> {
        let is_subnet = |prefix: &IpNet| TrafficClass::of(prefix) == TrafficClass::Subnet;
        self.served
            .prefixes()
            .into_iter()
            .filter(is_subnet)
            .collect()
    }

    /// Where packets from the overlay may go at all: the node itself and what it serves.
    pub(super) fn within(&self) -> AddressSet {
        let within = self.own_addresses.union(&self.served);
        if self.exit {
            within.union(&exit_addresses())
        } else {
            within
        }
    }
}

/// What an exit relays to: everything but private, local and reserved addresses, whose meaning
/// depends on where one stands.
fn exit_addresses() -> AddressSet {
    let not_the_internet: AddressSet = [
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "224.0.0.0/3",
        "::/3",
        "4000::/2",
        "8000::/1",
    ]
    .iter()
    .filter_map(|prefix| prefix.parse::<AddressRange>().ok())
    .collect();
    AddressSet::everything().difference(&not_the_internet)
}
