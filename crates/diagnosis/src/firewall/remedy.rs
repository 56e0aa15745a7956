//! How a packet of ours is let pass where somebody else's rule drops it.
//!
//! What comes from the tunnel is judged by our own table, so theirs may let all of it pass.

use serde::{Deserialize, Serialize};

use super::model::{Family, Hook, Manager, Table};
use super::packet::{Packet, Place};

/// Programs that manage firewalls, as far as they are installed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Programs {
    /// `ufw`.
    pub ufw: bool,
    /// `firewall-cmd`.
    pub firewalld: bool,
}

/// What the packet is to the tunnel.
enum Part {
    /// It came out of it.
    FromTunnel,
    /// It goes into it.
    ToTunnel,
    /// It is one of the tunnel's own encrypted packets, on this port of ours.
    Carrier(u16),
    /// Neither.
    Other,
}

fn part(packet: &Packet, interface: &str) -> Part {
    if packet.input.as_deref() == Some(interface) {
        Part::FromTunnel
    } else if packet.output.as_deref() == Some(interface) {
        Part::ToTunnel
    } else {
        let port = if packet.hooks.contains(&Hook::Output) {
            packet.source_port
        } else {
            packet.destination_port
        };
        port.map_or(Part::Other, Part::Carrier)
    }
}

pub(super) fn remedy(
    place: &Place,
    packet: &Packet,
    interface: &str,
    table: Option<&Table>,
    programs: &Programs,
) -> String {
    let has_chain = |name: &str| table.is_some_and(|table| table.chains.contains_key(name));
    let part = part(packet, interface);
    let is_ufw = has_chain("ufw-user-forward") || has_chain("ufw6-user-forward");
    let by_its_program = if is_ufw && programs.ufw {
        with_ufw(place.hook, &part, interface)
    } else if place.table == "firewalld" && programs.firewalld {
        with_firewalld(&part, interface)
    } else {
        None
    };
    by_its_program.unwrap_or_else(|| match place.manager {
        Manager::Nft => format!(
            "nft insert rule {} {} {} {} accept",
            place.family,
            place.table,
            place.base,
            nft_match(&part, place.hook, packet, interface)
        ),
        Manager::IptablesNft | Manager::IptablesLegacy => {
            let program = match (place.family, place.manager) {
                (Family::Ip6, Manager::IptablesLegacy) => "ip6tables-legacy",
                (Family::Ip6, _) => "ip6tables",
                (_, Manager::IptablesLegacy) => "iptables-legacy",
                (_, _) => "iptables",
            };
            let table = match place.table.as_str() {
                "filter" => String::new(),
                other => format!(" -t {other}"),
            };
            // Docker keeps this chain for rules of others, and puts its own after it.
            let is_docker = place.hook == Hook::Forward && has_chain("DOCKER-USER");
            let chain = if is_docker {
                "DOCKER-USER"
            } else {
                &place.base
            };
            let what = iptables_match(&part, place.hook, packet, interface);
            format!("{program}{table} -I {chain} {what} -j ACCEPT")
        }
    })
}

fn with_ufw(hook: Hook, part: &Part, interface: &str) -> Option<String> {
    match (hook, part) {
        (Hook::Forward, Part::FromTunnel) => Some(format!("ufw route allow in on {interface}")),
        (Hook::Forward, Part::ToTunnel) => Some(format!("ufw route allow out on {interface}")),
        (Hook::Input, Part::FromTunnel) => Some(format!("ufw allow in on {interface}")),
        (Hook::Input, Part::Carrier(port)) => Some(format!("ufw allow {port}/udp")),
        (Hook::Output, Part::ToTunnel) => Some(format!("ufw allow out on {interface}")),
        (Hook::Output, Part::Carrier(port)) => {
            Some(format!("ufw allow out from any port {port} proto udp"))
        }
        _ => None,
    }
}

fn with_firewalld(part: &Part, interface: &str) -> Option<String> {
    let change = match part {
        Part::FromTunnel | Part::ToTunnel => format!("--zone=trusted --add-interface={interface}"),
        Part::Carrier(port) => format!("--add-port={port}/udp"),
        Part::Other => return None,
    };
    Some(format!(
        "firewall-cmd --permanent {change} && firewall-cmd --reload"
    ))
}

fn nft_match(part: &Part, hook: Hook, packet: &Packet, interface: &str) -> String {
    match part {
        Part::FromTunnel => format!("iifname {interface}"),
        Part::ToTunnel if packet.new => format!("oifname {interface}"),
        Part::ToTunnel => format!("oifname {interface} ct state established,related"),
        Part::Carrier(port) if hook == Hook::Output => format!("udp sport {port}"),
        Part::Carrier(port) => format!("udp dport {port}"),
        Part::Other if packet.destination.is_ipv4() => format!("ip daddr {}", packet.destination),
        Part::Other => format!("ip6 daddr {}", packet.destination),
    }
}

fn iptables_match(part: &Part, hook: Hook, packet: &Packet, interface: &str) -> String {
    match part {
        Part::FromTunnel => format!("-i {interface}"),
        Part::ToTunnel if packet.new => format!("-o {interface}"),
        Part::ToTunnel => {
            format!("-o {interface} -m conntrack --ctstate RELATED,ESTABLISHED")
        }
        Part::Carrier(port) if hook == Hook::Output => format!("-p udp --sport {port}"),
        Part::Carrier(port) => format!("-p udp --dport {port}"),
        Part::Other => format!("-d {}", packet.destination),
    }
}
