//! What the kernel tells of a packet that it was asked to follow, as `nft monitor trace` prints it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::{Check, Outcome};

/// The table with the rule that asks for it: of no interest in what is told.
pub const TRACE_TABLE: &str = "weir_trace";

/// A packet, and what each rule that it met did to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracedPacket {
    /// The packet, in nft's words.
    pub packet: String,
    /// Rules and policies, in order.
    pub hops: Vec<Hop>,
}

/// A rule or a policy that a packet met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// The table, with its family: `inet weir`.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// The rule's text; none for the policy of a base chain.
    pub rule: Option<String>,
    /// `accept`, `drop`, `jump judge` and the like.
    pub verdict: String,
}

impl TracedPacket {
    /// Where it was dropped, if it was.
    #[must_use]
    pub fn dropped(&self) -> Option<&Hop> {
        self.hops.iter().find(|hop| hop.verdict == "drop")
    }
}

/// What the trace of a packet and of its answer says of a connection.
#[must_use]
pub fn judge_trace(packets: &[TracedPacket], seconds: u64) -> Check {
    let dropped = packets.iter().find_map(TracedPacket::dropped);
    let (outcome, evidence) = match (packets, dropped) {
        ([], _) => (
            Outcome::Unknown,
            format!(
                "none came out of the tunnel within {seconds} s: open the connection meanwhile"
            ),
        ),
        (_, Some(hop)) => {
            let rule = hop
                .rule
                .as_ref()
                .map_or_else(|| "its policy".to_owned(), |rule| format!("rule {rule}"));
            (
                Outcome::Failed,
                format!(
                    "dropped by table {}, chain {}, {rule}",
                    hop.table, hop.chain
                ),
            )
        }
        ([_], None) => (
            Outcome::Unknown,
            "it passed every table of this host, and no answer came back in time".to_owned(),
        ),
        (_, None) => (
            Outcome::Passed,
            "it and its answer passed every table of this host".to_owned(),
        ),
    };
    Check {
        name: "packet".to_owned(),
        outcome,
        evidence,
        remedies: Vec::new(),
    }
}

/// Reads what `nft monitor trace` printed. Packets come in the order in which they were first seen;
/// what is not understood is left out.
#[must_use]
pub fn read_trace(printed: &str) -> Vec<TracedPacket> {
    let mut order: Vec<&str> = Vec::new();
    let mut packets: BTreeMap<&str, TracedPacket> = BTreeMap::new();
    for line in printed.lines() {
        let Some((id, told)) = line
            .strip_prefix("trace id ")
            .and_then(|rest| rest.split_once(' '))
        else {
            continue;
        };
        let mut words = told.splitn(4, ' ');
        let (Some(family), Some(table), Some(chain), Some(event)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        let packet = packets.entry(id).or_insert_with(|| {
            order.push(id);
            TracedPacket::default()
        });
        if let Some(described) = event.strip_prefix("packet: ") {
            if packet.packet.is_empty() {
                packet.packet = shortened(described);
            }
        } else if table != TRACE_TABLE
            && let Some((rule, verdict)) = decided(event)
        {
            packet.hops.push(Hop {
                table: format!("{family} {table}"),
                chain: chain.to_owned(),
                rule,
                verdict,
            });
        }
    }
    order
        .into_iter()
        .filter_map(|id| packets.remove(id))
        .collect()
}

/// The rule and the verdict; none where nothing was decided (the end of a chain).
fn decided(event: &str) -> Option<(Option<String>, String)> {
    if let Some(policy) = event.strip_prefix("policy ") {
        return Some((None, policy.trim().to_owned()));
    }
    let (rule, verdict) = event.trim_end().rsplit_once(" (verdict ")?;
    let rule = rule.strip_prefix("rule ").unwrap_or(rule);
    Some((
        Some(rule.trim().to_owned()),
        verdict.trim_end_matches(')').to_owned(),
    ))
}

/// Without the fields that nobody asks for.
fn shortened(packet: &str) -> String {
    const KEPT: [&str; 13] = [
        "iif",
        "oif",
        "ip saddr",
        "ip daddr",
        "ip6 saddr",
        "ip6 daddr",
        "ip protocol",
        "ip6 nexthdr",
        "tcp sport",
        "tcp dport",
        "udp sport",
        "udp dport",
        "icmp type",
    ];
    let words: Vec<&str> = packet.split_whitespace().collect();
    let mut parts = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let value = |offset: usize| words.get(at + offset).copied().unwrap_or_default();
        for kept in KEPT {
            match kept.split_once(' ') {
                None if kept == *word => parts.push(format!("{kept} {}", value(1))),
                Some((layer, field)) if layer == *word && field == value(1) => {
                    parts.push(format!("{kept} {}", value(2)));
                }
                None | Some(_) => {}
            }
        }
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "\
trace id 3d851765 inet weir_trace follow packet: iif \"weir0\" @ll,0,112 0x800 ip saddr 100.64.0.2 ip daddr 8.8.8.8 ip dscp cs0 ip ttl 64 ip protocol tcp ip length 60 tcp sport 40000 tcp dport 443 tcp flags == syn
trace id 3d851765 inet weir_trace follow unknown rule handle 2 (verdict continue)
trace id 3d851765 inet weir_trace follow policy accept
trace id 77777777 ip filter OTHER policy accept
trace id 3d851765 inet weir forward rule iifname \"weir0\" goto to_relay (verdict goto to_relay)
trace id 3d851765 inet weir to_relay rule jump judge (verdict jump judge)
trace id 3d851765 inet weir judge verdict continue
trace id 3d851765 ip filter FORWARD policy drop
";

    #[test]
    fn a_packet_is_followed_through_every_table_to_where_it_ends() {
        let packets = read_trace(PRINTED);
        assert_eq!(packets.len(), 2);
        assert_eq!(
            packets[0].packet,
            "iif \"weir0\" ip saddr 100.64.0.2 ip daddr 8.8.8.8 ip protocol tcp tcp sport 40000 \
             tcp dport 443"
        );
        let met: Vec<_> = packets[0]
            .hops
            .iter()
            .map(|hop| (hop.chain.as_str(), hop.verdict.as_str()))
            .collect();
        assert_eq!(
            met,
            [
                ("forward", "goto to_relay"),
                ("to_relay", "jump judge"),
                ("FORWARD", "drop")
            ]
        );
        let dropped = packets[0].dropped().unwrap();
        assert_eq!(
            (dropped.table.as_str(), &dropped.rule),
            ("ip filter", &None)
        );
        let judged = judge_trace(&packets, 5);
        assert_eq!(judged.outcome, Outcome::Failed);
        assert_eq!(
            judged.evidence,
            "dropped by table ip filter, chain FORWARD, its policy"
        );
        assert_eq!(judge_trace(&[], 5).outcome, Outcome::Unknown);
    }

    #[test]
    fn what_is_not_understood_is_left_out() {
        assert_eq!(read_trace("add table inet x\ntrace id 1\n\n"), []);
    }
}
