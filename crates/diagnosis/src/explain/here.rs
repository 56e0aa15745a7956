//! What this host itself sends.

use ipnet::IpNet;
use std::net::IpAddr;
use weir_overlay::{TrafficClass, overlay_prefixes};
use weir_protocol::{Peer, RouteState};

use super::{Facts, HostView, owner, shared};
use crate::{
    Checks, Remedy, RouteAnswer, Target,
    firewall::{Hook, Packet},
};

/// How a destination is reached.
struct Way<'a> {
    peer: &'a Peer,
    prefix: IpNet,
    accepted: bool,
}

impl Way<'_> {
    fn class(&self) -> TrafficClass {
        TrafficClass::of(&self.prefix)
    }
}

/// Why what this host sends to `address` passes, or where it stops. `how` says how the
/// destination's name became the address.
#[must_use]
pub fn explain_from_here(
    facts: &Facts<'_>,
    host: &HostView,
    target: &Target,
    address: IpAddr,
    how: &str,
) -> Checks {
    let mut checks = Checks::default();
    checks.passed("name", how);
    shared::node(facts, &mut checks);
    if facts.map.node.addresses.contains(&address) {
        checks.passed("route", format!("{address} is this node itself"));
        return checks;
    }
    let Some(way) = way(facts, address) else {
        no_way(facts, host, target, address, &mut checks);
        return checks;
    };
    if !way.accepted {
        not_accepted(&way, &mut checks);
        return checks;
    }
    let (name, prefix) = (&way.peer.name, way.prefix);
    let served = match way.class() {
        TrafficClass::Node => format!("{address} is {name}"),
        TrafficClass::Subnet => format!("{prefix} (a subnet) is approved, and served by {name}"),
        TrafficClass::Relayed => format!("{prefix} (relayed) is approved, and served by {name}"),
        TrafficClass::Exit => format!("{name} is the exit, as an admin approved"),
    };
    checks.passed("route", served);
    shared::into_tunnel(
        facts,
        host,
        address,
        way.class(),
        &host.outward,
        &mut checks,
        "routing",
    );
    if let Some(evidence) = not_in_device(facts, &way) {
        checks.failed("tunnel", evidence, [Remedy::here("agent up")]);
    }
    shared::handshake(facts, way.peer, &mut checks);
    shared::other_firewalls(facts, host, &packets(facts, target, address), &mut checks);
    let asked = format!(
        "agent explain {}{} --from={}",
        target.at(address),
        target.protocol_flag(),
        facts.map.node.name
    );
    let what = if way.class() == TrafficClass::Node {
        "it decides by its packet filter"
    } else {
        "it decides by its packet filter, and puts its own address on what it relays"
    };
    checks.unknown(
        "at the other end",
        format!("{} is not seen from here: {what}", way.peer.name),
        [Remedy::node(&way.peer.name, asked)],
    );
    checks
}

/// The way that is taken, or the best one that is not.
fn way<'a>(facts: &Facts<'a>, address: IpAddr) -> Option<Way<'a>> {
    if let Some(peer) = owner(facts.map, address) {
        return Some(Way {
            peer,
            prefix: address.into(),
            accepted: true,
        });
    }
    facts
        .map
        .peers
        .values()
        .flat_map(|peer| peer.routes.iter().map(move |prefix| (peer, *prefix)))
        .filter(|(_, prefix)| prefix.contains(&address))
        .map(|(peer, prefix)| Way {
            accepted: facts
                .desired
                .peers
                .get(&peer.node_key)
                .is_some_and(|desired| desired.allowed_ips.contains(&prefix)),
            peer,
            prefix,
        })
        .max_by_key(|way| (way.accepted, way.prefix.prefix_len()))
}

