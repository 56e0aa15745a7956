//! The address that relayed traffic leaves with.

use std::time::Duration;

use anyhow::{Result, ensure};
use weir_lab::{addresses, patient, wait_for, wait_until};
use weir_tests::story::{ALICE, BOB, Quiet, World};

const ANSWER_WAIT: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(10);

fn policy() -> String {
    format!(
        r#"{{
    "tagOwners": {{"tag:relay": []}},
    "acls": [
        {{"action": "accept", "src": ["{ALICE}"], "dst": ["8.8.8.8/32:443", "1.1.1.1/32:443"]}},
    ],
}}
"#
    )
}

#[test]
fn a_relay_with_two_addresses_shows_each_service_the_right_one() -> Result<()> {
    let world = World::with_agents(&mut Quiet, &["relay", "alice"])?;
    world.coordinator.set_policy(&policy())?;
    let relay = world.relay.machine();
    relay.node().address("eth0", "203.0.113.8/24")?;
    for (flags, words) in [
        ("--egress-ip=203.0.113.99", "not an address of this host"),
        (
            "--egress-ip=8.8.8.8=203.0.113.99",
            "not an address of this host",
        ),
        ("--egress-ip=9.9.9.9=203.0.113.8", "does not advertise"),
    ] {
        let refused = relay.type_in(&format!(
            "agent up --advertise-routes=8.8.8.8,1.1.1.1 {flags}"
        ))?;
        ensure!(
            !refused.success() && refused.stderr.contains(words),
            "{flags}: {}",
            refused.text()
        );
    }
    world
        .relay
        .up("--advertise-routes=8.8.8.8,1.1.1.1 --egress-ip=1.1.1.1=203.0.113.8")?;
    world
        .coordinator
        .approve("relay", "8.8.8.8/32,1.1.1.1/32")?;
    world.alice.up("")?;
    let alice = world.alice.machine();
    let first = addresses::RELAY.to_string();
    wait_until("alice to be served", patient(SOON), || {
        let answer = alice.ask_tcp("8.8.8.8:443", Duration::from_millis(700))?;
        Ok(answer.as_deref() == Some(first.as_str()))
    })?;
    let answer = alice.ask_tcp("1.1.1.1:443", ANSWER_WAIT)?;
    ensure!(answer.as_deref() == Some("203.0.113.8"), "{answer:?}");
    // The other way round, without a moment in which either fails.
    relay.must("agent set --egress-ip=203.0.113.8,8.8.8.8=203.0.113.7")?;
    for (to, address) in [
        ("8.8.8.8:443", "203.0.113.7"),
        ("1.1.1.1:443", "203.0.113.8"),
    ] {
        let answer = alice.ask_tcp(to, ANSWER_WAIT)?;
        ensure!(answer.as_deref() == Some(address), "{to}: {answer:?}");
    }
    let status = relay.must("agent status --json")?.stdout;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    let ports = status["ports"].as_array().cloned().unwrap_or_default();
    let towards = |egress: &str, destination: &str| {
        ports.iter().any(|one| {
            one["egress"] == egress && one["destination"] == destination && one["ports"] != 0
        })
    };
    ensure!(
        towards("203.0.113.7", "8.8.8.8:443") && towards("203.0.113.8", "1.1.1.1:443"),
        "{ports:?}"
    );
    world.network.lab.finish()
}

/// alice or bob is the one member of group:finance; both may use 1.1.1.1, which admits everybody
/// and says where a question came from.
fn policy_with_groups(finance: &str) -> String {
    format!(
        r#"{{
    "groups": {{"group:finance": ["{finance}"]}},
    "tagOwners": {{"tag:relay": []}},
    "acls": [
        {{"action": "accept", "src": ["{ALICE}", "{BOB}"], "dst": ["1.1.1.1/32:443"]}},
    ],
}}
"#
    )
}

