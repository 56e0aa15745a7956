//! Step 9: as if nobody had been there.

use anyhow::{Context as _, Result};
use weir_lab::{HostSnapshot, TOUCHED_SYSCTLS};

use super::{Teller, World};
use crate::{Agent, USERSPACE_WIREGUARD};

pub(super) const TITLE: &str = "Everybody leaves, and the hosts are as they were";

pub(super) fn tell(world: &mut World, teller: &mut Teller<'_>) -> Result<()> {
    teller.say(
        "`agent down` on each. Links, addresses, rules, routes of all tables, the whole nftables \
         ruleset and the settings are compared with what they were before the first `agent up`.",
    );
    for agent in world.agents() {
        let before = world
            .before
            .get(agent.name())
            .with_context(|| format!("nobody looked at {} before", agent.name()))?;
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
        let left = left_behind(agent)?;
        teller.check(
            format!("{} runs nothing but its daemon", agent.name()),
            "no other process",
            if left.is_empty() {
                "no other process"
            } else {
                left.trim()
            },
            left.is_empty(),
        )?;
    }
    Ok(())
}

/// Processes that still carry packets on an agent's host.
fn left_behind(agent: &Agent) -> Result<String> {
    let processes = agent.machine().processes()?;
    let carrying = processes
        .into_iter()
        .map(|(_, command)| command)
        .filter(|command| command.contains(USERSPACE_WIREGUARD));
    Ok(carrying.collect::<Vec<_>>().join("; "))
}
