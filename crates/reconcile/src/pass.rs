//! One pass: look, plan, carry out, look again.

use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tracing::{debug, error, warn};
use weir_kernel_plan::{
    Area, Change, DesiredState, Kernel, KernelError, ObservedState, RouteTarget, Scope, Step, area,
    firewall::{DesiredFirewall, InForce, Table},
    found, plan, plan_teardown, scope,
};
use weir_overlay::InterfaceName;
use weir_protocol::ItemFailure;

use crate::{DirectoryError, SavedHost, StateDirectory, chain};

const IN_FORCE: &str = "firewall.json";
/// How often one pass carries steps out before it calls the rest a failure.
const ROUNDS: u32 = 2;

/// What a pass saw and did.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// The kernel as last seen.
    pub(crate) observed: Option<Arc<ObservedState>>,
    /// Steps that were carried out, in words.
    pub(crate) done: Vec<String>,
    /// Whether any of them was more than telling a peer its endpoint again.
    pub(crate) changed: bool,
    /// What was not as it should be before the first step, and who was seen to do it.
    pub(crate) found: Found,
    /// What failed.
    pub(crate) failures: Vec<ItemFailure>,
}

/// What a pass found that was not as it should be.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// A sentence for each thing.
    pub(crate) things: Vec<String>,
    /// The parts of the kernel they are in.
    pub(crate) areas: BTreeSet<Area>,
    /// Hints that came before the look.
    pub(crate) hints: BTreeSet<Change>,
}

impl Found {
    fn new(steps: &[Step], observed: &ObservedState, hints: BTreeSet<Change>) -> Self {
        let steps: Vec<_> = steps.iter().filter(|step| !is_upkeep(step)).collect();
        Self {
            things: found(&steps, observed),
            areas: steps.iter().map(|step| area(step)).collect(),
            hints,
        }
    }
}

impl Report {
    fn fail(&mut self, item: impl ToString, reason: impl ToString) {
        self.failures.push(ItemFailure {
            item: item.to_string(),
            reason: reason.to_string(),
        });
    }
}

/// What a pass works with.
#[derive(Debug)]
pub(crate) struct Worker<K> {
    kernel: Arc<K>,
    directory: StateDirectory,
    saved: SavedHost,
    in_force: Option<InForce>,
    /// What the last load left, if it took.
    loaded: Option<Arc<Table>>,
    deadline: Duration,
}

/// Whether a step can only give access. Such steps wait while one that takes access away has
/// failed. A firewall load does when anything but housekeeping comes before it: the planner puts
/// the load that tightens first, and the one that loosens last.
fn only_gives_access(step: &Step, first: bool) -> bool {
    match step {
        Step::LoadFirewall { .. } => !first,
        // A refusal gives nothing.
        Step::AddRoute(route) => route.target != RouteTarget::Unreachable,
        Step::AddRule(_) | Step::SetLinkUp | Step::AddAddress(_) => true,
        Step::UpdatePeers(updates) => updates
            .iter()
            .all(|update| update.remove_allowed_ips.is_empty()),
        Step::DeleteFirewall
        | Step::ForgetConnections { .. }
        | Step::CreateLink { .. }
        | Step::DeleteLink
        | Step::SetMtu(_)
        | Step::RemoveAddress(_)
        | Step::ConfigureDevice(_)
        | Step::RemovePeers(_)
        | Step::RemoveRoute(_)
        | Step::RemoveRule(_)
        | Step::SetSysctl { .. } => false,
    }
}

/// Whether a step takes access away (or may).
fn takes_access(step: &Step) -> bool {
    match step {
        Step::LoadFirewall { .. }
        | Step::ForgetConnections { .. }
        | Step::RemovePeers(_)
        | Step::RemoveRoute(_)
        | Step::RemoveRule(_)
        | Step::RemoveAddress(_) => true,
        Step::UpdatePeers(updates) => updates
            .iter()
            .any(|update| !update.remove_allowed_ips.is_empty()),
        Step::DeleteFirewall
        | Step::CreateLink { .. }
        | Step::DeleteLink
        | Step::SetMtu(_)
        | Step::SetLinkUp
        | Step::AddAddress(_)
        | Step::ConfigureDevice(_)
        | Step::AddRoute(_)
        | Step::AddRule(_)
        | Step::SetSysctl { .. } => false,
    }
}

