//! The loop: wake on a goal, a hint or a timer, and make a pass.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{debug, info, warn};
use weir_kernel_plan::{Area, Author, Change, DesiredState, Kernel};
use weir_overlay::{Generation, InterfaceName};

use crate::{
    Backoff, DirectoryError, Repair, StateDirectory, Status,
    pass::{Found, Report, Worker},
};

/// The kernel as one network map asks for it.
#[derive(Clone, Debug)]
pub struct Target {
    /// The map's number.
    pub generation: Generation,
    /// The kernel.
    pub state: DesiredState,
}

/// What the reconciler works towards.
#[derive(Clone, Debug)]
pub enum Goal {
    /// Nothing: the kernel stays as it is.
    LeaveAlone,
    /// The kernel is as the target says.
    Up(Arc<Target>),
    /// Nothing of ours is in the kernel, and the host's settings are as they were.
    Down(InterfaceName),
}

/// The reconciler's waits.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A pass is made at least this often.
    pub interval: Duration,
    /// Hints from the kernel are gathered until it is quiet for this long ...
    pub quiet: Duration,
    /// ... but never longer than this.
    pub gather_at_most: Duration,
    /// The ceiling of the first wait after a failure.
    pub first_retry: Duration,
    /// The ceiling that waits after failures grow to.
    pub last_retry: Duration,
    /// How long one step, or one look, may take. Longer than what the kernel's adapter gives any
    /// of its calls (60 s for a ruleset): its errors say more.
    pub deadline: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
            quiet: Duration::from_millis(50),
            gather_at_most: Duration::from_millis(500),
            first_retry: Duration::from_millis(250),
            last_retry: Duration::from_secs(30),
            deadline: Duration::from_secs(75),
        }
    }
}

#[derive(Clone, Debug)]
struct Order {
    number: u64,
    goal: Goal,
}

/// Gives goals and reads results. The reconciler ends when the last handle is gone.
#[derive(Clone, Debug)]
pub struct ReconcilerHandle {
    orders: watch::Sender<Order>,
    status: watch::Receiver<Status>,
    look: Arc<Notify>,
}

impl ReconcilerHandle {
    /// Sets the goal, in place of the one before. The number it got is what
    /// [`Status::goal`] will show.
    pub fn pursue(&self, goal: Goal) -> u64 {
        let mut number = 0;
        self.orders.send_modify(|order| {
            order.number += 1;
            order.goal = goal;
            number = order.number;
        });
        number
    }

    /// The results, as they come.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// The result of the first finished pass for goal `number` or a later one; `None` when the
    /// deadline comes first.
    pub async fn passed(&self, number: u64, deadline: Duration) -> Option<Status> {
        let mut status = self.status.clone();
        let found = timeout(deadline, status.wait_for(|status| status.goal >= number)).await;
        match found {
            Ok(Ok(status)) => Some(status.clone()),
            Ok(Err(_)) | Err(_) => None,
        }
    }

    /// Asks for a pass now and waits for it: for counters that are fresh. Gives what is known when
    /// the deadline comes first.
    pub async fn look(&self, deadline: Duration) -> Status {
        let mut status = self.status.clone();
        let before = status.borrow_and_update().counters.passes;
        self.look.notify_one();
        let fresh = timeout(
            deadline,
            status.wait_for(|status| status.counters.passes > before),
        )
        .await;
        match fresh {
            Ok(Ok(status)) => status.clone(),
            Ok(Err(_)) | Err(_) => self.status.borrow().clone(),
        }
    }
}

/// The loop's state. [`Self::run`] is the loop.
#[derive(Debug)]
pub struct Reconciler<K> {
    worker: Worker<K>,
    orders: watch::Receiver<Order>,
    publish: watch::Sender<Status>,
    look: Arc<Notify>,
    timing: Timing,
    status: Status,
    /// The goal that the last pass reached without failures.
    reached: Option<u64>,
    retry: Backoff,
    /// Hints that have come since the last pass, and when the first did.
    hints: BTreeSet<Change>,
    first_hint: Option<Instant>,
    /// What is being put back, until it is.
    repair: Option<Mending>,
}

