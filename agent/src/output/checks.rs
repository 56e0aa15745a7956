//! What `explain` and `doctor` show.

use weir_diagnosis::{Check, Checks, Outcome, Place, TracedPacket};

use super::table;
use crate::control::ExplainReport;

/// The steps of a connection.
pub(crate) fn explain(report: &ExplainReport) -> String {
    let protocol = match report.address {
        Some(address) => report.target.protocol_towards(address),
        None => report.target.protocol,
    };
    format!(
        "{} to {} over {protocol}\n{}{}",
        report.from,
        report.target,
        checks(&report.checks),
        followed(&report.trace)
    )
}

/// What each rule did to the packets that were followed.
fn followed(trace: &[TracedPacket]) -> String {
    let mut text = String::new();
    for packet in trace {
        let rows: Vec<_> = packet
            .hops
            .iter()
            .map(|hop| {
                vec![
                    hop.table.clone(),
                    hop.chain.clone(),
                    hop.verdict.clone(),
                    hop.rule.clone().unwrap_or_else(|| "policy".to_owned()),
                ]
            })
            .collect();
        text.push_str(&format!("\nFollowed: {}\n{}", packet.packet, table(&rows)));
    }
    text
}

/// How fit the host is.
pub(crate) fn doctor(found: &Checks) -> String {
    let failed = found
        .0
        .iter()
        .filter(|check| check.outcome == Outcome::Failed)
        .count();
    let sum = match failed {
        0 => "Nothing is broken.".to_owned(),
        1 => "One thing is broken.".to_owned(),
        count => format!("{count} things are broken."),
    };
    format!("{}{sum}\n", checks(found))
}

/// Checks, a line each, and under those that failed the commands that mend it.
fn checks(checks: &Checks) -> String {
    let width = checks
        .0
        .iter()
        .map(|check| check.name.len())
        .max()
        .unwrap_or(0);
    checks.0.iter().map(|one| check(one, width)).collect()
}

fn check(check: &Check, width: usize) -> String {
    let outcome = match check.outcome {
        Outcome::Passed => "ok",
        Outcome::Failed => "FAILED",
        Outcome::Unknown => "unknown",
    };
    let mut text = format!("  {outcome:7}  {:width$}  {}\n", check.name, check.evidence);
    for remedy in &check.remedies {
        let place = match &remedy.on {
            Place::Here => "here".to_owned(),
            Place::Coordinator => "on the coordinator".to_owned(),
            Place::Node(name) => format!("on {name}"),
        };
        text.push_str(&format!(
            "{:indent$}-> {place}: {}\n",
            "",
            remedy.command,
            indent = width + 13
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_diagnosis::{Hop, Remedy, Target};
    use weir_protocol::IpProtocol;

    #[test]
    fn what_failed_comes_with_what_mends_it() {
        let check = |name: &str, outcome, remedies| Check {
            name: name.to_owned(),
            outcome,
            evidence: "as it is".to_owned(),
            remedies,
        };
        let report = ExplainReport {
            from: "alice".to_owned(),
            target: Target::parse("8.8.8.8:443", IpProtocol::TCP).unwrap(),
            address: Some("8.8.8.8".parse().unwrap()),
            checks: Checks(vec![
                check("name", Outcome::Passed, vec![]),
                check(
                    "routing",
                    Outcome::Failed,
                    vec![Remedy::here("ip rule del priority 9")],
                ),
                check(
                    "the end",
                    Outcome::Unknown,
                    vec![Remedy::node("relay", "agent doctor")],
                ),
            ]),
            trace: vec![TracedPacket {
                packet: "ip saddr 100.64.0.2".to_owned(),
                hops: vec![Hop {
                    table: "inet weir".to_owned(),
                    chain: "forward".to_owned(),
                    rule: None,
                    verdict: "accept".to_owned(),
                }],
            }],
        };
        assert_eq!(
            explain(&report),
            "\
alice to 8.8.8.8:443 over tcp
  ok       name     as it is
  FAILED   routing  as it is
                    -> here: ip rule del priority 9
  unknown  the end  as it is
                    -> on relay: agent doctor

Followed: ip saddr 100.64.0.2
  inet weir  forward  accept  policy
"
        );
    }
}
