//! `coordinator policy compile`: what a policy file means in a network that another file describes.

use super::{Session, output};
use anyhow::{Context, bail};
use std::{fmt::Write as _, fs, path::Path};
use weir_netmap::{CompileError, Compiled, NetworkFile, compile_file};
use weir_policy::{Diagnostic, render};

/// Compiles the policy and prints what each node is told. A refused policy is an error; with
/// `--json` its diagnostics are on standard output.
pub(super) fn run(session: &Session, policy: &Path, network: &Path) -> anyhow::Result<()> {
    let text =
        fs::read(policy).with_context(|| format!("cannot read the policy {}", policy.display()))?;
    let described = fs::read(network)
        .with_context(|| format!("cannot read the network {}", network.display()))?;
    let described: NetworkFile = serde_json::from_slice(&described)
        .with_context(|| format!("{} does not describe a network", network.display()))?;
    let name = policy.display().to_string();
    match compile_file(&text, &described) {
        Ok(compiled) if session.json => output::json(&compiled),
        Ok(compiled) => {
            if !compiled.warnings.is_empty() {
                output::note(&format!("{}\n", drawn(&compiled.warnings, &text, &name)))?;
            }
            output::verbatim(&summary(&compiled)?)
        }
        Err(CompileError::Refused(refused)) => {
            if session.json {
                output::json(&refused)?;
                bail!("{name} is not valid");
            }
            bail!(
                "{name} is not valid\n\n{}",
                drawn(&refused.errors, &text, &name)
            )
        }
        Err(error @ CompileError::UnknownUser { .. }) => {
            Err(error).context(format!("cannot use the network {}", network.display()))
        }
    }
}

fn drawn(diagnostics: &[Diagnostic], text: &[u8], name: &str) -> String {
    render(diagnostics, &String::from_utf8_lossy(text), name)
}

/// Who has which peers, and what may come in.
fn summary(compiled: &Compiled) -> anyhow::Result<String> {
    let mut text = String::new();
    for (name, node) in &compiled.nodes {
        writeln!(text, "{name}")?;
        for (peer, seen) in &node.peers {
            writeln!(text, "  peer {peer}: {}", output::list(&seen.allowed_ips))?;
        }
        for row in &node.filter {
            let protocols = match &row.protocols {
                Some(protocols) => output::list(protocols),
                None => "tcp, udp, icmp".to_owned(),
            };
            let sources = output::list(row.sources.ranges());
            for to in &row.destinations {
                let ports = match (to.first_port, to.last_port) {
                    (0, u16::MAX) => "*".to_owned(),
                    (first, last) if first == last => first.to_string(),
                    (first, last) => format!("{first}-{last}"),
                };
                let addresses = to.addresses;
                writeln!(
                    text,
                    "  accept {sources} to {addresses} port {ports} ({protocols})"
                )?;
            }
        }
    }
    Ok(text)
}
