//! `agent explain`: every step that stops a connection is named, and the command that it prints
//! makes the connection pass.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use weir_lab::{HostSnapshot, TOUCHED_SYSCTLS, patient, wait_until};
use weir_tests::story::{Quiet, World};
use weir_tests::{Agent, Finding, Machine};

const SOON: Duration = Duration::from_secs(10);
/// The service that the relay relays to.
const BANK: &str = "8.8.8.8:443";

#[derive(Clone, Debug, Deserialize)]
struct Report {
    checks: Vec<Finding>,
}

/// What `agent explain` says, and whether it exits as it should.
fn explain(agent: &Agent, question: &str) -> Result<Report> {
    let output = agent
        .machine()
        .type_in(&format!("agent explain {question} --json"))?;
    let report: Report = serde_json::from_str(&output.stdout)
        .with_context(|| format!("explain said: {}", output.text()))?;
    let well = report.checks.iter().all(|check| check.outcome != "failed");
    ensure!(
        output.success() == well,
        "{report:#?} and {}",
        output.status
    );
    Ok(report)
}

/// The one step that failed, which must be this one.
fn stops_at(report: &Report, name: &str) -> Result<Finding> {
    let failed: Vec<_> = report
        .checks
        .iter()
        .filter(|check| check.outcome == "failed")
        .collect();
    ensure!(
        failed.len() == 1 && failed[0].name == name,
        "not {name} alone failed: {report:#?}"
    );
    Ok(failed[0].clone())
}

fn all_well(report: &Report) -> Result<()> {
    let failed = report.checks.iter().find(|check| check.outcome == "failed");
    ensure!(failed.is_none(), "{report:#?}");
    Ok(())
}

/// Runs the command that mends it, where it says.
fn mend(world: &World, here: &Agent, check: &Finding) -> Result<()> {
    let remedy = check.remedies.first().context("nothing mends it")?;
    let machine: &Machine = match remedy.on.as_str() {
        Some("here") => here.machine(),
        Some("coordinator") => world.coordinator.machine(),
        _ => {
            let node = remedy.on.get("node").and_then(serde_json::Value::as_str);
            let agents = world.agents();
            let agent = agents.iter().find(|agent| Some(agent.name()) == node);
            agent.context("on no node of this network")?.machine()
        }
    };
    machine.must(&remedy.command).map(drop)
}

fn served(world: &World) -> Result<()> {
    wait_until("alice to be served", patient(SOON), || {
        let wait = Duration::from_millis(500);
        let answer = world.alice.machine().ask_tcp(BANK, wait)?;
        Ok(answer.as_deref() == Some("203.0.113.7"))
    })
    .map(drop)
}

fn not_served(world: &World) -> Result<()> {
    let wait = Duration::from_millis(700);
    let answer = world.alice.machine().ask_tcp(BANK, wait)?;
    ensure!(answer.is_none(), "alice was served as {answer:?}");
    Ok(())
}

#[test]
fn each_step_that_stops_a_connection_is_named_and_mended_by_its_command() -> Result<()> {
    let world = World::with_agents(&mut Quiet, &["relay", "alice"])?;
    world.alice.up("")?;
    let refused = world.relay.machine().type_in("agent explain 8.8.8.8:443")?;
    ensure!(
        !refused.success() && refused.stderr.contains("the node is down"),
        "{}",
        refused.text()
    );
    world.relay.up("--advertise-routes=8.8.8.8")?;

    // Nobody approved the route: the client knows of none, the relay knows why.
    let check = stops_at(&explain(&world.alice, BANK)?, "route")?;
    ensure!(check.evidence.contains("no relay serves"), "{check:?}");
    let from_alice = format!("{BANK} --from=alice");
    let check = stops_at(&explain(&world.relay, &from_alice)?, "route")?;
    mend(&world, &world.relay, &check)?;
    served(&world)?;
    all_well(&explain(&world.alice, BANK)?)?;
    let report = explain(&world.relay, &from_alice)?;
    all_well(&report)?;
    for (name, words) in [
        ("policy", "(acls["),
        ("source address", "sees 203.0.113.7"),
        ("way back", "into weir0"),
    ] {
        let check = report.checks.iter().find(|check| check.name == name);
        let seen = check.is_some_and(|check| check.evidence.contains(words));
        ensure!(seen, "{name} does not say {words}: {report:#?}");
    }

    // Another program's rule sends the packets elsewhere.
    world
        .alice
        .machine()
        .must("ip route add default dev eth0 table 99")?;
    world
        .alice
        .machine()
        .must("ip rule add priority 100 to 8.8.8.8 table 99")?;
    let check = stops_at(&explain(&world.alice, BANK)?, "routing")?;
    ensure!(check.evidence.contains("priority 100"), "{check:?}");
    mend(&world, &world.alice, &check)?;
    served(&world)?;

    // This node does not take routes.
    world
        .alice
        .machine()
        .must("agent set --accept-routes=false")?;
    let check = stops_at(&explain(&world.alice, BANK)?, "route")?;
    mend(&world, &world.alice, &check)?;
    served(&world)?;

    // Somebody's own ruleset on the relay drops it.
    world.relay.machine().node().nft(
        "table inet site {\n chain passing {\n type filter hook forward priority 5; policy accept;\n \
         iifname \"weir*\" meta l4proto { tcp, udp } drop\n }\n}",
    )?;
    not_served(&world)?;
    let before = HostSnapshot::take(world.relay.machine().node(), TOUCHED_SYSCTLS)?;
    let check = stops_at(&explain(&world.relay, &from_alice)?, "other firewalls")?;
    ensure!(
        check
            .evidence
            .contains("table inet site, chain passing, rule 1 (handle")
            && check.evidence.contains("iifname \"weir*\""),
        "{check:?}"
    );
    let after = HostSnapshot::take(world.relay.machine().node(), TOUCHED_SYSCTLS)?;
    ensure!(
        before.difference(&after).is_none(),
        "explain changed the host"
    );
    mend(&world, &world.relay, &check)?;
    served(&world)?;

    // The policy does not allow that port.
    let check = stops_at(
        &explain(&world.relay, "8.8.8.8:444 --from=alice")?,
        "policy",
    )?;
    ensure!(check.evidence.contains("tcp 443"), "{check:?}");
    mend(&world, &world.relay, &check)?;
    let check = stops_at(
        &explain(&world.relay, "8.8.8.8:443 --from=mallory")?,
        "sender",
    )?;
    ensure!(check.evidence.contains("not told of mallory"), "{check:?}");

    let typed = world
        .relay
        .machine()
        .type_in(&format!("agent explain {from_alice}"))?;
    ensure!(
        typed.success() && typed.stdout.contains("alice to 8.8.8.8:443 over tcp"),
        "{}",
        typed.text()
    );
    world.network.lab.finish()
}