/// A repair that has begun.
#[derive(Debug)]
struct Mending {
    found: Found,
    at: SystemTime,
    since: Instant,
}

impl Mending {
    fn done(self) -> Repair {
        let things = self.found.things.len();
        Repair {
            at: self
                .at
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            found: self
                .found
                .things
                .iter()
                .take(Repair::THINGS)
                .cloned()
                .collect(),
            more: things.saturating_sub(Repair::THINGS),
            by: authors(&self.found),
            seconds: self.since.elapsed().as_secs_f64(),
        }
    }
}

/// Who was seen to change something in the parts where something was found. A process that was
/// seen twice may have ended in between: then its name is known all the same.
fn authors(found: &Found) -> Vec<Author> {
    let mut names = BTreeMap::new();
    for hint in &found.hints {
        if let (true, Some(by)) = (hint.explains(&found.areas), &hint.by) {
            let name: &mut Option<String> = names.entry(by.process).or_default();
            *name = name.take().or_else(|| by.name.clone());
        }
    }
    names
        .into_iter()
        .map(|(process, name)| Author { process, name })
        .take(Repair::AUTHORS)
        .collect()
}

/// How long a hint about our firewall waits for others.
const FIREWALL_QUIET: Duration = Duration::from_millis(2);

/// How many different hints are kept between two passes. More say no more than that much is
/// going on.
const HINTS: usize = 64;

impl<K: Kernel> Reconciler<K> {
    /// A reconciler that pursues [`Goal::LeaveAlone`], and the handle that tells it otherwise.
    ///
    /// # Errors
    /// [`DirectoryError`] when what was saved of the host cannot be read.
    pub fn new(
        kernel: Arc<K>,
        directory: StateDirectory,
        timing: Timing,
    ) -> Result<(Self, ReconcilerHandle), DirectoryError> {
        let worker = Worker::new(kernel, directory, timing.deadline)?;
        let (order_sender, orders) = watch::channel(Order {
            number: 0,
            goal: Goal::LeaveAlone,
        });
        let (publish, status) = watch::channel(Status::default());
        let look = Arc::new(Notify::new());
        let reconciler = Self {
            worker,
            orders,
            publish,
            look: Arc::clone(&look),
            timing,
            status: Status::default(),
            reached: None,
            retry: Backoff::new(timing.first_retry, timing.last_retry),
            hints: BTreeSet::new(),
            first_hint: None,
            repair: None,
        };
        let handle = ReconcilerHandle {
            orders: order_sender,
            status,
            look,
        };
        Ok((reconciler, handle))
    }

    /// Works until the last handle is gone, and then leaves the kernel as it is. Must not be
    /// cancelled in the middle of a pass by anybody who minds half a change until the next start.
    pub async fn run(mut self) {
        loop {
            let order = self.orders.borrow_and_update().clone();
            let calm = self.pass(&order).await;
            let wait = if calm {
                self.retry.reset();
                self.timing.interval
            } else {
                self.retry.next_wait()
            };
            if !self.wait(&order.goal, calm, wait).await {
                return;
            }
        }
    }

    /// Waits for a reason to make the next pass. False when there will be none.
    async fn wait(&mut self, goal: &Goal, calm: bool, wait: Duration) -> bool {
        let kernel = Arc::clone(self.worker.kernel());
        let timing = self.timing;
        let watches_kernel = matches!(goal, Goal::Up(_));
        let (hints, first_hint) = (&mut self.hints, &mut self.first_hint);
        let hint = async {
            // Failing steps may themselves make the kernel notify: no faster than the retries.
            if !calm {
                sleep(wait.min(Duration::from_secs(1))).await;
            }
            gather_hints(kernel.as_ref(), timing, hints, first_hint).await;
        };
        // All branches are safe to cancel: watch, Notify and timers by their documentation, the
        // kernel's hints by the contract of the port.
        tokio::select! {
            changed = self.orders.changed() => changed.is_ok(),
            () = self.look.notified() => true,
            () = hint, if watches_kernel => true,
            () = sleep(wait), if !(calm && matches!(goal, Goal::LeaveAlone)) => true,
        }
    }

