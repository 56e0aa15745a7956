//! The planner's properties, on the kernel in memory: from any state that can be found, the steps
//! lead to the one that is wanted; from there they lead nowhere; and none of them names what is
//! not ours.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use ipnet::IpNet;
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};
use weir_kernel_plan::{
    DesiredState, EXIT_TABLE, Kernel, LinkKind, LinkMtu, MAIN_TABLE, NFT_TABLE, NodeSettings,
    ObservedPeer, ObservedState, PolicyRule, RELAYED_TABLE, RULE_BAND_FIRST, RULE_BAND_LAST, Route,
    RouteTarget, SUBNET_TABLE, Step, SysctlKey, WireguardBackend, desired_state,
    firewall::{InForce, Table},
    plan, plan_teardown, scope,
};
use weir_lab::FakeKernel;
use weir_overlay::{
    AddressSet, Generation, GrantId, NodeId, NodePrivateKey, NodePublicKey, overlay_prefixes,
};
use weir_protocol::{
    Destination, Grant, IpProtocol, KeyStatus, NetworkMap, Peer, PortRange, RouteEgress,
    RouteState, RouteStatus, SelfNode,
};

const OWN: [&str; 2] = ["100.64.0.1/32", "fd77:6569:7200::1/128"];
/// What peers serve.
const ROUTES: [&str; 6] = [
    "8.8.8.8/32",
    "2001:4860:4860::8888/128",
    "10.20.0.0/24",
    "fd00:20::/64",
    "0.0.0.0/0",
    "::/0",
];
/// What this node serves.
const OFFERED: [&str; 4] = [
    "1.1.1.1/32",
    "10.77.0.0/24",
    "0.0.0.0/0",
    "2001:db8:77::/48",
];
const PEERS: u8 = 3;
/// More passes than any way takes: one that tightens, one that loosens, one that finds nothing.
const PASSES: usize = 4;

fn done<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("the fake kernel waits for nothing"),
    }
}

