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

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ipnet::IpNet;
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::sync::Notify;
use weir_kernel_plan::{
    Change, DesiredState, Kernel, KernelError, LinkMtu, MAIN_TABLE, NodeSettings, ObservedState,
    RouteTarget, Scope, Step, SysctlKey, WireguardBackend, desired_state,
    firewall::DesiredFirewall, plan,
};
use weir_lab::FakeKernel;
use weir_overlay::{AddressSet, Generation, GrantId, NodeId, NodePrivateKey, NodePublicKey};
use weir_protocol::{
    Destination, Grant, IpProtocol, NetworkMap, Peer, PortRange, RouteState, RouteStatus, SelfNode,
};
use weir_reconcile::{Goal, Reconciler, StateDirectory, Target, Timing, chain};

const SOON: Duration = Duration::from_secs(20);
const OWN: &str = "100.64.0.1";
/// What this node offers to relay to.
const OFFERED: [&str; 2] = ["1.1.1.1/32", "10.77.0.0/24"];
/// What its peers may offer.
const ROUTES: [&str; 4] = ["8.8.8.8/32", "9.9.9.9/32", "10.20.0.0/24", "172.16.5.0/24"];
const PORTS: [u16; 2] = [53, 443];
const PEERS: u8 = 4;

/// A network as one node is told of it.
#[derive(Clone, Debug)]
struct Network {
    /// By peer: the version of its key, when it is there.
    keys: [Option<u8>; PEERS as usize],
    /// By route: the peer that serves it.
    owners: [Option<u8>; ROUTES.len()],
    /// By offer: whether it is approved.
    approved: [bool; OFFERED.len()],
    /// Who may use which offer, or this host, at which port.
    grants: Vec<(u8, u8, u16)>,
}

fn network() -> impl Strategy<Value = Network> {
    let keys = proptest::array::uniform4(prop_oneof![
        1 => Just(None),
        3 => (0..2u8).prop_map(Some),
    ]);
    let owners = proptest::array::uniform4(proptest::option::of(0..PEERS));
    let grant = (0..PEERS, 0..3u8, prop::sample::select(PORTS.to_vec()));
    let grants = prop::collection::vec(grant, 0..6);
    (keys, owners, any::<[bool; 2]>(), grants).prop_map(|(keys, owners, approved, grants)| {
        Network {
            keys,
            owners,
            approved,
            grants,
        }
    })
}

fn address(peer: u8) -> IpAddr {
    IpAddr::from([100, 64, 0, 10 + peer])
}

fn key(peer: u8, version: u8) -> NodePublicKey {
    NodePublicKey::from_bytes([10 + peer * 2 + version; 32])
}

fn prefix(text: &str) -> IpNet {
    text.parse().unwrap()
}

impl Network {
    fn map(&self, generation: u64) -> NetworkMap {
        let peer = |number: u8, version: u8| {
            let owned = ROUTES.iter().zip(self.owners);
            Peer {
                id: NodeId(2 + u64::from(number)),
                name: format!("peer-{number}").parse().unwrap(),
                user: None,
                tags: BTreeSet::new(),
                node_key: key(number, version),
                addresses: BTreeSet::from([address(number)]),
                routes: owned
                    .filter(|(_, owner)| *owner == Some(number))
                    .map(|(route, _)| prefix(route))
                    .collect(),
                source_prefixes: BTreeSet::new(),
                endpoint: format!("198.51.100.{number}:51920").parse().ok(),
            }
        };
        let peers = (0..PEERS)
            .zip(self.keys)
            .filter_map(|(number, version)| Some(peer(number, version?)))
            .map(|peer| (peer.id, peer))
            .collect();
        let set = |net: IpNet| -> AddressSet { [net].into_iter().collect() };
        let grant = |(number, (from, to, port)): (usize, &(u8, u8, u16))| Grant {
            id: GrantId(1 + u32::try_from(number).unwrap()),
            sources: set(IpNet::from(address(*from))),
            protocols: BTreeSet::from([IpProtocol::TCP]),
            destinations: vec![Destination {
                addresses: set(match OFFERED.get(usize::from(*to)) {
                    Some(offer) => prefix(offer),
                    None => IpNet::from(OWN.parse::<IpAddr>().unwrap()),
                }),
                ports: PortRange::single(*port),
            }],
            origin: String::new(),
        };
        NetworkMap {
            generation: Generation(generation),
            node: SelfNode {
                id: NodeId(1),
                name: "relay".parse().unwrap(),
                user: None,
                tags: BTreeSet::new(),
                addresses: BTreeSet::from([OWN.parse().unwrap()]),
                routes: OFFERED
                    .iter()
                    .zip(self.approved)
                    .map(|(offer, approved)| RouteStatus {
                        prefix: prefix(offer),
                        state: if approved {
                            RouteState::Serving
                        } else {
                            RouteState::AwaitingApproval
                        },
                    })
                    .collect(),
            },
            peers,
            filter: self.grants.iter().enumerate().map(grant).collect(),
            notices: Vec::new(),
        }
    }

