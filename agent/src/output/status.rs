//! What `status` shows.

use super::{
    age, bytes, list, table,
    up::{failures, minutes_left, notices, state, warnings},
};
use crate::control::{ApprovalState, NodeState, PeerReport, RouteUse, StatusReport};

/// How many repairs are shown: the newest.
const REPAIRS: usize = 5;

/// The whole picture. `now` is in seconds since 1970.
pub(crate) fn status(report: &StatusReport, now: u64) -> String {
    let mut text = match (report.state, &report.node) {
        (NodeState::Up, Some(node)) => {
            let owner = match (&node.user, node.tags.is_empty()) {
                (Some(user), true) => format!(", of {user}"),
                (None, true) => String::new(),
                (_, false) => format!(", {}", list(&node.tags)),
            };
            format!("Up as {} ({}){owner}\n", node.name, list(&node.addresses))
        }
        (NodeState::Up, None) => "Up, without a network map so far\n".to_owned(),
        (NodeState::GoingDown, _) => "Going down\n".to_owned(),
        (NodeState::Down, _) => "Down: `agent up` goes up\n".to_owned(),
    };
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    if let Some(approval) = &report.approval {
        let problem = approval.problem.clone().unwrap_or_default();
        let value = match (approval.state, problem.is_empty()) {
            (ApprovalState::Waiting, true) => format!(
                "waiting for approval at {}, for {} min more",
                approval.url,
                minutes_left(approval, now)
            ),
            (ApprovalState::Waiting, false) => {
                format!("waiting for approval at {} ({problem})", approval.url)
            }
            (ApprovalState::Denied | ApprovalState::Expired | ApprovalState::Failed, _) => problem,
        };
        row("Joining", value);
        row("Fingerprint", approval.fingerprint.clone());
    }
    if let Some(coordinator) = report
        .coordinator
        .as_ref()
        .filter(|_| report.state == NodeState::Up)
    {
        row(
            "Coordinator",
            match (coordinator.connected, &coordinator.problem) {
                (true, _) => format!("{}, connected", coordinator.url),
                (false, Some(problem)) => format!(
                    "{}, not connected ({problem}); the last network map stays in force",
                    coordinator.url
                ),
                (false, None) => format!("{}, connecting", coordinator.url),
            },
        );
    }
    if report.state == NodeState::Up {
        row(
            "Network map",
            match (report.map.held, report.map.applied) {
                (Some(held), Some(applied)) if held == applied => format!("{held}, in force"),
                (Some(held), Some(applied)) => format!("{held}; in force is still {applied}"),
                (Some(held), None) => format!("{held}, not in force yet"),
                (None, _) => "none".to_owned(),
            },
        );
    }
    if let Some(wireguard) = &report.wireguard {
        let reason = wireguard
            .reason
            .as_ref()
            .map(|reason| format!(" ({reason})"))
            .unwrap_or_default();
        let mtu = wireguard
            .mtu
            .map(|mtu| format!(", MTU {mtu}"))
            .unwrap_or_default();
        row(
            "WireGuard",
            format!(
                "{}{reason}, {}, UDP port {}{mtu}",
                wireguard.backend, wireguard.interface, wireguard.listen_port
            ),
        );
    }
    if let Some(exit) = &report.exit_node {
        let lan = if exit.lan_access {
            "; connected networks are reached directly"
        } else {
            ""
        };
        row(
            "Exit node",
            if exit.available {
                format!("{}{lan}", exit.name)
            } else {
                format!("{}, not there: internet traffic is refused{lan}", exit.name)
            },
        );
    }
    if report.reconciler.repairs > 0 {
        row(
            "Repairs",
            format!(
                "{}, because something else changed what is ours",
                report.reconciler.repairs
            ),
        );
    }
    text.push_str(&table(&rows));
    text.push_str(&peers(report));
    text.push_str(&routes(report));
    text.push_str(&ports(report));
    text.push_str(&denied(report));
    text.push_str(&repairs(report, now));
    text.push_str(&notices(&report.notices));
    text.push_str(&warnings(&report.warnings));
    text.push_str(&failures(&report.failures));
    text
}

