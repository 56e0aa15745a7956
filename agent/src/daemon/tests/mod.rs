//! The daemon between a coordinator of a few lines and a kernel in memory.

mod approval;
mod fake_coordinator;
mod removed;
mod rotate;

use nix::errno::Errno;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;
use weir_diagnosis::{
    OtherFirewalls, RouteAnswer, RouteOut, doctor::Examination, explain::HostView,
};
use weir_kernel::{ExamineRequest, LookRequest, TraceRequest};
use weir_kernel_plan::{
    HostFacts, KernelError, LinkFact, LinkKind, NodeSettings, PortFact, PortUse,
};
use weir_lab::FakeKernel;
use weir_overlay::{Generation, InterfaceName, KeyId, NodeId, NodePublicKey};
use weir_protocol::{
    AuthKey, ErrorCode, MapDelta, NetworkMap, Peer, Pin, ProblemDetails, RouteState, RouteStatus,
    SelfNode, StreamMessage,
};
use weir_reconcile::{Reconciler, StateDirectory, Timing};

use super::{agent::Agent, host::Host, saved::Applied};
use crate::{
    control::{NodeState, Response, RouteUse, StatusReport, UpReport, UpRequest},
    secret::SecretText,
    settings::{Change, OrNone, SettingCommand},
};
use fake_coordinator::{FakeCoordinator, Script};

const SOON: Duration = Duration::from_secs(10);

impl Host for FakeKernel {
    async fn facts(&self, _: &InterfaceName, _: u16) -> Result<HostFacts, KernelError> {
        let link = self.state().link;
        Ok(HostFacts {
            may_administer: true,
            kernel_wireguard: true,
            tun: true,
            ipv6: false,
            nft: Ok("nftables v1.0.6".to_owned()),
            link: link.map_or(LinkFact::Absent, |_| LinkFact::Present(LinkKind::Wireguard)),
            port: PortFact::Free,
            addresses: BTreeSet::from(["203.0.113.7".parse().unwrap()]),
            unwritable_sysctls: BTreeMap::new(),
            autoconfigured_links: BTreeSet::new(),
            connected_networks: BTreeMap::new(),
        })
    }

    async fn look(&self, request: &LookRequest) -> Result<HostView, KernelError> {
        Ok(HostView {
            outward: RouteAnswer::Out(RouteOut {
                link: request.interface.to_string(),
                gateway: None,
                source: None,
                table: None,
                matched: None,
            }),
            back: None,
            rules: BTreeSet::new(),
            forwarding: Some(true),
            addresses: BTreeSet::new(),
            others: OtherFirewalls::default(),
        })
    }

    async fn trace(&self, _: &TraceRequest) -> Result<String, KernelError> {
        Ok(String::new())
    }

    async fn examine(&self, request: &ExamineRequest) -> Result<Examination, KernelError> {
        Ok(Examination {
            facts: self.facts(&request.interface, request.listen_port).await?,
            sysctls: BTreeMap::new(),
            ways: BTreeMap::new(),
            mtus: BTreeMap::new(),
            others: OtherFirewalls::default(),
        })
    }

    async fn ports_in_use(&self) -> Result<Vec<PortUse>, KernelError> {
        Ok(Vec::new())
    }
}

fn map(generation: u64) -> NetworkMap {
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
                state: RouteState::AwaitingApproval,
            }],
            key: weir_protocol::KeyStatus::default(),
        },
        peers: BTreeMap::new(),
        filter: Vec::new(),
        notices: Vec::new(),
    }
}

fn peer(route: &str, endpoint: &str) -> Peer {
    Peer {
        id: NodeId(2),
        name: "other".parse().unwrap(),
        user: None,
        tags: BTreeSet::new(),
        node_key: NodePublicKey::from_bytes([2; 32]),
        addresses: BTreeSet::from(["100.64.0.2".parse().unwrap()]),
        routes: BTreeSet::from([route.parse().unwrap()]),
        source_prefixes: BTreeSet::new(),
        endpoint: Some(endpoint.parse().unwrap()),
    }
}

/// A map with the exit `other`, which is reached at 198.51.100.9.
pub(super) fn exit_map() -> NetworkMap {
    let exit = peer("0.0.0.0/0", "198.51.100.9:51920");
    NetworkMap {
        peers: BTreeMap::from([(exit.id, exit)]),
        ..map(1)
    }
}

