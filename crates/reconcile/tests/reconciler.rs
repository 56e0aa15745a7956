//! The reconciler against a kernel in memory: failures, drift, crashes, the way down.

#![expect(
    clippy::unwrap_used,
    reason = "a test may panic; the exemption of tests does not reach the functions beside them"
)]

use nix::errno::Errno;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use weir_kernel_plan::{
    Area, Author, Change, Kernel, KernelError, LinkMtu, NodeSettings, ObservedState, RELAYED_TABLE,
    Scope, Step, SysctlKey, WireguardBackend, desired_state, plan,
};
use weir_lab::FakeKernel;
use weir_overlay::{AddressSet, Generation, GrantId, NodeId, NodePrivateKey, NodePublicKey};
use weir_protocol::{
    Destination, Grant, IpProtocol, NetworkMap, Peer, PortRange, RouteState, RouteStatus, SelfNode,
};
use weir_reconcile::{
    Goal, Reconciler, ReconcilerHandle, Repair, StateDirectory, Status, Target, Timing,
};

const SOON: Duration = Duration::from_secs(10);

fn key() -> NodePrivateKey {
    NodePrivateKey::from_bytes([7; 32])
}

/// A relay of 8.8.8.8/32 that itself may reach 9.9.9.9/32 through another one; `sources` may use
/// it.
fn map(generation: u64, sources: &str, routes: &[&str]) -> NetworkMap {
    let addresses = |text: &str| -> AddressSet {
        text.split(',')
            .map(|item| item.parse::<ipnet::IpNet>().unwrap())
            .collect()
    };
    let peer = Peer {
        id: NodeId(2),
        name: "other".parse().unwrap(),
        user: None,
        tags: BTreeSet::new(),
        node_key: NodePublicKey::from_bytes([2; 32]),
        addresses: BTreeSet::from(["100.64.0.2".parse().unwrap()]),
        routes: routes.iter().map(|route| route.parse().unwrap()).collect(),
        source_prefixes: BTreeSet::new(),
        endpoint: Some("198.51.100.2:51920".parse().unwrap()),
    };
    NetworkMap {
        generation: Generation(generation),
        node: SelfNode {
            egress: Vec::new(),
            id: NodeId(1),
            name: "relay".parse().unwrap(),
            user: None,
            tags: BTreeSet::new(),
            addresses: BTreeSet::from(["100.64.0.1".parse().unwrap()]),
            routes: vec![RouteStatus {
                prefix: "8.8.8.8/32".parse().unwrap(),
                state: RouteState::Serving,
            }],
            key: weir_protocol::KeyStatus::default(),
        },
        peers: BTreeMap::from([(peer.id, peer)]),
        filter: vec![Grant {
            id: GrantId(1),
            sources: addresses(sources),
            protocols: BTreeSet::from([IpProtocol::TCP]),
            destinations: vec![Destination {
                addresses: addresses("8.8.8.8/32"),
                ports: PortRange::single(443),
            }],
            origin: String::new(),
        }],
        notices: Vec::new(),
    }
}

fn settings() -> NodeSettings {
    NodeSettings {
        interface: "weir0".parse().unwrap(),
        backend: WireguardBackend::Kernel,
        mtu: LinkMtu::FromPath,
        listen_port: 51920,
        accept_routes: true,
        exit_node: None,
        exit_node_allow_lan_access: false,
        snat_subnet_routes: true,
        egress: BTreeSet::new(),
        route_egress: BTreeMap::new(),
        advertised: BTreeSet::from(["8.8.8.8/32".parse().unwrap()]),
        ipv6: false,
        autoconfigured_links: BTreeSet::new(),
        keepalive: false,
        direct: BTreeSet::new(),
        may_validate_marks: true,
    }
}

fn target(map: &NetworkMap) -> Goal {
    Goal::Up(Arc::new(Target {
        generation: map.generation,
        state: desired_state(map, &settings(), key()),
    }))
}

