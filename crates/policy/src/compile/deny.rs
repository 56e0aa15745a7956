//! Entries that deny, an extension: they take their traffic from what later rules allow.
//!
//! A rule that comes after is split by source and protocol into parts, so that each part either
//! has nothing to do with a denying entry or is wholly under it; what is left of its destinations
//! and ports is worked out where a node's own addresses are known.

use super::{CompiledRule, reach::Reach};
use crate::grant_id::GrantIds;
use std::collections::BTreeSet;
use weir_overlay::{AddressSet, GrantId};
use weir_protocol::{Destination, IpProtocol, PortRange};

/// An entry that denies.
#[derive(Clone, Debug)]
pub(crate) struct Deny {
    pub(crate) sources: AddressSet,
    pub(crate) protocols: BTreeSet<IpProtocol>,
    pub(crate) what: Exception,
}

/// What a rule does not allow although it says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exception {
    pub(crate) reach: Reach,
    pub(crate) ports: Vec<PortRange>,
}

/// Gives the parts of rules ids of their own, from the first part that needs one.
#[derive(Debug)]
pub(crate) struct PartIds {
    taken: Vec<GrantId>,
    ids: Option<GrantIds>,
}

impl PartIds {
    pub(crate) const fn beside(taken: Vec<GrantId>) -> Self {
        Self { taken, ids: None }
    }

    fn next(&mut self, whole: GrantId, part: usize) -> Option<GrantId> {
        if part == 0 {
            return Some(whole);
        }
        let taken = &mut self.taken;
        let ids = self
            .ids
            .get_or_insert_with(|| GrantIds::beside(std::mem::take(taken)));
        ids.next(&format!("{whole} {part}"))
    }
}

/// Splits a rule by the denying entries before it. A part for which no id is left is dropped: it
/// allows nothing then, which is safe.
pub(crate) fn split(rule: CompiledRule, denied: &[Deny], ids: &mut PartIds) -> Vec<CompiledRule> {
    let mut parts: Vec<(AddressSet, BTreeSet<IpProtocol>, Vec<Exception>)> =
        vec![(rule.sources.clone(), rule.protocols.clone(), Vec::new())];
    for deny in denied {
        let mut next = Vec::with_capacity(parts.len());
        for (sources, protocols, exceptions) in parts {
            let both: BTreeSet<_> = protocols.intersection(&deny.protocols).copied().collect();
            let inside = sources.intersection(&deny.sources);
            if both.is_empty() || inside.is_empty() {
                next.push((sources, protocols, exceptions));
                continue;
            }
            let others: BTreeSet<_> = protocols.difference(&deny.protocols).copied().collect();
            let mut under = exceptions.clone();
            under.push(deny.what.clone());
            next.push((
                sources.difference(&deny.sources),
                protocols,
                exceptions.clone(),
            ));
            next.push((inside.clone(), others, exceptions));
            next.push((inside, both, under));
        }
        next.retain(|(sources, protocols, _)| !sources.is_empty() && !protocols.is_empty());
        parts = next;
    }
    let whole = rule.id;
    parts
        .into_iter()
        .enumerate()
        .filter_map(|(part, (sources, protocols, exceptions))| {
            Some(CompiledRule {
                id: ids.next(whole, part)?,
                sources,
                protocols,
                exceptions,
                ..rule.clone()
            })
        })
        .collect()
}

/// Addresses and ports without the exceptions.
pub(crate) fn without(
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
        let denied = exception.reach.among(own, internet);
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
