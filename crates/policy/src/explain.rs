//! Why a packet is allowed, or why not and which rule comes closest.

use crate::compile::{CompiledPolicy, CompiledRule, Place, Reach, internet};
use serde::Serialize;
use std::{fmt, net::IpAddr};
use weir_overlay::{AddressRange, AddressSet, GrantId, NodeId};
use weir_protocol::{Destination, IpProtocol, PortRange};

/// The first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where it comes from: an overlay address, or one behind an approved route.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// The port that it goes to. Without effect for protocols that have none.
    pub port: u16,
    /// Its protocol.
    pub protocol: IpProtocol,
}

/// What the policy says of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The rules that allow it, node by node, in the order of the policy. Empty when none does.
    pub allowed: Vec<Allowance>,
    /// The nodes that have or serve the destination. A packet to anywhere else goes nowhere.
    pub served_by: Vec<NodeId>,
    /// When nothing allows it: the rule that comes closest, if any rule has to do with it.
    pub closest: Option<Closest>,
}

/// A rule that allows a packet at a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Allowance {
    /// The node that has or serves the destination.
    pub at: NodeId,
    /// The rule.
    pub grant: GrantId,
    /// Where the policy says so: `acls[2], line 14`.
    pub origin: String,
}

/// A rule that nearly allows a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Closest {
    /// Where the policy says so.
    pub origin: String,
    /// All that stands between the rule and the packet.
    pub misses: Vec<Miss>,
}

/// Why a rule does not allow a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Miss {
    /// It is for other sources.
    Source,
    /// It is for other destinations.
    Destination,
    /// It is for other ports.
    Port,
    /// It is for other protocols.
    Protocol,
    /// No node that it leads through has or serves the destination.
    NotServed,
    /// An entry that denies comes before it.
    Denied,
}

impl Miss {
    /// How far off a rule is for it: one about other people or things is less likely to be the
    /// one that was meant than one with other ports.
    const fn distance(self) -> u8 {
        match self {
            Self::Source | Self::Destination => 6,
            Self::Port | Self::Protocol => 2,
            Self::NotServed | Self::Denied => 1,
        }
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "the source is not in its src",
            Self::Destination => "the destination is not in its dst",
            Self::Port => "the port is not among its ports",
            Self::Protocol => "the protocol is not among its protocols",
            Self::NotServed => "no node that it leads through has or serves the destination",
            Self::Denied => "an entry before it denies this",
        })
    }
}

impl CompiledPolicy {
    /// Why a packet is allowed, or why not. Agrees with [`Self::filter`]: a packet is allowed
    /// exactly when the filter of a node that has or serves its destination lets it in.
    #[must_use]
    pub fn explain(&self, packet: &Packet) -> Explanation {
        let served_by: Vec<NodeId> = self
            .places
            .iter()
            .filter(|(_, place)| {
                place.own.contains(packet.destination)
                    || place.internet.contains(packet.destination)
            })
            .map(|(id, _)| *id)
            .collect();
        let mut allowed = Vec::new();
        for at in &served_by {
            let Some(place) = self.places.get(at) else {
                continue;
            };
            for (rule, addresses) in self.rules_at(place) {
                if self.lets_in(rule, &addresses, place, packet) {
                    allowed.push(Allowance {
                        at: *at,
                        grant: rule.id,
                        origin: rule.origin.to_string(),
                    });
                }
            }
        }
        Explanation {
            closest: match allowed.is_empty() {
                true => self.closest(packet),
                false => None,
            },
            allowed,
            served_by,
        }
    }

    fn lets_in(
        &self,
        rule: &CompiledRule,
        addresses: &AddressSet,
        place: &Place,
        packet: &Packet,
    ) -> bool {
        let targets = self.targets(rule.targets);
        let reaches = |to: &Destination| {
            to.addresses.contains(packet.destination) && passes(&to.ports, packet)
        };
        rule.protocols.contains(&packet.protocol)
            && self.sources_at(rule, place).contains(packet.source)
            && (rule.destinations(targets, addresses, place).iter()).any(reaches)
    }

    fn closest(&self, packet: &Packet) -> Option<Closest> {
        let related = self.rules_in_force().filter(|rule| !rule.is_capability);
        let misses = related.map(|rule| (rule, self.misses(rule, packet)));
        // A rule for others to elsewhere says nothing about this packet.
        let related = misses.filter(|(_, misses)| {
            !(misses.contains(&Miss::Source) && misses.contains(&Miss::Destination))
        });
        let distance = |misses: &Vec<Miss>| misses.iter().map(|miss| miss.distance()).sum::<u8>();
        let (rule, misses) = related.min_by_key(|(_, misses)| distance(misses))?;
        Some(Closest {
            origin: rule.origin.to_string(),
            misses,
        })
    }

    fn misses(&self, rule: &CompiledRule, packet: &Packet) -> Vec<Miss> {
        let owner = |address: IpAddr| {
            let mut places = self.places.values();
            places.find(|place| place.addresses.contains(address))?.user
        };
        let reaches = match &self.targets(rule.targets).reach {
            Reach::Anything => true,
            Reach::Internet => internet().contains(packet.destination),
            Reach::Nodes(addresses) | Reach::Literal(addresses) => {
                addresses.contains(packet.destination)
            }
            Reach::OwnDevices => {
                owner(packet.destination).is_some()
                    && owner(packet.destination) == owner(packet.source)
            }
        };
        let mut misses = Vec::new();
        for (hit, miss) in [
            (
                self.senders(rule.senders).addresses.contains(packet.source),
                Miss::Source,
            ),
            (reaches, Miss::Destination),
            (
                rule.ports.iter().any(|ports| passes(ports, packet)),
                Miss::Port,
            ),
            (rule.protocols.contains(&packet.protocol), Miss::Protocol),
        ] {
            if !hit {
                misses.push(miss);
            }
        }
        if misses.is_empty() {
            let denies = rule.exceptions.iter().any(|exception| {
                let reach = &exception.reach;
                let all: AddressSet = [AddressRange::from(packet.destination)]
                    .into_iter()
                    .collect();
                let public = internet().intersection(&all);
                reach.among(&all, &public).contains(packet.destination)
                    && exception.ports.iter().any(|ports| passes(ports, packet))
            });
            misses.push(if denies {
                Miss::Denied
            } else {
                Miss::NotServed
            });
        }
        misses
    }
}

/// Whether a range of ports lets the packet pass. ICMP passes whatever the ports; other protocols
/// without ports pass only with all of them.
fn passes(ports: &PortRange, packet: &Packet) -> bool {
    match packet.protocol {
        IpProtocol::ICMP | IpProtocol::ICMPV6 => true,
        protocol if protocol.has_ports() => (ports.first..=ports.last).contains(&packet.port),
        _ => ports.is_all(),
    }
}
