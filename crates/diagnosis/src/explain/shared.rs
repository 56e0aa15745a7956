//! Checks that both lists have.

use std::net::IpAddr;
use weir_kernel_plan::{
    EXIT_TABLE, MAIN_TABLE, RELAYED_TABLE, RULE_BAND_FIRST, RULE_BAND_LAST, RULE_EXIT,
    RULE_RELAYED, RULE_SUBNET, SESSION_SECONDS, SUBNET_TABLE,
};
use weir_overlay::TrafficClass;
use weir_protocol::Peer;

use super::{Facts, HostView};
use crate::{
    Checks, Remedy, RouteAnswer, RouteOut,
    firewall::{Judgement, Packet},
};

/// Whose and where: the name, and whether this node is what its coordinator wants.
pub(super) fn node(facts: &Facts<'_>, checks: &mut Checks) {
    let held = facts.map.generation;
    if let Some(failure) = facts.failures.first() {
        checks.failed(
            "node",
            format!("cannot {}: {}", failure.item, failure.reason),
            [Remedy::here("agent status")],
        );
    } else if facts.in_force == Some(held) {
        checks.passed("node", format!("network map {held} is in force"));
    } else {
        checks.failed(
            "node",
            format!("network map {held} is not in force yet"),
            [Remedy::here("agent status")],
        );
    }
    if let Some(problem) = facts.disconnected {
        checks.unknown(
            "coordinator",
            format!("not connected ({problem}): what changed since is not known here"),
            [Remedy::here("agent doctor")],
        );
    }
}

/// A figure of seconds for people.
pub(crate) fn seconds(age: u64) -> String {
    match age {
        0..=119 => format!("{age} s"),
        120..=7199 => format!("{} min", age / 60),
        _ => format!("{} h", age / 3600),
    }
}

/// Whether there is a WireGuard session with a peer.
pub(super) fn handshake(facts: &Facts<'_>, peer: &Peer, checks: &mut Checks) {
    let name = &peer.name;
    let device = facts.observed.and_then(|observed| observed.device.as_ref());
    let Some(seen) = device.and_then(|device| device.peers.get(&peer.node_key)) else {
        checks.failed(
            "handshake",
            format!("the WireGuard device does not know {name}"),
            [Remedy::here("agent up")],
        );
        return;
    };
    let endpoint = seen.endpoint.or(peer.endpoint);
    let at = endpoint.map_or_else(|| "no known endpoint".to_owned(), |at| at.to_string());
    match (seen.handshake_age, endpoint) {
        (Some(age), _) if age <= SESSION_SECONDS => checks.passed(
            "handshake",
            format!("{} ago with {name} at {at}", seconds(age)),
        ),
        (Some(age), _) => checks.unknown(
            "handshake",
            format!(
                "the last one with {name} at {at} was {} ago: the next packet starts a new one",
                seconds(age)
            ),
            [Remedy::here(format!("agent ping {name}"))],
        ),
        // One that never moved an initiation out may simply not have been used.
        (None, Some(_)) if seen.sent_bytes == 0 => checks.unknown(
            "handshake",
            format!("none with {name} at {at} so far, and nothing was sent to it"),
            [Remedy::here(format!("agent ping {name}"))],
        ),
        (None, Some(at)) => checks.failed(
            "handshake",
            format!(
                "none with {name}: {} bytes went to UDP {at} and nothing came back",
                seen.sent_bytes
            ),
            [
                Remedy::node(name, "agent doctor"),
                Remedy::here("agent doctor"),
            ],
        ),
        (None, None) => checks.failed(
            "handshake",
            format!("none with {name}, and where it can be reached is not known"),
            [Remedy::node(
                name,
                "agent set --endpoint=PUBLIC-ADDRESS:51920",
            )],
        ),
    }
}

const fn table_of(class: TrafficClass) -> (u32, Option<u32>) {
    match class {
        TrafficClass::Node => (MAIN_TABLE, None),
        TrafficClass::Relayed => (RELAYED_TABLE, Some(RULE_RELAYED)),
        TrafficClass::Subnet => (SUBNET_TABLE, Some(RULE_SUBNET)),
        TrafficClass::Exit => (EXIT_TABLE, Some(RULE_EXIT)),
    }
}

