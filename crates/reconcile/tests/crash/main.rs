//! The agent is killed, or a step fails, at every point of every change: what passes in between is
//! never more than before or after the change, what passes before and after passes all the time,
//! and the next start gets there.
//!
//! What passes is read from the kernel in memory after each single step: which peer's prefixes
//! cover a packet's source, which firewall is loaded (by its fingerprint), what is forwarded, and
//! where the rules and routes send what the host itself sends. Prefixes of different peers do not
//! overlap here.

#![expect(
    clippy::unwrap_used,
    reason = "a test may panic; the exemption of tests does not reach the functions beside them"
)]

mod judge;
mod network;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use proptest::prelude::*;
use tempfile::TempDir;
use tokio::sync::Notify;
use weir_kernel_plan::{Change, Kernel, KernelError, ObservedState, Scope, Step, plan};
use weir_lab::FakeKernel;
use weir_reconcile::{Goal, Reconciler, StateDirectory, Target, Timing, chain};

use judge::{Judge, firewalls};
use network::{Network, OFFERED, PEERS, network};

const SOON: Duration = Duration::from_secs(20);

/// A kernel that is judged after each step, in which some steps fail, and under which the agent
/// dies before one of them.
struct Watched {
    kernel: FakeKernel,
    judge: Option<Arc<Judge>>,
    /// How many steps were asked for.
    asked: AtomicUsize,
    dies_at: usize,
    fails_at: BTreeSet<usize>,
    dead: Arc<Notify>,
    wrong: Arc<Mutex<Option<String>>>,
}

impl Kernel for Watched {
    async fn observe(&self, scope: &Scope) -> Result<ObservedState, KernelError> {
        self.kernel.observe(scope).await
    }

    async fn apply(&self, scope: &Scope, step: &Step) -> Result<(), KernelError> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        if number == self.dies_at {
            self.dead.notify_one();
            return std::future::pending().await;
        }
        if self.fails_at.contains(&number) {
            return Err(KernelError {
                operation: step.to_string(),
                reason: "it is told to fail".to_owned(),
                errno: Some(12),
            });
        }
        self.kernel.apply(scope, step).await?;
        if let Some(Err(wrong)) = self
            .judge
            .as_ref()
            .map(|judge| judge.judge_kernel(&self.kernel))
        {
            let mut first = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(format!("after step {number}, {step}: {wrong}"));
        }
        Ok(())
    }

    async fn changed(&self) -> Change {
        std::future::pending().await
    }

    async fn pending_changes(&self) -> BTreeSet<Change> {
        BTreeSet::new()
    }
}

fn timing() -> Timing {
    Timing {
        first_retry: Duration::from_millis(1),
        last_retry: Duration::from_millis(2),
        ..Timing::default()
    }
}

/// A host: a kernel and a state directory.
struct Host {
    kernel: FakeKernel,
    root: TempDir,
}

/// How one life of the agent ended.
#[derive(PartialEq, Eq)]
enum End {
    Killed,
    Arrived,
}

impl Host {
    fn new() -> Self {
        // In memory where there is such a place: the agent waits for the disk.
        let memory = std::path::Path::new("/dev/shm");
        let root = tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir());
        Self {
            kernel: FakeKernel::new(),
            root: root.unwrap(),
        }
    }

    /// One life of the agent: until it arrives, or dies.
    async fn live(
        &self,
        goal: &Goal,
        judge: Option<&Arc<Judge>>,
        dies_at: usize,
        fails_at: &BTreeSet<usize>,
    ) -> Result<End, String> {
        let dead = Arc::new(Notify::new());
        let wrong = Arc::new(Mutex::new(None));
        let watched = Watched {
            kernel: self.kernel.clone(),
            judge: judge.cloned(),
            asked: AtomicUsize::new(0),
            dies_at,
            fails_at: fails_at.clone(),
            dead: Arc::clone(&dead),
            wrong: Arc::clone(&wrong),
        };
        let directory = StateDirectory::open(self.root.path()).map_err(|error| chain(&error))?;
        let (reconciler, handle) = Reconciler::new(Arc::new(watched), directory, timing())
            .map_err(|error| chain(&error))?;
        let task = tokio::spawn(reconciler.run());
        let number = handle.pursue(goal.clone());
        let mut status = handle.status();
        let arrived = status.wait_for(|status| status.goal == number && status.failures.is_empty());
        let end = tokio::select! {
            () = dead.notified() => End::Killed,
            arrived = tokio::time::timeout(SOON, arrived) => {
                arrived.map_err(|_| "it never arrives")?.map_err(|_| "it ended")?;
                End::Arrived
            }
        };
        task.abort();
        drop(task.await);
        let wrong = wrong.lock().unwrap_or_else(PoisonError::into_inner).take();
        wrong.map_or(Ok(end), Err)
    }
}