/// A reconciler on a fake kernel. Dropping `handle` is how the agent stops.
struct Bench {
    kernel: FakeKernel,
    root: TempDir,
    handle: ReconcilerHandle,
    task: JoinHandle<()>,
}

fn timing() -> Timing {
    Timing {
        first_retry: Duration::from_millis(10),
        last_retry: Duration::from_millis(50),
        quiet: Duration::from_millis(5),
        ..Timing::default()
    }
}

impl Bench {
    fn new() -> Self {
        Self::on(FakeKernel::new(), tempfile::tempdir().unwrap())
    }

    fn on(kernel: FakeKernel, root: TempDir) -> Self {
        let directory = StateDirectory::open(root.path()).unwrap();
        let (reconciler, handle) =
            Reconciler::new(Arc::new(kernel.clone()), directory, timing()).unwrap();
        let task = tokio::spawn(reconciler.run());
        Self {
            kernel,
            root,
            handle,
            task,
        }
    }

    async fn pass(&self, goal: Goal) -> Status {
        let number = self.handle.pursue(goal);
        self.handle.passed(number, SOON).await.expect("a pass ends")
    }

    async fn wait(&self, what: &str, is_so: impl FnMut(&Status) -> bool) -> Status {
        let mut status = self.handle.status();
        tokio::time::timeout(SOON, status.wait_for(is_so))
            .await
            .unwrap_or_else(|_| panic!("waited for {what}"))
            .unwrap()
            .clone()
    }

    /// As when the process is killed: at once, with only the disk and the kernel left.
    async fn restart(self) -> Self {
        self.task.abort();
        drop(self.task.await);
        Self::on(self.kernel, self.root)
    }

    /// As when the process is killed, with nobody after it yet.
    async fn stop(mut self) -> Self {
        self.task.abort();
        drop((&mut self.task).await);
        self.task = tokio::spawn(std::future::ready(()));
        self
    }

    fn conforms(&self, map: &NetworkMap) -> bool {
        let desired = desired_state(map, &settings(), key());
        plan(
            &desired,
            &self.kernel.state(),
            Some(&desired.firewall.clone().into()),
        )
        .is_empty()
    }
}

fn place(steps: &[Step], is_it: impl Fn(&Step) -> bool) -> usize {
    steps
        .iter()
        .position(is_it)
        .expect("the step was carried out")
}

