//! Entries that deny, an extension: they take their traffic from what later rules allow.
//!
//! A rule that comes after is split by source and protocol into parts, so that each part either
//! has nothing to do with a denying entry or is wholly under it; what is left of its destinations
//! and ports is worked out where a node's own addresses are known.

use super::reach::Reach;
use crate::grant_id::GrantIds;
use std::collections::BTreeSet;
use weir_overlay::{AddressSet, GrantId};
use weir_protocol::{Destination, IpProtocol, PortRange};

/// An entry that denies.
#[derive(Clone, Debug)]
pub(super) struct Deny {
    pub(super) sources: AddressSet,
    pub(super) protocols: BTreeSet<IpProtocol>,
    pub(super) what: Exception,
}

/// What a rule does not allow although it says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exception {
    pub(crate) reach: Reach,
    pub(crate) ports: Vec<PortRange>,
}

/// Gives the parts of rules ids of their own, from the first part that needs one.
#[derive(Debug)]
pub(super) struct PartIds {
    taken: Vec<GrantId>,
    ids: Option<GrantIds>,
}

impl PartIds {
    pub(super) const fn beside(taken: Vec<GrantId>) -> Self {
        Self { taken, ids: None }
    }

    /// The id of a part, of the whole rule's where nothing is denied. `None` when none is left.
    pub(super) fn next(&mut self, whole: GrantId, part: &Part) -> Option<GrantId> {
        if part.name.is_empty() {
            return Some(whole);
        }
        let taken = &mut self.taken;
        let ids = self
            .ids
            .get_or_insert_with(|| GrantIds::beside(std::mem::take(taken)));
        ids.next(&format!("{whole}{}", part.name))
    }
}

/// A part of a rule.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) sources: AddressSet,
    pub(super) protocols: BTreeSet<IpProtocol>,
    pub(super) exceptions: Vec<Exception>,
    /// Which entries deny something to these sources, and whether it is of these protocols: that
    /// does not depend on what other sources there are, so neither does the part's id.
    name: String,
}

/// Splits a rule by the denying entries before it.
pub(super) fn split(
    sources: AddressSet,
    protocols: BTreeSet<IpProtocol>,
    denied: &[Deny],
) -> Vec<Part> {
    let mut parts = vec![Part {
        sources,
        protocols,
        exceptions: Vec::new(),
        name: String::new(),
    }];
    for (number, deny) in denied.iter().enumerate() {
        let mut next = Vec::with_capacity(parts.len());
        for part in parts {
            let both = &part.protocols & &deny.protocols;
            let inside = part.sources.intersection(&deny.sources);
            if both.is_empty() || inside.is_empty() {
                next.push(part);
                continue;
            }
            let mut under = part.exceptions.clone();
            under.push(deny.what.clone());
            let others = Part {
                sources: inside.clone(),
                protocols: &part.protocols - &deny.protocols,
                exceptions: part.exceptions.clone(),
                name: format!("{} beside {number}", part.name),
            };
            let under = Part {
                sources: inside,
                protocols: both,
                exceptions: under,
                name: format!("{} under {number}", part.name),
            };
            next.push(Part {
                sources: part.sources.difference(&deny.sources),
                ..part
            });
            next.extend([others, under]);
        }
        next.retain(|part| !part.sources.is_empty() && !part.protocols.is_empty());
        parts = next;
    }
    parts
}

/// Addresses and ports without the exceptions.
pub(super) fn without(
    addresses: AddressSet,
    ports: &[PortRange],
    exceptions: &[Exception],
    own: &AddressSet,
    internet: &AddressSet,
) -> Vec<Destination> {
    if addresses.is_empty() {
        return Vec::new();
    }
    let mut left = vec![(addresses, ports.to_vec())];
    for exception in exceptions {
        // A public prefix that a node serves by a route of its own is no way through its exit.
        let denied = match exception.reach {
            Reach::Internet => internet.difference(own),
            Reach::Anything | Reach::OwnDevices | Reach::Nodes(_) | Reach::Literal(_) => {
                exception.reach.among(own, internet)
            }
        };
        let mut next = Vec::with_capacity(left.len());
        for (addresses, ports) in left {
            let inside = addresses.intersection(&denied);
            if inside.is_empty() {
                next.push((addresses, ports));
                continue;
            }
            next.push((inside, minus(&ports, &exception.ports)));
            next.push((addresses.difference(&denied), ports));
        }
        next.retain(|(addresses, ports)| !addresses.is_empty() && !ports.is_empty());
        left = next;
    }
    left.iter()
        .flat_map(|(addresses, ports)| {
            ports.iter().map(|ports| Destination {
                addresses: addresses.clone(),
                ports: *ports,
            })
        })
        .collect()
}

/// The ports of `from` that are not in `denied`.
pub(crate) fn minus(from: &[PortRange], denied: &[PortRange]) -> Vec<PortRange> {
    let mut left = from.to_vec();
    for cut in denied {
        left = left
            .iter()
            .flat_map(|range| {
                let below = (range.first < cut.first).then(|| PortRange {
                    first: range.first,
                    last: range.last.min(cut.first - 1),
                });
                let above = (range.last > cut.last).then(|| PortRange {
                    first: range.first.max(cut.last.saturating_add(1)),
                    last: range.last,
                });
                [below, above].into_iter().flatten()
            })
            .collect();
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_cut_out_of_ranges() {
        let range = |first, last| PortRange { first, last };
        assert_eq!(
            minus(&[range(1, 100)], &[range(22, 22), range(90, 200)]),
            [range(1, 21), range(23, 89)]
        );
        assert_eq!(minus(&[PortRange::ALL], &[PortRange::ALL]), []);
        assert_eq!(minus(&[range(5, 6)], &[range(7, 9)]), [range(5, 6)]);
        assert_eq!(
            minus(&[PortRange::ALL], &[PortRange::single(65535)]),
            [range(0, 65534)]
        );
    }
}
