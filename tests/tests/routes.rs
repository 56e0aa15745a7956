//! Which packets take the tunnel, on hosts whose own routes would have it otherwise.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use weir_lab::{addresses, patient, wait_until};
use weir_tests::Agent;
use weir_tests::story::{ALICE, Quiet, World};

const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// How long a client waits for an answer that must not come.
const REFUSAL_WAIT: Duration = Duration::from_millis(700);
const SOON: Duration = Duration::from_secs(10);

fn strict(agent: &Agent) -> Result<()> {
    agent.machine().node().set_sysctls(
        &["all", "default", "eth0"].map(|link| (format!("net.ipv4.conf.{link}.rp_filter"), "1")),
    )
}

fn way(agent: &Agent, to: &str) -> Result<String> {
    let found = agent.machine().must(&format!("ip route get {to}"))?.stdout;
    let mut words = found.split_whitespace().skip_while(|word| *word != "dev");
    let dev = words.nth(1).context("a route without a link")?;
    Ok(dev.to_owned())
}

fn way_is(agent: &Agent, to: &str, link: &str) -> Result<()> {
    let what = format!("the way to {to} to be {link}");
    wait_until(&what, patient(SOON), || Ok(way(agent, to)? == link)).map(drop)
}

/// Lets the office begin connections to alice and to the bank; alice may use the bank, and the
/// office only where `alice_may` says so.
fn policy(alice_may: bool) -> String {
    let office = if alice_may {
        format!(r#"{{"action": "accept", "src": ["{ALICE}"], "dst": ["10.20.0.0/24:*"]}},"#)
    } else {
        String::new()
    };
    format!(
        r#"{{
    "tagOwners": {{"tag:relay": [], "tag:office": []}},
    "acls": [
        {{"action": "accept", "src": ["10.20.0.0/24"], "dst": ["{ALICE}:443"]}},
        {{"action": "accept", "src": ["10.20.0.0/24", "tag:office"], "dst": ["8.8.8.8/32:443"]}},
        {{"action": "accept", "src": ["{ALICE}"], "dst": ["8.8.8.8/32:443,53"]}},
        {office}
    ],
}}
"#
    )
}

#[test]
fn packets_take_the_tunnel_where_they_should_and_nowhere_else() -> Result<()> {
    let world = World::with_agents(&mut Quiet, &["relay", "office-relay", "alice"])?;
    world.coordinator.set_policy(&policy(false))?;
    for agent in [&world.relay, &world.office_relay, &world.alice] {
        strict(agent)?;
    }
    world.relay.up("--advertise-routes=8.8.8.8")?;
    world.office_relay.up("--advertise-routes=10.20.0.0/24")?;
    world.alice.up("")?;
    world.coordinator.approve("relay", "8.8.8.8/32")?;
    world.coordinator.approve("office-relay", "10.20.0.0/24")?;

    a_resolver_that_is_relayed(&world)?;
    an_office_that_may_only_begin(&world)?;
    from_one_prefix_to_another(&world)?;
    a_lan_of_the_hosts_own(&world)?;
    world.network.lab.finish()
}

/// systemd-networkd adds a host route for a resolver that DHCP named.
fn a_resolver_that_is_relayed(world: &World) -> Result<()> {
    let alice = world.alice.machine();
    alice.must("ip route add 8.8.8.8 via 192.168.1.1 dev eth0 proto dhcp metric 100")?;
    way_is(&world.alice, "8.8.8.8", "weir0")?;
    let relay = addresses::RELAY.to_string();
    let answer = alice.ask_udp("8.8.8.8:53", ANSWER_WAIT)?;
    ensure!(answer.as_deref() == Some(relay.as_str()), "{answer:?}");
    // A new session finds the coordinator, and the tunnel its relay, all the same.
    alice.must("agent set --hostname=alice")?;
    world.alice.settled()?;
    let answer = alice.ask_tcp("8.8.8.8:443", ANSWER_WAIT)?;
    ensure!(answer.as_deref() == Some(relay.as_str()), "{answer:?}");
    Ok(())
}

/// The answers to a subnet whose hosts are seen as they are go back to its relay.
fn an_office_that_may_only_begin(world: &World) -> Result<()> {
    let overlay = world.overlay_address(&world.alice)?;
    let office = &world.network.office;
    office.ip(&format!(
        "route add default via {}",
        addresses::OFFICE_GATEWAY
    ))?;
    let server = world.alice.machine().node().spawn([
        "weir-lab-host",
        "serve",
        "--address",
        &overlay,
        "--tcp",
        "443",
    ])?;
    server.wait_for_log("listening", patient(ANSWER_WAIT))?;
    let asks = format!("weir-lab-host tcp {overlay}:443 --timeout 2");
    wait_until("the office to be answered by alice", patient(SOON), || {
        let answer = office.try_run(asks.split_whitespace())?;
        Ok(answer.stdout.contains("you are 10.20.0.5:"))
    })?;
    way_is(&world.alice, "10.20.0.5", "weir0")?;
    // She may answer, and not begin.
    let begun = world
        .alice
        .machine()
        .ask_tcp("10.20.0.5:443", REFUSAL_WAIT)?;
    ensure!(begun.is_none(), "alice reached the office: {begun:?}");
    Ok(())
}

/// Into the tunnel at one relay, out of it at another.
fn from_one_prefix_to_another(world: &World) -> Result<()> {
    let asks = "weir-lab-host tcp 8.8.8.8:443 --timeout 2";
    wait_until("the office to be served by the bank", patient(SOON), || {
        let answer = world.network.office.try_run(asks.split_whitespace())?;
        let relay = format!("you are {}:", addresses::RELAY);
        Ok(answer.stdout.contains(&relay))
    })
    .map(drop)
}

/// A network that the host is connected to is not hijacked by the same network far away.
fn a_lan_of_the_hosts_own(world: &World) -> Result<()> {
    world.coordinator.set_policy(&policy(true))?;
    let alice = world.alice.machine();
    wait_until("alice to reach the office", patient(SOON), || {
        let answer = alice.ask_tcp("10.20.0.5:443", REFUSAL_WAIT)?;
        Ok(answer.as_deref() == Some("10.20.0.1"))
    })?;
    alice.node().ip(
        "link add lan0 type veth peer name lan1\naddress add 10.20.0.9/24 dev lan0\n\
         link set lan0 up\nlink set lan1 up",
    )?;
    way_is(&world.alice, "10.20.0.5", "lan0")?;
    alice.must("ip link del lan0")?;
    way_is(&world.alice, "10.20.0.5", "weir0")
}