fn prefix(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn set(prefixes: impl IntoIterator<Item = IpNet>) -> AddressSet {
    prefixes.into_iter().collect()
}

fn hosts(peer: u8) -> [IpNet; 2] {
    let last = 10 + peer;
    [
        format!("100.64.0.{last}/32"),
        format!("fd77:6569:7200::{last:x}/128"),
    ]
    .map(|text| text.parse().unwrap())
}

fn key(peer: u8, version: u8) -> NodePublicKey {
    NodePublicKey::from_bytes([10 + peer * 2 + version; 32])
}

fn peer(number: u8, version: u8, routes: BTreeSet<IpNet>, has_endpoint: bool) -> Peer {
    Peer {
        id: NodeId(2 + u64::from(number)),
        name: format!("peer-{number}").parse().unwrap(),
        user: None,
        tags: BTreeSet::new(),
        node_key: key(number, version),
        addresses: hosts(number).map(|host| host.addr()).into(),
        routes,
        source_prefixes: BTreeSet::new(),
        endpoint: has_endpoint.then(|| ([198, 51, 100, number], 51920).into()),
    }
}

fn any_peers() -> impl Strategy<Value = BTreeMap<NodeId, Peer>> {
    let keys =
        proptest::collection::vec(proptest::option::weighted(0.7, (0..2u8, any::<bool>())), 3);
    let owners = proptest::collection::vec(proptest::option::of(0..PEERS), ROUTES.len());
    (keys, owners).prop_map(|(keys, owners)| {
        let owned = |number: u8| {
            let routes = ROUTES.iter().zip(&owners);
            let own = routes.filter(move |(_, owner)| **owner == Some(number));
            own.map(|(route, _)| prefix(route)).collect()
        };
        let peers = (0..PEERS).zip(keys).filter_map(|(number, is_there)| {
            let (version, has_endpoint) = is_there?;
            Some(peer(number, version, owned(number), has_endpoint))
        });
        peers.map(|peer| (peer.id, peer)).collect()
    })
}

fn any_filter() -> impl Strategy<Value = Vec<Grant>> {
    let to = OFFERED.iter().chain(&OWN).copied().collect::<Vec<_>>();
    let ports = prop_oneof![
        Just(PortRange::ALL),
        (1..500u16).prop_map(PortRange::single)
    ];
    let grant = (1..20u32, 0..PEERS, prop::sample::select(to), ports);
    proptest::collection::vec(grant, 0..6).prop_map(|grants| {
        let grants = grants.into_iter().map(|(id, from, to, ports)| {
            let grant = Grant {
                id: GrantId(id),
                sources: set(hosts(from)),
                protocols: BTreeSet::from([IpProtocol::TCP, IpProtocol::ICMP]),
                destinations: vec![Destination {
                    addresses: set([prefix(to)]),
                    ports,
                }],
                origin: format!("acls[{id}]"),
            };
            (id, grant)
        });
        grants.collect::<BTreeMap<_, _>>().into_values().collect()
    })
}

fn any_settings() -> impl Strategy<Value = NodeSettings> {
    let exit = prop::sample::select(vec![None, Some("peer-0"), Some("peer-1"), Some("gone")]);
    let backend = prop::sample::select(vec![WireguardBackend::Kernel, WireguardBackend::Userspace]);
    let mtu = prop::sample::select(vec![LinkMtu::FromPath, LinkMtu::Fixed(1300)]);
    let advertised = prop::sample::subsequence(OFFERED.to_vec(), 0..=OFFERED.len());
    let bits = any::<[bool; 6]>();
    (exit, backend, mtu, advertised, bits).prop_map(|(exit, backend, mtu, advertised, bits)| {
        let [accept_routes, lan, snat, ipv6, keepalive, marks] = bits;
        NodeSettings {
            interface: "weir0".parse().unwrap(),
            backend,
            mtu,
            listen_port: 51920,
            accept_routes,
            exit_node: exit.map(str::to_owned),
            exit_node_allow_lan_access: lan,
            snat_subnet_routes: snat,
            egress: BTreeSet::new(),
            route_egress: BTreeMap::new(),
            advertised: advertised.into_iter().map(prefix).collect(),
            ipv6,
            autoconfigured_links: BTreeSet::from(["eth0".to_owned()]),
            keepalive,
            direct: BTreeSet::from(["198.51.100.10".parse().unwrap()]),
            may_validate_marks: marks,
        }
    })
}

fn any_egress() -> impl Strategy<Value = Vec<RouteEgress>> {
    let of = proptest::option::of((0..PEERS).prop_map(|peer| set(hosts(peer))));
    let choice = (0..2usize, of, 7..10u8).prop_map(|(route, sources, last)| RouteEgress {
        route: prefix(OFFERED[route]),
        sources,
        address: [203, 0, 113, last].into(),
    });
    proptest::collection::vec(choice, 0..3)
}

fn any_state() -> impl Strategy<Value = DesiredState> {
    let approved = proptest::collection::vec(any::<bool>(), OFFERED.len());
    (
        any_peers(),
        any_filter(),
        any_settings(),
        any_egress(),
        approved,
    )
        .prop_map(|(peers, filter, settings, egress, approved)| {
            let status = |(offer, approved): (&&str, bool)| RouteStatus {
                prefix: prefix(offer),
                state: if approved {
                    RouteState::Serving
                } else {
                    RouteState::AwaitingApproval
                },
            };
            let map = NetworkMap {
                generation: Generation(1),
                node: SelfNode {
                    id: NodeId(1),
                    name: "self".parse().unwrap(),
                    user: None,
                    tags: BTreeSet::new(),
                    addresses: OWN.map(|own| prefix(own).addr()).into(),
                    routes: OFFERED.iter().zip(approved).map(status).collect(),
                    egress,
                    key: KeyStatus::default(),
                },
                peers,
                filter,
                notices: Vec::new(),
            };
            desired_state(&map, &settings, NodePrivateKey::from_bytes([7; 32]))
        })
}

/// What others, or a crash, may do to what is ours.
#[derive(Clone, Copy, Debug)]
enum Harm {
    LoseRoute(usize),
    StaleRoute(u32),
    LoseRule(usize),
    StaleRule,
    LosePeer(usize),
    StalePeer,
    WidenPeer(usize),
    LinkDown,
    LoseLink,
    LoseAddress,
    StaleAddress,
    OtherMark,
    LoseFirewall,
    TamperWithFirewall,
}

fn any_harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        (0..9usize).prop_map(Harm::LoseRoute),
        prop::sample::select(vec![RELAYED_TABLE, SUBNET_TABLE, EXIT_TABLE])
            .prop_map(Harm::StaleRoute),
        (0..5usize).prop_map(Harm::LoseRule),
        Just(Harm::StaleRule),
        (0..3usize).prop_map(Harm::LosePeer),
        Just(Harm::StalePeer),
        (0..3usize).prop_map(Harm::WidenPeer),
        Just(Harm::LinkDown),
        Just(Harm::LoseLink),
        Just(Harm::LoseAddress),
        Just(Harm::StaleAddress),
        Just(Harm::OtherMark),
        Just(Harm::LoseFirewall),
        Just(Harm::TamperWithFirewall),
    ]
}

