//! The fake kernel, driven by the plans that drive the real one.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use nix::errno::Errno;
use weir_kernel_plan::firewall::{DesiredFirewall, SourceTranslation};
use weir_kernel_plan::{
    Change, DesiredDevice, DesiredLink, DesiredPeer, DesiredState, IpFamily, Kernel, KernelError,
    LinkKind, LinkMtu, ObservedState, PolicyRule, Route, RouteTarget, Scope, Step, SysctlKey,
    WireguardBackend, plan, plan_teardown,
};
use weir_lab::FakeKernel;
use weir_overlay::{AddressSet, NodePrivateKey, NodePublicKey};

/// The result of a future that needs no runtime; none when it waits.
fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

const PEER: NodePublicKey = NodePublicKey::from_bytes([7; 32]);
const OTHER: NodePublicKey = NodePublicKey::from_bytes([8; 32]);

fn desired(backend: WireguardBackend) -> DesiredState {
    let ours = "100.64.0.1/32".parse().ok();
    let theirs = "100.64.0.2/32".parse().ok();
    let peer = DesiredPeer {
        allowed_ips: theirs.into_iter().collect(),
        ..DesiredPeer::default()
    };
    DesiredState {
        link: DesiredLink {
            name: scope().interface,
            backend,
            mtu: LinkMtu::Fixed(1420),
            addresses: ours.into_iter().collect(),
        },
        device: DesiredDevice {
            private_key: NodePrivateKey::from_bytes([1; 32]),
            listen_port: 51920,
            firewall_mark: 0x5700_0000,
        },
        peers: BTreeMap::from([(PEER, peer)]),
        routes: theirs
            .map(|destination| Route {
                table: 254,
                destination,
                target: RouteTarget::Link { source: None },
            })
            .into_iter()
            .collect(),
        rules: BTreeSet::from([PolicyRule {
            priority: 5710,
            family: IpFamily::V4,
            table: 5701,
            suppress_prefix_length: None,
        }]),
        sysctls: BTreeMap::from([(SysctlKey::ipv4_forwarding(), "1".to_owned())]),
        firewall: DesiredFirewall {
            own_addresses: ours.into_iter().collect(),
            served: AddressSet::default(),
            exit: false,
            grants: Vec::new(),
            translation: SourceTranslation {
                subnets: true,
                egress: BTreeSet::new(),
                routes: Vec::new(),
            },
            tunnel_port: None,
            relayed: AddressSet::default(),
        },
    }
}

fn scope() -> Scope {
    Scope {
        interface: "weir0"
            .parse()
            .unwrap_or_else(|_| unreachable!("weir0 is a link's name")),
        sysctls: BTreeSet::from([SysctlKey::ipv4_forwarding()]),
        paths: BTreeSet::new(),
    }
}

fn observe(kernel: &FakeKernel) -> Result<ObservedState, KernelError> {
    now(kernel.observe(&scope())).unwrap_or_else(|| unreachable!("the fake never waits"))
}

fn apply(kernel: &FakeKernel, step: &Step) -> Result<(), KernelError> {
    now(kernel.apply(&scope(), step)).unwrap_or_else(|| unreachable!("the fake never waits"))
}

/// One pass as the reconciler makes it; the errors of the steps that failed.
fn reconcile(kernel: &FakeKernel, desired: &DesiredState) -> Result<Vec<KernelError>, KernelError> {
    let steps = plan(desired, &observe(kernel)?, None);
    Ok(steps
        .iter()
        .filter_map(|step| apply(kernel, step).err())
        .collect())
}

#[test]
fn a_plan_converges_and_its_teardown_leaves_nothing() {
    for backend in [WireguardBackend::Kernel, WireguardBackend::Userspace] {
        let kernel = FakeKernel::new();
        let before = kernel.state();
        let desired = desired(backend);
        assert!(reconcile(&kernel, &desired).unwrap().is_empty());
        assert_eq!(plan(&desired, &observe(&kernel).unwrap(), None), []);

        let saved = BTreeMap::from([(SysctlKey::ipv4_forwarding(), "0".to_owned())]);
        for step in plan_teardown(&observe(&kernel).unwrap(), &saved) {
            apply(&kernel, &step).unwrap();
        }
        assert_eq!(kernel.state(), before);
    }
}

