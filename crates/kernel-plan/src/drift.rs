//! What somebody else did to what is ours: hints of it from the kernel, and words for what was
//! found.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

use crate::{LinkKind, NFT_TABLE, ObservedState, PeerUpdate, Step};

/// A part of the kernel that is looked at as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Area {
    /// Links and their addresses. What is lost with a link or an address counts to it.
    Links,
    /// Routes.
    Routes,
    /// Routing rules.
    Rules,
    /// Kernel settings.
    Settings,
    /// Our firewall table.
    Firewall,
    /// The WireGuard device and its peers.
    Wireguard,
    /// Any of them: messages were lost.
    Unknown,
}

/// The process that the kernel named with a change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Author {
    /// Its number.
    pub process: u32,
    /// Its name; `None` when it had ended before it could be looked up.
    pub name: Option<String>,
}

impl fmt::Display for Author {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} (process {})", self.process),
            None => write!(f, "process {}, which has ended", self.process),
        }
    }
}

/// A hint that something changed: where, and by whom as far as the kernel said.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Where.
    pub area: Area,
    /// By whom.
    pub by: Option<Author>,
}

impl Change {
    /// A change somewhere, by somebody.
    pub const UNKNOWN: Self = Self {
        area: Area::Unknown,
        by: None,
    };

    /// Whether this hint can explain something found in `areas`. A link takes its routes with it.
    #[must_use]
    pub fn explains(&self, areas: &BTreeSet<Area>) -> bool {
        areas.contains(&self.area) || (self.area == Area::Links && areas.contains(&Area::Routes))
    }
}

/// The area that a step mends.
#[must_use]
pub const fn area(step: &Step) -> Area {
    match step {
        Step::LoadFirewall { .. } | Step::DeleteFirewall | Step::ForgetConnections { .. } => {
            Area::Firewall
        }
        Step::CreateLink { .. }
        | Step::DeleteLink
        | Step::SetMtu(_)
        | Step::SetLinkUp
        | Step::AddAddress(_)
        | Step::RemoveAddress(_) => Area::Links,
        Step::ConfigureDevice(_) | Step::RemovePeers(_) | Step::UpdatePeers(_) => Area::Wireguard,
        Step::AddRoute(_) | Step::RemoveRoute(_) => Area::Routes,
        Step::AddRule(_) | Step::RemoveRule(_) => Area::Rules,
        Step::SetSysctl { .. } => Area::Settings,
    }
}

/// What was found in a kernel that conformed before, from the first plan that mends it: a sentence
/// for each thing lost, changed or added. What went with the link is not told again.
#[must_use]
pub fn found(steps: &[&Step], observed: &ObservedState) -> Vec<String> {
    let link_gone = steps
        .iter()
        .any(|step| matches!(step, Step::CreateLink { .. }));
    let went_with_link = |step: &Step| {
        matches!(
            step,
            Step::DeleteLink
                | Step::SetMtu(_)
                | Step::SetLinkUp
                | Step::AddAddress(_)
                | Step::ConfigureDevice(_)
                | Step::UpdatePeers(_)
        ) || matches!(step, Step::AddRoute(route) if route.goes_with_the_link())
    };
    steps
        .iter()
        .filter(|step| !(link_gone && went_with_link(step)))
        .flat_map(|step| sentences(step, observed))
        .collect()
}

fn sentences(step: &Step, observed: &ObservedState) -> Vec<String> {
    let one = match step {
        Step::ForgetConnections { .. } | Step::DeleteLink | Step::DeleteFirewall => {
            return Vec::new();
        }
        Step::UpdatePeers(updates) => {
            return updates
                .iter()
                .filter_map(|update| of_peer(update, observed))
                .collect();
        }
        Step::RemovePeers(keys) => {
            return keys
                .iter()
                .map(|key| format!("peer {key} was added"))
                .collect();
        }
        Step::LoadFirewall { .. } => match observed.firewall {
            None => format!("table inet {NFT_TABLE} was gone"),
            Some(_) => format!("table inet {NFT_TABLE} was changed"),
        },
        Step::CreateLink { .. } => match observed.link.as_ref().map(|link| &link.kind) {
            None => "the link was gone".to_owned(),
            Some(LinkKind::Wireguard | LinkKind::Tun | LinkKind::Other(_)) => {
                "the link was another one".to_owned()
            }
        },
        Step::SetMtu(_) => {
            let mtu = observed.link.as_ref().map_or(0, |link| link.mtu);
            format!("the link's MTU was {mtu}")
        }
        Step::SetLinkUp => "the link was down".to_owned(),
        Step::AddAddress(address) => format!("address {address} was gone"),
        Step::RemoveAddress(address) => format!("address {address} was added"),
        Step::ConfigureDevice(_) => "the WireGuard key, listen port or mark was changed".to_owned(),
        Step::AddRoute(route) => {
            format!(
                "route {} in table {} was gone",
                route.destination, route.table
            )
        }
        Step::RemoveRoute(route) => {
            format!(
                "route {} in table {} was added",
                route.destination, route.table
            )
        }
        Step::AddRule(rule) => format!("{} rule {} was gone", rule.family, rule.priority),
        Step::RemoveRule(rule) => format!("{} rule {} was added", rule.family, rule.priority),
        Step::SetSysctl { key, .. } => {
            let value = observed.sysctls.get(key).and_then(Option::as_deref);
            format!("{key} was {}", value.unwrap_or("not there"))
        }
    };
    vec![one]
}

fn of_peer(update: &PeerUpdate, observed: &ObservedState) -> Option<String> {
    let key = &update.key;
    let peers = observed.device.as_ref().map(|device| &device.peers);
    if !peers.is_some_and(|peers| peers.contains_key(key)) {
        return Some(format!("peer {key} was gone"));
    }
    let mut parts = Vec::new();
    if !update.add_allowed_ips.is_empty() {
        parts.push("prefixes taken from it");
    }
    if !update.remove_allowed_ips.is_empty() {
        parts.push("prefixes added to it");
    }
    if update.keepalive.is_some() {
        parts.push("its keepalive changed");
    }
    (!parts.is_empty()).then(|| format!("peer {key} had {}", parts.join(" and ")))
}
