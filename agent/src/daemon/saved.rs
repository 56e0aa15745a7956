//! What the daemon keeps of its settings, and what follows from them.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, net::IpAddr};
use weir_kernel_plan::{Effects, HostFacts, LinkMtu, NodeSettings, SysctlKey, WireguardBackend};
use weir_overlay::{NodePublicKey, TrafficClass};
use weir_protocol::Pin;
use weir_reconcile::{DirectoryError, StateDirectory};

use super::approval::Asking;
use crate::{
    control::{NodeState, WireguardReport},
    route_checks::advertised,
    settings::{Change, CoordinatorUrls, OrNone, Settings},
};

const FILE: &str = "settings.json";

/// The saved settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Saved {
    /// Whether the node takes part: what a restart of the daemon goes on with.
    pub(crate) state: NodeState,
    /// What flags said.
    pub(crate) explicit: Change,
    /// Where this machine is enrolled.
    pub(crate) enrolment: Option<Enrolment>,
    /// What is in force, when up. A change of the file has no effect before the next `up`.
    pub(crate) applied: Option<Applied>,
    /// What an admin was asked, while this machine is not let in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) asking: Option<Asking>,
}

/// Where this machine is enrolled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Enrolment {
    /// The coordinator, or several of one network.
    pub(crate) coordinator: OrNone<CoordinatorUrls>,
    /// Its pin.
    pub(crate) pin: Option<Pin>,
}

/// The settings in force, and what was found out about the host when they came into force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Applied {
    /// All settings.
    pub(crate) settings: Settings,
    /// The host.
    pub(crate) host: HostChoice,
}

/// What `up` found out about the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HostChoice {
    /// Who carries WireGuard's packets.
    pub(crate) backend: WireguardBackend,
    /// Why it is not the kernel.
    pub(crate) backend_reason: Option<String>,
    /// Whether the host has IPv6.
    pub(crate) ipv6: bool,
    /// Links that would lose their IPv6 default route by forwarding.
    pub(crate) autoconfigured_links: BTreeSet<String>,
    /// Whether the host seems to be behind NAT.
    pub(crate) behind_nat: bool,
    /// The coordinator's addresses as `up` found them: reached directly, whatever the routes say.
    #[serde(default)]
    pub(crate) coordinator: BTreeSet<IpAddr>,
    /// Whether `src_valid_mark` can be written.
    #[serde(default)]
    pub(crate) may_validate_marks: bool,
}

impl Saved {
    /// Reads what is saved; nothing is as good as the default.
    ///
    /// # Errors
    /// [`DirectoryError`]: a damaged file is not guessed at.
    pub(crate) fn open(directory: &StateDirectory) -> Result<Self, DirectoryError> {
        Ok(directory.read_json(FILE)?.unwrap_or_default())
    }

    /// Writes it.
    ///
    /// # Errors
    /// [`DirectoryError::Write`].
    pub(crate) fn write(&self, directory: &StateDirectory) -> Result<(), DirectoryError> {
        directory.write_json(FILE, self)
    }
}

impl HostChoice {
    /// What the preflight and the facts say.
    pub(crate) fn new(effects: &Effects, facts: &HostFacts, coordinator: BTreeSet<IpAddr>) -> Self {
        // A public address of its own can be reached from anywhere.
        let public = facts
            .addresses
            .iter()
            .any(|address| TrafficClass::of(&(*address).into()) == TrafficClass::Relayed);
        Self {
            backend: effects.backend,
            backend_reason: effects.backend_reason.clone(),
            ipv6: effects.ipv6,
            autoconfigured_links: facts.autoconfigured_links.clone(),
            behind_nat: !public,
            coordinator,
            may_validate_marks: !facts
                .unwritable_sysctls
                .contains_key(&SysctlKey::validate_marks().0),
        }
    }
}

impl Applied {
    /// What the planner needs to know.
    pub(crate) fn node_settings(&self) -> NodeSettings {
        let Self { settings, host } = self;
        NodeSettings {
            interface: settings.interface.0.clone(),
            backend: host.backend,
            mtu: settings
                .mtu
                .0
                .map_or(LinkMtu::FromPath, |mtu| LinkMtu::Fixed(mtu.0)),
            listen_port: settings.listen_port,
            accept_routes: settings.accept_routes,
            exit_node: settings.exit_node.0.clone(),
            exit_node_allow_lan_access: settings.exit_node_allow_lan_access,
            snat_subnet_routes: settings.snat_subnet_routes,
            egress: settings.egress_ip.addresses.clone(),
            route_egress: settings.egress_ip.routes.clone(),
            advertised: advertised(settings, host.ipv6),
            ipv6: host.ipv6,
            autoconfigured_links: host.autoconfigured_links.clone(),
            keepalive: host.behind_nat && settings.endpoint.0.is_none(),
            direct: host.coordinator.clone(),
            may_validate_marks: host.may_validate_marks,
        }
    }

    /// The WireGuard in use, for people.
    pub(crate) fn wireguard(&self, public_key: NodePublicKey) -> WireguardReport {
        WireguardReport {
            backend: self.host.backend,
            reason: self.host.backend_reason.clone(),
            interface: self.settings.interface.0.clone(),
            listen_port: self.settings.listen_port,
            mtu: None,
            public_key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_other_versions_are_read() {
        // Keys that are not there yet have their defaults, keys of a newer version are passed over.
        let text = r#"{
            "state": "up",
            "explicit": {"advertise-routes": "8.8.8.8/32", "of-tomorrow": 1},
            "enrolment": {"coordinator": "https://c.example:8443", "pin": null},
            "applied": {
                "settings": {"advertise-routes": "8.8.8.8/32", "of-tomorrow": 1},
                "host": {
                    "backend": "kernel",
                    "backend_reason": null,
                    "ipv6": true,
                    "autoconfigured_links": [],
                    "behind_nat": false
                }
            }
        }"#;
        let root = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(root.path()).unwrap();
        directory.write(FILE, text.as_bytes()).unwrap();
        let saved = Saved::open(&directory).unwrap();
        let applied = saved.applied.clone().unwrap();
        assert!(applied.settings.accept_routes);
        assert_eq!(applied.node_settings().advertised.len(), 1);
        saved.write(&directory).unwrap();
        assert_eq!(Saved::open(&directory).unwrap(), saved);
    }
}
