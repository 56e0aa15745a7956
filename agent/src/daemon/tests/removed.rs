//! What an agent does that hears that it is not in the network, and what it says when it leaves.

use super::*;

fn refusal(code: ErrorCode, detail: &str) -> ProblemDetails {
    ProblemDetails {
        code,
        status: 403,
        detail: detail.to_owned(),
    }
}

/// A map with a peer that serves a route.
fn with_peer(generation: u64) -> NetworkMap {
    let other = peer("9.9.9.9/32", "198.51.100.2:51920");
    NetworkMap {
        peers: BTreeMap::from([(other.id, other)]),
        ..map(generation)
    }
}

fn peers(kernel: &FakeKernel) -> usize {
    kernel.state().device.map_or(0, |device| device.peers.len())
}

/// Has the coordinator end the stream and say this to everybody from now on.
fn says(coordinator: &FakeCoordinator, problem: Option<ProblemDetails>) {
    coordinator.script(|script| script.shuts_out = problem);
    coordinator.send(&StreamMessage::Closing { reconnect_in_ms: 1 });
}

fn problem(status: &StatusReport) -> String {
    let way = status.coordinator.as_ref();
    way.and_then(|way| way.problem.clone()).unwrap_or_default()
}

#[tokio::test]
async fn a_node_that_was_removed_speaks_to_nobody_until_it_is_back() {
    let (root, kernel) = bench();
    let coordinator = coordinator(with_peer(3)).await;
    let daemon = Daemon::start(&kernel, root.path());
    daemon.up(joining(&coordinator)).await.unwrap();
    assert_eq!(peers(&kernel), 1);
    for code in [ErrorCode::NotEnrolled, ErrorCode::MachineRevoked] {
        says(
            &coordinator,
            Some(refusal(code, "it is not in the network")),
        );
        let status = daemon
            .wait("the kernel to speak to nobody", |status| {
                problem(status).contains("not in the network") && peers(&kernel) == 0
            })
            .await;
        assert_eq!(status.state, NodeState::Up, "the firewall stays");
        assert!(status.available.is_empty() && status.peers.is_empty());
        assert!(kernel.state().firewall.is_some());
        assert!(
            kernel.state().routes.iter().all(|route| {
                route.destination != "9.9.9.9/32".parse::<ipnet::IpNet>().unwrap()
            })
        );
        // It was a mistake: what is sent again is in force again, whatever its number.
        says(&coordinator, None);
        daemon
            .wait("the map to be back", |_| peers(&kernel) == 1)
            .await;
    }

    // Nor does a restart bring back what was taken away.
    let code = ErrorCode::NotEnrolled;
    says(
        &coordinator,
        Some(refusal(code, "it is not in the network")),
    );
    daemon.wait("the end", |_| peers(&kernel) == 0).await;
    daemon.crash();
    drop(coordinator);
    let daemon = Daemon::start(&kernel, root.path());
    daemon
        .wait("the ledger", |status| status.map.applied.is_some())
        .await;
    assert_eq!(peers(&kernel), 0);
}

#[tokio::test]
async fn another_refusal_takes_nothing_away() {
    let (root, kernel) = bench();
    let coordinator = coordinator(with_peer(3)).await;
    let daemon = Daemon::start(&kernel, root.path());
    daemon.up(joining(&coordinator)).await.unwrap();
    let wrong = "the clock of this machine is 5 minutes behind the coordinator's";
    for code in [
        ErrorCode::ClockSkew,
        ErrorCode::BadSignature,
        ErrorCode::Unavailable,
        ErrorCode::StorageFull,
        ErrorCode::Internal,
        ErrorCode::Unknown,
    ] {
        says(
            &coordinator,
            Some(refusal(code, &format!("{code:?}: {wrong}"))),
        );
        let status = daemon
            .wait("the refusal", |status| {
                problem(status).contains(&format!("{code:?}"))
            })
            .await;
        // What is wrong is said in the coordinator's words, and the last good map stays.
        assert!(problem(&status).contains("5 minutes behind"));
        assert_eq!(peers(&kernel), 1);
    }
}

#[tokio::test]
async fn an_ephemeral_node_that_goes_down_is_deleted_at_once() {
    let (root, kernel) = bench();
    let coordinator = coordinator(map(3)).await;
    let daemon = Daemon::start(&kernel, root.path());
    daemon.up(joining(&coordinator)).await.unwrap();
    let report = daemon.agent.down(None).await.unwrap();
    assert!(report.deleted, "{report:?}");
    let asked = coordinator.script(|script| script.requests.clone());
    assert_eq!(asked.last().map(String::as_str), Some("/agent/v1/down"));
    assert_eq!(kernel.state().device, None);
}
