//! What a node comes back from without its coordinator: a crash of the agent, and a reboot.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use weir_lab::{HostSnapshot, TOUCHED_SYSCTLS, patient, wait_until};
use weir_tests::story::{ALICE, BOB, Quiet, World, policy};
use weir_tests::{Agent, USERSPACE_WIREGUARD};

const ANSWER_WAIT: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(10);
/// How long an agent may take to notice that its coordinator is back: a backoff with jitter.
const RECONNECTED: Duration = Duration::from_secs(60);

/// The world in which alice reaches the bank through the relay.
fn connected() -> Result<World> {
    let world = World::with_agents(&mut Quiet, &["relay", "alice"])?;
    world.relay.up("--advertise-routes=8.8.8.8")?;
    world.alice.up("")?;
    world.coordinator.approve("relay", "8.8.8.8/32")?;
    served(&world)?;
    Ok(world)
}

/// Waits until alice is served as the relay.
fn served(world: &World) -> Result<()> {
    wait_until("alice to be served", patient(SOON), || {
        let wait = Duration::from_millis(500);
        let answer = world.alice.machine().ask_tcp("8.8.8.8:443", wait)?;
        Ok(answer.as_deref() == Some("203.0.113.7"))
    })
    .map(drop)
}

#[test]
fn a_crashed_agent_comes_back_on_its_ledger() -> Result<()> {
    let mut world = connected()?;
    world.coordinator.stop(Signal::SIGKILL)?;
    for agent in [&mut world.relay, &mut world.alice] {
        let before = agent.status()?;
        agent.stop(Signal::SIGKILL)?;
        agent.start()?;
        let after = agent.settled()?;
        ensure!(
            before.map == after.map,
            "{:?}, then {:?}",
            before.map,
            after.map
        );
    }
    let answer = world.alice.machine().ask_tcp("8.8.8.8:443", ANSWER_WAIT)?;
    ensure!(answer.as_deref() == Some("203.0.113.7"), "{answer:?}");
    world.network.lab.finish()
}

#[test]
fn a_rebooted_network_works_without_its_coordinator() -> Result<()> {
    let mut world = connected()?;
    world.coordinator.stop(Signal::SIGKILL)?;
    for agent in [&mut world.relay, &mut world.alice] {
        reboot(agent)?;
    }
    let answer = world
        .alice
        .machine()
        .ask_tcp("8.8.8.8:443", Duration::from_secs(1))?;
    ensure!(
        answer.is_none(),
        "nothing of Weir is left, and alice was served as {answer:?}"
    );
    for agent in [&mut world.relay, &mut world.alice] {
        agent.start()?;
        let status = agent.settled()?;
        let connected = status.coordinator.is_some_and(|way| way.connected);
        ensure!(!connected, "{} found a coordinator", agent.name());
    }
    served(&world)?;

    // The coordinator comes back, and what it says counts again.
    world.coordinator.serve()?;
    for agent in [&world.relay, &world.alice] {
        agent.wait_for_status("the coordinator to be found again", RECONNECTED, |status| {
            status.coordinator.as_ref().is_some_and(|way| way.connected)
        })?;
    }
    world.coordinator.set_policy(&policy(BOB))?;
    world
        .alice
        .wait_for_status("alice to lose the route", SOON, |status| {
            status.available.is_empty()
        })?;
    world.coordinator.set_policy(&policy(ALICE))?;
    served(&world)?;

    // And what the hosts were before the first `up` is still known.
    for agent in [&world.relay, &world.alice] {
        agent.machine().must("agent down")?;
        let after = HostSnapshot::take(agent.machine().node(), TOUCHED_SYSCTLS)?;
        let before = world.before.get(agent.name()).context("nobody looked")?;
        let difference = before.difference(&after);
        ensure!(difference.is_none(), "{}: {difference:?}", agent.name());
    }
    world.network.lab.finish()
}

/// Takes away all that a reboot takes away: processes, sockets, and what was in the kernel.
fn reboot(agent: &mut Agent) -> Result<()> {
    agent.stop(Signal::SIGKILL)?;
    let machine = agent.machine();
    for (pid, command) in machine.processes()? {
        if command.contains(USERSPACE_WIREGUARD) {
            machine.must(&format!("kill -9 {pid}"))?;
        }
    }
    // The userspace device's link goes with its process, a little later.
    wait_until("the link to be gone", patient(SOON), || {
        machine.node().try_run(["ip", "link", "del", "weir0"])?;
        Ok(!machine
            .node()
            .try_run(["ip", "link", "show", "weir0"])?
            .success())
    })?;
    machine.must("nft delete table inet weir")?;
    for family in ["-4", "-6"] {
        for priority in [5710, 5720, 5730, 5740] {
            // Not every node has every rule.
            machine.type_in(&format!("ip {family} rule del priority {priority}"))?;
        }
    }
    machine.node().set_sysctl("net.ipv4.ip_forward", "0")?;
    machine.must("conntrack -F")?;
    machine
        .node()
        .run(["sh", "-c", "rm -rf /run/weir/* /run/wireguard/*"])?;
    Ok(())
}
