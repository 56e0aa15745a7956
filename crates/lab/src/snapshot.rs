//! "The host is exactly as it was": what a host's network looks like, and what changed.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;

use crate::Node;

/// The sysctls that the agent may touch.
pub const TOUCHED_SYSCTLS: &[&str] = &[
    "net.ipv4.ip_forward",
    "net.ipv4.conf.all.rp_filter",
    "net.ipv4.conf.default.rp_filter",
    "net.ipv4.conf.eth0.rp_filter",
    "net.ipv4.conf.all.src_valid_mark",
    "net.ipv6.conf.all.forwarding",
    "net.ipv6.conf.default.forwarding",
    "net.ipv6.conf.all.accept_ra",
    "net.ipv6.conf.default.accept_ra",
    "net.ipv6.conf.eth0.accept_ra",
    "net.netfilter.nf_conntrack_acct",
    "net.netfilter.nf_conntrack_timestamp",
];

/// What is looked at, in words a person would type.
const COMMANDS: &[&str] = &[
    "ip -d link",
    "ip addr",
    "ip -4 rule",
    "ip -6 rule",
    "ip -4 route show table all",
    "ip -6 route show table all",
    "nft list ruleset",
];

/// The network of a host at one moment: a section for each command, and the sysctls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSnapshot {
    sections: BTreeMap<String, Vec<String>>,
}

impl HostSnapshot {
    /// Looks at a node; `sysctls` are those to look at, such as [`TOUCHED_SYSCTLS`]. One that
    /// does not exist is recorded as such.
    ///
    /// # Errors
    /// A command cannot be run.
    pub fn take(node: &Node, sysctls: &[&str]) -> Result<Self> {
        let mut sections = BTreeMap::new();
        for command in COMMANDS {
            let output = node.try_run(command.split_whitespace())?;
            // A kernel without IPv6 fails its command, each time in the same words.
            let lines = output.text().lines().map(steady).collect();
            sections.insert((*command).to_owned(), lines);
        }
        let paths = sysctls
            .iter()
            .map(|key| format!("/proc/sys/{}", key.replace('.', "/")));
        let mut command = vec!["grep".to_owned(), "-H".to_owned(), String::new()];
        command.extend(paths);
        let values = node.try_run(command)?.text();
        sections.insert(
            "sysctl".to_owned(),
            values.lines().map(str::to_owned).collect(),
        );
        Ok(Self { sections })
    }

    /// What is different in `later`: nothing, or for each command the lines that went (`-`)
    /// and came (`+`).
    #[must_use]
    pub fn difference(&self, later: &Self) -> Option<String> {
        let mut text = String::new();
        for (command, before) in &self.sections {
            let empty = Vec::new();
            let after = later.sections.get(command).unwrap_or(&empty);
            if before == after {
                continue;
            }
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{command}:");
            let gone = missing(before, after);
            let new = missing(after, before);
            if gone.is_empty() && new.is_empty() {
                let _ = writeln!(text, "  the same lines in another order");
            }
            for line in gone {
                let _ = writeln!(text, "  - {line}");
            }
            for line in new {
                let _ = writeln!(text, "  + {line}");
            }
        }
        (!text.is_empty()).then_some(text)
    }
}

/// The lines of `these` that `those` has not, each as often as it is missing.
fn missing<'a>(these: &'a [String], those: &[String]) -> Vec<&'a str> {
    let mut left: BTreeMap<&str, usize> = BTreeMap::new();
    for line in those {
        *left.entry(line).or_default() += 1;
    }
    these
        .iter()
        .map(String::as_str)
        .filter(|line| match left.get_mut(line) {
            Some(count) if *count > 0 => {
                *count -= 1;
                false
            }
            _ => true,
        })
        .collect()
}

/// Words before a number that changes by itself: counters of rules, which traffic moves; the
/// remaining seconds of addresses and routes, and the timers of bridges, which the clock moves.
const MOVING: &[&str] = &[
    "packets",
    "bytes",
    "valid_lft",
    "preferred_lft",
    "expires",
    "hello_timer",
    "tcn_timer",
    "topology_change_timer",
    "gc_timer",
];

/// Replaces the numbers that change by themselves.
fn steady(line: &str) -> String {
    let mut steady = String::with_capacity(line.len());
    let mut moving = false;
    // Split at each space, so that indentation stays.
    for (number, word) in line.split(' ').enumerate() {
        if number > 0 {
            steady.push(' ');
        }
        let counts = word
            .strip_suffix("sec")
            .unwrap_or(word)
            .parse::<f64>()
            .is_ok();
        if moving && counts {
            // Numbers in columns: fewer digits, more spaces.
            let words = steady.trim_end().len();
            steady.truncate(words);
            steady.push_str(" N");
        } else {
            steady.push_str(word);
        }
        moving = MOVING.contains(&word) || (moving && word.is_empty());
    }
    steady
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(lines: &[&str]) -> HostSnapshot {
        let lines = lines.iter().map(|line| steady(line)).collect();
        HostSnapshot {
            sections: BTreeMap::from([("ip -4 rule".to_owned(), lines)]),
        }
    }

    #[test]
    fn what_moves_by_itself_is_no_difference() {
        assert_eq!(steady("gc_timer   12.30 vlan 1"), "gc_timer N vlan 1");
        assert_eq!(
            steady("\t\tcounter packets 12 bytes 900 drop"),
            "\t\tcounter packets N bytes N drop"
        );
        assert_eq!(
            steady("  valid_lft 86sec preferred_lft forever"),
            "  valid_lft N preferred_lft forever"
        );
        assert_eq!(
            steady("default via fe80::1 metric 7 expires 12sec"),
            "default via fe80::1 metric 7 expires N"
        );
        assert_eq!(
            steady("limit rate 10/second burst 5 packets"),
            "limit rate 10/second burst 5 packets"
        );
        assert_eq!(steady("3: weir0: mtu 1420"), "3: weir0: mtu 1420");
    }

    #[test]
    fn a_difference_names_command_and_lines() {
        let before = snapshot(&["0: from all lookup local", "32766: from all lookup main"]);
        let after = snapshot(&["0: from all lookup local", "5700: from all lookup 5701"]);
        assert_eq!(before.difference(&before.clone()), None);
        assert_eq!(
            before.difference(&after).unwrap(),
            "ip -4 rule:\n  - 32766: from all lookup main\n  + 5700: from all lookup 5701\n"
        );
    }

    #[test]
    fn another_order_is_a_difference() {
        let before = snapshot(&["a", "b"]);
        let difference = before.difference(&snapshot(&["b", "a"])).unwrap();
        assert!(difference.contains("another order"), "{difference}");
    }
}
