//! What `up` must know of a host before it changes anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{Ipv4Addr, Ipv6Addr},
};
use weir_kernel_plan::{HostFacts, KernelError, LinkFact, PortFact, PortUse, SysctlKey};
use weir_overlay::InterfaceName;

use crate::{
    addresses::{self, LinkAddress},
    firewall, links,
    linux::LinuxKernel,
    port_use, routes, sysctl,
    userspace::udp,
};

/// `CAP_NET_ADMIN` (linux/capability.h).
const CAP_NET_ADMIN: u32 = 12;

impl LinuxKernel {
    /// Looks at the host, without changing anything.
    ///
    /// # Errors
    /// [`KernelError`] naming what could not be read. What is merely absent or not allowed is a
    /// fact, not an error.
    pub async fn facts(
        &self,
        interface: &InterfaceName,
        listen_port: u16,
    ) -> Result<HostFacts, KernelError> {
        let link = links::find(&self.netlink, interface).await?;
        let names = links::names(&self.netlink).await?;
        let addresses = addresses::list(&self.netlink, None).await?;
        let own_index = link.as_ref().map(|link| link.index);
        let ipv6 = ipv6_enabled();
        let holds_port = match &link {
            Some(link) => self
                .device(interface, link)
                .await
                .ok()
                .flatten()
                .is_some_and(|device| device.listen_port == listen_port),
            None => false,
        };
        Ok(HostFacts {
            may_administer: may_administer(),
            kernel_wireguard: links::kernel_has_wireguard(&self.netlink).await?,
            tun: fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/net/tun")
                .is_ok(),
            ipv6,
            nft: firewall::version(&self.options.nft)
                .await
                .map_err(|error| error.reason),
            port: if holds_port || port_is_free(listen_port, ipv6) {
                PortFact::Free
            } else {
                PortFact::Taken
            },
            addresses: addresses
                .iter()
                .filter(|found| Some(found.index) != own_index)
                .map(|found| found.address.addr())
                .filter(|address| !address.is_loopback() && !addresses::is_link_local(*address))
                .collect(),
            unwritable_sysctls: unwritable_sysctls(ipv6)?,
            autoconfigured_links: self.autoconfigured_links(&names, interface).await?,
            connected_networks: connected_networks(&addresses, &names, own_index),
            link: link.map_or(LinkFact::Absent, |link| LinkFact::Present(link.kind)),
        })
    }

    /// The source ports that relayed connections take, by source address and destination.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel does not list its connections.
    pub async fn ports_in_use(&self) -> Result<Vec<PortUse>, KernelError> {
        port_use::ports_in_use().await
    }

    /// Links whose IPv6 default route a router advertised, and that stop listening to it once
    /// they forward (`accept_ra` 1).
    async fn autoconfigured_links(
        &self,
        names: &BTreeMap<u32, String>,
        own: &InterfaceName,
    ) -> Result<BTreeSet<String>, KernelError> {
        let advertised = routes::advertised_default_links(&self.netlink).await?;
        let mut found = BTreeSet::new();
        for name in advertised.iter().filter_map(|index| names.get(index)) {
            let key = SysctlKey::accept_router_advertisements(name);
            if name != own.as_str() && sysctl::read(&key)?.as_deref() == Some("1") {
                found.insert(name.clone());
            }
        }
        Ok(found)
    }
}

/// Whether this thread has `CAP_NET_ADMIN` in effect (proc(5), `CapEff`).
fn may_administer() -> bool {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|capabilities| capabilities & (1 << CAP_NET_ADMIN) != 0)
}

/// Whether this kernel has IPv6 and new links get it.
fn ipv6_enabled() -> bool {
    let disabled = |scope: &str| {
        let key = SysctlKey(format!("net/ipv6/conf/{scope}/disable_ipv6"));
        !matches!(sysctl::read(&key), Ok(Some(value)) if value == "0")
    };
    fs::exists("/proc/thread-self/net/if_inet6").unwrap_or(false)
        && !disabled("all")
        && !disabled("default")
}

/// Whether the port can be had in both families, as WireGuard takes it.
fn port_is_free(port: u16, ipv6: bool) -> bool {
    let free = |address| {
        udp::bind(address, port, 0)
            .err()
            .is_none_or(|error| error.raw_os_error() != Some(libc::EADDRINUSE))
    };
    free(Ipv4Addr::UNSPECIFIED.into()) && (!ipv6 || free(Ipv6Addr::UNSPECIFIED.into()))
}

fn unwritable_sysctls(ipv6: bool) -> Result<BTreeMap<String, String>, KernelError> {
    let mut unwritable = BTreeMap::new();
    let mut keys = vec![SysctlKey::ipv4_forwarding(), SysctlKey::validate_marks()];
    if ipv6 {
        keys.push(SysctlKey::ipv6_forwarding());
    }
    for key in keys {
        if let Some(reason) = sysctl::refuses_writing(&key)? {
            unwritable.insert(key.0, reason);
        }
    }
    Ok(unwritable)
}

/// The networks that links other than ours are connected to; a host prefix is no network.
fn connected_networks(
    addresses: &[LinkAddress],
    names: &BTreeMap<u32, String>,
    own_index: Option<u32>,
) -> BTreeMap<String, Vec<ipnet::IpNet>> {
    let mut networks: BTreeMap<String, BTreeSet<ipnet::IpNet>> = BTreeMap::new();
    for found in addresses {
        let address = found.address.addr();
        let is_network = found.address.prefix_len() < found.address.max_prefix_len()
            && !address.is_loopback()
            && !addresses::is_link_local(address);
        if let Some(name) = names.get(&found.index)
            && is_network
            && Some(found.index) != own_index
        {
            networks
                .entry(name.clone())
                .or_default()
                .insert(found.address.trunc());
        }
    }
    networks
        .into_iter()
        .map(|(name, set)| (name, set.into_iter().collect()))
        .collect()
}