fn peers(report: &StatusReport) -> String {
    if report.peers.is_empty() {
        return String::new();
    }
    let row = |peer: &PeerReport| {
        vec![
            peer.name.to_string(),
            list(peer.addresses.iter().filter(|address| address.is_ipv4())),
            peer.endpoint
                .map_or_else(|| "no endpoint".to_owned(), |endpoint| endpoint.to_string()),
            peer.handshake_age.map_or_else(
                || "no handshake".to_owned(),
                |seconds| format!("handshake {} ago", age(seconds)),
            ),
            format!(
                "{} in, {} out",
                bytes(peer.received_bytes),
                bytes(peer.sent_bytes)
            ),
            if peer.routes.is_empty() {
                String::new()
            } else {
                format!("routes {}", list(&peer.routes))
            },
        ]
    };
    let rows: Vec<_> = report.peers.iter().map(row).collect();
    format!("\nPeers:\n{}", table(&rows))
}

fn routes(report: &StatusReport) -> String {
    let mut text = String::new();
    if !report.advertised.is_empty() {
        let rows: Vec<_> = report
            .advertised
            .iter()
            .map(|route| vec![route.prefix.to_string(), state(route.state).to_owned()])
            .collect();
        text.push_str(&format!("\nRoutes advertised:\n{}", table(&rows)));
    }
    let used: Vec<_> = report
        .available
        .iter()
        .filter(|route| route.usage != RouteUse::NotAccepted)
        .map(|route| vec![route.prefix.to_string(), format!("via {}", route.via)])
        .collect();
    if !used.is_empty() {
        text.push_str(&format!("\nRoutes used:\n{}", table(&used)));
    }
    text
}

/// How many destinations are shown to a person.
const DESTINATIONS: usize = 5;

