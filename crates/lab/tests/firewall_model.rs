//! The compiled firewall, loaded whole and changed by differences, judges as the grants and the
//! policy say: on a small nft that reads the very documents that the kernel gets.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::IpAddr,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};
use weir_kernel_plan::{
    CT_GENERATION_MASK, CT_GENERATION_SHIFT, CT_GRANT_MASK, Kernel, Scope, Step,
    firewall::{DesiredFirewall, Table, change},
};
use weir_lab::{Direction, FakeKernel, ForwardedPacket};
use weir_overlay::{AddressRange, AddressSet, GrantId, NodeId, UserId};
use weir_policy::{Directory, Packet, Policy, PolicyNode, Posture, User, compile};
use weir_protocol::{Destination, Grant, IpProtocol, PortRange};

const LINK: &str = "weir0";

fn done<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("the fake kernel waits for nothing"),
    }
}

/// Puts a firewall in force as the reconciler does; gives what it left, and whether by difference.
fn load(
    kernel: &FakeKernel,
    wanted: &DesiredFirewall,
    known: Option<&Table>,
) -> (Arc<Table>, bool) {
    let link = LINK.parse().unwrap();
    let observed = kernel.state().firewall;
    let change = change(wanted, &link, observed.as_ref(), known);
    let scope = Scope {
        interface: link,
        sysctls: BTreeSet::new(),
        paths: BTreeSet::new(),
    };
    for document in change.documents() {
        let step = Step::LoadFirewall {
            ruleset: document.to_owned(),
            table: None,
            difference: change.full.is_none(),
        };
        done(kernel.apply(&scope, &step)).unwrap();
    }
    assert!(kernel.state().firewall.unwrap().is(&change.last.table));
    (change.last.table, change.full.is_none())
}

/// A packet and its connection, before any of it was judged.
#[derive(Clone, Copy, Debug)]
struct Flow {
    from: IpAddr,
    to: IpAddr,
    protocol: IpProtocol,
    port: u16,
}

impl Flow {
    fn packet(self, direction: Direction, mark: u32) -> ForwardedPacket {
        let ports = self.protocol.has_ports().then_some((40_000, self.port));
        let there = ForwardedPacket {
            from_link: LINK.to_owned(),
            to_link: "eth0".to_owned(),
            source: self.from,
            destination: self.to,
            protocol: self.protocol.0,
            ports,
            direction,
            mark,
        };
        match direction {
            Direction::Original => there,
            Direction::Reply => ForwardedPacket {
                from_link: there.to_link,
                to_link: there.from_link,
                source: self.to,
                destination: self.from,
                ports: ports.map(|(near, far)| (far, near)),
                ..there
            },
        }
    }
}

/// The grants that allow a flow, read one by one.
fn allowed(firewall: &DesiredFirewall, flow: Flow) -> BTreeSet<GrantId> {
    let icmp = match flow.protocol {
        IpProtocol::ICMP => flow.to.is_ipv4(),
        IpProtocol::ICMPV6 => flow.to.is_ipv6(),
        _ => false,
    };
    let other_family = !icmp && matches!(flow.protocol, IpProtocol::ICMP | IpProtocol::ICMPV6);
    let within = firewall.served.contains(flow.to) || firewall.own_addresses.contains(flow.to);
    firewall
        .grants
        .iter()
        .filter(|grant| {
            within
                && !other_family
                && flow.from.is_ipv4() == flow.to.is_ipv4()
                && grant.sources.contains(flow.from)
                && grant.protocols.contains(&flow.protocol)
                && grant.destinations.iter().any(|to| {
                    let port = to.ports.first <= flow.port && flow.port <= to.ports.last;
                    to.addresses.contains(flow.to)
                        && (icmp || to.ports.is_all() || (flow.protocol.has_ports() && port))
                })
        })
        .map(|grant| grant.id)
        .collect()
}

fn address(ipv4: bool, net: u8, host: u8) -> IpAddr {
    let text = if ipv4 {
        format!("10.{net}.0.{host}")
    } else {
        format!("fd00:{net}::{host:x}")
    };
    text.parse().unwrap()
}

