//! A kernel in memory, behind the port that the real one is behind: for tests of what happens
//! when a step fails, and when somebody else changes what is ours.
//!
//! It keeps the rules of Linux that a reconciler can trip over: nothing is added to a link that
//! does not exist, a route needs a link that is up, routes go with their link, a prefix moves
//! from the peer that had it, and our own changes wake the one who waits for changes.

mod faults;
mod judge;
mod table;

use std::collections::BTreeSet;
use std::fmt;
use std::future::{Future, poll_fn, ready};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use nix::errno::Errno;
use weir_kernel_plan::{
    Change, Kernel, KernelError, LinkKind, ObservedDevice, ObservedLink, ObservedState, PeerUpdate,
    Route, Scope, Step, SysctlKey, WireguardBackend, area,
};

use faults::Faults;
pub use judge::{Direction, ForwardedPacket, Judged};
use table::Table;

/// A kernel in memory. Clones share it.
#[derive(Clone, Default)]
pub struct FakeKernel {
    shared: Arc<Mutex<Machine>>,
}

impl fmt::Debug for FakeKernel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("FakeKernel")
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Machine {
    /// Everything but the firewall, with all settings that this kernel has.
    state: ObservedState,
    table: Option<Table>,
    lacks_wireguard: bool,
    faults: Faults,
    applied: Vec<Step>,
    observed: usize,
    changes: BTreeSet<Change>,
    waiting: Vec<Waker>,
}

impl FakeKernel {
    /// A host that Weir has never touched, with the settings that exist everywhere.
    #[must_use]
    pub fn new() -> Self {
        let kernel = Self::default();
        for key in [SysctlKey::ipv4_forwarding(), SysctlKey::ipv6_forwarding()] {
            kernel.set_sysctl(key, "0");
        }
        kernel
    }

    /// Takes kernel WireGuard away: such a link cannot be made any more.
    pub fn remove_wireguard(&self) {
        self.machine().lacks_wireguard = true;
    }

    /// Sets a kernel setting, as an administrator would; makes it exist.
    pub fn set_sysctl(&self, key: SysctlKey, value: &str) {
        let mut machine = self.machine();
        machine.state.sysctls.insert(key, Some(value.to_owned()));
    }

    /// The whole state now.
    #[must_use]
    pub fn state(&self) -> ObservedState {
        self.machine().whole_state()
    }

    /// The steps that were carried out so far, in their order; failed ones are left out.
    #[must_use]
    pub fn applied(&self) -> Vec<Step> {
        self.machine().applied.clone()
    }

    /// Forgets the steps carried out so far, and returns them.
    #[must_use]
    pub fn take_applied(&self) -> Vec<Step> {
        std::mem::take(&mut self.machine().applied)
    }

    /// How often it was looked at.
    #[must_use]
    pub fn times_observed(&self) -> usize {
        self.machine().observed
    }

    /// Somebody else changes the kernel behind our back, and the kernel says so. Taking the
    /// firewall away is possible; to change it, use [`tamper_with_firewall`](Self::tamper_with_firewall).
    pub fn drift(&self, change: impl FnOnce(&mut ObservedState)) {
        self.drift_by(Change::UNKNOWN, change);
    }

    /// As [`drift`](Self::drift), and the kernel says so with this hint.
    pub fn drift_by(&self, hint: Change, change: impl FnOnce(&mut ObservedState)) {
        let mut machine = self.machine();
        let mut state = machine.whole_state();
        change(&mut state);
        if state.firewall.take().is_none() {
            machine.table = None;
        }
        machine.state = state;
        machine.notify(hint);
    }

    /// What the firewall does with a forwarded packet. Everything passes where there is none.
    ///
    /// # Panics
    /// Where the table holds what this small nft does not know.
    #[must_use]
    pub fn judge(&self, packet: &ForwardedPacket) -> Judged {
        self.machine().table.as_ref().map_or(
            Judged {
                accepted: true,
                mark: packet.mark,
            },
            |table| table.judge(packet),
        )
    }

    /// Somebody else adds a rule to our table, and the kernel says so.
    pub fn tamper_with_firewall(&self) {
        let mut machine = self.machine();
        if let Some(table) = &mut machine.table {
            table.add_foreign_rule();
        }
        machine.notify(Change::UNKNOWN);
    }

    /// The next `times` steps whose text contains `text` fail with `errno`, and change nothing.
    pub fn fail_steps(&self, text: &str, errno: Errno, times: usize) {
        self.machine().faults.add(text, errno, times);
    }

    /// The next `times` looks at the kernel fail with `errno`.
    pub fn fail_observations(&self, errno: Errno, times: usize) {
        self.machine().faults.add(faults::OBSERVATION, errno, times);
    }

    /// From now on everything works again.
    pub fn heal(&self) {
        self.machine().faults = Faults::default();
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll_changed(&self, context: &Context<'_>) -> Poll<Change> {
        let mut machine = self.machine();
        if let Some(change) = machine.changes.pop_first() {
            return Poll::Ready(change);
        }
        if !machine
            .waiting
            .iter()
            .any(|waker| waker.will_wake(context.waker()))
        {
            machine.waiting.push(context.waker().clone());
        }
        Poll::Pending
    }
}

impl Kernel for FakeKernel {
    fn observe(
        &self,
        scope: &Scope,
    ) -> impl Future<Output = Result<ObservedState, KernelError>> + Send {
        ready(self.machine().observe(scope))
    }

    fn apply(
        &self,
        _scope: &Scope,
        step: &Step,
    ) -> impl Future<Output = Result<(), KernelError>> + Send {
        ready(self.machine().apply(step))
    }

    fn changed(&self) -> impl Future<Output = Change> + Send {
        poll_fn(|context| self.poll_changed(context))
    }