fn no_way(
    facts: &Facts<'_>,
    host: &HostView,
    target: &Target,
    address: IpAddr,
    checks: &mut Checks,
) {
    let own = facts
        .map
        .node
        .routes
        .iter()
        .filter(|route| route.prefix.contains(&address))
        .max_by_key(|route| route.prefix.prefix_len());
    if let Some(route) = own {
        let out = match &host.outward {
            RouteAnswer::Out(out) => format!("by {}", out.link),
            RouteAnswer::Local => "to this host itself".to_owned(),
            RouteAnswer::Nowhere(reason) => format!("nowhere ({reason})"),
        };
        let state = match route.state {
            RouteState::Serving => "serves",
            RouteState::Standby => "stands by for",
            RouteState::AwaitingApproval | RouteState::Rejected => "advertises",
        };
        checks.passed(
            "route",
            format!(
                "this node {state} {} itself, so what it sends there goes out directly, {out}",
                route.prefix
            ),
        );
        checks.unknown(
            "other nodes",
            "what becomes of the packets of another node is asked with its name",
            [Remedy::here(format!(
                "agent explain {}{} --from=NODE",
                target.at(address),
                target.protocol_flag()
            ))],
        );
        return;
    }
    let question = format!(
        "coordinator policy explain {} {}{}",
        facts.map.node.name,
        target.at(address),
        target.protocol_flag()
    );
    if overlay_prefixes()
        .iter()
        .any(|overlay| overlay.contains(&address))
    {
        checks.failed(
            "route",
            format!(
                "no node that this one may talk to has {address}: there is none, or no rule of \
                 the policy leads from here to it"
            ),
            [Remedy::coordinator(question)],
        );
        return;
    }
    checks.failed(
        "route",
        format!(
            "no relay serves {address} to this node: none advertises it, no admin has approved \
             it, or no rule of the policy leads from here to it"
        ),
        [
            Remedy::coordinator("coordinator routes list"),
            Remedy::coordinator(question),
        ],
    );
}

fn not_accepted(way: &Way<'_>, checks: &mut Checks) {
    let name = &way.peer.name;
    if way.class() == TrafficClass::Exit {
        checks.failed(
            "route",
            format!("only the exit {name} leads there, and this node does not use it"),
            [Remedy::here(format!("agent set --exit-node={name}"))],
        );
    } else {
        checks.failed(
            "route",
            format!(
                "{} is served by {name}, and this node does not accept routes",
                way.prefix
            ),
            [Remedy::here("agent set --accept-routes=true")],
        );
    }
}

/// What WireGuard itself does not send to the peer.
fn not_in_device(facts: &Facts<'_>, way: &Way<'_>) -> Option<String> {
    let device = facts.observed?.device.as_ref()?;
    let peer = device.peers.get(&way.peer.node_key)?;
    (!peer.allowed_ips.contains(&way.prefix)).then(|| {
        format!(
            "the WireGuard device does not send {} to {}",
            way.prefix, way.peer.name
        )
    })
}

/// The packet on its way out of this host, and its answer on its way in.
fn packets(facts: &Facts<'_>, target: &Target, address: IpAddr) -> Vec<Packet> {
    let own = facts
        .map
        .node
        .addresses
        .iter()
        .find(|own| own.is_ipv4() == address.is_ipv4());
    let Some(own) = own.copied() else {
        return Vec::new();
    };
    let interface = facts.desired.link.name.to_string();
    let protocol = target.protocol_towards(address);
    vec![
        Packet {
            what: format!("into the tunnel to {address}"),
            hooks: vec![Hook::Output, Hook::Postrouting],
            input: None,
            output: Some(interface.clone()),
            source: own,
            destination: address,
            protocol,
            source_port: None,
            destination_port: target.port,
            new: true,
        },
        Packet {
            what: format!("back from {address} out of the tunnel"),
            hooks: vec![Hook::Prerouting, Hook::Input],
            input: Some(interface),
            output: None,
            source: address,
            destination: own,
            protocol,
            source_port: target.port,
            destination_port: None,
            new: false,
        },
    ]
}