#[tokio::test]
async fn up_and_down_leave_the_host_as_it_was() {
    let bench = Bench::new();
    let before = bench.kernel.state();
    let map = map(1, "100.64.0.2/32", &["9.9.9.9/32"]);
    let status = bench.pass(target(&map)).await;
    assert_eq!(status.failures, []);
    assert_eq!(status.applied, Some(Generation(1)));
    assert!(bench.conforms(&map));
    assert!(
        status
            .steps
            .iter()
            .any(|step| step == "set net/ipv4/ip_forward to 1")
    );

    let down = bench.pass(Goal::Down("weir0".parse().unwrap())).await;
    assert_eq!(down.failures, []);
    assert_eq!(down.applied, None);
    assert_eq!(bench.kernel.state(), before);
    let left: Vec<_> = std::fs::read_dir(bench.root.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn settings_of_the_host_are_saved_before_they_change_and_survive_a_crash() {
    let bench = Bench::new();
    let map = map(1, "100.64.0.2/32", &[]);
    // The crash comes right after the setting was changed.
    bench.kernel.fail_steps("create", Errno::EPERM, usize::MAX);
    bench.pass(target(&map)).await;
    let forwarding =
        |kernel: &FakeKernel| kernel.state().sysctls[&SysctlKey::ipv4_forwarding()].clone();
    assert_eq!(forwarding(&bench.kernel).as_deref(), Some("1"));
    let bench = bench.restart().await;
    bench.kernel.heal();
    assert_eq!(bench.pass(target(&map)).await.failures, []);
    let bench = bench.restart().await;
    bench.pass(Goal::Down("weir0".parse().unwrap())).await;
    assert_eq!(forwarding(&bench.kernel).as_deref(), Some("0"));
}

#[tokio::test]
async fn a_failed_step_is_named_hides_no_other_and_is_tried_again() {
    let bench = Bench::new();
    let map = map(1, "100.64.0.2/32", &["9.9.9.9/32", "10.20.0.0/24"]);
    bench
        .kernel
        .fail_steps("add route 9.9.9.9/32", Errno::ENOBUFS, 3);
    let status = bench.pass(target(&map)).await;
    assert_eq!(status.failures.len(), 1, "{:?}", status.failures);
    assert!(status.failures[0].item.contains("9.9.9.9/32"));
    assert_eq!(status.applied, None);
    let routes = bench.kernel.state().routes;
    assert!(
        routes
            .iter()
            .any(|route| route.destination.to_string() == "10.20.0.0/24")
    );

    let status = bench
        .wait("the retry", |status| status.failures.is_empty())
        .await;
    assert_eq!(status.applied, Some(Generation(1)));
    assert_eq!(status.counters.repairs, 0);
    assert!(bench.conforms(&map));
}

#[tokio::test]
async fn nothing_is_opened_while_closing_fails() {
    let bench = Bench::new();
    bench
        .pass(target(&map(1, "100.64.0.2/32", &["9.9.9.9/32"])))
        .await;
    drop(bench.kernel.take_applied());
    // One source loses access, another gains it; a route goes, another comes.
    let next = map(2, "100.64.0.3/32", &["7.7.7.7/32"]);
    bench
        .kernel
        .fail_steps("load the firewall", Errno::ENOMEM, usize::MAX);
    let status = bench.pass(target(&next)).await;
    assert!(!status.failures.is_empty());
    assert_eq!(status.applied, Some(Generation(1)));
    let applied = bench.kernel.take_applied();
    assert!(
        !applied.iter().any(|step| matches!(step, Step::AddRoute(_))),
        "{applied:?}"
    );
    assert!(
        applied
            .iter()
            .any(|step| matches!(step, Step::RemoveRoute(_))),
        "{applied:?}"
    );

    bench.kernel.heal();
    bench
        .wait("the change", |status| status.applied == Some(Generation(2)))
        .await;
    assert!(bench.conforms(&next));
}

#[tokio::test]
async fn the_firewall_tightens_before_and_loosens_after_everything_else() {
    let bench = Bench::new();
    bench
        .pass(target(&map(1, "100.64.0.2/32,100.64.0.4/32", &[])))
        .await;
    drop(bench.kernel.take_applied());
    let next = map(2, "100.64.0.2/32,100.64.0.3/32", &["9.9.9.9/32"]);
    assert_eq!(bench.pass(target(&next)).await.failures, []);
    let applied = bench.kernel.take_applied();
    let is_load = |step: &Step| matches!(step, Step::LoadFirewall { .. });
    let first = place(&applied, is_load);
    let last = applied.iter().rposition(is_load).unwrap();
    let route = place(&applied, |step| matches!(step, Step::AddRoute(_)));
    assert!(first < route && route < last, "{applied:?}");
    assert!(bench.conforms(&next));
}

/// What somebody else does, and its name.
type Drift = (&'static str, fn(&mut ObservedState));

#[tokio::test(start_paused = true)]
async fn what_others_change_is_put_back_within_a_second() {
    let bench = Bench::new();
    let map = map(1, "100.64.0.2/32", &["9.9.9.9/32"]);
    bench.pass(target(&map)).await;
    let changes: [Drift; 5] = [
        ("firewall", |state| state.firewall = None),
        ("routes", |state| {
            state.routes.retain(|route| route.table != RELAYED_TABLE)
        }),
        ("rules", |state| state.rules.clear()),
        ("forwarding", |state| {
            state
                .sysctls
                .insert(SysctlKey::ipv4_forwarding(), Some("0".to_owned()));
        }),
        ("link", |state| {
            state.link = None;
            state.device = None;
            state.routes.clear();
        }),
    ];
    for (index, (what, change)) in changes.into_iter().enumerate() {
        bench.kernel.drift(change);
        let repaired = async {
            let repairs = index as u64 + 1;
            bench
                .wait(what, |status| status.counters.repairs >= repairs)
                .await
        };
        tokio::time::timeout(Duration::from_secs(1), repaired)
            .await
            .unwrap_or_else(|_| panic!("{what} is not back within a second"));
        assert!(bench.conforms(&map), "{what}");
    }
    // Nothing goes on repairing for ever.
    let repairs = bench.handle.look(SOON).await.counters.repairs;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(bench.handle.look(SOON).await.counters.repairs, repairs);
}

#[tokio::test]
async fn a_repair_says_what_was_lost_and_who_was_seen_to_do_it() {
    let bench = Bench::new();
    bench
        .pass(target(&map(1, "100.64.0.2/32", &["9.9.9.9/32"])))
        .await;
    let seen = |area, process: u32, name: Option<&str>| Change {
        area,
        by: Some(Author {
            process,
            name: name.map(str::to_owned),
        }),
    };
    // Somebody touched the links as well, but nothing there was found wrong.
    bench.kernel.drift_by(seen(Area::Links, 1, None), |_| {});
    bench.kernel.drift_by(seen(Area::Firewall, 2, None), |_| {});
    bench
        .kernel
        .drift_by(seen(Area::Firewall, 2, Some("nft")), |state| {
            state.firewall = None
        });
    let status = bench
        .wait("the repair", |status| status.counters.repairs == 1)
        .await;
    let repair = &status.repairs[0];
    assert_eq!(repair.found, ["table inet weir was gone"]);
    assert_eq!(repair.by.len(), 1);
    assert_eq!(repair.by[0].to_string(), "nft (process 2)");

    // What went with the link is not told one by one, and only the last repairs are kept.
    for _ in 0..2 * Repair::KEPT as u64 {
        let repairs = bench.handle.status().borrow().counters.repairs;
        bench.kernel.drift(|state| {
            state.link = None;
            state.device = None;
            state.routes.clear();
        });
        bench
            .wait("the repair", |status| status.counters.repairs > repairs)
            .await;
    }
    let status = bench.handle.look(SOON).await;
    assert_eq!(status.repairs.len(), Repair::KEPT);
    let last = status.repairs.back().unwrap();
    assert_eq!(last.found, ["the link was gone"]);
    assert_eq!(last.by, []);
}

#[tokio::test]
async fn a_restart_changes_nothing_in_a_kernel_that_conforms() {
    let bench = Bench::new();
    let map = map(1, "100.64.0.2/32", &["9.9.9.9/32"]);
    bench.pass(target(&map)).await;
    let bench = bench.restart().await;
    drop(bench.kernel.take_applied());
    let status = bench.pass(target(&map)).await;
    assert_eq!(status.applied, Some(Generation(1)));
    assert_eq!(bench.kernel.take_applied(), []);
    // And the record of the firewall in force still tells what a change takes away.
    let next = self::map(2, "100.64.0.3/32", &[]);
    assert_eq!(bench.pass(target(&next)).await.failures, []);
    assert!(bench.conforms(&next));
}

/// A kernel under an agent that gets no further than a number of steps.
#[derive(Debug)]
struct Mortal {
    kernel: FakeKernel,
    steps_left: AtomicUsize,
}

impl Kernel for Mortal {
    async fn observe(&self, scope: &Scope) -> Result<ObservedState, KernelError> {
        self.kernel.observe(scope).await
    }

    async fn apply(&self, scope: &Scope, step: &Step) -> Result<(), KernelError> {
        if self.steps_left.load(Ordering::Relaxed) == 0 {
            return std::future::pending().await;
        }
        self.steps_left.fetch_sub(1, Ordering::Relaxed);
        self.kernel.apply(scope, step).await
    }

    async fn changed(&self) -> Change {
        std::future::pending().await
    }

    async fn pending_changes(&self) -> BTreeSet<Change> {
        BTreeSet::new()
    }
}

/// Pursues a goal on what is left of a bench, and is killed after so many steps. True when it got
/// to the end before.
async fn lives_through(bench: &Bench, goal: Goal, steps: usize) -> bool {
    let mortal = Mortal {
        kernel: bench.kernel.clone(),
        steps_left: AtomicUsize::new(steps),
    };
    let directory = StateDirectory::open(bench.root.path()).unwrap();
    let (reconciler, handle) = Reconciler::new(Arc::new(mortal), directory, timing()).unwrap();
    let task = tokio::spawn(reconciler.run());
    let number = handle.pursue(goal);
    let passed = handle.passed(number, Duration::from_millis(50)).await;
    task.abort();
    passed.is_some_and(|status| status.failures.is_empty())
}

#[tokio::test]
async fn a_crash_after_any_number_of_steps_is_made_good_by_the_next_start() {
    let first = map(1, "100.64.0.2/32,100.64.0.4/32", &["9.9.9.9/32"]);
    let last = map(2, "100.64.0.2/32,100.64.0.3/32", &["7.7.7.7/32"]);
    let untouched = FakeKernel::new().state();
    // From nothing to a map, from a map to another one, and down.
    for (before, after) in [
        (None, Some(&first)),
        (Some(&first), Some(&last)),
        (Some(&last), None),
    ] {
        let goal = || after.map_or_else(|| Goal::Down("weir0".parse().unwrap()), target);
        for survived in 0.. {
            let bench = Bench::new();
            if let Some(before) = before {
                bench.pass(target(before)).await;
            }
            let bench = bench.stop().await;
            let done = lives_through(&bench, goal(), survived).await;
            let bench = bench.restart().await;
            assert_eq!(
                bench.pass(goal()).await.failures,
                [],
                "after {survived} steps"
            );
            match after {
                Some(after) => assert!(bench.conforms(after), "after {survived} steps"),
                None => assert_eq!(bench.kernel.state(), untouched, "after {survived} steps"),
            }
            if done {
                break;
            }
            assert!(survived < 40, "it never ends");
        }
    }
}

#[tokio::test]
async fn a_kernel_that_cannot_be_read_is_a_failure_of_its_own() {
    let bench = Bench::new();
    bench.kernel.fail_observations(Errno::ENOBUFS, 2);
    let map = map(1, "100.64.0.2/32", &[]);
    let status = bench.pass(target(&map)).await;
    assert_eq!(status.failures[0].item, "look at the kernel");
    bench
        .wait("the retry", |status| status.applied == Some(Generation(1)))
        .await;
}

#[tokio::test]
async fn a_way_down_that_fails_goes_on_until_it_is_done() {
    let bench = Bench::new();
    let before = bench.kernel.state();
    bench
        .pass(target(&map(1, "100.64.0.2/32", &["9.9.9.9/32"])))
        .await;
    bench.kernel.fail_steps("remove the link", Errno::EBUSY, 2);
    let status = bench.pass(Goal::Down("weir0".parse().unwrap())).await;
    assert_eq!(status.failures.len(), 1);
    bench
        .wait("the retry", |status| status.failures.is_empty())
        .await;
    assert_eq!(bench.kernel.state(), before);
}

#[tokio::test]
async fn the_loop_ends_with_its_last_handle_and_leaves_the_kernel() {
    let bench = Bench::new();
    bench.pass(target(&map(1, "100.64.0.2/32", &[]))).await;
    let state = bench.kernel.state();
    drop(bench.handle);
    tokio::time::timeout(SOON, bench.task)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(bench.kernel.state(), state);
}
