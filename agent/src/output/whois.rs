//! What `whois` and `ping` show.

use ipnet::IpNet;
use serde::Serialize;
use std::{collections::BTreeSet, net::IpAddr};
use weir_overlay::{NodeName, Tag};

use super::{age, list};
use crate::{
    control::{AvailableRoute, RouteUse, StatusReport},
    ping::PingReport,
};

/// Whose an address or a name is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Whois {
    /// A node.
    Node {
        /// Its name.
        name: NodeName,
        /// The user who owns it.
        user: Option<String>,
        /// Its tags.
        tags: BTreeSet<Tag>,
        /// Its overlay addresses.
        addresses: BTreeSet<IpAddr>,
        /// Whether it is this node.
        this_node: bool,
        /// The routes it serves to this node.
        routes: BTreeSet<IpNet>,
    },
    /// An address behind relays: the routes that lead to it, the best one first.
    Routes(Vec<AvailableRoute>),
}

/// Looks a name, an address or a prefix up in what this node is told.
pub(crate) fn find(report: &StatusReport, query: &str) -> Option<Whois> {
    let address: Option<IpAddr> = query.parse().ok();
    let is_it = |name: &NodeName, addresses: &BTreeSet<IpAddr>| {
        name.as_str() == query || address.is_some_and(|address| addresses.contains(&address))
    };
    if let Some(node) = &report.node
        && is_it(&node.name, &node.addresses)
    {
        return Some(Whois::Node {
            name: node.name.clone(),
            user: node.user.clone(),
            tags: node.tags.clone(),
            addresses: node.addresses.clone(),
            this_node: true,
            routes: report.advertised.iter().map(|route| route.prefix).collect(),
        });
    }
    let peer = report
        .peers
        .iter()
        .find(|peer| is_it(&peer.name, &peer.addresses));
    if let Some(peer) = peer {
        return Some(Whois::Node {
            name: peer.name.clone(),
            user: peer.user.clone(),
            tags: peer.tags.clone(),
            addresses: peer.addresses.clone(),
            this_node: false,
            routes: peer.routes.clone(),
        });
    }
    let prefix: IpNet = address.map(IpNet::from).or_else(|| query.parse().ok())?;
    let mut routes: Vec<_> = report
        .available
        .iter()
        .filter(|route| route.prefix.contains(&prefix))
        .cloned()
        .collect();
    routes.sort_by_key(|route| {
        let used = route.usage != RouteUse::NotAccepted;
        (!used, u8::MAX - route.prefix.prefix_len())
    });
    (!routes.is_empty()).then_some(Whois::Routes(routes))
}

/// Whose it is, for people.
pub(crate) fn whois(found: &Whois) -> String {
    match found {
        Whois::Node {
            name,
            user,
            tags,
            addresses,
            this_node,
            routes,
        } => {
            let this = if *this_node { ", this node" } else { "" };
            let mut text = format!("{name}{this}\n  Addresses  {}\n", list(addresses));
            if let Some(user) = user {
                text.push_str(&format!("  User       {user}\n"));
            }
            if !tags.is_empty() {
                text.push_str(&format!("  Tags       {}\n", list(tags)));
            }
            if !routes.is_empty() {
                text.push_str(&format!("  Routes     {}\n", list(routes)));
            }
            text
        }
        Whois::Routes(routes) => routes
            .iter()
            .map(|route| {
                let usage = match route.usage {
                    RouteUse::Installed => "in use",
                    RouteUse::Missing => "accepted, not in the kernel yet",
                    RouteUse::NotAccepted => "not accepted",
                };
                format!("{} by {} ({usage})\n", route.prefix, route.via)
            })
            .collect(),
    }
}