impl Harm {
    fn happen(self, kernel: &FakeKernel) {
        if let Self::TamperWithFirewall = self {
            kernel.tamper_with_firewall();
            return;
        }
        if let Self::LoseFirewall = self {
            let nowhere = scope_of_nothing();
            done(kernel.apply(&nowhere, &Step::DeleteFirewall)).unwrap();
            return;
        }
        kernel.drift(|state| self.to(state));
    }

    fn to(self, state: &mut ObservedState) {
        let device = state.device.as_mut();
        match self {
            Self::LoseRoute(at) => {
                let route = state.routes.iter().nth(at).copied();
                route.map(|route| state.routes.remove(&route));
            }
            Self::StaleRoute(table) => {
                state.routes.insert(Route {
                    table,
                    destination: prefix("192.0.2.0/24"),
                    target: RouteTarget::Unreachable,
                });
            }
            Self::LoseRule(at) => {
                let rule = state.rules.iter().nth(at).copied();
                rule.map(|rule| state.rules.remove(&rule));
            }
            Self::StaleRule => {
                state.rules.insert(PolicyRule {
                    priority: RULE_BAND_LAST,
                    family: weir_kernel_plan::IpFamily::V6,
                    table: SUBNET_TABLE,
                    suppress_prefix_length: None,
                });
            }
            Self::LosePeer(at) => {
                if let Some(device) = device {
                    let key = device.peers.keys().nth(at).copied();
                    key.map(|key| device.peers.remove(&key));
                }
            }
            Self::StalePeer => {
                if let Some(device) = device {
                    let stale = NodePublicKey::from_bytes([99; 32]);
                    device.peers.insert(stale, ObservedPeer::default());
                }
            }
            Self::WidenPeer(at) => {
                let peer = device.and_then(|device| device.peers.values_mut().nth(at));
                if let Some(peer) = peer {
                    peer.allowed_ips.insert(prefix("192.0.2.0/24"));
                    peer.keepalive = Some(99);
                }
            }
            Self::LinkDown => {
                if let Some(link) = &mut state.link {
                    link.up = false;
                    state.routes.retain(|route| !route.goes_with_the_link());
                }
            }
            Self::LoseLink => {
                state.link = None;
                state.device = None;
                state.routes.retain(|route| !route.goes_with_the_link());
            }
            Self::LoseAddress => {
                if let Some(link) = &mut state.link {
                    link.addresses.pop_first();
                }
            }
            Self::StaleAddress => {
                if let Some(link) = &mut state.link {
                    link.addresses.insert(prefix("100.64.9.9/32"));
                }
            }
            Self::OtherMark => {
                if let Some(device) = device {
                    device.firewall_mark = 0;
                }
            }
            Self::LoseFirewall | Self::TamperWithFirewall => {}
        }
    }
}

fn scope_of_nothing() -> weir_kernel_plan::Scope {
    weir_kernel_plan::Scope {
        interface: "weir0".parse().unwrap(),
        sysctls: BTreeSet::new(),
        paths: BTreeSet::new(),
    }
}

/// The kernel, and what its agent remembers of the firewall.
struct Host {
    kernel: FakeKernel,
    in_force: Option<InForce>,
    table: Option<Arc<Table>>,
}

impl Host {
    fn new(states: &[&DesiredState]) -> Self {
        let kernel = FakeKernel::new();
        for key in states.iter().flat_map(|state| state.sysctls.keys()) {
            kernel.set_sysctl(key.clone(), "0");
        }
        Self {
            kernel,
            in_force: None,
            table: None,
        }
    }

    fn observe(&self, desired: &DesiredState) -> ObservedState {
        done(self.kernel.observe(&scope(desired))).unwrap()
    }

