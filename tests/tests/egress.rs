//! The address that relayed traffic leaves with.

use std::time::Duration;

use anyhow::{Result, ensure};
use weir_lab::{addresses, patient, wait_until};
use weir_tests::story::{ALICE, Quiet, World};

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
