//! Grants in any number, packets that they allow, and the naive ruleset for them.

use anyhow::{Context as _, Result};
use std::{collections::BTreeSet, fmt::Write as _, net::Ipv4Addr};
use weir_kernel_plan::firewall::{DesiredFirewall, SourceTranslation};
use weir_overlay::{AddressRange, AddressSet, GrantId};
use weir_protocol::{Destination, Grant, IpProtocol, PortRange};

/// Clients, in teams.
const CLIENTS: u32 = 1_000;
const TEAM: u32 = 50;

/// A UDP flow that a grant allows.
#[derive(Clone, Copy)]
pub(super) struct Flow {
    pub(super) from: Ipv4Addr,
    pub(super) from_port: u16,
    pub(super) to: Ipv4Addr,
    pub(super) port: u16,
}

fn client(number: u32) -> Ipv4Addr {
    // Spread, so that no two are neighbours.
    Ipv4Addr::from_bits(0x6440_0000 + 256 + (number % CLIENTS) * 3)
}

fn only(address: Ipv4Addr) -> AddressRange {
    std::net::IpAddr::V4(address).into()
}

fn port(number: u32) -> Result<u16> {
    Ok(u16::try_from(1_000 + number % 50_000)?)
}

/// One of the grants: of a hundred, ninety let a client reach a port of a host, nine let a team of
/// fifty do so, and one lets a team reach a range of ports in a /28.
pub(super) fn grant(number: u32) -> Result<Grant> {
    let team = || {
        let first = number / 100 % (CLIENTS / TEAM) * TEAM;
        (first..first + TEAM)
            .map(|n| only(client(n)))
            .collect::<AddressSet>()
    };
    // A /28 each: hosts of different grants never meet.
    let net = Ipv4Addr::from_bits(0x0a00_0000 + number * 16);
    let (sources, to, last) = match number % 100 {
        99 => {
            let last = Ipv4Addr::from_bits(net.to_bits() + 15);
            let net = AddressRange::new(net.into(), last.into()).context("not a range")?;
            (team(), net, port(number)? + 100)
        }
        90..=98 => (team(), only(net), port(number)?),
        _ => (
            [only(client(number))].into_iter().collect(),
            only(net),
            port(number)?,
        ),
    };
    Ok(Grant {
        id: GrantId(number + 1),
        sources,
        protocols: [IpProtocol::UDP].into(),
        destinations: vec![Destination {
            addresses: [to].into_iter().collect(),
            ports: PortRange {
                first: port(number)?,
                last,
            },
        }],
        origin: format!("grants[{number}], line {}", number + 10),
    })
}

/// A relay for a private network with so many grants.
pub(super) fn firewall(grants: u32) -> Result<DesiredFirewall> {
    let own: AddressRange = "100.64.0.1".parse()?;
    let served: AddressRange = "10.0.0.0/8".parse()?;
    Ok(DesiredFirewall {
        own_addresses: [own].into_iter().collect(),
        served: [served].into_iter().collect(),
        exit: false,
        grants: (0..grants).map(grant).collect::<Result<_>>()?,
        translation: SourceTranslation {
            subnets: true,
            egress: BTreeSet::new(),
            routes: Vec::new(),
        },
        tunnel_port: None,
        relayed: AddressSet::default(),
    })
}

/// `count` flows, spread over the grants; `round` makes those of different rounds differ.
pub(super) fn flows(grants: u32, count: u32, round: u32) -> Result<Vec<Flow>> {
    (0..count)
        .map(|n| {
            // A prime step meets all kinds of grants.
            let number = u32::try_from(u64::from(n) * 7_919 % u64::from(grants))?;
            let team = number / 100 % (CLIENTS / TEAM) * TEAM;
            let from = if number % 100 >= 90 {
                team + n % TEAM
            } else {
                number
            };
            let port_number = 20_000 + (n + round * 7_001) % 40_000;
            Ok(Flow {
                from: client(from),
                from_port: u16::try_from(port_number)?,
                to: Ipv4Addr::from_bits(0x0a00_0000 + number * 16),
                port: port(number)?,
            })
        })
        .collect()
}

/// Source translation, as every relay does it.
const TRANSLATION: &str = "chain postrouting { type nat hook postrouting priority 100; \
                           iifname weir0 oifname != weir0 masquerade; }\n";

/// A forward chain without a rule.
pub(super) fn empty() -> String {
    format!(
        "table inet bare {{ chain forward {{ type filter hook forward priority 0; policy accept; }}\n \
         {TRANSLATION} }}\n"
    )
}

/// A rule for each grant, behind one that accepts established connections.
pub(super) fn naive(grants: u32) -> Result<String> {
    let mut text = "table inet naive { chain forward { type filter hook forward priority 0; \
                    policy drop; ct state established,related accept;\n"
        .to_owned();
    for number in 0..grants {
        let grant = grant(number)?;
        let list = |set: &AddressSet| {
            let items: Vec<String> = set.ranges().iter().map(ToString::to_string).collect();
            match items.as_slice() {
                [one] => one.clone(),
                many => format!("{{ {} }}", many.join(", ")),
            }
        };
        for to in &grant.destinations {
            writeln!(
                text,
                "ip saddr {} ip daddr {} udp dport {}-{} accept comment \"{}\"",
                list(&grant.sources),
                list(&to.addresses),
                to.ports.first,
                to.ports.last,
                grant.origin
            )?;
        }
    }
    writeln!(text, "}}\n {TRANSLATION} }}")?;
    Ok(text)
}