/// Whether a step only tells peers their endpoint or keepalive again, as happens when a session
/// died: upkeep, nobody's interference.
fn is_upkeep(step: &Step) -> bool {
    match step {
        Step::UpdatePeers(updates) => updates.iter().all(|update| {
            update.add_allowed_ips.is_empty() && update.remove_allowed_ips.is_empty()
        }),
        Step::ForgetConnections { .. } => true,
        Step::LoadFirewall { .. }
        | Step::DeleteFirewall
        | Step::CreateLink { .. }
        | Step::DeleteLink
        | Step::SetMtu(_)
        | Step::SetLinkUp
        | Step::AddAddress(_)
        | Step::RemoveAddress(_)
        | Step::ConfigureDevice(_)
        | Step::RemovePeers(_)
        | Step::AddRoute(_)
        | Step::RemoveRoute(_)
        | Step::AddRule(_)
        | Step::RemoveRule(_)
        | Step::SetSysctl { .. } => false,
    }
}

impl<K: Kernel> Worker<K> {
    pub(crate) fn new(
        kernel: Arc<K>,
        directory: StateDirectory,
        deadline: Duration,
    ) -> Result<Self, DirectoryError> {
        let saved = SavedHost::open(directory.clone())?;
        let in_force = match directory.read_json::<DesiredFirewall>(IN_FORCE) {
            Ok(in_force) => in_force.map(InForce::from),
            // Without it the next load is judged as if nothing were in force.
            Err(DirectoryError::Damaged { path, .. }) => {
                warn!(path = %path.display(), "the record of the firewall in force is damaged");
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Self {
            kernel,
            directory,
            saved,
            in_force,
            loaded: None,
            deadline,
        })
    }

    pub(crate) const fn kernel(&self) -> &Arc<K> {
        &self.kernel
    }

    async fn observe(&self, scope: &Scope) -> Result<Arc<ObservedState>, KernelError> {
        match tokio::time::timeout(self.deadline, self.kernel.observe(scope)).await {
            Ok(observed) => observed.map(Arc::new),
            Err(_) => Err(self.too_slow("look at the kernel")),
        }
    }

    fn too_slow(&self, operation: impl ToString) -> KernelError {
        KernelError {
            operation: operation.to_string(),
            reason: format!("no answer within {} s", self.deadline.as_secs()),
            errno: None,
        }
    }

    /// Makes the kernel what `desired` says.
    pub(crate) async fn bring_up(&mut self, desired: &DesiredState) -> Report {
        let mut report = Report::default();
        let scope = scope(desired);
        // A change that both tightens and loosens takes two rounds; the last look proves that
        // the steps took, and is what `status` shows.
        for round in 0..=ROUNDS {
            let hints = self.kernel.pending_changes().await;
            let observed = match self.observe(&scope).await {
                Ok(observed) => observed,
                Err(error) => {
                    report.fail("look at the kernel", error.reason);
                    return report;
                }
            };
            self.remember_firewall(desired, &observed, &mut report);
            let steps = plan(desired, &observed, self.in_force.as_ref());
            let upkeep_only = steps.iter().all(is_upkeep);
            let done = if round == 0 {
                steps.is_empty()
            } else {
                upkeep_only || !report.failures.is_empty()
            };
            report.observed = Some(Arc::clone(&observed));
            if round == 0 {
                report.found = Found::new(&steps, &observed, hints);
            }
            if done {
                return report;
            }
            if round == ROUNDS {
                for step in steps.iter().filter(|step| !is_upkeep(step)) {
                    report.fail(step, "it was done, and another look says it is not");
                }
                return report;
            }
            self.apply(&scope, &observed, &steps, &mut report).await;
        }
        report
    }

    /// Takes everything of ours out of the kernel and puts the host's settings back.
    pub(crate) async fn tear_down(&mut self, interface: &InterfaceName) -> Report {
        let mut report = Report::default();
        let scope = Scope {
            interface: interface.clone(),
            sysctls: self
                .saved
                .originals()
                .keys()
                .cloned()
                .collect::<BTreeSet<_>>(),
            paths: BTreeSet::new(),
        };
        let observed = match self.observe(&scope).await {
            Ok(observed) => observed,
            Err(error) => {
                report.fail("look at the kernel", error.reason);
                return report;
            }
        };
        let steps = plan_teardown(&observed, self.saved.originals());
        for step in &steps {
            self.carry_out(&scope, step, &mut report).await;
        }
        match self.observe(&scope).await {
            Ok(observed) => {
                if report.failures.is_empty() {
                    for step in plan_teardown(&observed, self.saved.originals()) {
                        report.fail(&step, "it was done, and a second look says it is not");
                    }
                }
                report.observed = Some(observed);
            }
            Err(error) => report.fail("look at the kernel again", error.reason),
        }
        if report.failures.is_empty() {
            let forgotten = self
                .saved
                .clear()
                .and_then(|()| self.directory.remove(IN_FORCE));
            if let Err(error) = forgotten {
                report.fail("forget the host's saved settings", chain(&error));
            }
            self.in_force = None;
        }
        report
    }

    async fn apply(
        &mut self,
        scope: &Scope,
        observed: &ObservedState,
        steps: &[Step],
        report: &mut Report,
    ) {
        let mut first = true;
        let mut still_too_open = false;
        for step in steps {
            if still_too_open && only_gives_access(step, first) {
                debug!(%step, "left for the next try: a step that takes access away failed");
                continue;
            }
            first &= matches!(step, Step::ForgetConnections { .. });
            if let Step::SetSysctl { key, .. } = step
                && let Some(Some(original)) = observed.sysctls.get(key)
                && let Err(error) = self.saved.remember(key, original)
            {
                report.fail(
                    step,
                    format!("its old value cannot be saved: {}", chain(&error)),
                );
                continue;
            }
            if let Step::LoadFirewall { table, .. } = step {
                self.loaded.clone_from(table);
            }
            if !self.carry_out(scope, step, report).await && takes_access(step) {
                still_too_open = true;
            }
        }
    }

    async fn carry_out(&self, scope: &Scope, step: &Step, report: &mut Report) -> bool {
        let done = match tokio::time::timeout(self.deadline, self.kernel.apply(scope, step)).await {
            Ok(done) => done,
            Err(_) => Err(self.too_slow(step)),
        };
        match done {
            Ok(()) => {
                debug!(%step, "done");
                report.changed |= !is_upkeep(step);
                report.done.push(step.to_string());
                true
            }
            Err(error) => {
                warn!(%step, reason = %error.reason, errno = error.errno, "a step failed");
                report.fail(step, error.reason);
                false
            }
        }
    }

    /// Remembers which firewall is loaded, as its fingerprint shows, so that the next change knows
    /// what it takes away.
    fn remember_firewall(
        &mut self,
        desired: &DesiredState,
        observed: &ObservedState,
        report: &mut Report,
    ) {
        let link = &desired.link.name;
        let Some(table) = observed.firewall.as_ref() else {
            return;
        };
        let Some(loaded) = table.in_force() else {
            return;
        };
        let known = self.loaded.as_ref().filter(|known| table.is(known));
        let is_loaded = |firewall: &DesiredFirewall| firewall.fingerprint(link) == loaded;
        if let Some(in_force) = &mut self.in_force
            && in_force.table.as_ref().map_or_else(
                || is_loaded(&in_force.firewall),
                |of_it| of_it.in_force() == loaded,
            )
        {
            in_force.table = known.cloned();
            return;
        }
        let wanted = &desired.firewall;
        let firewall = if is_loaded(wanted) {
            Some(wanted.clone())
        } else {
            let old = self.in_force.as_ref();
            let tightened = old.map(|old| old.firewall.tightened_to(wanted));
            tightened.filter(is_loaded)
        };
        let Some(firewall) = firewall else { return };
        if let Err(error) = self.directory.write_json(IN_FORCE, &firewall) {
            error!(
                error = chain(&error),
                "the firewall in force cannot be recorded"
            );
            report.fail("record the firewall in force", chain(&error));
        }
        self.in_force = Some(InForce {
            firewall,
            table: known.cloned(),
        });
    }
}
