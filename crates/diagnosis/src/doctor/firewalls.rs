//! What other programs' firewalls do to the packets that this node depends on.

use std::net::IpAddr;
use weir_protocol::IpProtocol;

use super::{Host, NodeSeen, anywhere, out_link, stands_for};
use crate::{
    Checks, Remedy, Target,
    explain::through,
    firewall::{Hook, Judgement, Packet},
};

/// How many of the served routes are tried: rulesets tell links apart, and rarely routes.
const MAX_ROUTES: usize = 32;

pub(super) fn check(host: &Host, checks: &mut Checks) {
    let others = &host.seen.others;
    for unread in &others.unread {
        checks.unknown("other firewalls", unread.clone(), []);
    }
    let packets = packets(host);
    let mut said = Vec::new();
    for packet in &packets {
        let (place, certain) = match others.judge(packet) {
            Judgement::Passes => continue,
            Judgement::Drops(place) => (place, true),
            Judgement::MayDrop(place) => (place, false),
        };
        let remedy = others.remedy(&place, packet, host.interface.as_str());
        // One command may let many packets pass.
        if said.contains(&remedy) {
            continue;
        }
        said.push(remedy.clone());
        let what = &packet.what;
        if certain {
            checks.failed(
                "other firewalls",
                format!("what goes {what} is dropped by {place}"),
                [Remedy::here(remedy)],
            );
        } else {
            checks.unknown(
                "other firewalls",
                format!(
                    "what goes {what} may be dropped by {place}; a condition there is not \
                     understood"
                ),
                [Remedy::here(remedy)],
            );
        }
    }
    if said.is_empty() && others.unread.is_empty() {
        checks.passed(
            "other firewalls",
            match others.tables.len() {
                0 => "there is none".to_owned(),
                count => format!("{count} tables of others, which drop nothing of ours"),
            },
        );
    }
}

fn packets(host: &Host) -> Vec<Packet> {
    let Some(node) = &host.node else {
        return Vec::new();
    };
    let mut packets = Vec::new();
    for ipv4 in [true, false] {
        packets.extend(carriers(host, node, ipv4));
        packets.extend(own(host, node, ipv4));
    }
    for prefix in node.serves.iter().take(MAX_ROUTES) {
        let address = stands_for(prefix);
        let Some(source) = somebody(node, address.is_ipv4()) else {
            continue;
        };
        let link = host
            .seen
            .ways
            .get(&address)
            .and_then(|way| way.out())
            .map(|out| out.link.clone());
        let target = Target {
            host: address.to_string(),
            port: Some(443),
            protocol: IpProtocol::TCP,
        };
        packets.extend(through(
            host.interface.as_str(),
            link,
            source,
            address,
            &target,
        ));
    }
    packets
}

/// The overlay address of some other node.
fn somebody(node: &NodeSeen, ipv4: bool) -> Option<IpAddr> {
    let of_family = |addresses: &std::collections::BTreeSet<IpAddr>| {
        addresses
            .iter()
            .copied()
            .find(|address| address.is_ipv4() == ipv4)
    };
    let peer = node
        .peers
        .iter()
        .find_map(|peer| of_family(&peer.addresses));
    peer.or_else(|| of_family(&node.addresses))
}

/// The tunnel's own packets, out and in. A relay must be found by nodes that it never heard of.
fn carriers(host: &Host, node: &NodeSeen, ipv4: bool) -> Vec<Packet> {
    let Some(link) = out_link(host, ipv4) else {
        return Vec::new();
    };
    let mut addresses = host.seen.facts.addresses.iter().copied();
    let Some(own) = addresses.find(|address| address.is_ipv4() == ipv4) else {
        return Vec::new();
    };
    let port = host.listen_port;
    let out = Packet {
        what: format!("out of the tunnel's UDP port {port}"),
        hooks: vec![Hook::Output, Hook::Postrouting],
        input: None,
        output: Some(link.clone()),
        source: own,
        destination: anywhere(ipv4),
        protocol: IpProtocol::UDP,
        source_port: Some(port),
        destination_port: None,
        new: true,
    };
    let incoming = Packet {
        what: format!("to the tunnel's UDP port {port}"),
        hooks: vec![Hook::Prerouting, Hook::Input],
        input: Some(link),
        output: None,
        source: anywhere(ipv4),
        destination: own,
        protocol: IpProtocol::UDP,
        source_port: None,
        destination_port: Some(port),
        new: !node.serves.is_empty(),
    };
    vec![out, incoming]
}

/// What this node itself sends into the tunnel and hears from it.
fn own(host: &Host, node: &NodeSeen, ipv4: bool) -> Vec<Packet> {
    let mut addresses = node.addresses.iter().copied();
    let Some(own) = addresses.find(|address| address.is_ipv4() == ipv4) else {
        return Vec::new();
    };
    let Some(other) = somebody(node, ipv4) else {
        return Vec::new();
    };
    let interface = host.interface.to_string();
    let out = Packet {
        what: "from this host into the tunnel".to_owned(),
        hooks: vec![Hook::Output, Hook::Postrouting],
        input: None,
        output: Some(interface.clone()),
        source: own,
        destination: other,
        protocol: IpProtocol::TCP,
        source_port: None,
        destination_port: Some(443),
        new: true,
    };
    let incoming = Packet {
        what: "from the tunnel to this host".to_owned(),
        hooks: vec![Hook::Prerouting, Hook::Input],
        input: Some(interface),
        output: None,
        source: other,
        destination: own,
        protocol: IpProtocol::TCP,
        source_port: Some(443).filter(|_| !node.is_reached),
        destination_port: None,
        new: node.is_reached,
    };
    vec![out, incoming]
}