/// The sum of a ping.
pub(crate) fn ping(report: &PingReport) -> String {
    let lost = report.sent.saturating_sub(report.received);
    let percent = if report.sent == 0 {
        0
    } else {
        u32::from(lost) * 100 / u32::from(report.sent)
    };
    let mut text = format!(
        "{} sent, {} answered, {percent} % lost",
        report.sent, report.received
    );
    if let (Some(least), Some(most)) = (
        report.milliseconds.iter().copied().reduce(f64::min),
        report.milliseconds.iter().copied().reduce(f64::max),
    ) {
        let count = f64::from(report.received.max(1));
        let mean = report.milliseconds.iter().sum::<f64>() / count;
        text.push_str(&format!(
            "; {least:.2} ms at least, {mean:.2} on average, {most:.2} at most"
        ));
    }
    text.push('\n');
    if let Some(name) = &report.node {
        let at = report.endpoint.map_or_else(
            || "at no known endpoint".to_owned(),
            |endpoint| format!("directly at {endpoint}"),
        );
        let handshake = report.handshake_age.map_or_else(
            || "no handshake so far".to_owned(),
            |seconds| format!("last handshake {} ago", age(seconds)),
        );
        text.push_str(&format!("{name} is {at}, {handshake}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{NodeReport, PeerReport};
    use weir_overlay::{NodePublicKey, TrafficClass};

    fn report() -> StatusReport {
        StatusReport {
            node: Some(NodeReport {
                name: "alice".parse().unwrap(),
                user: Some("alice@example.com".to_owned()),
                tags: [].into(),
                addresses: ["100.64.0.2".parse().unwrap()].into(),
            }),
            peers: vec![PeerReport {
                name: "relay".parse().unwrap(),
                user: None,
                tags: ["tag:relay".parse().unwrap()].into(),
                addresses: ["100.64.0.1".parse().unwrap()].into(),
                public_key: NodePublicKey::from_bytes([1; 32]),
                endpoint: None,
                handshake_age: None,
                received_bytes: 0,
                sent_bytes: 0,
                routes: ["8.8.8.8/32".parse().unwrap()].into(),
            }],
            available: ["0.0.0.0/0", "8.8.8.8/32"]
                .iter()
                .map(|prefix| AvailableRoute {
                    prefix: prefix.parse().unwrap(),
                    class: TrafficClass::Relayed,
                    via: "relay".parse().unwrap(),
                    usage: RouteUse::Installed,
                })
                .collect(),
            ..StatusReport::default()
        }
    }

    #[test]
    fn names_addresses_and_what_is_behind_relays() {
        for (query, text) in [
            (
                "relay",
                "relay\n  Addresses  100.64.0.1\n  Tags       tag:relay\n  Routes     8.8.8.8/32\n",
            ),
            (
                "100.64.0.2",
                "alice, this node\n  Addresses  100.64.0.2\n  User       alice@example.com\n",
            ),
            (
                "8.8.8.8",
                "8.8.8.8/32 by relay (in use)\n0.0.0.0/0 by relay (in use)\n",
            ),
            ("9.9.9.0/24", "0.0.0.0/0 by relay (in use)\n"),
        ] {
            let found = find(&report(), query).unwrap_or_else(|| panic!("{query}"));
            assert_eq!(whois(&found), text, "{query}");
        }
        for query in ["bob", "fd77::1"] {
            assert_eq!(find(&report(), query), None, "{query}");
        }
    }

    #[test]
    fn a_ping_is_summed_up() {
        let report = PingReport {
            node: Some("relay".to_owned()),
            address: "100.64.0.1".parse().unwrap(),
            endpoint: Some("203.0.113.7:51920".parse().unwrap()),
            handshake_age: Some(3),
            sent: 4,
            received: 3,
            milliseconds: vec![1.0, 2.0, 3.0],
        };
        assert_eq!(
            ping(&report),
            "4 sent, 3 answered, 25 % lost; 1.00 ms at least, 2.00 on average, 3.00 at most\n\
             relay is directly at 203.0.113.7:51920, last handshake 3 s ago\n"
        );
    }
}
