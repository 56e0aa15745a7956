//! What another node sends to this one, or through it.

use ipnet::IpNet;
use std::net::IpAddr;
use weir_kernel_plan::IpFamily;
use weir_overlay::TrafficClass;
use weir_protocol::{Peer, RouteState, RouteStatus};

use super::{Facts, HostView, Sender, shared};
use crate::{
    Checks, Remedy, RouteAnswer, Target,
    firewall::{Hook, Packet},
    grants::{self, FirstPacket},
};

/// Why what `from` sends to `address` passes here, or where it stops. `how` says how the
/// destination's name became the address.
#[must_use]
pub fn explain_from_node(
    facts: &Facts<'_>,
    host: &HostView,
    target: &Target,
    address: IpAddr,
    from: Sender<'_>,
    how: &str,
) -> Checks {
    let mut checks = Checks::default();
    checks.passed("name", how);
    shared::node(facts, &mut checks);
    let is_here = facts.map.node.addresses.contains(&address);
    if is_here {
        checks.passed("route", format!("{address} is this node itself"));
    } else if !served(facts, address, &mut checks) {
        return checks;
    }
    let Some((peer, source)) = sender(target, address, from, &mut checks) else {
        return checks;
    };
    shared::handshake(facts, peer, &mut checks);
    if !is_here {
        forwarding(host, address, &mut checks);
    }
    verdict(facts, target, source, address, peer, &mut checks);
    if !is_here {
        way_out(facts, host, address, &mut checks);
        source_address(facts, host, source, address, &mut checks);
    }
    if let Some(back) = &host.back {
        let class = TrafficClass::Node;
        shared::into_tunnel(facts, host, source, class, back, &mut checks, "way back");
    }
    let packets = if is_here {
        packets_here(facts, target, source, address)
    } else {
        packets_through(facts, host, target, source, address)
    };
    shared::other_firewalls(facts, host, &packets, &mut checks);
    checks
}

/// Who sends, and from which address; none when the rest cannot be looked at.
fn sender<'a>(
    target: &Target,
    address: IpAddr,
    from: Sender<'a>,
    checks: &mut Checks,
) -> Option<(&'a Peer, IpAddr)> {
    let question = |name: &str| {
        Remedy::coordinator(format!(
            "coordinator policy explain {name} {}{}",
            target.at(address),
            target.protocol_flag()
        ))
    };
    let peer = match from {
        Sender::Known(peer) => peer,
        Sender::Unknown(name) => {
            checks.failed(
                "sender",
                format!(
                    "this node is not told of {name}: there is no such node, or no rule of the \
                     policy leads from it to here"
                ),
                [question(name)],
            );
            return None;
        }
    };
    let mut addresses = peer.addresses.iter().copied();
    let source = addresses.find(|source| source.is_ipv4() == address.is_ipv4());
    if source.is_none() {
        checks.failed(
            "sender",
            format!(
                "{} has no overlay address of the family of {address}",
                peer.name
            ),
            [question(peer.name.as_str())],
        );
    }
    source.map(|source| (peer, source))
}

