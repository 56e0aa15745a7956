//! A coordinator that is killed in the middle of many changes has what it said it had.

use crate::{
    agent::{Agent, refused_or_done},
    postgres,
    process::Process,
    server::run,
};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{task::JoinSet, time::sleep};
use weir_protocol::{ErrorCode, REPORT_PATH, ReportRequest};

/// How many admins change something at once.
const ADMINS: usize = 4;
/// How often it is killed.
const KILLS: usize = 3;

async fn nothing_acknowledged_is_lost(directory: &Path, database: Option<&str>) {
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    for round in 0..KILLS {
        let process = Process::start(directory, database).await;
        let mut admins = JoinSet::new();
        for admin in 0..ADMINS {
            let (directory, acknowledged) = (directory.to_owned(), Arc::clone(&acknowledged));
            admins.spawn(async move {
                for number in 0.. {
                    let name = format!("u{round}-{admin}-{number}");
                    if !run(&directory, &["users", "create", &name])
                        .await
                        .status
                        .success()
                    {
                        return;
                    }
                    acknowledged.lock().unwrap().insert(name);
                }
            });
        }
        let before = acknowledged.lock().unwrap().len();
        while acknowledged.lock().unwrap().len() < before + 8 {
            sleep(Duration::from_millis(10)).await;
        }
        process.kill().await;
        while admins.join_next().await.is_some() {}
    }
    let process = Process::start(directory, database).await;
    let json = async |arguments: &[&str]| -> Value {
        let output = run(directory, &[arguments, &["--json"]].concat()).await;
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let list = json(&["users", "list"]).await;
    let name = |user: &Value| user["name"].as_str().unwrap().to_owned();
    let stored: BTreeSet<_> = list.as_array().unwrap().iter().map(name).collect();
    let acknowledged = acknowledged.lock().unwrap().clone();
    let lost: Vec<_> = acknowledged.difference(&stored).collect();
    assert!(lost.is_empty(), "lost {lost:?}");
    // Each admin had one request under way when it died.
    assert!(stored.len() <= acknowledged.len() + KILLS * ADMINS);
    // A change and its line in the audit log come and go together.
    let report = json(&["audit", "verify"]).await;
    assert_eq!(report["entries"], stored.len());
    process.kill().await;
}

#[tokio::test]
async fn a_killed_coordinator_has_what_it_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    nothing_acknowledged_is_lost(directory.path(), None).await;
}

#[tokio::test]
async fn a_killed_coordinator_on_postgresql_has_what_it_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let database = postgres::database_url().await;
    nothing_acknowledged_is_lost(directory.path(), Some(&database)).await;
}

/// How many machines send requests at once.
const SENDERS: usize = 8;

async fn key(directory: &Path) -> String {
    let arguments = ["keys", "create", "--user", "alice", "--reusable", "--json"];
    assert!(
        run(directory, &["users", "create", "alice"])
            .await
            .status
            .success()
    );
    let output = run(directory, &arguments).await;
    assert!(output.status.success(), "{output:?}");
    let created: Value = serde_json::from_slice(&output.stdout).unwrap();
    created["key"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_killed_coordinator_accepts_no_request_again_that_it_answered() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(directory.path(), None).await;
    let key = key(directory.path()).await;
    let accepted = Arc::new(Mutex::new(Vec::new()));
    let mut sending = JoinSet::new();
    for number in 0..SENDERS {
        let agent = Arc::new(Agent::at(
            process.address,
            process.pin,
            &format!("n{number}"),
        ));
        agent.join(&key).await.unwrap();
        let accepted = Arc::clone(&accepted);
        sending.spawn(async move {
            loop {
                // Each twice at the same moment, beside those of the other machines.
                let request = Arc::new(agent.prepare(REPORT_PATH, &ReportRequest::default()));
                let twice = tokio::join!(agent.try_send(&request), agent.try_send(&request));
                let answers = [twice.0, twice.1].map(|answer| answer.ok());
                let status = |answer: &reqwest::Response| answer.status().as_u16();
                let mut codes: Vec<_> = answers.iter().flatten().map(status).collect();
                codes.sort_unstable();
                // Where it was killed, none or one was answered.
                let killed = codes.len() < 2;
                assert!(killed || codes == [204, 401], "accepted once: {codes:?}");
                if codes.first() == Some(&204) {
                    accepted.lock().unwrap().push((Arc::clone(&agent), request));
                }
                if killed {
                    return;
                }
            }
        });
    }
    while accepted.lock().unwrap().len() < 5 * SENDERS {
        sleep(Duration::from_millis(10)).await;
    }
    process.kill().await;
    while let Some(ended) = sending.join_next().await {
        ended.unwrap();
    }
    let process = Process::start(directory.path(), None).await;
    let accepted = std::mem::take(&mut *accepted.lock().unwrap());
    for (agent, request) in &accepted {
        let moved = Agent {
            address: process.address,
            http: agent.http.clone(),
            machine: agent.machine.clone(),
            node_key: agent.node_key,
            host: agent.host.clone(),
        };
        let again = refused_or_done(moved.send(request).await).await;
        assert_eq!(again.unwrap_err().code, ErrorCode::BadSignature);
    }
    process.kill().await;
}
