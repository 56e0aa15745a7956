//! Step 2: advertised is not approved.

use anyhow::{Context as _, Result};

use super::{REFUSAL_WAIT, Teller, World};

pub(super) const TITLE: &str = "The relay offers two addresses, and nothing happens yet";

/// The command of the whole project.
pub(super) const UP: &str = "--advertise-routes=8.8.8.8,8.8.4.4";

pub(super) fn tell(world: &World, teller: &mut Teller<'_>) -> Result<()> {
    teller.say("On the relay, somebody types the one command that a relay needs.");
    let up = world.relay.up(UP)?;
    teller.typed("relay", &format!("agent up {UP}"), &up);
    let said = up.text();
    let waits = said.lines().find(|line| line.contains("8.8.8.8"));
    teller.check(
        "the relay says that its routes await approval",
        "8.8.8.8/32 with \"approval\"",
        waits.unwrap_or("nothing about 8.8.8.8").trim(),
        waits.is_some_and(|line| line.contains("8.8.8.8/32") && line.contains("approv")),
    )?;
    let place = said
        .lines()
        .find(|line| line.contains("routes approve relay"));
    teller.check(
        "it says where to approve them",
        "the command `coordinator routes approve relay …`",
        place.unwrap_or("nothing").trim(),
        place.is_some(),
    )?;
    let status = world.relay.settled()?;
    let waiting = status
        .advertised
        .iter()
        .filter(|route| route.state == "awaiting-approval")
        .count();
    teller.equal(
        "routes that await approval, says `agent status`",
        2,
        waiting,
    )?;

    teller
        .say("alice joins, too. An advertised route that nobody approved changes nothing for her.");
    let up = world.alice.up("")?;
    teller.typed("alice", "agent up", &up);
    let status = world.alice.settled()?;
    teller.fact(
        "alice's overlay address",
        status.overlay_ipv4().context("alice has no address")?,
    );
    teller.equal("routes that alice is told of", 0, status.available.len())?;
    let route = route_to_the_bank(world)?;
    teller.check(
        "alice's kernel sends the bank's packets to her gateway",
        "8.8.8.8 via 192.168.1.1 dev eth0",
        route.trim(),
        route.contains("dev eth0"),
    )?;
    let refused = world.network.refused_by_service()?;
    let alice = world.alice.machine();
    let tcp = alice.ask_tcp("8.8.8.8:443", REFUSAL_WAIT)?;
    teller.saw("alice still gets no answer over TCP", None, tcp.as_deref())?;
    let udp = alice.ask_udp("8.8.4.4:53", REFUSAL_WAIT)?;
    teller.saw("alice still gets no answer over UDP", None, udp.as_deref())?;
    teller.grew(
        "the bank's firewall dropped her packets",
        refused,
        world.network.refused_by_service()?,
    )
}

/// How alice's kernel would send a packet to the bank.
pub(super) fn route_to_the_bank(world: &World) -> Result<String> {
    let node = world.alice.machine().node();
    let route = node.run(["ip", "route", "get", "8.8.8.8"])?.stdout;
    Ok(route.lines().next().unwrap_or_default().to_owned())
}
