//! Measures the reconciler on the real kernel: everything at once, nothing to do, one peer.

use crate::{
    host,
    peers::{self, LINK},
    report::{self, Figure, Report, milliseconds},
};
use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, value_parser};
use std::{
    collections::BTreeSet,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use weir_kernel::{KernelOptions, LinuxKernel};
use weir_kernel_plan::{Change, Kernel, KernelError, ObservedState, Scope, Step, WireguardBackend};
use weir_reconcile::{Goal, Reconciler, ReconcilerHandle, StateDirectory, Status, Timing};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Peers of the node; every tenth serves a subnet
    #[arg(long, default_value_t = 10_000, value_parser = value_parser!(u32).range(10..=60_000))]
    peers: u32,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// How often what is quick is measured.
const TURNS: usize = 5;
/// How long one pass may take. Emulated machines are slow.
const DEADLINE: Duration = Duration::from_secs(300);

/// A kernel that counts the steps it is told to carry out.
#[derive(Debug)]
struct Counted {
    kernel: LinuxKernel,
    steps: Arc<AtomicUsize>,
}

impl Kernel for Counted {
    fn observe(
        &self,
        scope: &Scope,
    ) -> impl Future<Output = Result<ObservedState, KernelError>> + Send {
        self.kernel.observe(scope)
    }

    fn apply(
        &self,
        scope: &Scope,
        step: &Step,
    ) -> impl Future<Output = Result<(), KernelError>> + Send {
        self.steps.fetch_add(1, Ordering::Relaxed);
        self.kernel.apply(scope, step)
    }

    fn changed(&self) -> impl Future<Output = Change> + Send {
        self.kernel.changed()
    }

    fn pending_changes(&self) -> impl Future<Output = BTreeSet<Change>> + Send {
        self.kernel.pending_changes()
    }
}

/// The middle one.
pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

async fn pursue(handle: &ReconcilerHandle, goal: Goal) -> Result<(Duration, Status)> {
    let start = Instant::now();
    let number = handle.pursue(goal);
    let passed = handle.passed(number, DEADLINE).await;
    let status = passed.context("the reconciler made no pass in time")?;
    if let Some(failure) = status.failures.first() {
        bail!("{}: {}", failure.item, failure.reason);
    }
    Ok((start.elapsed(), status))
}

/// Measures the reconciler, in the network namespace of this thread.
pub(crate) async fn measure(backend: WireguardBackend, peers: u32) -> Result<Vec<Figure>> {
    let mut map = peers::map(peers)?;
    let steps = Arc::new(AtomicUsize::new(0));
    let kernel = Counted {
        kernel: LinuxKernel::new(KernelOptions::default()),
        steps: Arc::clone(&steps),
    };
    let folder = host::Folder::new()?;
    let directory = StateDirectory::open(folder.path())?;
    let timing = Timing {
        deadline: DEADLINE,
        ..Timing::default()
    };
    let (reconciler, handle) = Reconciler::new(Arc::new(kernel), directory, timing)?;
    let task = tokio::spawn(reconciler.run());

    let (whole, status) = pursue(&handle, Goal::Up(peers::target(&map, backend)?)).await?;
    let device = status
        .observed
        .as_ref()
        .and_then(|seen| seen.device.as_ref());
    let seen = device.map_or(0, |device| device.peers.len());
    ensure!(
        seen == usize::try_from(peers)?,
        "the kernel has {seen} peers"
    );

    let before = steps.load(Ordering::Relaxed);
    let mut idle = Vec::new();
    for _ in 0..TURNS {
        let start = Instant::now();
        handle.look(DEADLINE).await;
        idle.push(start.elapsed());
    }
    let written = steps.load(Ordering::Relaxed) - before;

    let mut one = Vec::new();
    for _ in 0..TURNS {
        peers::change_one_peer(&mut map)?;
        let target = peers::target(&map, backend)?;
        one.push(pursue(&handle, Goal::Up(target)).await?.0);
    }
    let memory = report::resident_memory()?;
    // The kernel's link goes with the namespace; the userspace one is a process.
    if backend == WireguardBackend::Userspace {
        pursue(&handle, Goal::Down(LINK.parse()?)).await?;
    }
    drop(handle);
    task.await.context("the reconciler failed")?;

    let what = |what: &str| format!("reconciler, {backend} WireGuard: {what}");
    let mut idle_writes = Figure::new(
        what(&format!(
            "steps carried out in {TURNS} passes with nothing to do"
        )),
        f64::from(u32::try_from(written)?),
        "steps",
    );
    idle_writes.aim = Some("= 0 steps".to_owned());
    idle_writes.met = Some(written == 0);
    Ok(vec![
        Figure::time(
            what(&format!(
                "a bare host to {peers} peers, {} routes, firewall and all, and looked at again",
                peers.div_ceil(10)
            )),
            whole,
        ),
        Figure::time(what("a pass with nothing to do, median"), median(idle)),
        idle_writes,
        Figure::time(
            what(
                "one peer gets or loses a prefix and its route, from the map to the proof, \
                 median (yardstick: the whole)",
            ),
            median(one),
        )
        .against(milliseconds(whole), 50.0),
        Figure::new(
            what("memory of the process at the end, with two maps of the benchmark's own"),
            memory,
            "MiB",
        ),
    ])
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let peers = options.peers;
    let figures = host::in_a_namespace(move || async move {
        let facts = LinuxKernel::new(KernelOptions::default())
            .facts(&LINK.parse()?, 51920)
            .await?;
        let backend = if facts.kernel_wireguard {
            WireguardBackend::Kernel
        } else {
            WireguardBackend::Userspace
        };
        measure(backend, peers).await
    })?;
    let report = Report {
        name: "reconcile",
        machine: report::machine(),
        figures,
    };
    report.print(options.json)
}
