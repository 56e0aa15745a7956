//! `coordinator policy diff`.

use super::{Session, output, read, with_findings};
use crate::api;
use std::{collections::BTreeSet, path::Path};
use weir_overlay::NodeName;
use weir_protocol::{IpProtocol, PortRange};

/// How many names or addresses are listed before the rest is only counted.
const LISTED: usize = 8;

pub(super) async fn diff(session: &Session, old: &str, new: &str) -> anyhow::Result<()> {
    let request = api::DiffPolicies {
        old: meant(old)?,
        new: meant(new)?,
    };
    let answer = session.client.post("/policy/diff", &request).await;
    let changes: api::PolicyDiff = with_findings(session, answer)?;
    if session.json {
        return output::json(&changes);
    }
    let lines = in_words(&changes);
    if lines.is_empty() {
        return output::line("no difference: both allow the same in the network as it is");
    }
    output::verbatim(&lines.concat())
}

/// `current`, a revision, or a file. A file of such a name is written `./current` or `./3`.
fn meant(text: &str) -> anyhow::Result<api::PolicyRef> {
    if text == "current" {
        return Ok(api::PolicyRef::Current);
    }
    if let Ok(revision) = text.parse() {
        return Ok(api::PolicyRef::Revision(revision));
    }
    let (text, source) = read(Path::new(text))?;
    Ok(api::PolicyRef::Text { text, source })
}

/// Changes of one kind that differ only in where they happen, or in protocols and ports.
struct Line {
    who: String,
    to: String,
    how: Vec<String>,
    at: BTreeSet<NodeName>,
    origin: String,
}

fn in_words(changes: &api::PolicyDiff) -> Vec<String> {
    let mut text = Vec::new();
    for (verb, changes) in [("gains", &changes.gains), ("loses", &changes.losses)] {
        for line in lines(changes) {
            text.push(format!(
                "{} {verb} {}: {} (on {}, {})\n",
                line.who,
                line.to,
                line.how.join(", "),
                short(&line.at),
                line.origin
            ));
        }
    }
    for (verb, routes) in [
        ("is approved", &changes.routes_gained),
        ("is no longer approved", &changes.routes_lost),
    ] {
        for route in routes {
            text.push(format!("route {} of {} {verb}\n", route.prefix, route.node));
        }
    }
    text
}

fn lines(changes: &[api::AccessChange]) -> Vec<Line> {
    // First what differs in protocols and ports at one node, then where that is the same.
    let mut of_nodes: Vec<Line> = Vec::new();
    for change in changes {
        let who = match change.nodes.is_empty() {
            true => short(change.sources.ranges()),
            false => short(&change.nodes),
        };
        let to = match change.is_node {
            true => change.at.to_string(),
            false => short(change.destinations.ranges()),
        };
        let how = how(&change.protocols, &change.ports);
        let same = of_nodes.iter_mut().find(|line| {
            line.at.contains(&change.at)
                && (&line.who, &line.to, &line.origin) == (&who, &to, &change.origin)
        });
        match same {
            Some(line) => line.how.push(how),
            None => of_nodes.push(Line {
                who,
                to,
                how: vec![how],
                at: [change.at.clone()].into(),
                origin: change.origin.clone(),
            }),
        }
    }
    let mut lines: Vec<Line> = Vec::new();
    for new in of_nodes {
        let same = lines.iter_mut().find(|line| {
            (&line.who, &line.to, &line.origin) == (&new.who, &new.to, &new.origin)
                && line.how == new.how
        });
        match same {
            Some(line) => line.at.extend(new.at),
            None => lines.push(new),
        }
    }
    lines
}

fn how(protocols: &BTreeSet<IpProtocol>, ports: &[PortRange]) -> String {
    let names: Vec<_> = protocols.iter().map(ToString::to_string).collect();
    let names = names.join("/");
    if !protocols.iter().any(|protocol| protocol.has_ports()) {
        return names;
    }
    let ports: Vec<_> = ports
        .iter()
        .map(|range| match (range.first, range.last) {
            _ if range.is_all() => "*".to_owned(),
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        })
        .collect();
    format!("{names} {}", ports.join(","))
}

/// The first of a list, and how many more there are.
fn short<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let mut items = items.into_iter();
    let mut first: Vec<_> = items.by_ref().take(LISTED).map(|i| i.to_string()).collect();
    match items.count() {
        0 => {}
        more => first.push(format!("{more} more")),
    }
    first.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(at: &str, nodes: &[&str], protocols: &[IpProtocol], port: u16) -> api::AccessChange {
        let ports = match port {
            0 => PortRange::ALL,
            port => PortRange::single(port),
        };
        api::AccessChange {
            at: at.parse().unwrap(),
            is_node: false,
            nodes: nodes.iter().map(|name| name.parse().unwrap()).collect(),
            sources: weir_overlay::AddressSet::everything(),
            destinations: ["8.8.8.8/32".parse::<ipnet::IpNet>().unwrap()]
                .into_iter()
                .collect(),
            protocols: protocols.iter().copied().collect(),
            ports: vec![ports],
            origin: "acls[0], line 3".to_owned(),
        }
    }

    #[test]
    fn what_is_the_same_at_several_relays_is_said_once() {
        let tcp = [IpProtocol::TCP, IpProtocol::UDP];
        let ping = [IpProtocol::ICMP, IpProtocol::ICMPV6];
        let gains = ["relay-a", "relay-b"].into_iter().flat_map(|at| {
            [
                change(at, &["laptop"], &tcp, 443),
                change(at, &["laptop"], &ping, 0),
            ]
        });
        let changes = api::PolicyDiff {
            gains: gains.collect(),
            losses: vec![change("relay-a", &["phone"], &tcp[..1], 22)],
            routes_gained: Vec::new(),
            routes_lost: vec![api::RouteChange {
                node: "relay-a".parse().unwrap(),
                prefix: "8.8.8.8/32".parse().unwrap(),
            }],
        };
        assert_eq!(
            in_words(&changes),
            [
                "laptop gains 8.8.8.8: tcp/udp 443, icmp/icmpv6 (on relay-a, relay-b, acls[0], \
                 line 3)\n",
                "phone loses 8.8.8.8: tcp 22 (on relay-a, acls[0], line 3)\n",
                "route 8.8.8.8/32 of relay-a is no longer approved\n",
            ]
        );
    }

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(short(1..=3), "1, 2, 3");
        assert_eq!(short(1..=10), "1, 2, 3, 4, 5, 6, 7, 8, 2 more");
    }
}