#[test]
fn a_failed_step_changes_nothing_and_the_next_pass_mends_it() {
    let kernel = FakeKernel::new();
    let desired = desired(WireguardBackend::Kernel);
    kernel.fail_steps("add route", Errno::ENOBUFS, 1);
    let errors = reconcile(&kernel, &desired).unwrap();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].errno, Some(Errno::ENOBUFS as i32));
    assert!(kernel.state().routes.is_empty());
    assert!(reconcile(&kernel, &desired).unwrap().is_empty());
    assert_eq!(kernel.state().routes, desired.routes);

    kernel.fail_observations(Errno::EBUSY, 1);
    assert_eq!(
        observe(&kernel).unwrap_err().errno,
        Some(Errno::EBUSY as i32)
    );
    kernel.fail_steps("", Errno::EPERM, usize::MAX);
    assert!(apply(&kernel, &Step::SetLinkUp).is_err());
    kernel.heal();
    assert!(apply(&kernel, &Step::SetLinkUp).is_ok());
}

#[test]
fn drift_is_seen_announced_and_mended() {
    let kernel = FakeKernel::new();
    let desired = desired(WireguardBackend::Kernel);
    reconcile(&kernel, &desired).unwrap();
    assert!(
        now(kernel.changed()).is_some(),
        "our own steps are announced as well"
    );
    assert!(!now(kernel.pending_changes()).unwrap().is_empty());
    assert!(now(kernel.changed()).is_none());
    for drift in [
        (|state| state.rules.clear()) as fn(&mut ObservedState),
        |state| state.routes.clear(),
        |state| state.firewall = None,
        |state| state.link = None,
        |state| {
            state
                .device
                .iter_mut()
                .for_each(|device| device.peers.clear())
        },
    ] {
        let _our_own = now(kernel.pending_changes());
        kernel.drift(drift);
        assert_eq!(now(kernel.changed()), Some(Change::UNKNOWN));
        assert_ne!(plan(&desired, &observe(&kernel).unwrap(), None), []);
        assert!(reconcile(&kernel, &desired).unwrap().is_empty());
        assert_eq!(plan(&desired, &observe(&kernel).unwrap(), None), []);
    }
    kernel.tamper_with_firewall();
    assert!(kernel.state().firewall.unwrap().fingerprint.is_none());
    assert!(reconcile(&kernel, &desired).unwrap().is_empty());
    assert!(kernel.state().firewall.unwrap().fingerprint.is_some());
}

#[test]
fn it_refuses_what_linux_refuses() {
    let kernel = FakeKernel::new();
    let errno = |step: &Step| apply(&kernel, step).unwrap_err().errno;
    assert_eq!(errno(&Step::SetLinkUp), Some(Errno::ENODEV as i32));
    let unknown = SysctlKey("net/ipv4/nothing".to_owned());
    let set = Step::SetSysctl {
        key: unknown,
        value: "1".to_owned(),
    };
    assert_eq!(errno(&set), Some(Errno::ENOENT as i32));
    let create = Step::CreateLink {
        backend: WireguardBackend::Kernel,
        mtu: 1420,
    };
    kernel.remove_wireguard();
    assert_eq!(errno(&create), Some(Errno::EOPNOTSUPP as i32));
    let create = Step::CreateLink {
        backend: WireguardBackend::Userspace,
        mtu: 1420,
    };
    apply(&kernel, &create).unwrap();
    let route = desired(WireguardBackend::Userspace)
        .routes
        .pop_first()
        .unwrap();
    assert_eq!(errno(&Step::AddRoute(route)), Some(Errno::ENETDOWN as i32));
    kernel.drift(|state| {
        state.link.as_mut().unwrap().kind = LinkKind::Other("dummy".to_owned());
    });
    assert_eq!(errno(&create), Some(Errno::EEXIST as i32));
    assert_eq!(kernel.applied(), [create]);
}

#[test]
fn a_broken_ruleset_leaves_the_table_in_force() {
    let kernel = FakeKernel::new();
    reconcile(&kernel, &desired(WireguardBackend::Kernel)).unwrap();
    let before = kernel.state().firewall;
    let broken =
        r#"{"nftables":[{"flush":{"table":{"name":"weir"}}},{"add":{"rule":{"chain":"no"}}}]}"#;
    assert!(
        apply(
            &kernel,
            &Step::LoadFirewall {
                ruleset: broken.to_owned(),
                table: None,
                difference: false,
            }
        )
        .is_err()
    );
    assert_eq!(kernel.state().firewall, before);
}

#[test]
fn a_prefix_moves_from_the_peer_that_had_it() {
    let kernel = FakeKernel::new();
    let mut desired = desired(WireguardBackend::Kernel);
    reconcile(&kernel, &desired).unwrap();
    let prefixes = std::mem::take(&mut desired.peers.get_mut(&PEER).unwrap().allowed_ips);
    desired
        .peers
        .entry(OTHER)
        .or_default()
        .allowed_ips
        .clone_from(&prefixes);
    reconcile(&kernel, &desired).unwrap();
    let peers = kernel.state().device.unwrap().peers;
    assert!(peers[&PEER].allowed_ips.is_empty());
    assert_eq!(peers[&OTHER].allowed_ips, prefixes);
}
