//! A machine without an auth key: it asks, waits, and goes up once it is let in.

use super::*;
use crate::control::{ApprovalReport, ApprovalState};
use weir_protocol::ApprovalAnswer;

const URL: &str = "https://c.example:8443/register/00c0de";

fn asking(coordinator: &FakeCoordinator) -> UpRequest {
    UpRequest {
        auth_key: None,
        ..joining(coordinator)
    }
}

fn pending() -> ApprovalAnswer {
    ApprovalAnswer::Pending {
        code: "00c0de".to_owned(),
        url: URL.to_owned(),
        expires_in_seconds: 900,
    }
}

fn not_enrolled() -> ProblemDetails {
    ProblemDetails {
        code: ErrorCode::NotEnrolled,
        status: 403,
        detail: "this machine is not enrolled here".to_owned(),
    }
}

/// A coordinator that knows nobody.
async fn closed(approval: Option<ApprovalAnswer>) -> FakeCoordinator {
    FakeCoordinator::start(Script {
        map: Some(map(3)),
        refusal: Some(not_enrolled()),
        approval,
        ..Script::default()
    })
    .await
}

fn decide(coordinator: &FakeCoordinator, answer: ApprovalAnswer) {
    coordinator.script(|script| {
        if answer == ApprovalAnswer::Approved {
            script.refusal = None;
        }
        script.approval = Some(answer);
    });
}

impl Daemon {
    async fn ask(&self, request: UpRequest) -> Result<ApprovalReport, String> {
        let command = SettingCommand::Up { reset: false };
        match self.agent.change(command, request).await {
            Ok(Response::Waiting(report)) => Ok(report),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(format!("{error:#}")),
        }
    }

    async fn ended(&self, wanted: ApprovalState) -> String {
        let status = self
            .wait("the end of waiting", |status| {
                let approval = status.approval.as_ref();
                approval.is_some_and(|approval| approval.state == wanted)
            })
            .await;
        assert_eq!(status.state, NodeState::Down);
        status.approval.unwrap().problem.unwrap()
    }
}

#[tokio::test]
async fn it_waits_and_goes_up_by_itself() {
    let (root, kernel) = bench();
    let coordinator = closed(Some(pending())).await;
    let daemon = Daemon::start(&kernel, root.path());
    let asked = daemon.ask(asking(&coordinator)).await.unwrap();
    assert_eq!(
        (asked.state, asked.url.as_str()),
        (ApprovalState::Waiting, URL)
    );
    let status = daemon.agent.status().await;
    assert_eq!(status.state, NodeState::Down);
    assert_eq!(status.approval, Some(asked));
    assert_eq!(kernel.take_applied(), [], "nothing of the host is changed");
    decide(&coordinator, ApprovalAnswer::Approved);
    let status = daemon
        .wait("the node to be up", |status| {
            status.state == NodeState::Up && status.map.applied == Some(Generation(3))
        })
        .await;
    assert_eq!(status.approval, None);
    let codes = coordinator.script(|script| script.codes.clone());
    assert_eq!(codes[0], None);
    assert!(
        codes[1..]
            .iter()
            .all(|code| code.as_deref() == Some("00c0de")),
        "{codes:?}"
    );
    // Who typed the command asks for the same again, and hears what was done.
    let report = daemon.up(asking(&coordinator)).await.unwrap();
    assert_eq!(report.failures, []);
}

#[tokio::test]
async fn a_daemon_that_is_started_again_waits_on() {
    let (root, kernel) = bench();
    let coordinator = closed(Some(pending())).await;
    let daemon = Daemon::start(&kernel, root.path());
    daemon.ask(asking(&coordinator)).await.unwrap();
    daemon.crash();
    let daemon = Daemon::start(&kernel, root.path());
    let status = daemon
        .wait("the request to be known again", |status| {
            let approval = status.approval.as_ref();
            approval.is_some_and(|approval| approval.url == URL)
        })
        .await;
    assert_eq!(status.state, NodeState::Down);
    decide(&coordinator, ApprovalAnswer::Approved);
    daemon
        .wait("the node to be up", |status| status.state == NodeState::Up)
        .await;
    // And once it is up, there is nothing left to wait for.
    daemon.crash();
    let daemon = Daemon::start(&kernel, root.path());
    let status = daemon.agent.status().await;
    assert_eq!((status.state, status.approval), (NodeState::Up, None));
}

