//! Step 6: a private subnet, and a forged source.

use anyhow::Result;
use weir_lab::{addresses, patient, wait_until};

use super::{ANSWER_WAIT, CHANGE_DEADLINE, REFUSAL_WAIT, Teller, World};
use crate::Agent;

pub(super) const TITLE: &str =
    "alice reaches the office through a second relay; forged packets reach nothing";

/// Packets with an overlay address that did not come through the tunnel.
const DENIED_SPOOFED: &str = "denied_spoofed";
const UP: &str = "--advertise-routes=10.20.0.0/24";

pub(super) fn tell(world: &World, teller: &mut Teller<'_>) -> Result<()> {
    office(world, teller)?;
    forged(world, teller)
}

fn office(world: &World, teller: &mut Teller<'_>) -> Result<()> {
    let up = world.office_relay.up(UP)?;
    teller.typed("office-relay", &format!("agent up {UP}"), &up);
    world.coordinator.approve("office-relay", "10.20.0.0/24")?;
    let alice = world.alice.machine();
    teller.waiting("the route to the office");
    let took = wait_until(
        "alice's route to the office",
        patient(CHANGE_DEADLINE),
        || {
            let route = alice.node().run(["ip", "route", "get", "10.20.0.5"])?;
            Ok(route.stdout.contains("dev weir0"))
        },
    )?;
    teller.figure(
        "route to the office in alice's kernel",
        super::check::seconds(took),
    );
    world.office_relay.settled()?;
    let seen = addresses::OFFICE_GATEWAY.to_string();
    let tcp = alice.ask_tcp("10.20.0.5:443", ANSWER_WAIT)?;
    teller.saw(
        "the office's server answers over TCP",
        Some(&seen),
        tcp.as_deref(),
    )?;
    let udp = alice.ask_udp("10.20.0.5:53", ANSWER_WAIT)?;
    teller.saw("and over UDP", Some(&seen), udp.as_deref())?;
    let answer = alice.ask_tcp("8.8.8.8:443", ANSWER_WAIT)?;
    let relay = addresses::RELAY.to_string();
    teller.saw(
        "the bank still sees the first relay",
        Some(&relay),
        answer.as_deref(),
    )
}

/// Somebody on the relay's wire claims to be alice.
fn forged(world: &World, teller: &mut Teller<'_>) -> Result<()> {
    let alice = world.overlay_address(&world.alice)?;
    let relay = world.overlay_address(&world.relay)?;
    teller.say(&format!(
        "A stranger on the relay's own wire sends packets from {alice}, alice's overlay address, \
         to the bank by way of the relay, and to the relay itself."
    ));
    let stranger = world.stranger.node();
    stranger.ip(&format!(
        "address add {alice}/32 dev lo\n\
         route add 8.8.8.8/32 via {0}\n\
         route add {relay}/32 via {0}",
        addresses::RELAY
    ))?;
    let clients = world.clients_of_the_bank()?;
    let arrived = world.network.refused_by_service()?;
    let before = world.relay.packets(DENIED_SPOOFED)?;
    let forged = world.stranger.type_in(&format!(
        "weir-lab-host udp 8.8.8.8:53 --from {alice} --timeout {:.2}",
        patient(REFUSAL_WAIT).as_secs_f64()
    ))?;
    teller.check(
        "the forged packets get no answer",
        "no answer",
        forged.text().trim(),
        !forged.success(),
    )?;
    let through = spoofed_since(&world.relay, before)?;
    teller.grew("the relay counted them as forged", before, through)?;
    teller.equal(
        "clients that the bank saw meanwhile",
        0,
        world.clients_of_the_bank()? - clients,
    )?;
    teller.equal(
        "packets that its firewall saw meanwhile",
        0,
        world.network.refused_by_service()? - arrived,
    )?;
    let ping = world
        .stranger
        .type_in(&format!("ping -n -c 2 -i 0.3 -W 1 -I {alice} {relay}"))?;
    teller.check(
        "the relay's overlay address does not answer a stranger",
        "no answer",
        ping.stdout
            .lines()
            .find(|line| line.contains("received"))
            .unwrap_or("no summary"),
        !ping.success(),
    )?;
    let to_itself = spoofed_since(&world.relay, through)?;
    teller.grew("the relay counted that, too", through, to_itself)
}

fn spoofed_since(relay: &Agent, before: u64) -> Result<u64> {
    let counted = relay.wait_for_status(
        "the relay to count a forged packet",
        CHANGE_DEADLINE,
        |status| status.packets(DENIED_SPOOFED) > before,
    );
    match counted {
        Ok(status) => Ok(status.packets(DENIED_SPOOFED)),
        Err(_) => relay.packets(DENIED_SPOOFED),
    }
}