#[test]
fn each_group_leaves_with_the_address_that_the_coordinator_chose() -> Result<()> {
    let world = World::with_agents(&mut Quiet, &["relay", "alice", "bob"])?;
    world.coordinator.set_policy(&policy_with_groups(ALICE))?;
    let relay = world.relay.machine();
    for address in ["203.0.113.8/24", "203.0.113.9/24"] {
        relay.node().address("eth0", address)?;
    }
    // The relay's own choice counts only for what the coordinator says nothing of.
    world
        .relay
        .up("--advertise-routes=1.1.1.1 --egress-ip=1.1.1.1=203.0.113.7")?;
    world.coordinator.approve("relay", "1.1.1.1/32")?;
    world.alice.up("")?;
    world.bob.up("")?;
    let egress = |flags: &str| {
        let command = format!("coordinator routes egress relay 1.1.1.1 {flags}");
        world.coordinator.machine().must(&command)
    };
    let sees = |agent: &weir_tests::Agent, address: &str| {
        let what = format!("{} to leave with {address}", agent.name());
        wait_until(&what, patient(SOON), || {
            let answer = agent
                .machine()
                .ask_tcp("1.1.1.1:443", Duration::from_millis(700))?;
            Ok(answer.as_deref() == Some(address))
        })
    };
    sees(&world.alice, "203.0.113.7")?;
    sees(&world.bob, "203.0.113.7")?;

    let idle = patient(Duration::from_secs(5)).as_secs_f64().to_string();
    let command = ["weir-lab-host", "download", "1.1.1.1:443", "--idle", &idle];
    let download = world.alice.machine().node().spawn(command)?;
    let lines = || -> Result<usize> {
        let log = download.log()?;
        Ok(log.lines().filter(|line| line.contains(" line ")).count())
    };
    wait_for("alice's download", patient(SOON), || {
        Ok((lines()? > 5).then_some(()))
    })?;
    egress("--address 203.0.113.8")?;
    egress("--address 203.0.113.9 --for group:finance")?;
    sees(&world.alice, "203.0.113.9")?;
    sees(&world.bob, "203.0.113.8")?;
    // The other way round, by the policy alone.
    world.coordinator.set_policy(&policy_with_groups(BOB))?;
    sees(&world.alice, "203.0.113.8")?;
    sees(&world.bob, "203.0.113.9")?;
    // What was established before all this goes on as it began.
    let so_far = lines()?;
    wait_for("more of alice's download", patient(SOON), || {
        Ok((lines()? > so_far + 5).then_some(()))
    })?;
    ensure!(!download.log()?.contains("stalled"), "{}", download.log()?);

    // An address that the relay loses: with that, while its network still brings the answers, or not
    // at all.
    relay.node().ip("address del 203.0.113.9/24 dev eth0")?;
    let ask = || {
        let bob = world.bob.machine();
        bob.ask_tcp("1.1.1.1:443", Duration::from_secs(1))
    };
    let answer = ask()?;
    let is_chosen = |address: &String| address == "203.0.113.9";
    ensure!(answer.iter().all(is_chosen), "bob was served as {answer:?}");
    let elsewhere = "neighbour replace 203.0.113.9 lladdr 02:00:00:00:00:99 dev east";
    world.network.internet.ip(elsewhere)?;
    for _ in 0..2 {
        let answer = ask()?;
        ensure!(answer.is_none(), "bob was served as {answer:?}");
    }
    sees(&world.alice, "203.0.113.8")?;
    let status = relay.must("agent status")?.stdout;
    ensure!(status.contains("203.0.113.9, which was chosen"), "{status}");
    relay.node().address("eth0", "203.0.113.9/24")?;
    world
        .network
        .internet
        .ip("neighbour del 203.0.113.9 dev east")?;
    sees(&world.bob, "203.0.113.9")?;

    egress("--clear")?;
    sees(&world.alice, "203.0.113.7")?;
    sees(&world.bob, "203.0.113.7")?;
    world.network.lab.finish()
}
