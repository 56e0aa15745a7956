//! What `routes` shows.

use super::{
    table,
    up::{how_to_approve, state},
};
use crate::control::{NodeState, RouteUse, StatusReport};

/// Both tables: what this node advertises, and what others serve.
pub(crate) fn routes(report: &StatusReport) -> String {
    if report.state != NodeState::Up {
        return "Down: no routes. `agent up` goes up.\n".to_owned();
    }
    let mut text = String::from("Advertised by this node:\n");
    if report.advertised.is_empty() {
        text.push_str("  none\n");
    } else {
        let rows: Vec<_> = report
            .advertised
            .iter()
            .map(|route| vec![route.prefix.to_string(), state(route.state).to_owned()])
            .collect();
        text.push_str(&table(&rows));
        if let Some(node) = &report.node {
            text.push_str(&how_to_approve(&node.name, &report.advertised));
        }
    }
    text.push_str("\nOf other nodes:\n");
    if report.available.is_empty() {
        text.push_str("  none\n");
    } else {
        let rows: Vec<_> = report
            .available
            .iter()
            .map(|route| {
                vec![
                    route.prefix.to_string(),
                    format!("via {}", route.via),
                    usage(route.usage).to_owned(),
                ]
            })
            .collect();
        text.push_str(&table(&rows));
    }
    text
}

const fn usage(usage: RouteUse) -> &'static str {
    match usage {
        RouteUse::Installed => "in use",
        RouteUse::Missing => "accepted, not in the kernel yet",
        RouteUse::NotAccepted => "not accepted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::AvailableRoute;
    use weir_overlay::TrafficClass;

    #[test]
    fn both_tables() {
        let report = StatusReport {
            state: NodeState::Up,
            available: vec![
                AvailableRoute {
                    prefix: "8.8.8.8/32".parse().unwrap(),
                    class: TrafficClass::Relayed,
                    via: "relay".parse().unwrap(),
                    usage: RouteUse::Installed,
                },
                AvailableRoute {
                    prefix: "0.0.0.0/0".parse().unwrap(),
                    class: TrafficClass::Exit,
                    via: "exit-1".parse().unwrap(),
                    usage: RouteUse::NotAccepted,
                },
            ],
            ..StatusReport::default()
        };
        assert_eq!(
            routes(&report),
            "\
Advertised by this node:
  none

Of other nodes:
  8.8.8.8/32  via relay   in use
  0.0.0.0/0   via exit-1  not accepted
"
        );
    }
}