    fn pending_changes(&self) -> impl Future<Output = BTreeSet<Change>> + Send {
        ready(std::mem::take(&mut self.machine().changes))
    }
}

impl Machine {
    fn whole_state(&self) -> ObservedState {
        let firewall = self.table.as_ref().map(Table::observed);
        ObservedState {
            firewall,
            ..self.state.clone()
        }
    }

    fn observe(&mut self, scope: &Scope) -> Result<ObservedState, KernelError> {
        self.observed += 1;
        if let Some(errno) = self.faults.strike(faults::OBSERVATION) {
            return Err(failure("read the kernel's state", errno));
        }
        let mut state = self.whole_state();
        state.sysctls = scope
            .sysctls
            .iter()
            .map(|key| (key.clone(), self.state.sysctls.get(key).cloned().flatten()))
            .collect();
        Ok(state)
    }

    fn apply(&mut self, step: &Step) -> Result<(), KernelError> {
        let text = step.to_string();
        match self.faults.strike(&text) {
            Some(errno) => Err(failure(&text, errno)),
            None => self.carry_out(step).map_err(|errno| failure(&text, errno)),
        }?;
        self.applied.push(step.clone());
        self.notify(Change {
            area: area(step),
            by: None,
        });
        Ok(())
    }

    fn notify(&mut self, hint: Change) {
        self.changes.insert(hint);
        self.waiting.drain(..).for_each(Waker::wake);
    }

    fn carry_out(&mut self, step: &Step) -> Result<(), Errno> {
        match step {
            Step::LoadFirewall { ruleset, .. } => {
                self.table = Some(Table::load(self.table.clone(), ruleset)?);
            }
            Step::DeleteFirewall => self.table = None,
            // There are no connections here: that it was asked for is in the list of steps.
            Step::ForgetConnections { .. } => {}
            Step::CreateLink { backend, mtu } => self.create_link(*backend, *mtu)?,
            Step::DeleteLink => {
                self.state.link = None;
                self.state.device = None;
                self.state
                    .routes
                    .retain(|route| !route.goes_with_the_link());
            }
            Step::SetMtu(mtu) => self.link()?.mtu = *mtu,
            Step::SetLinkUp => self.link()?.up = true,
            Step::AddAddress(address) => {
                self.link()?.addresses.insert(*address);
            }
            Step::RemoveAddress(address) => {
                self.link()?.addresses.remove(address);
            }
            Step::ConfigureDevice(wanted) => {
                let device = self.device()?;
                device.public_key = Some(wanted.private_key.public());
                device.listen_port = wanted.listen_port;
                device.firewall_mark = wanted.firewall_mark;
            }
            Step::RemovePeers(keys) => {
                self.device()?.peers.retain(|key, _| !keys.contains(key));
            }
            Step::UpdatePeers(updates) => {
                let device = self.device()?;
                updates
                    .iter()
                    .for_each(|update| update_peer(device, update));
            }
            Step::AddRoute(route) => self.add_route(route)?,
            Step::RemoveRoute(route) => {
                self.state.routes.remove(route);
            }
            Step::AddRule(rule) => {
                self.state.rules.insert(*rule);
            }
            Step::RemoveRule(rule) => {
                self.state.rules.remove(rule);
            }
            Step::SetSysctl { key, value } => {
                let setting = self.state.sysctls.get_mut(key).ok_or(Errno::ENOENT)?;
                *setting = Some(value.clone());
            }
        }
        Ok(())
    }

    fn create_link(&mut self, backend: WireguardBackend, mtu: u32) -> Result<(), Errno> {
        let kind = match backend {
            WireguardBackend::Kernel if self.lacks_wireguard => return Err(Errno::EOPNOTSUPP),
            WireguardBackend::Kernel => LinkKind::Wireguard,
            WireguardBackend::Userspace => LinkKind::Tun,
        };
        match &self.state.link {
            Some(link) if link.kind == kind => Ok(()),
            Some(_) => Err(Errno::EEXIST),
            None => {
                let addresses = BTreeSet::new();
                self.state.link = Some(ObservedLink {
                    kind,
                    mtu,
                    up: false,
                    addresses,
                });
                self.state.device = Some(ObservedDevice::default());
                Ok(())
            }
        }
    }

    fn add_route(&mut self, route: &Route) -> Result<(), Errno> {
        if route.goes_with_the_link() && !self.link()?.up {
            return Err(Errno::ENETDOWN);
        }
        self.state.routes.retain(|old| !old.has_the_place_of(route));
        self.state.routes.insert(*route);
        Ok(())
    }

    fn link(&mut self) -> Result<&mut ObservedLink, Errno> {
        self.state.link.as_mut().ok_or(Errno::ENODEV)
    }

    fn device(&mut self) -> Result<&mut ObservedDevice, Errno> {
        self.state.device.as_mut().ok_or(Errno::ENODEV)
    }
}

fn update_peer(device: &mut ObservedDevice, update: &PeerUpdate) {
    for peer in device.peers.values_mut() {
        peer.allowed_ips.retain(|prefix| {
            !update.add_allowed_ips.contains(prefix) && !update.remove_allowed_ips.contains(prefix)
        });
    }
    let peer = device.peers.entry(update.key).or_default();
    peer.allowed_ips.extend(&update.add_allowed_ips);
    if update.endpoint.is_some() {
        peer.endpoint = update.endpoint;
    }
    if let Some(seconds) = update.keepalive {
        peer.keepalive = (seconds > 0).then_some(seconds);
    }
}

fn failure(operation: &str, errno: Errno) -> KernelError {
    KernelError {
        operation: operation.to_owned(),
        reason: errno.desc().to_owned(),
        errno: Some(errno as i32),
    }
}
