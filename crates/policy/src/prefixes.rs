//! Values filed under prefixes, found by what overlaps.

use ipnet::IpNet;
use std::collections::BTreeMap;
use weir_overlay::{AddressRange, AddressSet};

/// Values filed under prefixes.
#[derive(Clone, Debug)]
pub(crate) struct Prefixes<T> {
    /// Sorted by their first address. No list is empty.
    filed: BTreeMap<IpNet, Vec<T>>,
    /// How many of these prefixes have each length. The lengths are a few, so that what contains
    /// an address is found by asking for each.
    lengths: BTreeMap<u8, usize>,
}

impl<T> Default for Prefixes<T> {
    fn default() -> Self {
        Self {
            filed: BTreeMap::new(),
            lengths: BTreeMap::new(),
        }
    }
}

impl<T: PartialEq> Prefixes<T> {
    /// Files a value once, whatever bits of the prefix are set behind its length.
    pub(crate) fn insert(&mut self, prefix: IpNet, value: T) {
        let prefix = prefix.trunc();
        let values = self.filed.entry(prefix).or_default();
        if values.is_empty() {
            *self.lengths.entry(prefix.prefix_len()).or_default() += 1;
        }
        if !values.contains(&value) {
            values.push(value);
        }
    }

    /// Takes a value out.
    pub(crate) fn remove(&mut self, prefix: IpNet, value: &T) {
        let prefix = prefix.trunc();
        let Some(values) = self.filed.get_mut(&prefix) else {
            return;
        };
        values.retain(|other| other != value);
        if values.is_empty() {
            self.filed.remove(&prefix);
            if let Some(count) = self.lengths.get_mut(&prefix.prefix_len()) {
                *count -= 1;
                if *count == 0 {
                    self.lengths.remove(&prefix.prefix_len());
                }
            }
        }
    }

    /// The prefixes under which something is filed.
    pub(crate) fn keys(&self) -> impl Iterator<Item = IpNet> {
        self.filed.keys().copied()
    }

    pub(crate) fn contains_key(&self, prefix: &IpNet) -> bool {
        self.filed.contains_key(prefix)
    }

    /// What is filed under the prefixes that share an address with the range. A prefix that starts
    /// where the range does comes twice.
    pub(crate) fn overlapping(&self, range: AddressRange) -> impl Iterator<Item = (&IpNet, &T)> {
        let end = IpNet::from(range.last());
        let start = IpNet::new(range.first(), 0).unwrap_or(end);
        // Those that start in the range, and those that contain its start.
        let inside = self.filed.range(start..=end);
        let around = self.lengths.keys().filter_map(move |length| {
            let prefix = IpNet::new(range.first(), *length).ok()?.trunc();
            self.filed.get_key_value(&prefix)
        });
        let found = inside.chain(around);
        found.flat_map(|(prefix, values)| values.iter().map(move |value| (prefix, value)))
    }

    /// [`Self::overlapping`] of each range of a set.
    pub(crate) fn overlapping_any(
        &self,
        addresses: &AddressSet,
    ) -> impl Iterator<Item = (&IpNet, &T)> {
        let ranges = addresses.ranges().iter();
        ranges.flat_map(|range| self.overlapping(*range))
    }
}
