//! Hands each observation and each step to the part that knows that piece of the kernel.

use std::{collections::BTreeSet, path::PathBuf, time::Instant};
use weir_kernel_plan::{
    Area, Change, Kernel, KernelError, LinkKind, ObservedDevice, ObservedLink, ObservedState,
    Scope, Step, WireguardBackend,
};
use weir_overlay::InterfaceName;

use crate::{
    addresses,
    changes::Changes,
    conntrack, firewall,
    links::{self, Link},
    netlink::Netlink,
    path, routes, rules, sysctl,
    userspace::{self, DeviceProgram},
    watch::Watch,
    wireguard::Wireguard,
};

/// What the adapter runs besides the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelOptions {
    /// The program that is a userspace WireGuard device.
    pub userspace_device: DeviceProgram,
    /// The `nft` program: a path, or a name that is looked up in `PATH`.
    pub nft: PathBuf,
}

impl Default for KernelOptions {
    /// This very program with the command `userspace-wireguard`, and `nft` from `PATH`.
    fn default() -> Self {
        Self {
            userspace_device: DeviceProgram::default(),
            nft: PathBuf::from("nft"),
        }
    }
}

/// Linux, in the network namespace of the calling thread. Its methods need a tokio runtime with
/// time and IO.
#[derive(Default)]
pub struct LinuxKernel {
    pub(crate) netlink: Netlink,
    pub(crate) options: KernelOptions,
    pub(crate) wireguard: Wireguard,
    changes: Changes,
    watch: Watch,
    firewall: firewall::Watched,
}

