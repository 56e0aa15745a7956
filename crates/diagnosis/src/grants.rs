//! Which grant of a packet filter lets a packet in.

use std::net::IpAddr;
use weir_protocol::{Destination, Grant, IpProtocol};

/// The first packet of a connection, as a packet filter judges it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstPacket {
    /// Its source.
    pub source: IpAddr,
    /// Its destination.
    pub destination: IpAddr,
    /// Its protocol.
    pub protocol: IpProtocol,
    /// Its destination port, for protocols that have them.
    pub port: Option<u16>,
}

/// The grant that lets it in: the first one that does, which also counts it.
#[must_use]
pub fn granting<'a>(filter: &'a [Grant], packet: &FirstPacket) -> Option<&'a Grant> {
    filter.iter().find(|grant| {
        grant.sources.contains(packet.source)
            && grant.protocols.contains(&packet.protocol)
            && leads_there(grant, packet, |destination| {
                allows_port(destination, packet)
            })
    })
}

/// Grants that lead from there to there with other protocols or ports.
#[must_use]
pub fn nearly<'a>(filter: &'a [Grant], packet: &FirstPacket) -> Vec<&'a Grant> {
    filter
        .iter()
        .filter(|grant| {
            grant.sources.contains(packet.source) && leads_there(grant, packet, |_| true)
        })
        .collect()
}

fn leads_there(grant: &Grant, packet: &FirstPacket, also: impl Fn(&Destination) -> bool) -> bool {
    grant
        .destinations
        .iter()
        .any(|to| to.addresses.contains(packet.destination) && also(to))
}

/// As [`Destination::ports`] has it.
fn allows_port(destination: &Destination, packet: &FirstPacket) -> bool {
    let is_icmp = matches!(packet.protocol, IpProtocol::ICMP | IpProtocol::ICMPV6);
    match packet.port {
        Some(port) if packet.protocol.has_ports() => {
            (destination.ports.first..=destination.ports.last).contains(&port)
        }
        Some(_) | None => is_icmp || destination.ports.is_all(),
    }
}

/// What a grant allows towards an address, for people: `tcp 443, udp 53`.
#[must_use]
pub fn allowed_there(grant: &Grant, address: IpAddr) -> String {
    let mut parts = Vec::new();
    for protocol in &grant.protocols {
        for to in &grant.destinations {
            if !to.addresses.contains(address) {
                continue;
            }
            let ports = match (to.ports.first, to.ports.last) {
                _ if !protocol.has_ports() => String::new(),
                (0, u16::MAX) => " all ports".to_owned(),
                (first, last) if first == last => format!(" {first}"),
                (first, last) => format!(" {first}-{last}"),
            };
            parts.push(format!("{protocol}{ports}"));
        }
    }
    parts.dedup();
    parts.join(", ")
}

/// A grant for people: `grant 7 (acls[2], line 14)`.
#[must_use]
pub fn describe(grant: &Grant) -> String {
    if grant.origin.is_empty() {
        format!("grant {}", grant.id)
    } else {
        format!("grant {} ({})", grant.id, grant.origin)
    }
}
