//! Step 3: approved, and served as the relay.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use weir_lab::{addresses, patient};

use super::advertised::route_to_the_bank;
use super::check::seconds;
use super::{ANSWER_WAIT, PROMISE, Teller, World};
use crate::Agent;

pub(super) const TITLE: &str = "An admin approves, and alice reaches the service as the relay";

/// How often alice's kernel is asked for its route.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// When to give up on the route.
const ROUTE_DEADLINE: Duration = Duration::from_secs(10);
/// How long one attempt to reach the service may take before the next.
const ATTEMPT: Duration = Duration::from_millis(250);

pub(super) fn tell(world: &World, teller: &mut Teller<'_>) -> Result<()> {
    teller.say("The admin looks at what is offered, and approves it.");
    let routes = world
        .coordinator
        .machine()
        .must("coordinator routes list")?;
    teller.typed("coordinator", "coordinator routes list", &routes);
    let typed = Instant::now();
    let prefixes = "8.8.8.8/32 8.8.4.4/32";
    let approval = world.coordinator.approve("relay", prefixes)?;
    let approved = Instant::now();
    let route = loop {
        let route = route_to_the_bank(world)?;
        if route.contains("dev weir0") {
            break route;
        }
        if approved.elapsed() > patient(ROUTE_DEADLINE) {
            bail!("alice's kernel still has: {}", route.trim());
        }
        std::thread::sleep(POLL_INTERVAL);
    };
    let (after, in_all) = (approved.elapsed(), typed.elapsed());
    let served = first_answer(&world.alice, approved)?;
    teller.typed(
        "coordinator",
        &format!("coordinator routes approve relay {prefixes}"),
        &approval,
    );
    teller.figure(
        "route in alice's kernel",
        format!(
            "{} after the command returned, {} after it was typed",
            seconds(after),
            seconds(in_all)
        ),
    );
    teller.figure(
        "alice served for the first time",
        format!("{} after the command returned", seconds(served)),
    );
    teller.fact("alice's kernel", route.trim());
    teller.within(
        "the kernel has the route within a second of the approval",
        PROMISE,
        after,
    )?;
    teller.within(
        "alice is served within a second of the approval",
        PROMISE,
        served,
    )?;

    let alice = world.alice.machine();
    let seen = addresses::RELAY.to_string();
    let sent = bytes_to_relay(&world.alice)?;
    for (place, udp) in [
        ("8.8.8.8:443", false),
        ("8.8.4.4:443", false),
        ("8.8.8.8:53", true),
        ("8.8.4.4:53", true),
    ] {
        let (protocol, answer) = if udp {
            ("UDP", alice.ask_udp(place, ANSWER_WAIT)?)
        } else {
            ("TCP", alice.ask_tcp(place, ANSWER_WAIT)?)
        };
        let name = format!("{place} over {protocol} answers, and saw the relay's address");
        teller.saw(name, Some(&seen), answer.as_deref())?;
    }
    who_carried(world, teller, sent)
}

/// Asks again and again until the service answers; how long after `since` it did.
fn first_answer(agent: &Agent, since: Instant) -> Result<Duration> {
    loop {
        if agent.machine().ask_tcp("8.8.8.8:443", ATTEMPT)?.is_some() {
            return Ok(since.elapsed());
        }
        if since.elapsed() > patient(ROUTE_DEADLINE) {
            bail!("alice has the route, but gets no answer from 8.8.8.8:443");
        }
    }
}

/// What alice sent to the relay and received from it, as WireGuard counts.
fn bytes_to_relay(agent: &Agent) -> Result<(u64, u64)> {
    let status = agent.status()?;
    let relay = status
        .peer("relay")
        .context("alice does not know the relay")?;
    Ok((relay.sent_bytes, relay.received_bytes))
}

/// Proves which WireGuard the packets went through.
fn who_carried(world: &World, teller: &mut Teller<'_>, before: (u64, u64)) -> Result<()> {
    let status = world.alice.status()?;
    let wireguard = status.wireguard.context("alice is up without WireGuard")?;
    teller.equal(
        "`agent status` names the WireGuard in use",
        world.expected_backend,
        wireguard.backend,
    )?;
    let kind = world.expected_backend.link_kind();
    let link = world.alice.machine().must("ip -d link show weir0")?.stdout;
    let word = link.split_whitespace().find(|word| *word == kind);
    teller.check(
        "`ip -d link show weir0` agrees",
        format!("a link of type {kind}"),
        word.map_or_else(
            || link.trim().to_owned(),
            |kind| format!("a link of type {kind}"),
        ),
        word.is_some(),
    )?;
    let after = bytes_to_relay(&world.alice)?;
    teller.grew(
        "its counter of bytes sent to the relay grew",
        before.0,
        after.0,
    )?;
    teller.grew("its counter of bytes received grew", before.1, after.1)
}