    fn target(&self, generation: u64) -> Arc<Target> {
        let settings = NodeSettings {
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
            advertised: OFFERED.iter().map(|offer| prefix(offer)).collect(),
            ipv6: false,
            autoconfigured_links: BTreeSet::new(),
            keepalive: false,
            direct: BTreeSet::new(),
            may_validate_marks: true,
        };
        let own = NodePrivateKey::from_bytes([7; 32]);
        Arc::new(Target {
            generation: Generation(generation),
            state: desired_state(&self.map(generation), &settings, own),
        })
    }
}

/// The firewalls that may be in force during a change, by fingerprint.
type Firewalls = BTreeMap<String, DesiredFirewall>;

fn firewalls(before: Option<&DesiredState>, after: Option<&DesiredState>) -> Firewalls {
    let both = before
        .zip(after)
        .map(|(before, after)| before.firewall.tightened_to(&after.firewall));
    let all = [before, after].into_iter().flatten();
    all.map(|state| state.firewall.clone())
        .chain(both)
        .map(|firewall| (firewall.fingerprint(&"weir0".parse().unwrap()), firewall))
        .collect()
}

/// The peer whose prefixes cover an address best.
fn peer_of(state: &ObservedState, address: IpAddr) -> Option<NodePublicKey> {
    let peers = state.device.iter().flat_map(|device| &device.peers);
    peers
        .flat_map(|(key, peer)| peer.allowed_ips.iter().map(move |net| (net, *key)))
        .filter(|(net, _)| net.contains(&address))
        .max_by_key(|(net, _)| net.prefix_len())
        .map(|(_, key)| key)
}

fn grants(firewall: &DesiredFirewall, source: IpAddr, to: IpAddr, port: u16) -> bool {
    let relayed = firewall.served.contains(to) || firewall.own_addresses.contains(to);
    relayed
        && firewall.grants.iter().any(|grant| {
            grant.sources.contains(source)
                && grant.destinations.iter().any(|destination| {
                    let ports = destination.ports;
                    destination.addresses.contains(to) && (ports.first..=ports.last).contains(&port)
                })
        })
}

/// A new connection: by which key it comes in, from where, to where.
type Packet = (NodePublicKey, IpAddr, IpAddr, u16);

/// All that is asked about.
fn packets() -> Vec<Packet> {
    let sources: Vec<IpAddr> = (0..PEERS)
        .map(address)
        .chain(["8.8.8.8".parse().unwrap(), "10.20.0.5".parse().unwrap()])
        .collect();
    let places: Vec<IpAddr> = [OWN, "1.1.1.1", "10.77.0.9", "192.0.2.80", "100.64.0.12"]
        .iter()
        .map(|place| place.parse().unwrap())
        .collect();
    let mut all = Vec::new();
    for peer in 0..PEERS {
        for version in 0..2 {
            for source in &sources {
                for place in &places {
                    all.extend(PORTS.map(|port| (key(peer, version), *source, *place, port)));
                }
            }
        }
    }
    all
}

