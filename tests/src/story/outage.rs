//! Step 8: nothing that is not a packet is needed for a packet.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use weir_lab::{Ping, addresses, patient, wait_until};

use super::check::seconds;
use super::{ANSWER_WAIT, Teller, World};
use crate::{Agent, Backend};

pub(super) const TITLE: &str = "The coordinator dies and every agent restarts; the packets go on";

/// Ten a second.
const PING_INTERVAL: Duration = Duration::from_millis(100);
/// How many answers before the first disturbance, and after the last.
const QUIET_ANSWERS: usize = 15;
/// How long those may take.
const ANSWERS_DEADLINE: Duration = Duration::from_secs(10);
/// When WireGuard itself renews a session, in seconds (`REKEY_AFTER_TIME`, WireGuard paper,
/// section 6.1).
const REKEY_SECONDS: u64 = 120;
/// How exact the age of a handshake is known, in seconds.
const ROUNDING: u64 = 2;
/// `wg show latest-handshakes` prints the time since 1970; the userspace device prints the age,
/// which is far below this.
const SMALLEST_TIME: u64 = 1_000_000_000;

pub(super) fn tell(world: &mut World, teller: &mut Teller<'_>) -> Result<()> {
    teller.say(
        "bob pings the bank through the relay and alice the office through the other, ten times a \
         second. Meanwhile the coordinator is killed, every agent is restarted, and the relay's is \
         killed on top of that.",
    );
    let bank = Ping::start(
        world.bob.machine().node(),
        &addresses::SERVICE.to_string(),
        PING_INTERVAL,
    )?;
    let office = Ping::start(
        world.alice.machine().node(),
        &addresses::OFFICE.to_string(),
        PING_INTERVAL,
    )?;
    let pings = [&bank, &office];
    more_answers(&pings)?;
    let handshakes = handshakes_of_all(world)?;
    let looked = Instant::now();
    let maps = maps(world)?;

    world.coordinator.stop(Signal::SIGKILL)?;
    teller.fact("coordinator", "killed (SIGKILL)");
    for index in 0..world.agents().len() {
        restart(world, teller, index, Signal::SIGTERM)?;
    }
    // The relay again, and without a chance to say goodbye.
    restart(world, teller, 0, Signal::SIGKILL)?;
    teller.equal(
        "maps held and in force after the restarts",
        maps,
        self::maps(world)?,
    )?;
    more_answers(&pings)?;
    let later = handshakes_of_all(world)?;
    let passed = looked.elapsed().as_secs();

    for (name, ping) in [("bob to the bank", bank), ("alice to the office", office)] {
        let report = ping.stop()?;
        teller.figure(
            &format!("pings {name}"),
            format!("{} sent, {} lost", report.transmitted, report.lost.len()),
        );
        teller.equal(format!("pings lost, {name}"), 0, report.lost.len())?;
    }
    same_sessions(teller, &handshakes, &later, passed)?;
    let seen = addresses::RELAY.to_string();
    let tcp = world.bob.machine().ask_tcp("8.8.8.8:443", ANSWER_WAIT)?;
    teller.saw(
        "new connections work without a coordinator, too",
        Some(&seen),
        tcp.as_deref(),
    )?;
    if world.expected_backend == Backend::Userspace {
        teller.say(
            "This kernel has no WireGuard, so the packets went through the userspace device. It is \
             a process of its own, which is why it outlived every agent here. It does not outlive \
             its own death: then the agent starts it again and sessions begin anew.",
        );
    }
    Ok(())
}

/// Ends the daemon of an agent and starts it again, and waits until it stands where it stood.
fn restart(world: &mut World, teller: &mut Teller<'_>, index: usize, signal: Signal) -> Result<()> {
    let started = Instant::now();
    let mut agents = world.agents_mut();
    let agent = agents.get_mut(index).context("there is no such agent")?;
    agent.stop(signal)?;
    agent.start()?;
    let status = agent.settled()?;
    let connected = status.coordinator.is_some_and(|way| way.connected);
    let name = agent.name().to_owned();
    teller.fact(
        &format!("agent of {name}"),
        format!(
            "{signal}, up again on its ledger after {}",
            seconds(started.elapsed())
        ),
    );
    teller.equal(
        format!("{name} came back without the coordinator"),
        "not connected",
        if connected {
            "connected"
        } else {
            "not connected"
        },
    )
}

/// Waits until every ping was answered some more times.
fn more_answers(pings: &[&Ping]) -> Result<()> {
    for ping in pings {
        let before = ping.answers()?;
        wait_until("answers to ping", patient(ANSWERS_DEADLINE), || {
            Ok(ping.answers()? >= before + QUIET_ANSWERS)
        })?;
    }
    Ok(())
}

/// The maps that all nodes hold and have in force, as text.
fn maps(world: &World) -> Result<String> {
    let mut texts = Vec::new();
    for agent in world.agents() {
        let map = agent.status()?.map;
        let number =
            |map: Option<u64>| map.map_or_else(|| "none".to_owned(), |map| map.to_string());
        texts.push(format!(
            "{} {}/{}",
            agent.name(),
            number(map.held),
            number(map.applied)
        ));
    }
    Ok(texts.join(", "))
}

/// The age of each session in seconds, by node and peer.
type Handshakes = BTreeMap<(String, String), u64>;

fn handshakes_of_all(world: &World) -> Result<Handshakes> {
    let mut found = Handshakes::new();
    for agent in world.agents() {
        for (peer, age) in handshakes(agent)? {
            found.insert((agent.name().to_owned(), peer), age);
        }
    }
    Ok(found)
}

fn handshakes(agent: &Agent) -> Result<Vec<(String, u64)>> {
    let shown = agent.machine().must("wg show weir0 latest-handshakes")?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?
        .as_secs();
    let mut found = Vec::new();
    for line in shown.stdout.lines() {
        let (peer, number) = line
            .split_once('\t')
            .with_context(|| format!("cannot read {line}"))?;
        let number: u64 = number
            .trim()
            .parse()
            .with_context(|| format!("cannot read {line}"))?;
        match number {
            0 => {}
            age if age < SMALLEST_TIME => found.push((peer.to_owned(), age)),
            time => found.push((peer.to_owned(), now.saturating_sub(time))),
        }
    }
    Ok(found)
}

/// Checks that no session began anew, but by WireGuard's own renewal.
fn same_sessions(
    teller: &mut Teller<'_>,
    before: &Handshakes,
    after: &Handshakes,
    passed: u64,
) -> Result<()> {
    let (mut went_on, mut renewed, mut reset) = (0, 0, Vec::new());
    for ((node, peer), age) in before {
        let expected = age + passed;
        match after.get(&(node.clone(), peer.clone())) {
            Some(now) if now + ROUNDING >= expected => went_on += 1,
            Some(_) if expected + ROUNDING >= REKEY_SECONDS => renewed += 1,
            Some(now) => reset.push(format!("{node}: {now} s instead of {expected} s")),
            None => reset.push(format!("{node} lost its session")),
        }
    }
    teller.fact(
        "WireGuard sessions",
        format!("{went_on} as old as before, {renewed} renewed by WireGuard's own clock"),
    );
    teller.check(
        "no restart renewed a handshake",
        format!("{} sessions that went on", before.len()),
        if reset.is_empty() {
            format!("{} sessions that went on", went_on + renewed)
        } else {
            reset.join("; ")
        },
        reset.is_empty() && !before.is_empty(),
    )
}
