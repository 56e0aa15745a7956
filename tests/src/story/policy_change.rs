//! Step 7: what the policy takes away ends at once.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use weir_lab::{Spawned, addresses, patient, wait_for, wait_until};

use super::check::seconds;
use super::filtered::{DENIED_RELAY, denied_since};
use super::{ANSWER_WAIT, BOB, CHANGE_DEADLINE, PROMISE, REFUSAL_WAIT, Teller, World, policy};

pub(super) const TITLE: &str = "The policy changes: alice's download stops with it, bob's begins";

/// A download that runs this many lines (20 a second) is well under way.
const UNDER_WAY: usize = 20;
/// A download without a line for this long has stopped.
const STALLED: Duration = Duration::from_secs(2);
/// How long an agent that was frozen may take to hear what it missed: at worst it must notice that
/// its connection died, and make another.
const WAKING: Duration = Duration::from_secs(30);

pub(super) fn tell(world: &World, teller: &mut Teller<'_>) -> Result<()> {
    teller.say("alice downloads something large from the bank, through the relay.");
    let idle = patient(STALLED).as_secs_f64().to_string();
    let command = ["weir-lab-host", "download", "8.8.8.8:443", "--idle", &idle];
    let download = world.alice.machine().node().spawn(command)?;
    teller.waiting("the download to get going");
    let what = format!("{UNDER_WAY} lines of alice's download");
    wait_for(&what, patient(CHANGE_DEADLINE), || {
        Ok((lines(&download)?.len() >= UNDER_WAY).then_some(()))
    })?;

    teller.say(
        "The admin takes alice out of group:finance and puts bob in. alice has frozen her agent: it \
         is the relay that stops her.",
    );
    world.alice.signal(Signal::SIGSTOP)?;
    let denied = world.relay.packets(DENIED_RELAY)?;
    world.coordinator.set_policy(&policy(BOB))?;
    let changed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?;
    teller.waiting("the download to stop");
    download.wait_for_log("stalled", STALLED + CHANGE_DEADLINE)?;
    let arrived = lines(&download)?;
    let last = arrived.last().context("the download is empty")?;
    let after = last.saturating_sub(changed);
    teller.fact("lines that alice got", arrived.len());
    teller.figure(
        "last line of alice's download",
        if *last < changed {
            format!("{} before the command returned", seconds(changed - *last))
        } else {
            format!("{} after the command returned", seconds(after))
        },
    );
    teller.within(
        "the download stopped within a second of the change",
        PROMISE,
        after,
    )?;
    let answer = world.alice.machine().ask_tcp("8.8.8.8:443", REFUSAL_WAIT)?;
    let after = denied_since(world, denied)?;
    teller.grew("the relay counted what it refused", denied, after)?;
    teller.saw(
        "alice gets no new connection either",
        None,
        answer.as_deref(),
    )?;
    world.alice.signal(Signal::SIGCONT)?;
    world.alice.wait_for_status(
        "alice's agent, awake again, to drop the route",
        WAKING,
        |status| status.is_settled() && status.available.iter().all(|route| route.via != "relay"),
    )?;

    let bob = world.bob.machine();
    wait_until("bob's route to the bank", patient(CHANGE_DEADLINE), || {
        let route = bob.node().run(["ip", "route", "get", "8.8.8.8"])?;
        Ok(route.stdout.contains("dev weir0"))
    })?;
    let seen = addresses::RELAY.to_string();
    let tcp = bob.ask_tcp("8.8.8.8:443", ANSWER_WAIT)?;
    teller.saw(
        "bob is served over TCP now, as the relay",
        Some(&seen),
        tcp.as_deref(),
    )?;
    let udp = bob.ask_udp("8.8.4.4:53", ANSWER_WAIT)?;
    teller.saw("and over UDP", Some(&seen), udp.as_deref())
}

/// When each line of a download arrived, since 1970.
fn lines(download: &Spawned) -> Result<Vec<Duration>> {
    let log = download.log()?;
    Ok(log
        .lines()
        .filter(|line| line.contains(" line "))
        .filter_map(|line| line.split_whitespace().next()?.parse().ok())
        .map(Duration::from_millis)
        .collect())
}
