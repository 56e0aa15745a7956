//! Step 5: a relay forwards to approved prefixes only.

use anyhow::Result;
use weir_lab::addresses;

use super::filtered::{DENIED_RELAY, denied_since};
use super::forced::Forced;
use super::{ANSWER_WAIT, REFUSAL_WAIT, Teller, World};

pub(super) const TITLE: &str = "Nobody reaches anything else through the relay";

pub(super) fn tell(world: &World, teller: &mut Teller<'_>) -> Result<()> {
    teller.say("1.1.1.1 was never offered. alice reaches it from home, as she always did.");
    let alice = world.alice.machine();
    let own = addresses::GATEWAY_A.to_string();
    let direct = alice.ask_tcp("1.1.1.1:443", ANSWER_WAIT)?;
    teller.saw(
        "1.1.1.1 sees alice's own gateway",
        Some(&own),
        direct.as_deref(),
    )?;

    teller.say("Now she forces 1.1.1.1 into the tunnel by hand. A relay is not an open proxy.");
    let log = || world.network.server_log(&world.network.elsewhere);
    let lines = log()?.lines().count();
    let before = world.relay.packets(DENIED_RELAY)?;
    let forced = Forced::into_tunnel(&world.alice, "1.1.1.1/32")?;
    let tcp = alice.ask_tcp("1.1.1.1:443", REFUSAL_WAIT)?;
    let udp = alice.ask_udp("1.1.1.1:53", REFUSAL_WAIT)?;
    teller.saw("alice gets no answer over TCP", None, tcp.as_deref())?;
    teller.saw("alice gets no answer over UDP", None, udp.as_deref())?;
    let after = denied_since(world, before)?;
    teller.grew("the relay counted what it refused", before, after)?;
    teller.equal(
        "clients that 1.1.1.1 saw meanwhile",
        0,
        log()?.lines().count() - lines,
    )?;
    forced.undo()?;
    let direct = alice.ask_tcp("1.1.1.1:443", ANSWER_WAIT)?;
    teller.saw(
        "without the detour she is served again",
        Some(&own),
        direct.as_deref(),
    )
}