fn ports(report: &StatusReport) -> String {
    let rows: Vec<_> = report
        .ports
        .iter()
        .take(DESTINATIONS)
        .map(|one| {
            vec![
                format!("from {}", one.egress),
                format!("to {} {}", one.protocol, one.destination),
                format!("{} of {}", one.ports, one.available),
            ]
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    format!("\nSource ports in use:\n{}", table(&rows))
}

fn denied(report: &StatusReport) -> String {
    let rows: Vec<_> = report
        .counters
        .iter()
        .filter(|(name, counter)| name.starts_with("denied") && counter.packets > 0)
        .map(|(name, counter)| {
            vec![
                what_was_denied(name).to_owned(),
                format!("{} packets", counter.packets),
                bytes(counter.bytes),
            ]
        })
        .collect();
    if rows.is_empty() {
        String::new()
    } else {
        format!("\nDenied:\n{}", table(&rows))
    }
}

fn repairs(report: &StatusReport, now: u64) -> String {
    let rows: Vec<_> = report
        .repairs
        .iter()
        .rev()
        .take(REPAIRS)
        .map(|repair| {
            let more = match repair.more {
                0 => String::new(),
                more => format!("; and {more} more"),
            };
            vec![
                format!("{} ago", age(now.saturating_sub(repair.at))),
                format!("{}{more}", repair.found.join("; ")),
                match repair.by.is_empty() {
                    true => "by whom is not known".to_owned(),
                    false => format!("by {}", list(&repair.by)),
                },
                format!("put back in {:.1} s", repair.seconds),
            ]
        })
        .collect();
    if rows.is_empty() {
        String::new()
    } else {
        format!("\nChanged by others:\n{}", table(&rows))
    }
}

fn what_was_denied(counter: &str) -> &str {
    use weir_kernel_plan::firewall as names;
    match counter {
        names::DENIED_RELAY => "to be relayed, and no grant allows it",
        names::DENIED_HOST => "to this host, and no grant allows it",
        names::DENIED_TO_OVERLAY => "towards the overlay",
        names::DENIED_SPOOFED => "with a forged overlay address",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{CoordinatorReport, MapReport, NodeReport, WireguardReport};
    use std::collections::BTreeMap;
    use weir_kernel_plan::{Counter, WireguardBackend};
    use weir_overlay::{Generation, NodePublicKey};

    #[test]
    fn a_relay_that_is_cut_off_from_its_coordinator() {
        let key = NodePublicKey::from_bytes([1; 32]);
        let report = StatusReport {
            state: NodeState::Up,
            node: Some(NodeReport {
                name: "relay".parse().unwrap(),
                user: None,
                tags: ["tag:relay".parse().unwrap()].into(),
                addresses: ["100.64.0.1".parse().unwrap()].into(),
            }),
            coordinator: Some(CoordinatorReport {
                url: "https://192.0.2.1:8443".to_owned(),
                connected: false,
                problem: Some("connection refused".to_owned()),
            }),
            map: MapReport {
                held: Some(Generation(7)),
                applied: Some(Generation(7)),
            },
            wireguard: Some(WireguardReport {
                backend: WireguardBackend::Kernel,
                reason: None,
                interface: "weir0".parse().unwrap(),
                listen_port: 51920,
                mtu: Some(1420),
                public_key: key,
            }),
            peers: vec![PeerReport {
                name: "alice".parse().unwrap(),
                user: Some("alice@example.com".to_owned()),
                tags: [].into(),
                addresses: ["100.64.0.2".parse().unwrap(), "fd77::2".parse().unwrap()].into(),
                public_key: key,
                endpoint: Some("198.51.100.1:40000".parse().unwrap()),
                handshake_age: Some(42),
                received_bytes: 1_500_000,
                sent_bytes: 900,
                routes: [].into(),
            }],
            counters: BTreeMap::from([
                (
                    "denied_relay".to_owned(),
                    Counter {
                        packets: 3,
                        bytes: 180,
                    },
                ),
                ("denied_host".to_owned(), Counter::default()),
                (
                    "granted".to_owned(),
                    Counter {
                        packets: 9,
                        bytes: 900,
                    },
                ),
            ]),
            reconciler: weir_reconcile::Counters {
                repairs: 1,
                ..Default::default()
            },
            repairs: vec![weir_reconcile::Repair {
                at: 958,
                found: vec!["table inet weir was gone".to_owned()],
                more: 2,
                by: vec![weir_kernel_plan::Author {
                    process: 4711,
                    name: Some("nft".to_owned()),
                }],
                seconds: 0.13,
            }],
            ..StatusReport::default()
        };
        assert_eq!(
            status(&report, 1_000),
            "\
Up as relay (100.64.0.1), tag:relay
  Coordinator  https://192.0.2.1:8443, not connected (connection refused); the last network map stays in force
  Network map  7, in force
  WireGuard    kernel, weir0, UDP port 51920, MTU 1420
  Repairs      1, because something else changed what is ours

Peers:
  alice  100.64.0.2  198.51.100.1:40000  handshake 42 s ago  1.5 MB in, 900 B out

Denied:
  to be relayed, and no grant allows it  3 packets  180 B

Changed by others:
  42 s ago  table inet weir was gone; and 2 more  by nft (process 4711)  put back in 0.1 s
"
        );
    }

    #[test]
    fn a_machine_that_waits_says_where_an_admin_decides() {
        let mut report = StatusReport {
            approval: Some(crate::control::ApprovalReport {
                state: ApprovalState::Waiting,
                url: "https://c.example:8443/register/00c0de".to_owned(),
                fingerprint: "72cd-6e84".to_owned(),
                until: 1_870,
                problem: None,
            }),
            ..StatusReport::default()
        };
        assert_eq!(
            status(&report, 1_000),
            "\
Down: `agent up` goes up
  Joining      waiting for approval at https://c.example:8443/register/00c0de, for 15 min more
  Fingerprint  72cd-6e84
"
        );
        if let Some(approval) = &mut report.approval {
            approval.state = ApprovalState::Denied;
            approval.problem = Some("an admin denied this machine".to_owned());
        }
        assert!(status(&report, 1_000).contains("Joining      an admin denied this machine\n"));
    }

    #[test]
    fn down_is_short() {
        assert_eq!(
            status(&StatusReport::default(), 1_000),
            "Down: `agent up` goes up\n"
        );
    }
}