/// Whether this node relays to the address. False when the rest need not be looked at.
fn served(facts: &Facts<'_>, address: IpAddr, checks: &mut Checks) -> bool {
    let node = &facts.map.node;
    let covering = node
        .routes
        .iter()
        .filter(|route| route.prefix.contains(&address))
        .max_by_key(|route| (serves(route), route.prefix.prefix_len()));
    let Some(route) = covering else {
        let mut all: Vec<String> = node
            .routes
            .iter()
            .map(|route| route.prefix)
            .filter(|prefix| prefix.prefix_len() > 0)
            .map(|prefix| prefix.to_string())
            .collect();
        all.push(IpNet::from(address).to_string());
        checks.failed(
            "route",
            format!("this node does not advertise {address}"),
            [Remedy::here(format!(
                "agent set --advertise-routes={}",
                all.join(",")
            ))],
        );
        return false;
    };
    let prefix = route.prefix;
    let approve =
        || Remedy::coordinator(format!("coordinator routes approve {} {prefix}", node.name));
    match route.state {
        RouteState::AwaitingApproval => {
            checks.failed(
                "route",
                format!("{prefix} is advertised, and no admin has approved it"),
                [approve()],
            );
            return false;
        }
        RouteState::Rejected => {
            checks.failed("route", format!("an admin rejected {prefix}"), [approve()]);
            return false;
        }
        RouteState::Standby => checks.unknown(
            "route",
            format!(
                "{prefix} is approved, and another relay is its primary: traffic to it goes there"
            ),
            [Remedy::coordinator("coordinator routes list")],
        ),
        RouteState::Serving => checks.passed(
            "route",
            format!("{prefix} is advertised, approved and served by this node"),
        ),
    }
    if !facts.desired.firewall.within().contains(address) {
        let wanted = IpNet::from(address);
        checks.failed(
            "route",
            format!("an exit relays to public addresses only, and {address} is none"),
            [Remedy::here(format!(
                "agent set --advertise-routes={wanted}"
            ))],
        );
        return false;
    }
    true
}

const fn serves(route: &RouteStatus) -> bool {
    matches!(route.state, RouteState::Serving | RouteState::Standby)
}

fn forwarding(host: &HostView, address: IpAddr, checks: &mut Checks) {
    let key = match IpFamily::of(&address.into()) {
        IpFamily::V4 => "net.ipv4.ip_forward",
        IpFamily::V6 => "net.ipv6.conf.all.forwarding",
    };
    match host.forwarding {
        Some(true) => checks.passed("forwarding", format!("{key} is 1")),
        Some(false) => checks.failed(
            "forwarding",
            format!("{key} is 0: this host drops what is not for itself"),
            [Remedy::here(format!("sysctl -w {key}=1"))],
        ),
        None => checks.unknown("forwarding", format!("{key} cannot be read"), []),
    }
}

fn verdict(
    facts: &Facts<'_>,
    target: &Target,
    source: IpAddr,
    address: IpAddr,
    peer: &Peer,
    checks: &mut Checks,
) {
    let loaded = facts
        .observed
        .and_then(|observed| observed.firewall.as_ref())
        .is_some_and(|firewall| firewall.fingerprint.is_some());
    if !loaded {
        checks.failed(
            "firewall",
            "the table inet weir is not there, or is not as it was loaded",
            [Remedy::here("agent up")],
        );
    }
    let packet = FirstPacket {
        source,
        destination: address,
        protocol: target.protocol_towards(address),
        port: target.port,
    };
    let what = format!(
        "{} ({source}) to {} over {}",
        peer.name,
        target.at(address),
        packet.protocol
    );
    let filter = &facts.desired.firewall.grants;
    if let Some(grant) = grants::granting(filter, &packet) {
        checks.passed("policy", format!("{} lets {what}", grants::describe(grant)));
        return;
    }
    let others: Vec<String> = grants::nearly(filter, &packet)
        .into_iter()
        .map(|grant| {
            format!(
                "{} allows {}",
                grants::describe(grant),
                grants::allowed_there(grant, address)
            )
        })
        .collect();
    let near = if others.is_empty() {
        String::new()
    } else {
        format!("; {}", others.join("; "))
    };
    checks.failed(
        "policy",
        format!("no grant lets {what}{near}"),
        [Remedy::coordinator(format!(
            "coordinator policy explain {} {}{}",
            peer.name,
            target.at(address),
            target.protocol_flag()
        ))],
    );
}

fn way_out(facts: &Facts<'_>, host: &HostView, address: IpAddr, checks: &mut Checks) {
    let interface = facts.desired.link.name.as_str();
    let ip = if address.is_ipv4() { "ip" } else { "ip -6" };
    match &host.outward {
        RouteAnswer::Out(out) if out.link == interface => checks.failed(
            "way out",
            format!("this host sends {address} back into {interface}"),
            [Remedy::here(format!("{ip} route get {address}"))],
        ),
        RouteAnswer::Out(out) => {
            let gateway = out
                .gateway
                .map_or_else(String::new, |gateway| format!(" to {gateway}"));
            checks.passed("way out", format!("leaves by {}{gateway}", out.link));
        }
        RouteAnswer::Local => checks.passed(
            "way out",
            format!("{address} is an address of this host itself"),
        ),
        RouteAnswer::Nowhere(reason) => checks.failed(
            "way out",
            format!("this host has no way to {address}: {reason}"),
            [Remedy::here(format!("{ip} route get {address}"))],
        ),
    }
}