#[tokio::test]
async fn denied_and_forgotten_requests_end_and_say_so() {
    let denied = ApprovalAnswer::Denied {
        again_in_seconds: 840,
    };
    for (answer, state, part) in [
        (denied.clone(), ApprovalState::Denied, "In 14 min"),
        (
            ApprovalAnswer::Expired,
            ApprovalState::Expired,
            "run `agent up`",
        ),
    ] {
        let (root, kernel) = bench();
        let coordinator = closed(Some(pending())).await;
        let daemon = Daemon::start(&kernel, root.path());
        daemon.ask(asking(&coordinator)).await.unwrap();
        decide(&coordinator, answer);
        let problem = daemon.ended(state).await;
        assert!(problem.contains(part), "{problem}");
        assert_eq!(kernel.take_applied(), []);
        daemon.crash();
        let asked = coordinator.script(|script| script.requests.len());
        let daemon = Daemon::start(&kernel, root.path());
        assert_eq!(daemon.agent.status().await.approval, None);
        assert_eq!(coordinator.script(|script| script.requests.len()), asked);
    }
    let (root, kernel) = bench();
    let coordinator = closed(Some(denied)).await;
    let daemon = Daemon::start(&kernel, root.path());
    let error = daemon.ask(asking(&coordinator)).await.unwrap_err();
    assert!(error.contains("an admin denied this machine"), "{error}");
}

#[tokio::test]
async fn down_ends_the_waiting() {
    let (root, kernel) = bench();
    let coordinator = closed(Some(pending())).await;
    let daemon = Daemon::start(&kernel, root.path());
    daemon.ask(asking(&coordinator)).await.unwrap();
    assert!(daemon.agent.down(None).await.unwrap().was_down);
    decide(&coordinator, ApprovalAnswer::Approved);
    let status = daemon.agent.status().await;
    assert_eq!((status.state, status.approval), (NodeState::Down, None));
    daemon.crash();
    let daemon = Daemon::start(&kernel, root.path());
    let status = daemon.agent.status().await;
    assert_eq!((status.state, status.approval), (NodeState::Down, None));
}

#[tokio::test]
async fn an_auth_key_need_not_wait() {
    let (root, kernel) = bench();
    let coordinator = closed(Some(pending())).await;
    let daemon = Daemon::start(&kernel, root.path());
    daemon.ask(asking(&coordinator)).await.unwrap();
    coordinator.script(|script| script.refusal = None);
    daemon.up(joining(&coordinator)).await.unwrap();
    let status = daemon.agent.status().await;
    assert_eq!((status.state, status.approval), (NodeState::Up, None));
}

#[tokio::test]
async fn an_older_coordinator_is_named_with_what_helps() {
    let (root, kernel) = bench();
    let coordinator = closed(None).await;
    let daemon = Daemon::start(&kernel, root.path());
    let error = daemon.ask(asking(&coordinator)).await.unwrap_err();
    for part in ["not enrolled", "--auth-key", "keys create"] {
        assert!(error.contains(part), "{error}");
    }
    let status = daemon.agent.status().await;
    assert_eq!((status.state, status.approval), (NodeState::Down, None));
    assert_eq!(kernel.take_applied(), []);
}

#[tokio::test]
async fn a_coordinator_that_is_gone_for_a_while_is_asked_again() {
    let (root, kernel) = bench();
    let coordinator = closed(Some(pending())).await;
    let daemon = Daemon::start(&kernel, root.path());
    daemon.ask(asking(&coordinator)).await.unwrap();
    let unwell = ProblemDetails {
        code: ErrorCode::Unavailable,
        status: 503,
        detail: "the database does not answer".to_owned(),
    };
    // Approved, and then it cannot register at once.
    coordinator.script(|script| {
        script.refusal = Some(unwell);
        script.approval = Some(ApprovalAnswer::Approved);
    });
    daemon
        .wait("the problem to be told", |status| {
            let approval = status.approval.as_ref();
            approval.is_some_and(|approval| {
                let problem = approval.problem.as_deref().unwrap_or_default();
                problem.contains("the database does not answer")
            })
        })
        .await;
    coordinator.script(|script| script.refusal = None);
    daemon
        .wait("the node to be up", |status| status.state == NodeState::Up)
        .await;
}

#[tokio::test]
async fn a_pin_and_the_key_of_another_coordinator_do_not_go_together() {
    let (root, kernel) = bench();
    let coordinator = closed(Some(pending())).await;
    let daemon = Daemon::start(&kernel, root.path());
    let request = UpRequest {
        pin: Some(Pin::of_public_key_info(b"another one")),
        ..joining(&coordinator)
    };
    let error = daemon.up(request).await.unwrap_err();
    assert!(error.contains("--pin"), "{error}");
    assert_eq!(
        coordinator.script(|script| script.requests.clone()),
        [] as [String; 0]
    );
}