fn any_set(net: u8) -> impl Strategy<Value = AddressSet> {
    let one = (
        any::<bool>(),
        0u8..40,
        prop_oneof![Just(0u8), 1u8..4, 20u8..60],
    );
    proptest::collection::vec(one, 1..4).prop_map(move |items| {
        let range = |(ipv4, first, more)| {
            AddressRange::new(address(ipv4, net, first), address(ipv4, net, first + more))
        };
        items.into_iter().filter_map(range).collect()
    })
}

fn any_ports() -> impl Strategy<Value = PortRange> {
    prop_oneof![
        Just(PortRange::ALL),
        (1u16..30).prop_map(PortRange::single),
        (1u16..30, 1u16..40).prop_map(|(first, more)| PortRange {
            first,
            last: first + more
        }),
    ]
}

const PROTOCOLS: [u8; 6] = [1, 6, 17, 47, 58, 132];

fn any_grant() -> impl Strategy<Value = Grant> {
    let protocols = proptest::sample::subsequence(PROTOCOLS.to_vec(), 1..4);
    let destination = (any_set(1), any_ports());
    let destinations = proptest::collection::vec(destination, 1..3);
    (1u32..12, any_set(0), protocols, destinations).prop_map(
        |(id, sources, protocols, destinations)| Grant {
            id: GrantId(id),
            sources,
            protocols: protocols.into_iter().map(IpProtocol).collect(),
            destinations: destinations
                .into_iter()
                .map(|(addresses, ports)| Destination { addresses, ports })
                .collect(),
            origin: format!("grants[{id}]"),
        },
    )
}

fn any_firewall() -> impl Strategy<Value = DesiredFirewall> {
    (proptest::collection::vec(any_grant(), 0..6), any_set(1)).prop_map(|(grants, served)| {
        let grants: BTreeMap<GrantId, Grant> =
            grants.into_iter().map(|grant| (grant.id, grant)).collect();
        firewall(grants.into_values().collect(), served)
    })
}

fn firewall(grants: Vec<Grant>, served: AddressSet) -> DesiredFirewall {
    DesiredFirewall {
        served,
        grants,
        ..DesiredFirewall::default()
    }
}

fn any_flow() -> impl Strategy<Value = Flow> {
    let protocol = proptest::sample::select(PROTOCOLS.to_vec());
    (any::<bool>(), 0u8..80, 0u8..80, protocol, 0u16..72).prop_map(
        |(ipv4, from, to, protocol, port)| Flow {
            from: address(ipv4, 0, from),
            to: address(ipv4, 1, to),
            protocol: IpProtocol(protocol),
            port,
        },
    )
}