    /// Makes one pass and publishes what came of it. True when nothing failed.
    async fn pass(&mut self, order: &Order) -> bool {
        let started = Instant::now();
        let since = self.first_hint.take().unwrap_or(started);
        let mut hints = std::mem::take(&mut self.hints);
        let mut report = match &order.goal {
            Goal::LeaveAlone => Report::default(),
            Goal::Up(target) => self.worker.bring_up(&target.state).await,
            // Down is an end: once there, what happens on the host is not ours to look at.
            Goal::Down(_) if self.reached == Some(order.number) => Report::default(),
            Goal::Down(interface) => self.worker.tear_down(interface).await,
        };
        let calm = report.failures.is_empty();
        let was_reached = self.reached == Some(order.number);
        if !was_reached {
            self.repair = None;
        }
        report.found.hints.append(&mut hints);
        if was_reached && self.repair.is_none() && !report.found.things.is_empty() {
            self.repair = Some(Mending {
                found: std::mem::take(&mut report.found),
                at: SystemTime::now(),
                since,
            });
        }
        let repaired = self.repair.take_if(|_| calm).map(Mending::done);
        self.log(order, &report, repaired.as_ref());
        let same_goal = self.status.goal == order.number;
        let counters = &mut self.status.counters;
        counters.passes += 1;
        counters.steps += report.done.len() as u64;
        counters.failed_steps += report.failures.len() as u64;
        if let Some(repair) = repaired {
            counters.repairs += 1;
            self.status.repairs.push_back(repair);
            if self.status.repairs.len() > Repair::KEPT {
                self.status.repairs.pop_front();
            }
        }
        if !same_goal {
            self.status.steps.clear();
        }
        if self.reached != Some(order.number) {
            self.status.steps.extend(report.done);
        }
        self.status.goal = order.number;
        self.status.applied = match &order.goal {
            Goal::Up(target) if calm => Some(target.generation),
            Goal::Up(_) => self.status.applied,
            Goal::LeaveAlone | Goal::Down(_) => None,
        };
        self.status.failures = report.failures;
        if report.observed.is_some() {
            self.status.observed = report.observed;
        }
        if calm {
            self.reached = Some(order.number);
        }
        self.publish.send_replace(self.status.clone());
        calm
    }

    fn log(&self, order: &Order, report: &Report, repaired: Option<&Repair>) {
        if let Some(repair) = repaired {
            let by: Vec<_> = repair.by.iter().map(ToString::to_string).collect();
            warn!(
                found = repair.found.join("; "),
                more = repair.more,
                by = by.join(", "),
                "something else changed what is ours in the kernel; it is put back"
            );
        } else if report.failures.is_empty() && self.reached != Some(order.number) {
            match &order.goal {
                Goal::Up(target) => info!(
                    generation = %target.generation,
                    steps = report.done.len(),
                    "the network map is in force"
                ),
                Goal::Down(_) => info!("everything of ours is out of the kernel"),
                Goal::LeaveAlone => debug!("the kernel is left as it is"),
            }
        }
    }
}

/// Waits for a hint and then until hints stop coming, but never too long. What is cut short goes on
/// the next time: hints that came are kept.
async fn gather_hints<K: Kernel>(
    kernel: &K,
    timing: Timing,
    hints: &mut BTreeSet<Change>,
    first: &mut Option<Instant>,
) {
    hints.insert(kernel.changed().await);
    let begin = *first.get_or_insert_with(Instant::now);
    let latest = begin + timing.gather_at_most;
    loop {
        // Without our table nothing is judged: only the rest of that one transaction is awaited,
        // which tells whose it was.
        let firewall = hints.iter().any(|hint| hint.area == Area::Firewall);
        let quiet = if firewall {
            timing.quiet.min(FIREWALL_QUIET)
        } else {
            timing.quiet
        };
        let quiet = (Instant::now() + quiet).min(latest);
        tokio::select! {
            () = sleep_until(quiet) => return,
            hint = kernel.changed() => {
                if hints.len() < HINTS {
                    hints.insert(hint);
                }
            }
        }
    }
}