/// Settings that ask for nothing.
pub(super) fn node_settings() -> NodeSettings {
    let text = r#"{
        "settings": {},
        "host": {
            "backend": "kernel",
            "backend_reason": null,
            "ipv6": false,
            "autoconfigured_links": [],
            "behind_nat": true
        }
    }"#;
    serde_json::from_str::<Applied>(text)
        .unwrap()
        .node_settings()
}

/// A daemon's inside, on a fake kernel and a state directory that outlives it.
struct Daemon {
    agent: Arc<Agent<FakeKernel>>,
    kernel: FakeKernel,
}

impl Daemon {
    fn start(kernel: &FakeKernel, root: &Path) -> Self {
        let directory = StateDirectory::open(root).unwrap();
        let shared = Arc::new(kernel.clone());
        let (reconciler, handle) =
            Reconciler::new(Arc::clone(&shared), directory.clone(), Timing::default()).unwrap();
        tokio::spawn(reconciler.run());
        let agent = Agent::open(shared, directory, root.join("agent.toml"), handle).unwrap();
        agent.go_on();
        Self {
            agent,
            kernel: kernel.clone(),
        }
    }

    async fn up(&self, request: UpRequest) -> Result<UpReport, String> {
        let command = SettingCommand::Up {
            reset: request.reset,
        };
        match self.agent.change(command, request).await {
            Ok(Response::Up(report)) => Ok(*report),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(format!("{error:#}")),
        }
    }