    /// One pass as the reconciler makes it. Gives the number of steps.
    fn pass(&mut self, desired: &DesiredState) -> Result<usize, TestCaseError> {
        let observed = self.observe(desired);
        let steps = plan(desired, &observed, self.in_force.as_ref());
        for step in &steps {
            names_only_ours(step, desired, &observed)?;
            if let Step::LoadFirewall { table, .. } = step {
                self.table.clone_from(table);
            }
            let done = done(self.kernel.apply(&scope(desired), step));
            prop_assert!(done.is_ok(), "{}: {:?}", step, done);
        }
        self.remember(desired);
        Ok(steps.len())
    }

    /// Remembers the firewall that is loaded, as far as its fingerprint tells.
    fn remember(&mut self, desired: &DesiredState) {
        let loaded = self.kernel.state().firewall;
        let Some(loaded) = loaded.and_then(|table| table.fingerprint) else {
            return;
        };
        let old = self.in_force.as_ref().map(|old| old.firewall.clone());
        let wanted = desired.firewall.clone();
        let between = old.as_ref().map(|old| old.tightened_to(&wanted));
        let mut known = [Some(wanted), between, old].into_iter().flatten();
        let firewall = known.find(|one| one.fingerprint(&desired.link.name) == loaded);
        self.in_force = firewall.map(|firewall| InForce {
            firewall,
            table: self.table.clone(),
        });
    }

    fn reach(&mut self, desired: &DesiredState) -> Result<(), TestCaseError> {
        for _ in 0..PASSES {
            if self.pass(desired)? == 0 {
                return self.is(desired);
            }
        }
        let steps = plan(desired, &self.observe(desired), self.in_force.as_ref());
        let steps: Vec<String> = steps.iter().map(ToString::to_string).collect();
        Err(TestCaseError::fail(format!(
            "after {PASSES} passes there is still to do: {steps:?}"
        )))
    }

    /// Compares the kernel with what is wanted, without the planner's help.
    fn is(&self, desired: &DesiredState) -> Result<(), TestCaseError> {
        let state = self.kernel.state();
        let link = state.link.unwrap();
        let kind = match desired.link.backend {
            WireguardBackend::Kernel => LinkKind::Wireguard,
            WireguardBackend::Userspace => LinkKind::Tun,
        };
        prop_assert_eq!((link.kind, link.up), (kind, true));
        prop_assert_eq!(link.mtu, desired.link.mtu.bytes(None));
        prop_assert_eq!(&link.addresses, &desired.link.addresses);
        let device = state.device.unwrap();
        prop_assert_eq!(device.public_key, Some(desired.device.private_key.public()));
        prop_assert_eq!(device.firewall_mark, desired.device.firewall_mark);
        prop_assert_eq!(device.listen_port, desired.device.listen_port);
        prop_assert!(device.peers.keys().eq(desired.peers.keys()));
        for (key, wanted) in &desired.peers {
            let peer = &device.peers[key];
            prop_assert_eq!(&peer.allowed_ips, &wanted.allowed_ips);
            prop_assert_eq!(peer.keepalive, wanted.keepalive);
            prop_assert!(wanted.endpoint.is_none() || peer.endpoint == wanted.endpoint);
        }
        prop_assert_eq!(&state.routes, &desired.routes);
        prop_assert_eq!(&state.rules, &desired.rules);
        for (key, value) in &desired.sysctls {
            prop_assert_eq!(state.sysctls[key].as_ref(), Some(value));
        }
        let fingerprint = state.firewall.and_then(|table| table.fingerprint);
        let wanted = desired.firewall.fingerprint(&desired.link.name);
        prop_assert_eq!(fingerprint, Some(wanted));
        Ok(())
    }
}

