//! Counting lost packets with `ping`.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use crate::{Node, Spawned};

/// A `ping` that runs in a node until it is stopped.
#[derive(Debug)]
pub struct Ping {
    program: Spawned,
}

/// What came of a [`Ping`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PingReport {
    /// How many requests were sent.
    pub transmitted: u32,
    /// How many distinct requests were answered.
    pub received: u32,
    /// The sequence numbers (from 1) that were not answered. The very last request does not
    /// count: it may have been on its way when `ping` was stopped.
    pub lost: Vec<u32>,
}

impl Ping {
    /// Starts to ping `destination`, a packet each `interval` (`ping` knows milliseconds).
    ///
    /// # Errors
    /// `ping` cannot be started.
    pub fn start(node: &Node, destination: &str, interval: Duration) -> Result<Self> {
        let interval = format!("{:.3}", interval.as_secs_f64());
        // -O reports a missing answer at once, -D stamps each line with the time.
        let program = node.spawn(["ping", "-n", "-D", "-O", "-i", &interval, destination])?;
        Ok(Self { program })
    }

    /// How many answers have come so far.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn answers(&self) -> Result<usize> {
        Ok(answered(&self.program.log()?).len())
    }

    /// Stops it and counts.
    ///
    /// # Errors
    /// `ping` had given up before, or its summary cannot be read.
    pub fn stop(self) -> Result<PingReport> {
        self.program.stop(Signal::SIGINT, Duration::from_secs(5))?;
        PingReport::parse(&self.program.log()?)
    }
}

impl PingReport {
    /// Reads what iputils' `ping` printed.
    ///
    /// # Errors
    /// The summary is missing.
    pub fn parse(log: &str) -> Result<Self> {
        let answered = answered(log);
        let Some(summary) = log
            .lines()
            .find(|line| line.contains("packets transmitted"))
        else {
            bail!("ping printed no summary:\n{log}");
        };
        let transmitted: u32 = summary
            .split_whitespace()
            .next()
            .and_then(|count| count.parse().ok())
            .with_context(|| format!("cannot read ping's summary: {summary}"))?;
        let lost = (1..transmitted)
            .filter(|number| !answered.contains(number))
            .collect();
        let received = u32::try_from(answered.len()).context("too many answers")?;
        Ok(Self {
            transmitted,
            received,
            lost,
        })
    }
}

/// The sequence numbers that were answered, duplicates once.
fn answered(log: &str) -> BTreeSet<u32> {
    log.lines()
        .filter(|line| line.contains(" bytes from "))
        .filter_map(sequence_number)
        .collect()
}

fn sequence_number(line: &str) -> Option<u32> {
    let (_, rest) = line.split_once("icmp_seq=")?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "PING 10.0.0.2 (10.0.0.2) 56(84) bytes of data.\n\
        [1700000000.1] 64 bytes from 10.0.0.2: icmp_seq=1 ttl=64 time=0.05 ms\n\
        [1700000000.3] no answer yet for icmp_seq=2\n\
        [1700000000.3] 64 bytes from 10.0.0.2: icmp_seq=3 ttl=64 time=0.05 ms\n\
        [1700000000.3] 64 bytes from 10.0.0.2: icmp_seq=3 ttl=64 time=0.06 ms (DUP!)\n\
        [1700000000.4] From 10.0.0.1 icmp_seq=4 Destination Host Unreachable\n\
        \n--- 10.0.0.2 ping statistics ---\n\
        5 packets transmitted, 2 received, +1 duplicates, 60% packet loss, time 400ms\n";

    #[test]
    fn lists_what_was_lost_and_spares_the_last() {
        let report = PingReport::parse(LOG).unwrap();
        assert_eq!(
            report,
            PingReport {
                transmitted: 5,
                received: 2,
                lost: vec![2, 4]
            }
        );
    }

    #[test]
    fn without_a_summary_there_is_no_report() {
        assert!(PingReport::parse("PING 10.0.0.2").is_err());
    }
}
