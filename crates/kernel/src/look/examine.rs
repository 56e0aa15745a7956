//! Looks at a host for `doctor`.

use std::{collections::BTreeSet, net::IpAddr};
use weir_diagnosis::{RouteAnswer, doctor::Examination};
use weir_kernel_plan::{KernelError, SysctlKey};
use weir_overlay::InterfaceName;

use super::way;
use crate::{links, linux::LinuxKernel, sysctl};

/// What is to be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExamineRequest {
    /// Our link.
    pub interface: InterfaceName,
    /// WireGuard's UDP port.
    pub listen_port: u16,
    /// Addresses, the ways to which matter.
    pub ways: BTreeSet<IpAddr>,
    /// Kernel settings that matter.
    pub sysctls: BTreeSet<SysctlKey>,
}

impl LinuxKernel {
    /// Looks at what `doctor` judges, changing nothing. Besides the settings that are asked for, it
    /// reads how strictly the links on the ways filter by the reverse path.
    ///
    /// # Errors
    /// [`KernelError`] naming what could not be read.
    pub async fn examine(&self, request: &ExamineRequest) -> Result<Examination, KernelError> {
        let ExamineRequest {
            interface,
            listen_port,
            ways,
            sysctls,
        } = request;
        let mut examination = Examination {
            facts: self.facts(interface, *listen_port).await?,
            sysctls: std::collections::BTreeMap::new(),
            ways: std::collections::BTreeMap::new(),
            mtus: links::mtus(&self.netlink).await?,
            others: self.other_firewalls().await?,
        };
        for address in ways {
            let answer = way::way(&self.netlink, *address, None).await?;
            examination.ways.insert(*address, answer);
        }
        let links = examination
            .ways
            .values()
            .filter_map(RouteAnswer::out)
            .map(|out| out.link.as_str())
            .chain(["all"]);
        let filters = links.map(|link| SysctlKey(format!("net/ipv4/conf/{link}/rp_filter")));
        let keys: BTreeSet<SysctlKey> = filters.chain(sysctls.iter().cloned()).collect();
        for key in keys {
            let value = sysctl::read(&key)?;
            examination.sysctls.insert(key, value);
        }
        Ok(examination)
    }
}