/// Whether the kernel sends packets to an address into our tunnel.
pub(super) fn into_tunnel(
    facts: &Facts<'_>,
    host: &HostView,
    address: IpAddr,
    class: TrafficClass,
    answer: &RouteAnswer,
    checks: &mut Checks,
    name: &str,
) {
    let interface = facts.desired.link.name.as_str();
    let again = || vec![Remedy::here("agent up")];
    match answer {
        RouteAnswer::Out(out) if out.link == interface => {
            let table = out
                .table
                .map_or_else(String::new, |table| format!(" by table {table}"));
            let source = out
                .source
                .map_or_else(String::new, |source| format!(", from {source}"));
            checks.passed(
                name,
                format!("packets to {address} go into {interface}{table}{source}"),
            );
        }
        RouteAnswer::Local => checks.failed(
            name,
            format!("{address} is an address of this host, so packets to it stay here"),
            [Remedy::here(format!("ip address show to {address}"))],
        ),
        RouteAnswer::Nowhere(reason) => checks.failed(
            name,
            format!("the kernel has no way to {address}: {reason}"),
            again(),
        ),
        RouteAnswer::Out(out) => {
            let (evidence, remedies) = misrouted(host, address, class, out, interface);
            checks.failed(name, evidence, remedies);
        }
    }
}

/// Which route or rule of somebody else wins, and how to take it away.
fn misrouted(
    host: &HostView,
    address: IpAddr,
    class: TrafficClass,
    out: &RouteOut,
    interface: &str,
) -> (String, Vec<Remedy>) {
    let (own_table, own_rule) = table_of(class);
    let ip = if address.is_ipv4() { "ip" } else { "ip -6" };
    let table = out.table.unwrap_or(MAIN_TABLE);
    let route = out.matched.map_or_else(
        || "a route".to_owned(),
        |route| format!("the route {route}"),
    );
    let evidence = format!(
        "packets to {address} leave by {} and not by {interface}: {route} of table {table} wins",
        out.link
    );
    let rules = || {
        host.rules
            .iter()
            .filter(|rule| rule.ipv4 == address.is_ipv4())
    };
    if let Some(own) = own_rule {
        if !rules().any(|rule| rule.priority == own && rule.table == Some(own_table)) {
            return (
                format!("{evidence}, because our rule {own} is gone"),
                vec![Remedy::here("agent up")],
            );
        }
        // Rule 0 leads to the host's own addresses; those of our band are there by intent.
        let earlier = rules().find(|rule| {
            rule.priority > 0
                && rule.priority < own
                && rule.table == Some(table)
                && !(RULE_BAND_FIRST..=RULE_BAND_LAST).contains(&rule.priority)
        });
        if let Some(rule) = earlier {
            return (
                format!(
                    "{evidence}, by the rule of priority {}, which comes before our {own}",
                    rule.priority
                ),
                vec![Remedy::here(format!(
                    "{ip} rule del priority {}",
                    rule.priority
                ))],
            );
        }
    }
    match out.matched {
        // A default route wins only where ours is not there.
        Some(matched) if matched.prefix_len() > 0 => {
            let in_table = if table == MAIN_TABLE {
                String::new()
            } else {
                format!(" table {table}")
            };
            let why = if class == TrafficClass::Subnet {
                ", as a network that this host is connected to does by intent"
            } else {
                ""
            };
            (
                format!("{evidence}{why}"),
                vec![Remedy::here(format!(
                    "{ip} route del {matched} dev {}{in_table}",
                    out.link
                ))],
            )
        }
        Some(_) | None => (
            format!("{evidence}, because our route is not there"),
            vec![Remedy::here("agent up")],
        ),
    }
}

/// What other programs' firewalls do to these packets.
pub(super) fn other_firewalls(
    facts: &Facts<'_>,
    host: &HostView,
    packets: &[Packet],
    checks: &mut Checks,
) {
    let interface = facts.desired.link.name.as_str();
    let mut all_pass = true;
    for packet in packets {
        match host.others.judge(packet) {
            Judgement::Passes => {}
            Judgement::Drops(place) => {
                all_pass = false;
                let remedy = host.others.remedy(&place, packet, interface);
                checks.failed(
                    "other firewalls",
                    format!("what goes {} is dropped by {place}", packet.what),
                    [Remedy::here(remedy)],
                );
            }
            Judgement::MayDrop(place) => {
                all_pass = false;
                let remedy = host.others.remedy(&place, packet, interface);
                checks.unknown(
                    "other firewalls",
                    format!(
                        "what goes {} may be dropped by {place}; a condition there is not \
                         understood",
                        packet.what
                    ),
                    [Remedy::here(remedy)],
                );
            }
        }
    }
    for unread in &host.others.unread {
        all_pass = false;
        checks.unknown("other firewalls", unread.clone(), []);
    }
    if all_pass {
        let text = match host.others.tables.len() {
            0 => "there is none".to_owned(),
            1 => "one other table, which lets this pass".to_owned(),
            count => format!("{count} other tables, which let this pass"),
        };
        checks.passed("other firewalls", text);
    }
}
