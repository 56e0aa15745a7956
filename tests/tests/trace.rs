//! `agent explain --trace`: a real packet is followed through every table, and nothing of the trace
//! stays, whatever becomes of the daemon.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use weir_lab::{patient, wait_until};
use weir_tests::Agent;
use weir_tests::story::{Quiet, World};

const SOON: Duration = Duration::from_secs(20);
const BANK: &str = "8.8.8.8:443";

fn has_table(agent: &Agent) -> Result<bool> {
    let tables = agent.machine().node().run(["nft", "list", "tables"])?;
    Ok(tables.stdout.contains("weir_trace"))
}

fn world() -> Result<World> {
    let world = World::with_agents(&mut Quiet, &["relay", "alice"])?;
    world.relay.up("--advertise-routes=8.8.8.8")?;
    world.alice.up("")?;
    world.coordinator.approve("relay", "8.8.8.8/32")?;
    wait_until("alice to be served", patient(SOON), || {
        let wait = Duration::from_millis(500);
        Ok(world.alice.machine().ask_tcp(BANK, wait)?.is_some())
    })?;
    Ok(world)
}

/// Starts a trace and waits until the kernel follows packets.
fn start(world: &World, seconds: u64) -> Result<weir_lab::Spawned> {
    let trace = format!("--trace={seconds}");
    let command = ["agent", "explain", BANK, "--from=alice", &trace, "--json"];
    let running = world.relay.machine().node().spawn(command)?;
    wait_until("the trace to begin", patient(SOON), || {
        if let Some(status) = running.ended()? {
            anyhow::bail!("it ended with {status}: {}", running.log()?);
        }
        has_table(&world.relay)
    })?;
    Ok(running)
}

#[test]
fn a_real_packet_and_its_answer_are_followed_through_every_table() -> Result<()> {
    let world = world()?;
    let site =
        "table inet site {\n chain late {\n type filter hook forward priority 50;\n counter\n }\n}";
    world.relay.machine().node().nft(site)?;
    let running = start(&world, 20)?;
    let mut report = None;
    wait_until("the trace to end", patient(SOON), || {
        let wait = Duration::from_millis(500);
        world.alice.machine().ask_tcp(BANK, wait)?;
        if running.ended()?.is_none() {
            return Ok(false);
        }
        report = Some(running.log()?);
        Ok(true)
    })?;
    let report = report.context("the trace said nothing")?;
    for words in [
        "\"inet weir\"",
        "\"inet site\"",
        "\"forward\"",
        "masquerade",
        "it and its answer passed every table",
        "ip saddr 8.8.8.8",
    ] {
        ensure!(report.contains(words), "{words} is missing in {report}");
    }
    wait_until("nothing of it to stay", patient(SOON), || {
        Ok(!has_table(&world.relay)?)
    })?;
    world.network.lab.finish()
}

#[test]
fn a_killed_daemon_leaves_nothing_of_a_trace() -> Result<()> {
    let mut world = world()?;
    let running = start(&world, 100)?;
    world.relay.stop(Signal::SIGKILL)?;
    wait_until("the table to be gone", patient(SOON), || {
        let processes = world.relay.machine().processes()?;
        let left = processes
            .iter()
            .any(|(_, command)| command.contains("monitor trace") || command.contains("nft -i"));
        Ok(!left && !has_table(&world.relay)?)
    })?;
    drop(running);
    world.relay.start()?;
    world.relay.settled()?;
    ensure!(!has_table(&world.relay)?, "the table came back");
    world.network.lab.finish()
}

#[test]
fn a_node_is_pinged_and_known() -> Result<()> {
    let world = world()?;
    let machine = world.alice.machine();
    let ping = machine.must("agent ping relay --count=2")?;
    for words in [
        "answers 1 in",
        "2 sent, 2 answered",
        "relay is directly at 203.0.113.7:51920",
    ] {
        ensure!(ping.stdout.contains(words), "{words}: {}", ping.text());
    }
    let silent = machine.type_in("agent ping 100.64.9.9 --count=1 --timeout=1 --json")?;
    ensure!(
        !silent.success() && silent.stdout.contains("\"received\": 0"),
        "{}",
        silent.text()
    );
    let address = world.overlay_address(&world.relay)?;
    for (query, words) in [
        (address.as_str(), "tag:relay"),
        ("8.8.8.8", "8.8.8.8/32 by relay (in use)"),
        ("alice", "alice@example.com"),
    ] {
        let found = machine.must(&format!("agent whois {query}"))?;
        ensure!(found.stdout.contains(words), "{words}: {}", found.text());
    }
    let nobody = machine.type_in("agent whois bob")?;
    weir_tests::one_sentence(&nobody, &["not told of bob"])?;
    for shell in ["bash", "zsh", "fish"] {
        let script = machine.must(&format!("agent completions {shell}"))?;
        ensure!(script.stdout.contains("advertise-routes"), "{shell}");
    }
    world.network.lab.finish()
}