fn passes(state: &ObservedState, known: &Firewalls, (by, source, to, port): Packet) -> bool {
    let up = state.link.as_ref().is_some_and(|link| link.up);
    if !up || peer_of(state, source) != Some(by) {
        return false;
    }
    let own = state
        .link
        .iter()
        .any(|link| link.addresses.iter().any(|net| net.addr() == to));
    let forwards = state.sysctls[&SysctlKey::ipv4_forwarding()].as_deref() == Some("1");
    if !own && !forwards {
        return false;
    }
    match &state.firewall {
        // Nobody judges.
        None => true,
        Some(table) => {
            let loaded = table
                .fingerprint
                .as_ref()
                .and_then(|print| known.get(print));
            grants(
                loaded.expect("a known firewall is loaded"),
                source,
                to,
                port,
            )
        }
    }
}

/// Where the host's own packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Direct,
    Tunnel(NodePublicKey),
    Nowhere,
}

fn way(state: &ObservedState, to: IpAddr) -> Way {
    let mut rules: Vec<_> = state.rules.iter().collect();
    rules.sort_by_key(|rule| rule.priority);
    let mut tables: Vec<u32> = rules.iter().map(|rule| rule.table).collect();
    tables.push(MAIN_TABLE);
    for table in tables {
        let routes = state.routes.iter().filter(|route| route.table == table);
        let best = routes
            .filter(|route| route.destination.contains(&to))
            .max_by_key(|route| {
                let backstop = route.target == RouteTarget::Unreachable;
                (route.destination.prefix_len(), !backstop)
            });
        match best.map(|route| route.target) {
            Some(RouteTarget::Link { .. }) => {
                return peer_of(state, to).map_or(Way::Nowhere, Way::Tunnel);
            }
            Some(RouteTarget::Unreachable) => return Way::Nowhere,
            Some(RouteTarget::NextRule) | None => {}
        }
    }
    Way::Direct
}

fn places() -> Vec<IpAddr> {
    let routed = ROUTES.iter().map(|route| prefix(route).addr());
    routed.chain((0..PEERS).map(address)).collect()
}

/// Compares every state of a change with the one before and the one after it.
struct Judge {
    known: Firewalls,
    /// Each packet, whether it passes before, and whether it passes after.
    packets: Vec<(Packet, bool, bool)>,
    /// Each place, and the way to it before and after.
    places: Vec<(IpAddr, Way, Way)>,
    /// Whether the host was up before and is up after: only then can anything be interrupted.
    continues: bool,
}

impl Judge {
    fn new(
        known: Firewalls,
        before: &ObservedState,
        after: &ObservedState,
        continues: bool,
    ) -> Self {
        let passes = |state, packet| passes(state, &known, packet);
        let packets = packets();
        let places = places();
        Self {
            packets: packets
                .into_iter()
                .map(|packet| (packet, passes(before, packet), passes(after, packet)))
                .collect(),
            places: places
                .into_iter()
                .map(|place| (place, way(before, place), way(after, place)))
                .collect(),
            continues,
            known,
        }
    }

    fn judge(&self, state: &ObservedState) -> Result<(), String> {
        for (packet, before, after) in &self.packets {
            let now = passes(state, &self.known, *packet);
            if now && !before && !after {
                return Err(format!("{packet:?} passes, and neither before nor after"));
            }
            if !now && *before && *after && self.continues {
                return Err(format!(
                    "{packet:?} is cut off, and passes before and after"
                ));
            }
        }
        for (place, before, after) in &self.places {
            let now = way(state, *place);
            let same = before == after && self.continues;
            if now != *before && now != *after && (same || now != Way::Nowhere) {
                return Err(format!(
                    "to {place}: {before:?}, then {now:?}, then {after:?}"
                ));
            }
        }
        Ok(())
    }
}

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
            .map(|judge| judge.judge(&self.kernel.state()))
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
