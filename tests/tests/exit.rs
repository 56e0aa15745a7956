//! An exit node: what a client of it may never do is send its traffic out directly.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use weir_lab::{HostSnapshot, TOUCHED_SYSCTLS, addresses, patient, wait_until};
use weir_tests::Machine;
use weir_tests::story::{ALICE, Quiet, World};

const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// How long a client waits for an answer that must not come.
const REFUSAL_WAIT: Duration = Duration::from_millis(700);
const SOON: Duration = Duration::from_secs(10);
/// A public host that nobody advertises.
const ELSEWHERE: &str = "1.1.1.1:443";

/// alice may use exits, and the bank.
fn policy(exit: bool) -> String {
    let exit = if exit {
        format!(r#"{{"action": "accept", "src": ["{ALICE}"], "dst": ["autogroup:internet:*"]}},"#)
    } else {
        String::new()
    };
    format!(
        r#"{{
    "tagOwners": {{"tag:relay": []}},
    "acls": [
        {exit}
        {{"action": "accept", "src": ["{ALICE}"], "dst": ["8.8.8.8/32:443"]}},
    ],
}}
"#
    )
}

/// What `elsewhere` sees when alice asks it; none when she gets no answer.
fn seen(world: &World, wait: Duration) -> Result<Option<String>> {
    world.alice.machine().ask_tcp(ELSEWHERE, wait)
}

/// Waits until `elsewhere` sees alice come from this address.
fn seen_as(world: &World, what: &str, address: &str) -> Result<()> {
    wait_until(what, patient(SOON), || {
        Ok(seen(world, REFUSAL_WAIT)?.as_deref() == Some(address))
    })
    .map(drop)
    .with_context(|| {
        let alice = look(world.alice.machine());
        let relay = look(world.relay.machine());
        format!("alice:\n{alice}\nrelay:\n{relay}")
    })
}

/// What may keep packets from their way, for whoever has to find out.
fn look(machine: &Machine) -> String {
    let command = "agent status; ip rule; ip route show table all; nft list table inet weir; \
        wg show; nstat -az | grep -iE 'filter|discard|noroute'; sysctl -a | grep -E 'rp_filter|valid_mark'";
    let output = machine.node().try_run(["sh", "-c", command]);
    output.map(|output| output.text()).unwrap_or_default()
}

/// Checks that alice gets no answer, and that nothing of hers reached `elsewhere` by any way.
fn nothing_gets_out(world: &World, when: &str) -> Result<()> {
    let clients = |world: &World| -> Result<usize> {
        let log = world.network.server_log(&world.network.elsewhere)?;
        Ok(log.lines().count())
    };
    let before = clients(world)?;
    let answer = seen(world, REFUSAL_WAIT)?;
    ensure!(answer.is_none(), "{when}: elsewhere answered {answer:?}");
    let udp = world.alice.machine().ask_udp("1.1.1.1:53", REFUSAL_WAIT)?;
    ensure!(udp.is_none(), "{when}: elsewhere answered {udp:?}");
    let after = clients(world)?;
    ensure!(
        before == after,
        "{when}: elsewhere saw {} clients",
        after - before
    );
    Ok(())
}

fn check_sources(world: &World, value: &str) -> Result<()> {
    world.alice.machine().node().set_sysctls(
        &["all", "default", "eth0"].map(|link| (format!("net.ipv4.conf.{link}.rp_filter"), value)),
    )
}

fn reaches_its_gateway(world: &World) -> Result<bool> {
    let ping = world
        .alice
        .machine()
        .type_in("ping -n -c 1 -W 5 192.168.1.1")?;
    Ok(ping.success())
}

