//! `coordinator policy check` and `test`.

use super::{Session, output, read, warn, with_findings};
use crate::api;
use anyhow::{Context, bail};
use serde_json::json;
use std::path::Path;
use weir_netmap::{CompileError, NetworkFile, compile_file};
use weir_policy::{Diagnostic, Policy, render};

/// What can be said of a policy without a network.
pub(super) fn check(session: &Session, file: &Path) -> anyhow::Result<()> {
    let (text, name) = read(file)?;
    let policy = match Policy::parse(&text) {
        Ok(policy) => policy,
        Err(problems) => return refused(session, "is not valid", &problems, &text, &name),
    };
    let warnings = policy.own_warnings();
    if session.json {
        return output::json(&json!({ "valid": true, "diagnostics": warnings }));
    }
    warn(&render(warnings, &text, &name))?;
    output::line(&match policy.tests() {
        0 => format!("{name}: valid"),
        tests => format!(
            "{name}: valid; {} not run: coordinator policy test {}",
            plural(tests, "test was", "tests were"),
            file.display()
        ),
    })
}

/// What can be said of a policy in the running network, or in one that a file describes.
pub(super) async fn test(
    session: &Session,
    file: &Path,
    network: Option<&Path>,
) -> anyhow::Result<()> {
    let (text, name) = read(file)?;
    let (tested, place) = match network {
        Some(network) => (
            test_in_file(session, &text, &name, network)?,
            format!("the network in {}", network.display()),
        ),
        None => {
            let request = api::TestPolicy {
                text,
                source: Some(name.clone()),
            };
            let answer = session.client.post("/policy/test", &request).await;
            let tested = with_findings(session, answer)?;
            (tested, "the network as it is".to_owned())
        }
    };
    if session.json {
        return output::json(&tested);
    }
    warn(&tested.warnings)?;
    output::line(&match tested.tests {
        0 => format!("{name}: valid; it has no tests of its own"),
        tests => format!(
            "{name}: valid; {} in {place} ({})",
            plural(tests, "test passes", "tests pass"),
            plural(tested.nodes, "node", "nodes")
        ),
    })
}

fn test_in_file(
    session: &Session,
    text: &str,
    name: &str,
    network: &Path,
) -> anyhow::Result<api::PolicyTested> {
    let described = std::fs::read(network)
        .with_context(|| format!("cannot read the network {}", network.display()))?;
    let described: NetworkFile = serde_json::from_slice(&described)
        .with_context(|| format!("{} does not describe a network", network.display()))?;
    // Apart from the tests, so that it is said which of the two is wrong.
    let tests = match Policy::parse(text) {
        Ok(policy) => policy.tests(),
        Err(problems) => return refused(session, "is not valid", &problems, text, name),
    };
    match compile_file(text.as_bytes(), &described) {
        Ok(compiled) => Ok(api::PolicyTested {
            tests,
            nodes: compiled.nodes.len(),
            warnings: render(&compiled.warnings, text, name),
        }),
        Err(CompileError::Refused(found)) => {
            let what = "does not pass its own tests";
            refused(session, what, &found.errors, text, name)
        }
        Err(error @ CompileError::UnknownUser { .. }) => {
            Err(error).context(format!("cannot use the network {}", network.display()))
        }
    }
}

/// The error for a policy with these problems. With `--json` they are on standard output too.
fn refused<T>(
    session: &Session,
    what: &str,
    problems: &[Diagnostic],
    text: &str,
    name: &str,
) -> anyhow::Result<T> {
    if session.json {
        output::json(&json!({ "valid": false, "diagnostics": problems }))?;
        bail!("{name} {what}");
    }
    bail!("{name} {what}\n\n{}", render(problems, text, name))
}

fn plural(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}