/// What must hold of one flow under a firewall that is loaded.
fn holds(kernel: &FakeKernel, wanted: &DesiredFirewall, table: &Table, flow: Flow) {
    let by = allowed(wanted, flow);
    let current = u32::from(table.generation()) << CT_GENERATION_SHIFT;
    let stale = (current ^ CT_GENERATION_MASK) & CT_GENERATION_MASK | 7;
    for direction in [Direction::Original, Direction::Reply] {
        for before in [0, stale] {
            let judged = kernel.judge(&flow.packet(direction, before));
            assert_eq!(
                judged.accepted,
                !by.is_empty(),
                "{flow:?} {direction:?} {before:#x}"
            );
            if judged.accepted {
                assert_eq!(judged.mark & CT_GENERATION_MASK, current);
                let grant = GrantId(judged.mark & CT_GRANT_MASK);
                assert!(by.contains(&grant), "{grant} for {flow:?}, of {by:?}");
            }
        }
        // What was judged under this generation is not judged again.
        assert!(kernel.judge(&flow.packet(direction, current | 1)).accepted);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_ruleset_judges_as_the_grants_do_however_it_came_to_be(
        firewalls in proptest::collection::vec(any_firewall(), 1..5),
        flows in proptest::collection::vec(any_flow(), 60),
    ) {
        let kernel = FakeKernel::new();
        let mut known: Option<(Arc<Table>, &DesiredFirewall)> = None;
        for wanted in &firewalls {
            let before = known.as_ref();
            let (table, difference) = load(&kernel, wanted, before.map(|(table, _)| &**table));
            prop_assert_eq!(difference, before.is_some());
            for flow in &flows {
                holds(&kernel, wanted, &table, *flow);
                // Marks of before count only while all that was allowed still is.
                if let Some((old, was)) = before
                    && old.generation() == table.generation()
                    && !allowed(was, *flow).is_empty()
                {
                    prop_assert!(!allowed(wanted, *flow).is_empty(), "{:?}", flow);
                }
            }
            known = Some((table, wanted));
        }
    }

    #[test]
    fn what_two_firewalls_share_is_what_both_allow(
        old in any_firewall(),
        new in any_firewall(),
        flows in proptest::collection::vec(any_flow(), 200),
    ) {
        let both = old.tightened_to(&new);
        for flow in flows {
            prop_assert_eq!(
                !allowed(&both, flow).is_empty(),
                !allowed(&old, flow).is_empty() && !allowed(&new, flow).is_empty(),
                "{:?}", flow
            );
        }
    }
}

#[test]
fn one_grant_more_or_less_among_many_is_a_few_elements() {
    let grant = |id: u32| Grant {
        id: GrantId(id),
        sources: [AddressRange::from(IpAddr::from([
            100,
            64,
            (id >> 8) as u8,
            id as u8,
        ]))]
        .into_iter()
        .collect(),
        protocols: [IpProtocol::TCP].into(),
        destinations: vec![Destination {
            addresses: ["10.0.0.1".parse::<AddressRange>().unwrap()]
                .into_iter()
                .collect(),
            ports: PortRange::single(443),
        }],
        origin: format!("grants[{id}]"),
    };
    // A team's grants, which make a class.
    let team: AddressSet = ["100.100.0.0/24".parse::<AddressRange>().unwrap()]
        .into_iter()
        .collect();
    let for_team = |id: u32| Grant {
        sources: team.clone(),
        ..grant(id)
    };
    let served: AddressSet = ["10.0.0.0/8".parse::<AddressRange>().unwrap()]
        .into_iter()
        .collect();
    let all: Vec<Grant> = (1..=3_000)
        .map(grant)
        .chain((4_000..4_200).map(for_team))
        .collect();
    let link = LINK.parse().unwrap();
    let mut wanted = firewall(all, served);
    let kernel = FakeKernel::new();
    let (mut table, _) = load(&kernel, &wanted, None);
    let mut step = |wanted: &DesiredFirewall, at_most: usize, new_generation: bool| {
        let observed = kernel.state().firewall;
        let change = change(wanted, &link, observed.as_ref(), Some(&table));
        assert_eq!(change.full, None);
        assert!(change.elements <= at_most, "{}", change.elements);
        assert_eq!(change.mark.is_some(), new_generation);
        table = load(&kernel, wanted, Some(&table)).0;
    };
    wanted.grants.push(grant(3_500));
    step(&wanted, 2, false);
    wanted.grants.retain(|grant| grant.id.0 != 17);
    step(&wanted, 2, true);
    let mut more = for_team(5_000);
    more.destinations[0].ports = PortRange::single(444);
    wanted.grants.push(more);
    step(&wanted, 2, false);
    // The same grants, somewhere else in the policy's text: only the legend says so.
    for grant in &mut wanted.grants[..5] {
        grant.origin.push('!');
    }
    step(&wanted, 10, false);
}

const RELAY: NodeId = NodeId(1);

fn network() -> Directory {
    let user = |id, name: &str| User {
        id: UserId(id),
        name: name.to_owned(),
        email: Some(format!("{name}@example.com")),
    };
    let node = |id: NodeId, user: Option<u64>, routes: &[&str]| {
        let addresses = [format!("100.64.0.{id}"), format!("fd77:6569:7200::{id}")];
        let node = PolicyNode {
            user: user.map(UserId),
            tags: BTreeSet::new(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            approved_routes: routes.iter().map(|route| route.parse().unwrap()).collect(),
            posture: Posture::default(),
        };
        (id, node)
    };
    let people = (2..30).map(|id| node(NodeId(id), Some(id % 3 + 1), &[]));
    Directory {
        users: vec![user(1, "alice"), user(2, "bob"), user(3, "carol")],
        nodes: people
            .chain([node(
                RELAY,
                Some(1),
                &["8.8.8.8/32", "10.20.0.0/16", "fd20::/32"],
            )])
            .collect(),
        ..Directory::default()
    }
}

const POLICY: &str = r#"{
    "groups": { "group:ops": ["alice@example.com", "bob@example.com"] },
    "hosts": { "files": "10.20.3.0/24" },
    "acls": [
        { "action": "accept", "src": ["alice@example.com"], "proto": "tcp", "dst": ["8.8.8.8:443,853"] },
        { "action": "accept", "src": ["group:ops"], "proto": "udp", "dst": ["8.8.8.8:53"] },
        { "action": "accept", "src": ["carol@example.com"], "dst": ["files:8000-8100"] },
        { "action": "accept", "src": ["100.64.0.7"], "proto": "47", "dst": ["10.20.0.0/16:*"] },
        { "action": "accept", "src": ["bob@example.com"], "proto": "sctp", "dst": ["fd20::/32:100-200"] },
        { "action": "accept", "src": ["group:ops"], "proto": "icmp", "dst": ["10.20.0.0/16:*"] },
        { "action": "accept", "src": ["*"], "dst": ["10.20.9.9:*", "fd20::9:22"] },
    ],
}"#;

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_relays_ruleset_judges_as_the_policy_explains(
        from in 2u8..34,
        to in proptest::sample::select(vec![
            "8.8.8.8", "8.8.4.4", "10.20.3.1", "10.20.3.255", "10.20.4.1", "10.20.9.9", "10.21.0.1",
            "fd20::9", "fd20::10", "fd21::9",
        ]),
        protocol in proptest::sample::select(PROTOCOLS.to_vec()),
        port in proptest::sample::select(vec![22u16, 53, 100, 150, 200, 201, 443, 853, 7999, 8000, 8100, 8101]),
    ) {
        thread_local! {
            static LOADED: (FakeKernel, weir_policy::CompiledPolicy) = loaded();
        }
        let destination: IpAddr = to.parse().unwrap();
        let source: IpAddr = if destination.is_ipv4() {
            format!("100.64.0.{from}")
        } else {
            format!("fd77:6569:7200::{from}")
        }.parse().unwrap();
        // ICMP of the other family does not exist.
        let protocol = match IpProtocol(protocol) {
            IpProtocol::ICMP if destination.is_ipv6() => IpProtocol::ICMPV6,
            IpProtocol::ICMPV6 if destination.is_ipv4() => IpProtocol::ICMP,
            protocol => protocol,
        };
        let flow = Flow { from: source, to: destination, protocol, port };
        LOADED.with(|(kernel, policy)| {
            let explained = policy.explain(&Packet { source, destination, port, protocol });
            let by: Vec<_> = explained.allowed.iter().filter(|rule| rule.at == RELAY).collect();
            let judged = kernel.judge(&flow.packet(Direction::Original, 0));
            prop_assert_eq!(judged.accepted, !by.is_empty(), "{:?}", flow);
            let grant = GrantId(judged.mark & CT_GRANT_MASK);
            prop_assert!(!judged.accepted || by.iter().any(|rule| rule.grant == grant));
            Ok(())
        })?;
    }
}

fn loaded() -> (FakeKernel, weir_policy::CompiledPolicy) {
    let policy = Policy::parse(POLICY).unwrap();
    let directory = network();
    let compiled = compile(&policy, &directory);
    let served = directory.nodes[&RELAY]
        .approved_routes
        .iter()
        .copied()
        .collect();
    let kernel = FakeKernel::new();
    load(&kernel, &firewall(compiled.filter(RELAY), served), None);
    (kernel, compiled)
}