/// Whether a step changes only what bears one of our names and numbers.
fn names_only_ours(
    step: &Step,
    desired: &DesiredState,
    observed: &ObservedState,
) -> Result<(), TestCaseError> {
    let tables = [RELAYED_TABLE, SUBNET_TABLE, EXIT_TABLE];
    let is_ours = match step {
        Step::LoadFirewall { ruleset, .. } => names_only_our_table(ruleset),
        Step::AddRoute(route) => {
            let overlay = overlay_prefixes();
            let in_overlay = || overlay.iter().any(|net| net.contains(&route.destination));
            tables.contains(&route.table) || (route.table == MAIN_TABLE && in_overlay())
        }
        Step::RemoveRoute(route) => observed.routes.contains(route),
        Step::AddRule(rule) => {
            (RULE_BAND_FIRST..=RULE_BAND_LAST).contains(&rule.priority)
                && (tables.contains(&rule.table) || rule.table == MAIN_TABLE)
        }
        Step::RemoveRule(rule) => observed.rules.contains(rule),
        Step::SetSysctl { key, value } => {
            desired.sysctls.get(key) == Some(value) && observed.sysctls.contains_key(key)
        }
        Step::DeleteLink => observed
            .link
            .as_ref()
            .is_some_and(|link| matches!(link.kind, LinkKind::Wireguard | LinkKind::Tun)),
        Step::AddAddress(address) => desired.link.addresses.contains(address),
        Step::RemoveAddress(address) => observed
            .link
            .as_ref()
            .is_some_and(|link| link.addresses.contains(address)),
        Step::RemovePeers(keys) => {
            let device = observed.device.as_ref();
            let is_stale = |key| {
                !desired.peers.contains_key(key)
                    && device.is_some_and(|device| device.peers.contains_key(key))
            };
            keys.iter().all(is_stale)
        }
        Step::UpdatePeers(updates) => updates
            .iter()
            .all(|update| desired.peers.contains_key(&update.key)),
        // These can name nothing but our table, our link and its device, and marks of ours.
        Step::DeleteFirewall
        | Step::ForgetConnections { .. }
        | Step::CreateLink { .. }
        | Step::SetMtu(_)
        | Step::SetLinkUp
        | Step::ConfigureDevice(_) => true,
    };
    prop_assert!(is_ours, "{}", step);
    Ok(())
}

/// Whether every command of a libnftables document is about the table `inet weir`.
fn names_only_our_table(document: &str) -> bool {
    let document: serde_json::Value = serde_json::from_str(document).unwrap();
    let commands = document["nftables"].as_array().unwrap();
    commands.iter().all(|command| {
        let (_, object) = command.as_object().unwrap().iter().next().unwrap();
        let (kind, object) = object.as_object().unwrap().iter().next().unwrap();
        let table = if kind == "table" { "name" } else { "table" };
        object["family"] == "inet" && object[table] == NFT_TABLE
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn from_anything_that_is_found_the_steps_lead_to_what_is_wanted_and_no_further(
        before in any_state(),
        harm in proptest::collection::vec(any_harm(), 0..4),
        after in any_state(),
    ) {
        let mut host = Host::new(&[&before, &after]);
        host.reach(&before)?;
        for harm in harm {
            harm.happen(&host.kernel);
        }
        host.reach(&after)?;
        prop_assert_eq!(plan(&after, &host.observe(&after), host.in_force.as_ref()), []);
        // Also for an agent that remembers nothing.
        prop_assert_eq!(plan(&after, &host.observe(&after), None), []);

        let saved: BTreeMap<SysctlKey, String> =
            after.sysctls.keys().map(|key| (key.clone(), "0".to_owned())).collect();
        let observed = host.observe(&after);
        for step in plan_teardown(&observed, &saved) {
            done(host.kernel.apply(&scope(&after), &step)).unwrap();
        }
        let left = host.kernel.state();
        prop_assert!(left.link.is_none() && left.firewall.is_none());
        prop_assert!(left.routes.is_empty() && left.rules.is_empty());
        for key in after.sysctls.keys() {
            prop_assert_eq!(left.sysctls[key].as_deref(), Some("0"));
        }
    }

    #[test]
    fn a_link_of_others_under_our_name_is_never_deleted(wanted in any_state()) {
        let kernel = FakeKernel::new();
        kernel.drift(|state| {
            state.link = Some(weir_kernel_plan::ObservedLink {
                kind: LinkKind::Other("dummy".to_owned()),
                mtu: 1500,
                up: true,
                addresses: BTreeSet::from([prefix("192.0.2.1/24")]),
            });
        });
        let observed = done(kernel.observe(&scope(&wanted))).unwrap();
        let steps = plan(&wanted, &observed, None);
        let teardown = plan_teardown(&observed, &BTreeMap::new());
        for step in steps.iter().chain(&teardown) {
            prop_assert!(!matches!(step, Step::DeleteLink | Step::RemoveAddress(_)), "{}", step);
        }
    }
}
