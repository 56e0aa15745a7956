//! Step 9: as if nobody had been there.

use anyhow::Result;
use weir_lab::{HostSnapshot, TOUCHED_SYSCTLS};

use super::{Teller, World};

pub(super) const TITLE: &str = "Everybody leaves, and the hosts are as they were";

pub(super) fn tell(world: &mut World, teller: &mut Teller<'_>) -> Result<()> {
    teller.say(
        "`agent down` on each. Links, addresses, rules, routes of all tables, the whole nftables \
         ruleset and the settings are compared with what they were before the first `agent up`.",
    );
    for (agent, before) in world.agents().into_iter().zip(&world.before) {
        let machine = agent.machine();
        let down = machine.must("agent down")?;
        if agent.name() == world.relay.name() {
            teller.typed("relay", "agent down", &down);
        }
        let after = HostSnapshot::take(machine.node(), TOUCHED_SYSCTLS)?;
        let difference = before.difference(&after);
        teller.check(
            format!("{} is exactly as it was", agent.name()),
            "no difference",
            difference.as_deref().unwrap_or("no difference"),
            difference.is_none(),
        )?;
    }
    Ok(())
}