#[test]
fn an_exit_that_is_gone_lets_nothing_out_directly() -> Result<()> {
    let mut world = World::with_agents(&mut Quiet, &["relay", "alice"])?;
    world.coordinator.set_policy(&policy(true))?;
    // Debian's kernels check loosely where systemd-sysctl says so, RHEL's strictly.
    check_sources(&world, "1")?;
    let before = HostSnapshot::take(world.alice.machine().node(), TOUCHED_SYSCTLS)?;
    world.relay.up("--advertise-exit-node")?;
    world.coordinator.approve("relay", "0.0.0.0/0,::/0")?;
    let gateway = addresses::GATEWAY_A.to_string();
    let relay = addresses::RELAY.to_string();
    let direct = seen(&world, ANSWER_WAIT)?;
    ensure!(direct.as_deref() == Some(gateway.as_str()), "{direct:?}");

    world.alice.up("--exit-node=relay")?;
    seen_as(&world, "alice to use the exit, strictly checked", &relay)?;
    ensure!(!reaches_its_gateway(&world)?, "the LAN is reached unasked");
    // It is the mark that makes a strict check pass: without it, what the relay sends is dropped.
    let heeds_marks = |value| {
        let node = world.alice.machine().node();
        node.set_sysctl("net.ipv4.conf.all.src_valid_mark", value)
    };
    world.alice.signal(Signal::SIGSTOP)?;
    heeds_marks("0")?;
    let unmarked = seen(&world, REFUSAL_WAIT)?;
    heeds_marks("1")?;
    world.alice.signal(Signal::SIGCONT)?;
    ensure!(unmarked.is_none(), "the check of sources is not strict");
    check_sources(&world, "2")?;
    let loosely = seen(&world, ANSWER_WAIT)?;
    ensure!(
        loosely.as_deref() == Some(relay.as_str()),
        "loosely checked: {loosely:?}"
    );
    check_sources(&world, "1")?;

    // The policy takes the exit away.
    world.coordinator.set_policy(&policy(false))?;
    let status = world
        .alice
        .wait_for_status("alice to lose her exit", SOON, |status| {
            status
                .exit_node
                .as_ref()
                .is_some_and(|exit| !exit.available)
        })?;
    ensure!(
        status.warnings.iter().any(|line| line.contains("refused")),
        "{:?}",
        status.warnings
    );
    let said = world.alice.machine().must("agent status")?.stdout;
    ensure!(
        said.contains("relay, not there: internet traffic is refused"),
        "{said}"
    );
    world.alice.settled()?;
    nothing_gets_out(&world, "without the exit")?;

    // Also when the daemon starts again: it finds its coordinator all the same.
    world.alice.stop(Signal::SIGTERM)?;
    nothing_gets_out(&world, "without the daemon")?;
    world
        .alice
        .machine()
        .must("ip link del weir0")
        .context("the link is not there")?;
    nothing_gets_out(&world, "without the link")?;
    world.alice.start()?;
    world
        .alice
        .wait_for_status("alice to reach her coordinator", SOON, |status| {
            status.coordinator.as_ref().is_some_and(|way| way.connected) && status.is_settled()
        })?;
    nothing_gets_out(&world, "after a start")?;

    // Another setting can change meanwhile, and the choice about the LAN holds.
    world
        .alice
        .machine()
        .must("agent set --exit-node-allow-lan-access")?;
    wait_until("alice's LAN", patient(SOON), || reaches_its_gateway(&world))?;
    nothing_gets_out(&world, "with the LAN")?;

    // It comes back with the policy, or is given up.
    world.coordinator.set_policy(&policy(true))?;
    seen_as(&world, "alice to use the exit again", &relay)?;
    world.coordinator.set_policy(&policy(false))?;
    wait_until("alice to lose her exit again", patient(SOON), || {
        Ok(seen(&world, REFUSAL_WAIT)?.is_none())
    })?;
    world
        .alice
        .machine()
        .must("agent set --exit-node-allow-lan-access=false --exit-node=")?;
    seen_as(&world, "alice to go directly", &gateway)?;

    world.alice.machine().must("agent down")?;
    check_sources(&world, "1")?;
    let after = HostSnapshot::take(world.alice.machine().node(), TOUCHED_SYSCTLS)?;
    let difference = before.difference(&after);
    ensure!(difference.is_none(), "{difference:?}");
    world.network.lab.finish()
}
