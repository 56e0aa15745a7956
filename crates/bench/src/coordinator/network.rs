//! The network of the benchmark: teams of ten devices, and a relay for every five teams.
//!
//! A device has nine others of its team and one relay as peers, so that a change of one touches
//! ten nodes, whatever the size of the network.

use std::fmt::{self, Write as _};
use weir_overlay::Tag;

/// Devices of a team.
pub(super) const TEAM: usize = 10;
/// Teams that one relay serves.
const TEAMS_OF_RELAY: usize = 5;
/// Every node carries it.
pub(super) const EVERYBODY: &str = "tag:bench";
/// The one node that looks after all, where the policy lets it.
const MONITOR: &str = "tag:monitor";

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A device of this team.
    Device(usize),
    /// The relay of five teams.
    Relay(usize),
    /// Sees everybody, when the policy says so.
    Monitor,
}

impl Role {
    pub(super) fn tag(self) -> anyhow::Result<Tag> {
        let text = match self {
            Self::Device(team) => format!("tag:t{team}"),
            Self::Relay(site) => format!("tag:s{site}"),
            Self::Monitor => MONITOR.to_owned(),
        };
        Ok(text.parse()?)
    }
}

/// The nodes of a network of this size.
pub(super) fn roles(agents: usize) -> Vec<Role> {
    let teams = teams(agents);
    let devices = (0..teams).flat_map(|team| std::iter::repeat_n(Role::Device(team), TEAM));
    let relays = (0..teams.div_ceil(TEAMS_OF_RELAY)).map(Role::Relay);
    devices.chain(relays).chain([Role::Monitor]).collect()
}

/// As many teams as fit beside their relays and the monitor.
fn teams(agents: usize) -> usize {
    let group = TEAM * TEAMS_OF_RELAY + 1;
    (agents.saturating_sub(1) * TEAMS_OF_RELAY / group).max(1)
}

/// The policy as it is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text {
    pub(super) agents: usize,
    /// The port that the first team opens.
    pub(super) port: u16,
    /// Whether the monitor sees everybody.
    pub(super) monitored: bool,
}

impl Text {
    pub(super) fn write(self) -> Result<String, fmt::Error> {
        let teams = teams(self.agents);
        let sites = teams.div_ceil(TEAMS_OF_RELAY);
        let mut text = "{\n\"tagOwners\": {\n".to_owned();
        writeln!(
            text,
            "\"{EVERYBODY}\": [],\n\"{MONITOR}\": [\"{EVERYBODY}\"],"
        )?;
        for team in 0..teams {
            writeln!(text, "\"tag:t{team}\": [\"{EVERYBODY}\"],")?;
        }
        for site in 0..sites {
            writeln!(text, "\"tag:s{site}\": [\"{EVERYBODY}\"],")?;
        }
        text.push_str("},\n\"acls\": [\n");
        let mut rule = |from: &str, to: &str| {
            writeln!(
                text,
                "{{\"action\": \"accept\", \"src\": [\"{from}\"], \"dst\": [\"{to}\"]}},"
            )
        };
        for team in 0..teams {
            let port = if team == 0 { self.port } else { 22 };
            rule(&format!("tag:t{team}"), &format!("tag:t{team}:{port}"))?;
            let site = team / TEAMS_OF_RELAY;
            rule(&format!("tag:t{team}"), &format!("tag:s{site}:443"))?;
        }
        if self.monitored {
            rule(MONITOR, &format!("{EVERYBODY}:9100"))?;
        }
        text.push_str("],\n}\n");
        Ok(text)
    }
}
