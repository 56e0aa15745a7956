//! Step 1: without Weir.

use anyhow::Result;

use super::{REFUSAL_WAIT, Teller, World};

pub(super) const TITLE: &str = "Without Weir, alice is refused by the service";

pub(super) fn tell(world: &World, teller: &mut Teller<'_>) -> Result<()> {
    teller.say(
        "alice asks the bank from home. Her packets arrive from her gateway's address, which the \
         bank does not know.",
    );
    let refused = world.network.refused_by_service()?;
    let alice = world.alice.machine();
    let tcp = alice.ask_tcp("8.8.8.8:443", REFUSAL_WAIT)?;
    teller.saw("alice gets no answer over TCP", None, tcp.as_deref())?;
    let udp = alice.ask_udp("8.8.4.4:53", REFUSAL_WAIT)?;
    teller.saw("alice gets no answer over UDP", None, udp.as_deref())?;
    teller.grew(
        "the bank's firewall dropped her packets",
        refused,
        world.network.refused_by_service()?,
    )
}
