//! Nodes that change their WireGuard keys while they talk to each other.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use weir_lab::{Ping, Spawned, patient, wait_until};
use weir_tests::Agent;
use weir_tests::story::{Quiet, World};

const SOON: Duration = Duration::from_secs(20);
/// So many more lines of the download must come after each change.
const LINES: usize = 10;
/// So many more answers to pings.
const ANSWERS: usize = 5;

fn status(agent: &Agent) -> Result<Value> {
    let command = ["agent", "status", "--json"];
    let output = agent.machine().node().run(command)?;
    serde_json::from_str(&output.stdout).context("the status is not JSON")
}

/// The key of a node by its own words.
fn own_key(agent: &Agent) -> Result<String> {
    let status = status(agent)?;
    let key = status["wireguard"]["public_key"].as_str();
    Ok(key.context("it says no key")?.to_owned())
}

/// The key that a node knows another one by.
fn known_key(agent: &Agent, peer: &str) -> Result<Option<String>> {
    let status = status(agent)?;
    let peers = status["peers"].as_array().context("it says no peers")?;
    let found = peers.iter().find(|one| one["name"] == peer);
    Ok(found.and_then(|one| Some(one["public_key"].as_str()?.to_owned())))
}

/// The numbers of the lines that have come.
fn lines(download: &Spawned) -> Result<Vec<u64>> {
    let log = download.log()?;
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole
        .lines()
        .map(|line| {
            let number = line.split_whitespace().last();
            number
                .and_then(|number| number.parse().ok())
                .with_context(|| format!("what came is damaged: {line}"))
        })
        .collect()
}

/// Waits until both go on.
fn goes_on(download: &Spawned, ping: &Ping, when: &str) -> Result<()> {
    let (before, answered) = (lines(download)?.len(), ping.answers()?);
    wait_until(
        &format!("the traffic to go on {when}"),
        patient(SOON),
        || {
            if let Some(status) = download.ended()? {
                anyhow::bail!("the download ended with {status}: {}", download.log()?);
            }
            Ok(lines(download)?.len() >= before + LINES && ping.answers()? >= answered + ANSWERS)
        },
    )
    .map(drop)
}

#[test]
fn nodes_change_their_keys_under_traffic_and_it_goes_on() -> Result<()> {
    let world = World::with_agents(&mut Quiet, &["relay", "alice"])?;
    world.relay.up("--advertise-routes=8.8.8.8")?;
    world.alice.up("")?;
    world.coordinator.approve("relay", "8.8.8.8/32")?;
    let machine = world.alice.machine();
    wait_until("alice to be served", patient(SOON), || {
        let answer = machine.ask_tcp("8.8.8.8:443", Duration::from_millis(500))?;
        Ok(answer.as_deref() == Some("203.0.113.7"))
    })?;
    let idle = patient(SOON).as_secs_f64().to_string();
    let download = ["weir-lab-host", "download", "8.8.8.8:443", "--idle", &idle];
    let download = machine.node().spawn(download)?;
    let ping = Ping::start(machine.node(), "8.8.8.8", Duration::from_millis(200))?;
    goes_on(&download, &ping, "at first")?;

    let both = [(&world.alice, &world.relay), (&world.relay, &world.alice)];
    for (agent, peer) in both.into_iter().chain(both) {
        let before = own_key(agent)?;
        agent.machine().must("agent rotate-key")?;
        let after = own_key(agent)?;
        ensure!(after != before, "{} has the key it had", agent.name());
        let what = format!("{} to know the new key of {}", peer.name(), agent.name());
        wait_until(&what, patient(SOON), || {
            Ok(known_key(peer, agent.name())?.as_ref() == Some(&after))
        })?;
        goes_on(
            &download,
            &ping,
            &format!("with a new key of {}", agent.name()),
        )?;
    }
    // It is one connection, of which nothing is missing.
    let numbers = lines(&download)?;
    let first = numbers.first().copied().unwrap_or_default();
    ensure!(
        numbers
            .iter()
            .zip(first..)
            .all(|(number, wanted)| *number == wanted),
        "lines are missing: {numbers:?}"
    );
    // What was on the wire when a key went is lost with it, and no more than that.
    let report = ping.stop()?;
    ensure!(
        report.lost.len() < usize::try_from(report.received)?,
        "{report:?}"
    );
    drop(download);
    world.network.lab.finish()
}