fn source_address(
    facts: &Facts<'_>,
    host: &HostView,
    source: IpAddr,
    address: IpAddr,
    checks: &mut Checks,
) {
    let firewall = &facts.desired.firewall;
    let is_subnet = TrafficClass::of(&address.into()) == TrafficClass::Subnet;
    if is_subnet && !firewall.translation.subnets {
        checks.passed(
            "source address",
            format!("{address} sees {source}, and needs a way back to it through this host"),
        );
        return;
    }
    match (firewall.egress_for(source, address), host.outward.out()) {
        (Some(fixed), _) if host.addresses.contains(&fixed) => checks.passed(
            "source address",
            format!("{address} sees {fixed} (--egress-ip)"),
        ),
        (Some(fixed), out) => checks.failed(
            "source address",
            format!("--egress-ip is {fixed}, and this host has no such address: answers are lost"),
            [Remedy::here(format!(
                "ip address add {} dev {}",
                IpNet::from(fixed),
                out.map_or("LINK", |out| out.link.as_str())
            ))],
        ),
        (None, Some(out)) => match out.source {
            Some(seen) => checks.passed(
                "source address",
                format!("{address} sees {seen}, the address of {}", out.link),
            ),
            None => checks.unknown(
                "source address",
                format!("{address} sees the address of {}", out.link),
                [],
            ),
        },
        (None, None) => {}
    }
}

fn packets_through(
    facts: &Facts<'_>,
    host: &HostView,
    target: &Target,
    source: IpAddr,
    address: IpAddr,
) -> Vec<Packet> {
    let interface = facts.desired.link.name.to_string();
    let link = host.outward.out().map(|out| out.link.clone());
    through(&interface, link, source, address, target)
}

/// What goes through this host and comes back.
pub(crate) fn through(
    interface: &str,
    link: Option<String>,
    source: IpAddr,
    address: IpAddr,
    target: &Target,
) -> Vec<Packet> {
    let hooks = vec![Hook::Prerouting, Hook::Forward, Hook::Postrouting];
    let protocol = target.protocol_towards(address);
    vec![
        Packet {
            what: format!("from the tunnel to {address}"),
            hooks: hooks.clone(),
            input: Some(interface.to_owned()),
            output: link.clone(),
            source,
            destination: address,
            protocol,
            source_port: None,
            destination_port: target.port,
            new: true,
        },
        Packet {
            what: format!("back from {address} into the tunnel"),
            hooks,
            input: link,
            output: Some(interface.to_owned()),
            source: address,
            destination: source,
            protocol,
            source_port: target.port,
            destination_port: None,
            new: false,
        },
    ]
}

fn packets_here(
    facts: &Facts<'_>,
    target: &Target,
    source: IpAddr,
    address: IpAddr,
) -> Vec<Packet> {
    let interface = facts.desired.link.name.to_string();
    let protocol = target.protocol_towards(address);
    vec![
        Packet {
            what: "from the tunnel to this host".to_owned(),
            hooks: vec![Hook::Prerouting, Hook::Input],
            input: Some(interface.clone()),
            output: None,
            source,
            destination: address,
            protocol,
            source_port: None,
            destination_port: target.port,
            new: true,
        },
        Packet {
            what: "back from this host into the tunnel".to_owned(),
            hooks: vec![Hook::Output, Hook::Postrouting],
            input: None,
            output: Some(interface),
            source: address,
            destination: source,
            protocol,
            source_port: target.port,
            destination_port: None,
            new: false,
        },
    ]
}
