//! A coordinator that is killed in the middle of many changes has what it said it had.

use crate::{postgres, process::Process, server::run};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{task::JoinSet, time::sleep};

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