    async fn wait(&self, what: &str, is_so: impl Fn(&StatusReport) -> bool) -> StatusReport {
        let found = tokio::time::timeout(SOON, async {
            loop {
                let status = self.agent.status().await;
                if is_so(&status) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        found.await.unwrap_or_else(|_| panic!("waited for {what}"))
    }

    fn crash(self) {
        let mut state = self.agent.state();
        state.session = None;
        state.waiting.stop();
    }
}

/// Flags for joining this coordinator and advertising 8.8.8.8.
fn joining(coordinator: &FakeCoordinator) -> UpRequest {
    let key = AuthKey::new(
        KeyId("k1".to_owned()),
        "5ec2e7".to_owned(),
        Pin::of_public_key_info(b"of no importance without TLS"),
    );
    UpRequest {
        change: Change {
            coordinator: Some(OrNone(Some(coordinator.url.parse().unwrap()))),
            advertise_routes: Some("8.8.8.8".parse().unwrap()),
            ..Change::default()
        },
        auth_key: Some(SecretText::new(key.reveal())),
        timeout: Some(5),
        ..UpRequest::default()
    }
}

async fn coordinator(map: NetworkMap) -> FakeCoordinator {
    FakeCoordinator::start(Script {
        map: Some(map),
        ..Script::default()
    })
    .await
}

fn bench() -> (TempDir, FakeKernel) {
    (tempfile::tempdir().unwrap(), FakeKernel::new())
}

#[tokio::test]
async fn up_then_a_crash_then_the_ledger_without_a_coordinator() {
    let (root, kernel) = bench();
    let coordinator = coordinator(map(3)).await;
    let daemon = Daemon::start(&kernel, root.path());
    let report = daemon.up(joining(&coordinator)).await.unwrap();
    assert_eq!(report.routes, map(3).node.routes);
    assert_eq!(report.failures, []);
    let status = daemon
        .wait("the report", |_| {
            coordinator.script(|script| script.requests.iter().any(|path| path.ends_with("report")))
        })
        .await;
    assert_eq!(status.map.applied, Some(Generation(3)));
    let conforming = kernel.state();

    daemon.crash();
    drop(coordinator);
    drop(kernel.take_applied());
    let daemon = Daemon::start(&kernel, root.path());
    let status = daemon
        .wait("the ledger and the problem", |status| {
            status.map.applied.is_some()
                && status
                    .coordinator
                    .as_ref()
                    .is_some_and(|way| way.problem.is_some())
        })
        .await;
    assert_eq!(status.state, NodeState::Up);
    let problem = status.coordinator.unwrap().problem.unwrap();
    assert!(problem.contains("connection refused"), "{problem}");
    assert_eq!(daemon.kernel.take_applied(), []);
    assert_eq!(daemon.kernel.state(), conforming);
}

#[tokio::test]
async fn changes_reach_the_kernel_and_gaps_are_healed_by_a_full_map() {
    let (root, kernel) = bench();
    let coordinator = coordinator(map(3)).await;
    let daemon = Daemon::start(&kernel, root.path());
    daemon.up(joining(&coordinator)).await.unwrap();
    let other = peer("9.9.9.9/32", "198.51.100.2:51920");
    let delta = |from, to| MapDelta {
        from: Generation(from),
        to: Generation(to),
        node: None,
        peers_changed: BTreeMap::from([(other.id, other.clone())]),
        peers_removed: BTreeSet::new(),
        filter: None,
        notices: None,
    };
    coordinator.send(&StreamMessage::Delta {
        delta: Box::new(delta(3, 4)),
    });
    let status = daemon
        .wait("the change", |status| {
            status.map.applied == Some(Generation(4))
        })
        .await;
    assert_eq!(status.available[0].usage, RouteUse::Installed);

    // A change for another map than the one held: the next stream begins with a whole one.
    coordinator.script(|script| script.map = Some(map(9)));
    coordinator.send(&StreamMessage::Delta {
        delta: Box::new(delta(7, 8)),
    });
    daemon
        .wait("the full map", |status| {
            status.map.applied == Some(Generation(9))
        })
        .await;
    assert_eq!(
        coordinator.script(|script| script.held.clone()),
        [None, None]
    );

    // An older one changes nothing, and is told of.
    coordinator.send(&StreamMessage::Full {
        map: Box::new(map(5)),
    });
    let status = daemon
        .wait("the refusal", |status| !status.failures.is_empty())
        .await;
    assert!(status.failures[0].reason.contains("map 9 is in force"));
    assert_eq!(status.map.held, Some(Generation(9)));
}

#[tokio::test]
async fn what_is_refused_changes_nothing() {
    let (root, kernel) = bench();
    let before = kernel.state();
    let coordinator = coordinator(map(3)).await;
    let daemon = Daemon::start(&kernel, root.path());

    // By the coordinator.
    let detail = "this auth key was used already: make another one";
    coordinator.script(|script| {
        script.refusal = Some(ProblemDetails {
            code: ErrorCode::UsedAuthKey,
            status: 403,
            detail: detail.to_owned(),
        });
    });
    let error = daemon.up(joining(&coordinator)).await.unwrap_err();
    assert_eq!(error, detail);

    // By time.
    coordinator.script(|script| {
        script.refusal = None;
        script.silent = true;
    });
    let impatient = UpRequest {
        timeout: Some(1),
        ..joining(&coordinator)
    };
    let error = daemon.up(impatient).await.unwrap_err();
    assert!(error.contains("did not answer within"), "{error}");

    // By what the map shows: the route would swallow the tunnel to a peer. `--force` insists.
    let mut with_peer = map(3);
    let other = peer("9.9.9.9/32", "8.8.8.8:51920");
    with_peer.peers.insert(other.id, other);
    coordinator.script(|script| {
        script.silent = false;
        script.map = Some(with_peer);
    });
    let error = daemon.up(joining(&coordinator)).await.unwrap_err();
    assert!(
        error.starts_with("8.8.8.8/32 holds 8.8.8.8, where other is reached"),
        "{error}"
    );
    let last = coordinator.script(|script| script.requests.last().cloned());
    assert!(last.is_some_and(|path| path.ends_with("update")));

    assert_eq!(kernel.state(), before);
    assert_eq!(kernel.applied(), []);
    assert_eq!(daemon.agent.status().await.state, NodeState::Down);
    let insisting = UpRequest {
        force: true,
        ..joining(&coordinator)
    };
    daemon.up(insisting).await.unwrap();
}

#[tokio::test]
async fn a_first_up_that_the_kernel_refuses_leaves_nothing_behind() {
    let (root, kernel) = bench();
    let before = kernel.state();
    let coordinator = coordinator(map(3)).await;
    let daemon = Daemon::start(&kernel, root.path());
    kernel.fail_steps("set the link up", Errno::EPERM, usize::MAX);
    let error = daemon.up(joining(&coordinator)).await.unwrap_err();
    assert!(error.starts_with("cannot set the link up: "), "{error}");
    assert!(error.ends_with("The host is as it was before."), "{error}");
    assert_eq!(kernel.state(), before);
    assert_eq!(daemon.agent.status().await.state, NodeState::Down);

    // A restart does not try it again by itself; `up` without the key does, for it is known now.
    daemon.crash();
    kernel.heal();
    let daemon = Daemon::start(&kernel, root.path());
    assert_eq!(daemon.agent.status().await.state, NodeState::Down);
    let again = UpRequest {
        auth_key: None,
        ..joining(&coordinator)
    };
    daemon.up(again).await.unwrap();
}

#[tokio::test]
async fn down_is_down_whatever_the_coordinator_still_says() {
    let (root, kernel) = bench();
    let before = kernel.state();
    let coordinator = coordinator(map(3)).await;
    let daemon = Daemon::start(&kernel, root.path());
    daemon.up(joining(&coordinator)).await.unwrap();
    let report = daemon.agent.down(None).await.unwrap();
    assert_eq!(report.failures, []);
    coordinator.send(&StreamMessage::Full {
        map: Box::new(map(4)),
    });
    // As a message that was being taken while the node went down.
    let late = StreamMessage::Full {
        map: Box::new(map(5)),
    };
    daemon.agent.take_message(late).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(kernel.state(), before);
    assert!(daemon.agent.down(None).await.unwrap().was_down);

    // Up again, the coordinator's map counts, even an older one: it may come from a backup.
    coordinator.script(|script| script.map = Some(map(2)));
    daemon.up(UpRequest::default()).await.unwrap();
    let status = daemon.agent.status().await;
    assert_eq!(status.map.applied, Some(Generation(2)));
}

#[tokio::test]
async fn set_changes_what_it_names_and_up_guards_the_rest() {
    let (root, kernel) = bench();
    let coordinator = coordinator(map(3)).await;
    let daemon = Daemon::start(&kernel, root.path());
    let change = |accept_routes| UpRequest {
        change: Change {
            accept_routes: Some(accept_routes),
            ..Change::default()
        },
        ..UpRequest::default()
    };
    let saved = daemon
        .agent
        .change(SettingCommand::Set, change(false))
        .await;
    assert!(matches!(saved, Ok(Response::Saved)), "{saved:?}");
    let error = daemon.up(joining(&coordinator)).await.unwrap_err();
    assert!(error.contains("--accept-routes=false"), "{error}");
    assert!(coordinator.script(|script| script.requests.is_empty()));

    let reset = UpRequest {
        reset: true,
        ..joining(&coordinator)
    };
    daemon.up(reset).await.unwrap();
    let set = daemon
        .agent
        .change(SettingCommand::Set, change(false))
        .await;
    assert!(matches!(set, Ok(Response::Up(_))), "{set:?}");
    let error = daemon.up(change(true)).await.unwrap_err();
    assert!(
        error.contains("--advertise-routes=8.8.8.8/32 --accept-routes\n"),
        "{error}"
    );
}

#[tokio::test]
async fn an_agent_moves_on_to_the_next_coordinator() {
    let (root, kernel) = bench();
    let gone = coordinator(map(3)).await.url.clone();
    let (first, second) = (coordinator(map(3)).await, coordinator(map(4)).await);
    let daemon = Daemon::start(&kernel, root.path());
    let mut request = joining(&first);
    let list = format!("{gone},{},{}", first.url, second.url);
    request.change.coordinator = Some(list.parse().unwrap());
    let report = daemon.up(request).await.unwrap();
    assert_eq!(report.coordinator, first.url);
    assert!(second.script(|script| script.requests.is_empty()));
    drop(first);
    let status = daemon
        .wait("the map of the second", |status| {
            status.map.applied == Some(Generation(4))
        })
        .await;
    assert_eq!(status.coordinator.unwrap().url, list);
    // It named the map that it had, and joined nowhere anew.
    second.script(|script| {
        assert_eq!(script.held[0], Some(3));
        let joined = |path: &String| path == weir_protocol::REGISTER_PATH;
        assert!(!script.requests.iter().any(joined));
    });
    // One more in the list is no other network: no key is needed.
    let command = SettingCommand::Set;
    let mut request = UpRequest::default();
    let list = format!("{},http://127.0.0.1:1", second.url);
    request.change.coordinator = Some(list.parse().unwrap());
    daemon.agent.change(command, request).await.unwrap();
}