impl std::fmt::Debug for LinuxKernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinuxKernel")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl LinuxKernel {
    /// The adapter; opens nothing yet.
    #[must_use]
    pub fn new(options: KernelOptions) -> Self {
        Self {
            options,
            ..Self::default()
        }
    }

    /// The firewall table in nft's own words, or in its JSON; `None` when it is not there.
    ///
    /// # Errors
    /// [`KernelError`] when nft cannot be run, or does not answer.
    pub async fn firewall_listing(&self, json: bool) -> Result<Option<String>, KernelError> {
        firewall::listing(&self.options.nft, json).await
    }

    /// The WireGuard device on that link: `None` when the link is no WireGuard's, and for a TUN
    /// link whose device does not answer.
    pub(crate) async fn device(
        &self,
        interface: &InterfaceName,
        link: &Link,
    ) -> Result<Option<ObservedDevice>, KernelError> {
        let backend = match link.kind {
            LinkKind::Wireguard => WireguardBackend::Kernel,
            LinkKind::Tun if userspace::answers(interface).await => WireguardBackend::Userspace,
            LinkKind::Tun | LinkKind::Other(_) => return Ok(None),
        };
        let started = Instant::now();
        match (self.wireguard.observe(interface, backend).await, backend) {
            // The process ended while it was asked.
            (Err(_), WireguardBackend::Userspace) if !userspace::answers(interface).await => {
                Ok(None)
            }
            (Ok(device), backend) => {
                self.watch
                    .saw(interface, backend, &device, started.elapsed());
                Ok(Some(device))
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Who carries the packets of our link, for a step that changes its device. Looks first:
    /// applying to a device that is not there would make one.
    async fn backend(
        &self,
        interface: &InterfaceName,
        step: &Step,
    ) -> Result<WireguardBackend, KernelError> {
        let operation = step.to_string();
        let link = links::require(&self.netlink, interface, &operation).await?;
        match link.kind {
            LinkKind::Wireguard => Ok(WireguardBackend::Kernel),
            LinkKind::Tun if userspace::answers(interface).await => Ok(WireguardBackend::Userspace),
            LinkKind::Tun => Err(crate::error::failed(
                operation,
                format!("the process behind the TUN link {interface} does not answer"),
            )),
            LinkKind::Other(kind) => Err(crate::error::failed(
                operation,
                format!("the link {interface} is of kind {kind}, not WireGuard"),
            )),
        }
    }

    async fn create_link(
        &self,
        interface: &InterfaceName,
        backend: WireguardBackend,
        mtu: u32,
    ) -> Result<(), KernelError> {
        match backend {
            WireguardBackend::Kernel => {
                links::create_wireguard(&self.netlink, interface, mtu).await
            }
            WireguardBackend::Userspace => {
                userspace::start(&self.options.userspace_device, interface).await?;
                // The kernel would give a TUN link an address of its own choice. Where settings
                // cannot be written, as in many containers, that link-local address does no harm.
                let no_own_address = sysctl::write(
                    &weir_kernel_plan::SysctlKey(format!(
                        "net/ipv6/conf/{interface}/addr_gen_mode"
                    )),
                    "1",
                );
                crate::error::accept(no_own_address, &[libc::ENOENT, libc::EROFS, libc::EACCES])?;
                links::set_mtu(&self.netlink, interface, mtu).await
            }
        }
    }

    async fn delete_link(&self, interface: &InterfaceName) -> Result<(), KernelError> {
        let link = links::find(&self.netlink, interface).await?;
        let process = userspace::process(interface);
        match link {
            Some(link) if matches!(link.kind, LinkKind::Other(_)) => {
                return Err(crate::error::failed(
                    "remove the link",
                    format!("{interface} is not a WireGuard link of ours"),
                ));
            }
            Some(link) => links::delete(&self.netlink, link.index).await?,
            None => {}
        }
        // The device's process ends when its link does; `stop` sees to it.
        userspace::stop(interface, process).await
    }
}

impl Kernel for LinuxKernel {
    async fn observe(&self, scope: &Scope) -> Result<ObservedState, KernelError> {
        let interface = &scope.interface;
        self.watch.forget();
        let mut state = ObservedState {
            rules: rules::observe(&self.netlink).await?,
            firewall: firewall::observe(&self.options.nft, &self.firewall).await?,
            path_mtu: path::smallest_mtu(&self.netlink, &scope.paths).await?,
            ..ObservedState::default()
        };
        for key in &scope.sysctls {
            state.sysctls.insert(key.clone(), sysctl::read(key)?);
        }
        let link = links::find(&self.netlink, interface).await?;
        let index = link.as_ref().map(|link| link.index);
        state.routes = routes::observe(&self.netlink, index).await?;
        if let Some(link) = link {
            state.device = self.device(interface, &link).await?;
            state.link = Some(ObservedLink {
                addresses: addresses::of_link(&self.netlink, link.index).await?,
                kind: link.kind,
                mtu: link.mtu,
                up: link.up,
            });
        }
        Ok(state)
    }

    async fn apply(&self, scope: &Scope, step: &Step) -> Result<(), KernelError> {
        let interface = &scope.interface;
        let netlink = &self.netlink;
        match step {
            Step::LoadFirewall {
                ruleset,
                difference,
                ..
            } => firewall::load(&self.options.nft, &self.firewall, ruleset, !difference).await,
            Step::DeleteFirewall => firewall::delete(&self.options.nft).await,
            Step::ForgetConnections { mark, mask } => conntrack::forget(*mark, *mask).await,
            Step::CreateLink { backend, mtu } => self.create_link(interface, *backend, *mtu).await,
            Step::DeleteLink => self.delete_link(interface).await,
            Step::SetMtu(mtu) => links::set_mtu(netlink, interface, *mtu).await,
            Step::SetLinkUp => links::set_up(netlink, interface).await,
            Step::AddAddress(address) => addresses::add(netlink, interface, *address).await,
            Step::RemoveAddress(address) => addresses::remove(netlink, interface, *address).await,
            Step::ConfigureDevice(device) => {
                let backend = self.backend(interface, step).await?;
                self.wireguard.configure(interface, backend, device).await
            }
            Step::RemovePeers(keys) => {
                let backend = self.backend(interface, step).await?;
                self.wireguard.remove_peers(interface, backend, keys).await
            }
            Step::UpdatePeers(updates) => {
                let backend = self.backend(interface, step).await?;
                self.wireguard
                    .update_peers(interface, backend, updates)
                    .await
            }
            Step::AddRoute(route) => routes::add(netlink, interface, route).await,
            Step::RemoveRoute(route) => routes::remove(netlink, interface, route).await,
            Step::AddRule(rule) => rules::add(netlink, rule).await,
            Step::RemoveRule(rule) => rules::remove(netlink, rule).await,
            Step::SetSysctl { key, value } => sysctl::write(key, value),
        }
    }

    async fn changed(&self) -> Change {
        tokio::select! {
            change = self.changes.wait() => change,
            () = self.watch.differs(&self.wireguard) => Change { area: Area::Wireguard, by: None },
        }
    }

    async fn pending_changes(&self) -> BTreeSet<Change> {
        self.changes.pending().await
    }
}
