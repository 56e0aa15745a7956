//! An agent of the simulation: the map it has on disk, and a kernel that it makes what that says.

use crate::{engine::Follower, presence::Connected};
use std::{
    collections::BTreeSet,
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};
use weir_kernel_plan::{
    DesiredState, Kernel, LinkMtu, NodeSettings, Step, WireguardBackend, desired_state, plan, scope,
};
use weir_lab::FakeKernel;
use weir_overlay::{NodePrivateKey, NodePublicKey};
use weir_protocol::{MapRequest, NetworkMap};

/// More passes than any way takes: one that tightens, one that loosens, one that finds nothing.
const PASSES: usize = 4;

/// An agent that speaks to one of several coordinators.
#[derive(Default)]
pub(super) struct Agent {
    /// The map that it has on disk.
    pub(super) map: Option<NetworkMap>,
    /// Whether the next map that it asks for is a whole one, because a change did not fit.
    pub(super) wants_whole: bool,
    /// It never goes back behind this version of the network, and not behind this expiry.
    pub(super) version: usize,
    pub(super) expiry: usize,
    /// When it last came, and whether somebody asked for its end.
    pub(super) came_at: i64,
    pub(super) is_deleted: bool,
    /// Its stream while it has one, and whose it is.
    pub(super) stream: Option<Stream>,
    pub(super) kernel: FakeKernel,
}

pub(super) struct Stream {
    pub(super) coordinator: usize,
    pub(super) follower: Follower,
    pub(super) _connected: Connected,
}

fn done<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("the fake kernel waits for nothing"),
    }
}

pub(super) fn key(number: u64) -> NodePrivateKey {
    let mut bytes = [7; 32];
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    NodePrivateKey::from_bytes(bytes)
}

fn desired(map: &NetworkMap) -> DesiredState {
    let settings = NodeSettings {
        interface: "weir0".parse().unwrap(),
        backend: WireguardBackend::Kernel,
        mtu: LinkMtu::Fixed(1280),
        listen_port: 51920,
        accept_routes: true,
        exit_node: None,
        exit_node_allow_lan_access: false,
        snat_subnet_routes: true,
        egress: BTreeSet::new(),
        route_egress: [].into(),
        advertised: map.node.routes.iter().map(|route| route.prefix).collect(),
        ipv6: true,
        autoconfigured_links: BTreeSet::new(),
        keepalive: false,
        direct: BTreeSet::new(),
        may_validate_marks: true,
    };
    desired_state(map, &settings, key(0))
}

impl Agent {
    /// What it asks for when it connects.
    pub(super) fn request(&mut self) -> MapRequest {
        match &self.map {
            Some(map) if !std::mem::take(&mut self.wants_whole) => MapRequest {
                held: Some(map.generation),
                digest: map.digest(),
            },
            Some(_) | None => MapRequest::default(),
        }
    }

    /// What is left to do until the kernel is what a map says.
    fn steps(&self, desired: &DesiredState) -> Vec<Step> {
        let observed = done(self.kernel.observe(&scope(desired))).unwrap();
        plan(desired, &observed, None)
    }

    /// Makes the kernel what the map says, or dies before the step of this number.
    pub(super) fn make(&self, dies_at: usize) {
        let Some(map) = &self.map else {
            return;
        };
        let desired = desired(map);
        let mut number = 0;
        for _ in 0..PASSES {
            for step in self.steps(&desired) {
                if number == dies_at {
                    return;
                }
                done(self.kernel.apply(&scope(&desired), &step)).unwrap();
                number += 1;
            }
        }
        assert!(self.conforms(map), "the kernel never is what the map says");
    }

    /// Whether the kernel is what a map says.
    pub(super) fn conforms(&self, map: &NetworkMap) -> bool {
        self.steps(&desired(map)).is_empty()
    }

    /// Whom the kernel speaks to.
    pub(super) fn peers(&self) -> BTreeSet<NodePublicKey> {
        let device = self.kernel.state().device;
        device
            .map(|device| device.peers.into_keys().collect())
            .unwrap_or_default()
    }
}
