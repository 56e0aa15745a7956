//! Step 4: everybody else gets what the policy grants.

use anyhow::Result;
use weir_lab::addresses;

use super::check::seconds;
use super::forced::Forced;
use super::{ANSWER_WAIT, CHANGE_DEADLINE, REFUSAL_WAIT, Teller, World};

pub(super) const TITLE: &str = "bob and the build server get what the policy grants, and no more";

/// Packets that a client sent through the tunnel and the relay did not forward.
pub(super) const DENIED_RELAY: &str = "denied_relay";

pub(super) fn tell(world: &World, teller: &mut Teller<'_>) -> Result<()> {
    bob(world, teller)?;
    build(world, teller)
}

fn bob(world: &World, teller: &mut Teller<'_>) -> Result<()> {
    teller.say(
        "bob joins. He is not in group:finance: his agent is not even told of the route, and his \
         packets go out by his gateway.",
    );
    let up = world.bob.up("")?;
    teller.typed("bob", "agent up", &up);
    let status = world.bob.settled()?;
    let told = status
        .available
        .iter()
        .filter(|route| route.via == "relay")
        .count();
    teller.equal("routes of the relay that bob is told of", 0, told)?;
    let bob = world.bob.machine();
    let answer = bob.ask_tcp("8.8.8.8:443", REFUSAL_WAIT)?;
    teller.saw("bob gets no answer", None, answer.as_deref())?;

    teller.say(
        "bob is root on his own machine. He freezes his agent and forces the packets into the \
         tunnel by hand. Now it is the relay that says no.",
    );
    let clients = world.clients_of_the_bank()?;
    let before = world.relay.packets(DENIED_RELAY)?;
    let forced = Forced::into_tunnel(&world.bob, "8.8.8.8/32")?;
    let tcp = bob.ask_tcp("8.8.8.8:443", REFUSAL_WAIT)?;
    let udp = bob.ask_udp("8.8.8.8:53", REFUSAL_WAIT)?;
    teller.saw("bob gets no answer over TCP", None, tcp.as_deref())?;
    teller.saw("bob gets no answer over UDP", None, udp.as_deref())?;
    let after = denied_since(world, before)?;
    teller.grew("the relay counted what it refused", before, after)?;
    teller.equal(
        "clients that the bank saw meanwhile",
        0,
        world.clients_of_the_bank()? - clients,
    )?;
    let repaired = forced.undo()?;
    teller.figure(
        "bob's agent, awake again, undid his change",
        format!("after {}", seconds(repaired)),
    );
    Ok(())
}

fn build(world: &World, teller: &mut Teller<'_>) -> Result<()> {
    teller.say("build joins, with the tag that may ask the bank's DNS (UDP 53) and nothing else.");
    let up = world.build.up("")?;
    teller.typed("build", "agent up", &up);
    world.build.settled()?;
    let build = world.build.machine();
    let seen = addresses::RELAY.to_string();
    let udp = build.ask_udp("8.8.8.8:53", ANSWER_WAIT)?;
    teller.saw(
        "build is served over UDP 53, as the relay",
        Some(&seen),
        udp.as_deref(),
    )?;
    let before = world.relay.packets(DENIED_RELAY)?;
    let tcp = build.ask_tcp("8.8.8.8:443", REFUSAL_WAIT)?;
    teller.saw("build gets no answer over TCP 443", None, tcp.as_deref())?;
    let after = denied_since(world, before)?;
    teller.grew("the relay counted that, too", before, after)
}

/// The relay's counter of refused packets, as soon as it is more than `before`; or what it is in
/// the end.
pub(super) fn denied_since(world: &World, before: u64) -> Result<u64> {
    let counted = world.relay.wait_for_status(
        "the relay to count a refused packet",
        CHANGE_DEADLINE,
        |status| status.packets(DENIED_RELAY) > before,
    );
    match counted {
        Ok(status) => Ok(status.packets(DENIED_RELAY)),
        Err(_) => world.relay.packets(DENIED_RELAY),
    }
}
