//! Commands that ask the daemon for the status and do the rest themselves: `ping`, `whois` and
//! `completions`.

use anyhow::{Context, Result, anyhow, bail};
use clap::CommandFactory;
use std::{
    net::IpAddr,
    process::ExitCode,
    time::{Duration, Instant},
};

use crate::{
    cli::{Cli, PingArgs},
    control::{NodeState, StatusReport},
    output,
    ping::{PingReport, Pinger},
};

/// The time between two echo requests.
const INTERVAL: Duration = Duration::from_secs(1);

/// What is asked of a node that is not up.
pub(crate) fn must_be_up(report: &StatusReport) -> Result<()> {
    if report.state == NodeState::Up {
        return Ok(());
    }
    bail!("the node is down: `agent up` goes up, `agent status` tells more")
}

/// Sends echo requests to a node. `status` asks the daemon.
pub(crate) fn ping(args: &PingArgs, status: &dyn Fn() -> Result<StatusReport>) -> Result<ExitCode> {
    let report = status()?;
    must_be_up(&report)?;
    let (name, address) = destination(&report, &args.node)?;
    let pinger = Pinger::open(address)?;
    let patience = Duration::from_secs(args.timeout);
    let mut milliseconds = Vec::new();
    for sequence in 1..=args.count {
        let began = Instant::now();
        let answer = pinger.ask(sequence, patience)?;
        let line = match answer {
            Some(took) => {
                milliseconds.push(took.as_secs_f64() * 1000.0);
                format!(
                    "{address} answers {sequence} in {:.2} ms\n",
                    took.as_secs_f64() * 1000.0
                )
            }
            None => format!(
                "{address} does not answer {sequence} within {} s\n",
                args.timeout
            ),
        };
        if !args.json {
            output::print(&line);
        }
        if sequence < args.count {
            std::thread::sleep(INTERVAL.saturating_sub(began.elapsed()));
        }
    }
    let after = status()?;
    let peer = after
        .peers
        .iter()
        .find(|peer| peer.addresses.contains(&address));
    let report = PingReport {
        node: name,
        address,
        endpoint: peer.and_then(|peer| peer.endpoint),
        handshake_age: peer.and_then(|peer| peer.handshake_age),
        sent: args.count,
        received: u16::try_from(milliseconds.len()).unwrap_or(u16::MAX),
        milliseconds,
    };
    if args.json {
        output::print(&format!("{}\n", serde_json::to_string_pretty(&report)?));
    } else {
        output::print(&output::ping(&report));
        if report.received == 0 {
            output::print(&format!(
                "`agent explain {} --protocol=icmp` tells why\n",
                args.node
            ));
        }
    }
    Ok(if report.received > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Whom to ask: a node by name or address, or any address.
fn destination(report: &StatusReport, node: &str) -> Result<(Option<String>, IpAddr)> {
    let address: Option<IpAddr> = node.parse().ok();
    let peer = report.peers.iter().find(|peer| {
        peer.name.as_str() == node
            || address.is_some_and(|address| peer.addresses.contains(&address))
    });
    match (peer, address) {
        (Some(peer), Some(address)) => Ok((Some(peer.name.to_string()), address)),
        (Some(peer), None) => {
            // The first one is the IPv4 address, where there is one.
            let first = peer.addresses.iter().next().copied();
            let first = first.with_context(|| format!("{node} has no address"))?;
            Ok((Some(peer.name.to_string()), first))
        }
        (None, Some(address)) => Ok((None, address)),
        (None, None) => Err(unknown(node)),
    }
}

/// The error for a name that this node is not told of.
fn unknown(node: &str) -> anyhow::Error {
    anyhow!(
        "this node is not told of {node}: there is none, or no rule of the policy leads from one \
         to the other; `coordinator nodes list`, on the coordinator's host, shows all"
    )
}

/// Says whose an address, a name or a prefix is.
pub(crate) fn whois(report: &StatusReport, query: &str, json: bool) -> Result<ExitCode> {
    must_be_up(report)?;
    let found = output::find(report, query).ok_or_else(|| unknown(query))?;
    if json {
        output::print(&format!("{}\n", serde_json::to_string_pretty(&found)?));
    } else {
        output::print(&output::whois(&found));
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints what a shell needs to complete the command line.
pub(crate) fn completions(shell: clap_complete::Shell) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "agent", &mut script);
    output::print(&String::from_utf8(script)?);
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_down_reaches_nobody() {
        let report = StatusReport::default();
        let error = whois(&report, "relay", false).unwrap_err().to_string();
        assert!(error.contains("`agent up`"), "{error}");
    }

    #[test]
    fn any_address_may_be_asked_and_no_unknown_name() {
        let report = StatusReport::default();
        let address = "192.0.2.1".parse().unwrap();
        assert_eq!(destination(&report, "192.0.2.1").unwrap(), (None, address));
        let error = destination(&report, "bob").unwrap_err().to_string();
        assert!(error.contains("not told of bob"), "{error}");
    }
}