fn goal(target: Option<&Arc<Target>>) -> Goal {
    match target {
        Some(target) => Goal::Up(Arc::clone(target)),
        None => Goal::Down("weir0".parse().unwrap()),
    }
}

/// A host that has arrived.
async fn arrived(target: Option<&Arc<Target>>) -> Result<Host, String> {
    let host = Host::new();
    if target.is_some() {
        let none = BTreeSet::new();
        host.live(&goal(target), None, usize::MAX, &none).await?;
    }
    Ok(host)
}

/// A change from one network to another, or from or to none. The agent dies at every `each`th
/// step.
async fn change(
    before: Option<&Network>,
    after: Option<&Network>,
    fails_at: &BTreeSet<usize>,
    each: usize,
) -> Result<(), String> {
    let (from, to) = (before.map(|n| n.target(1)), after.map(|n| n.target(2)));
    let (old, new) = (
        from.as_ref().map(|target| &target.state),
        to.as_ref().map(|target| &target.state),
    );
    let goal = goal(to.as_ref());
    let state_after = arrived(to.as_ref()).await?.kernel.state();
    let judge = Arc::new(Judge::new(
        firewalls(old, new),
        &arrived(from.as_ref()).await?.kernel.state(),
        &state_after,
        before.is_some() && after.is_some(),
    ));
    let none = BTreeSet::new();
    for dies_at in (0..200).step_by(each) {
        let host = arrived(from.as_ref()).await?;
        let context = |error: String| format!("killed at step {dies_at}: {error}");
        let judge = Some(&judge);
        let first = host.live(&goal, judge, dies_at, fails_at).await;
        let end = first.map_err(context)?;
        if end == End::Killed {
            let second = host.live(&goal, judge, usize::MAX, &none).await;
            second.map_err(context)?;
        }
        let now = host.kernel.state();
        let there = match new {
            Some(new) => plan(new, &now, Some(&new.firewall.clone().into())).is_empty(),
            None => now == state_after,
        };
        if !there {
            return Err(context("the next start does not get there".to_owned()));
        }
        if end == End::Arrived {
            return Ok(());
        }
    }
    Err("it never ends".to_owned())
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

fn run(change: impl Future<Output = Result<(), String>>) -> Result<(), TestCaseError> {
    block_on(change).map_err(TestCaseError::fail)
}

/// One peer with one route, that may use one offer.
fn small(peer: u8, approved: bool) -> Network {
    let mut keys = [None; PEERS as usize];
    keys[usize::from(peer)] = Some(0);
    Network {
        keys,
        owners: [Some(peer), None, None, None],
        approved: [approved; OFFERED.len()],
        grants: vec![(peer, 0, 443)],
    }
}

#[test]
fn what_is_judged_can_be_wrong() {
    let judged = async {
        let (from, to) = (small(0, true).target(1), small(1, true).target(2));
        let before = arrived(Some(&from)).await?.kernel.state();
        let after = arrived(Some(&to)).await?.kernel.state();
        let known = firewalls(Some(&from.state), Some(&to.state));
        let judge = Judge::new(known, &before, &after, true);
        judge.judge(&before)?;
        judge.judge(&after)?;
        // Without a firewall; with rules that lead past the tunnel; and cut off.
        let mut open = before.clone();
        open.firewall = None;
        let mut leaking = before.clone();
        leaking.rules.clear();
        let mut cut_off = after.clone();
        cut_off.link = None;
        let same = Judge::new(judge.known.clone(), &after, &after, true);
        Ok([
            judge.judge(&open),
            same.judge(&leaking),
            same.judge(&cut_off),
        ])
    };
    let judged: Result<_, String> = block_on(judged);
    for verdict in judged.unwrap() {
        assert!(verdict.is_err(), "this is not as before and not as after");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 20, ..ProptestConfig::default() })]

    #[test]
    fn killed_at_any_step_it_is_never_wider_than_before_or_after(
        before in proptest::option::weighted(0.8, network()),
        after in proptest::option::weighted(0.8, network()),
    ) {
        run(change(before.as_ref(), after.as_ref(), &BTreeSet::new(), 1))?;
    }

    #[test]
    fn with_steps_that_fail_and_killed_it_is_never_wider_than_before_or_after(
        before in network(),
        after in network(),
        fails_at in prop::collection::btree_set(0..25usize, 1..5),
    ) {
        run(change(Some(&before), Some(&after), &fails_at, 4))?;
    }
}
