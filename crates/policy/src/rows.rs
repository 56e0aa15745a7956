//! A node's packet filter as the policy wrote it: literals and port ranges are not cut down to
//! what the node has, and nothing is merged. For people and for comparison with other compilers;
//! nodes are told [`CompiledPolicy::filter`].

use crate::compile::{CompiledPolicy, CompiledRule, Place, Reach, internet};
use serde::{Serialize, Serializer};
use std::{collections::BTreeSet, fmt};
use weir_overlay::{AddressRange, AddressSet, NodeId};
use weir_protocol::{IpProtocol, PortRange};

/// A rule, as far as it concerns one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Protocols by number; none when the rule leaves them to the default, TCP, UDP and both
    /// ICMPs.
    pub protocols: Option<BTreeSet<IpProtocol>>,
    /// Where traffic may come from.
    pub sources: AddressSet,
    /// Where it may go, with repetitions.
    pub destinations: Vec<RowDestination>,
}

/// A destination of a [`Row`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RowDestination {
    /// The addresses.
    pub addresses: Addresses,
    /// The lowest port.
    pub first_port: u16,
    /// The highest port.
    pub last_port: u16,
}

/// Addresses of a [`Row`]. Written as an address, a prefix, `first-last` or `*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// All that the node has and serves.
    Any,
    /// These.
    Range(AddressRange),
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Range(range) => range.fmt(f),
        }
    }
}

impl Serialize for Addresses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl CompiledPolicy {
    /// A node's filter as the policy wrote it. Where entries deny, what they leave is shown as the
    /// node is told it.
    #[must_use]
    pub fn rows(&self, node: NodeId) -> Vec<Row> {
        let Some(place) = self.places.get(&node) else {
            return Vec::new();
        };
        let row = |(rule, at): (&CompiledRule, AddressSet)| {
            let sources = self.sources_at(rule, place);
            let destinations = if rule.exceptions.is_empty() {
                let addresses = self.addresses_at(rule, place);
                addresses
                    .iter()
                    .flat_map(|addresses| {
                        let ports = rule.written_ports.iter();
                        ports.map(|ports| destination(*addresses, ports))
                    })
                    .collect()
            } else {
                self.left(rule, &at, place)
            };
            (!sources.is_empty() && !destinations.is_empty()).then(|| Row {
                protocols: (rule.protocols != IpProtocol::defaults().into())
                    .then(|| rule.protocols.clone()),
                sources,
                destinations,
            })
        };
        self.rules_at(place).into_iter().filter_map(row).collect()
    }

    fn addresses_at(&self, rule: &CompiledRule, place: &Place) -> Vec<Addresses> {
        let targets = self.targets(rule.targets);
        let ranges: Vec<AddressRange> = match &targets.reach {
            Reach::Anything => return vec![Addresses::Any],
            Reach::Internet if place.exits.is_empty() => Vec::new(),
            Reach::Internet => internet().ranges().to_vec(),
            Reach::OwnDevices => single_addresses(&place.addresses),
            Reach::Nodes(addresses) => {
                let mut own = single_addresses(&addresses.intersection(&place.addresses));
                let served = addresses.intersection(&place.subnets);
                if !served.is_empty() {
                    let all = self.places.values();
                    let all = all.flat_map(|place| single_addresses(&place.addresses));
                    own.extend(all.filter(|address| served.covers(address)));
                }
                own
            }
            Reach::Literal(addresses) => {
                let relevant = |range: &&AddressRange| {
                    let set: AddressSet = [**range].into_iter().collect();
                    match targets.is_via {
                        true => set.overlaps(&place.subnets),
                        false => set.overlaps(&place.own) || place.internet.covers(range),
                    }
                };
                addresses
                    .ranges()
                    .iter()
                    .filter(relevant)
                    .copied()
                    .collect()
            }
        };
        ranges.into_iter().map(Addresses::Range).collect()
    }

    fn left(&self, rule: &CompiledRule, at: &AddressSet, place: &Place) -> Vec<RowDestination> {
        let destinations = rule.destinations(self.targets(rule.targets), at, place);
        let rows = destinations.iter().flat_map(|to| {
            let ranges = to.addresses.ranges().iter();
            ranges.map(|range| destination(Addresses::Range(*range), &to.ports))
        });
        rows.collect()
    }
}

const fn destination(addresses: Addresses, ports: &PortRange) -> RowDestination {
    RowDestination {
        addresses,
        first_port: ports.first,
        last_port: ports.last,
    }
}

/// The addresses of a node, each for itself although two may be neighbours. A set of whole
/// prefixes, which no node has, stays as it is.
fn single_addresses(set: &AddressSet) -> Vec<AddressRange> {
    let mut addresses = Vec::new();
    for range in set.ranges() {
        let prefixes = range.prefixes();
        let few = prefixes
            .iter()
            .all(|prefix| prefix.max_prefix_len() - prefix.prefix_len() <= 8);
        if few {
            let hosts = prefixes.iter().flat_map(|prefix| {
                let shift = prefix.max_prefix_len();
                prefix.subnets(shift).into_iter().flatten()
            });
            addresses.extend(hosts.map(AddressRange::from));
        } else {
            addresses.push(*range);
        }
    }
    addresses
}
