//! Who gains and who loses what when one policy takes the place of another.
//!
//! What is compared is what nodes let in, not how it is written: two policies that allow the same
//! have no difference, however they name and order it.

use crate::compile::{CompiledPolicy, minus};
use crate::ports::merge_ports;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use weir_overlay::{AddressSet, NodeId};
use weir_protocol::{Grant, IpProtocol, PortRange};

/// What changes between two policies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PolicyDiff {
    /// What only the new policy allows.
    pub gains: Vec<Change>,
    /// What only the old policy allows.
    pub losses: Vec<Change>,
}

/// Traffic that one of two policies allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The node that has or serves the destination.
    pub at: NodeId,
    /// The protocols.
    pub protocols: BTreeSet<IpProtocol>,
    /// Where the traffic comes from.
    pub sources: AddressSet,
    /// The nodes among the sources.
    pub nodes: BTreeSet<NodeId>,
    /// Where it goes.
    pub destinations: AddressSet,
    /// To which ports.
    pub ports: Vec<PortRange>,
    /// Where the policy that allows it says so.
    pub origin: String,
}

/// Compares what two policies, compiled for one network, allow. A node that only one of them
/// knows has no filter in the other.
#[must_use]
pub fn diff(old: &CompiledPolicy, new: &CompiledPolicy) -> PolicyDiff {
    let nodes: BTreeSet<NodeId> = old
        .places
        .keys()
        .chain(new.places.keys())
        .copied()
        .collect();
    let mut diff = PolicyDiff::default();
    for node in nodes {
        let (before, after) = (old.filter(node), new.filter(node));
        if before == after {
            continue;
        }
        let (before, after) = (regions(&before), regions(&after));
        diff.gains.extend(only(new, node, &after, &before));
        diff.losses.extend(only(old, node, &before, &after));
    }
    diff
}

/// Sources × addresses × ports, of one protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Region<'a> {
    sources: AddressSet,
    addresses: AddressSet,
    ports: Vec<PortRange>,
    origin: &'a str,
}

type Regions<'a> = BTreeMap<IpProtocol, Vec<Region<'a>>>;

/// What a filter allows, by protocol. Ports of protocols that have none are all or nothing.
fn regions(filter: &[Grant]) -> Regions<'_> {
    let mut regions: Regions<'_> = BTreeMap::new();
    for grant in filter {
        for protocol in &grant.protocols {
            for to in &grant.destinations {
                let ports = match *protocol {
                    IpProtocol::ICMP | IpProtocol::ICMPV6 => PortRange::ALL,
                    other if other.has_ports() || to.ports.is_all() => to.ports,
                    _ => continue,
                };
                regions.entry(*protocol).or_default().push(Region {
                    sources: grant.sources.clone(),
                    addresses: to.addresses.clone(),
                    ports: vec![ports],
                    origin: &grant.origin,
                });
            }
        }
    }
    regions
}

impl Region<'_> {
    /// What of this is not in the other.
    fn without(self, other: &Self) -> Vec<Self> {
        if !self.sources.overlaps(&other.sources) || !self.addresses.overlaps(&other.addresses) {
            return vec![self];
        }
        let sources = self.sources.intersection(&other.sources);
        let addresses = self.addresses.intersection(&other.addresses);
        let part = |sources: AddressSet, addresses: AddressSet, ports: Vec<PortRange>| Self {
            sources,
            addresses,
            ports,
            origin: self.origin,
        };
        let mut left = vec![
            part(
                self.sources.difference(&other.sources),
                self.addresses.clone(),
                self.ports.clone(),
            ),
            part(
                sources.clone(),
                self.addresses.difference(&other.addresses),
                self.ports.clone(),
            ),
            part(sources, addresses, minus(&self.ports, &other.ports)),
        ];
        left.retain(|region| {
            !(region.sources.is_empty() || region.addresses.is_empty() || region.ports.is_empty())
        });
        left
    }
}

/// What of `these` is not among `those`, each bit of traffic once.
fn only(
    policy: &CompiledPolicy,
    at: NodeId,
    these: &Regions<'_>,
    those: &Regions<'_>,
) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    for (protocol, regions) in these {
        let mut taken = those.get(protocol).cloned().unwrap_or_default();
        for region in regions {
            let mut left = vec![region.clone()];
            for other in &taken {
                left = left
                    .into_iter()
                    .flat_map(|part| part.without(other))
                    .collect();
            }
            if !left.is_empty() {
                taken.push(region.clone());
            }
            for part in left {
                add(policy, at, *protocol, part, &mut changes);
            }
        }
    }
    changes
}

/// Adds to the change that differs in the protocol or the ports only, if there is one.
fn add(
    policy: &CompiledPolicy,
    at: NodeId,
    protocol: IpProtocol,
    part: Region<'_>,
    changes: &mut Vec<Change>,
) {
    for change in changes.iter_mut() {
        if change.sources != part.sources
            || change.destinations != part.addresses
            || change.origin != part.origin
        {
            continue;
        }
        if change.ports == part.ports {
            change.protocols.insert(protocol);
            return;
        }
        if change.protocols == [protocol].into() {
            change.ports.extend(part.ports);
            change.ports = merge_ports(std::mem::take(&mut change.ports));
            return;
        }
    }
    let sends = |id: &&NodeId| {
        let place = policy.places.get(id);
        place.is_some_and(|place| place.own.overlaps(&part.sources))
    };
    changes.push(Change {
        at,
        protocols: [protocol].into(),
        nodes: policy.places.keys().filter(sends).copied().collect(),
        sources: part.sources,
        destinations: part.addresses,
        ports: part.ports,
        origin: part.origin.to_owned(),
    });
}
