//! The commands, as people and scripts use them.

use crate::server::{TestServer, run};
use std::{path::Path, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpListener,
    process::Command,
    time::timeout,
};

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn serve(directory: &Path, listen: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coordinator"));
    command
        .env_remove("RUST_LOG")
        .env("WEIR_COORDINATOR_SOCKET", directory.join("admin.sock"))
        .args(["serve", "--listen", listen, "--state-dir"])
        .arg(directory.join("state"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

#[tokio::test]
async fn serve_says_how_to_go_on_and_stops_when_told() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = serve(directory.path(), "127.0.0.1:0").spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = String::new();
    while !said.contains("keys create --user") {
        let line = timeout(Duration::from_secs(10), lines.next_line()).await;
        said.push_str(&line.unwrap().unwrap().expect("it ended"));
        said.push('\n');
    }
    assert!(said.contains("https://127.0.0.1:"), "{said}");
    assert!(said.contains("pin of its key"), "{said}");
    let status = run(directory.path(), &["status"]).await;
    assert!(text(&status.stdout).contains("0 enrolled"));

    let second = serve(directory.path(), "127.0.0.1:0")
        .output()
        .await
        .unwrap();
    assert!(!second.status.success());
    assert!(
        text(&second.stderr).contains("running already"),
        "{}",
        text(&second.stderr)
    );

    let pid = i32::try_from(child.id().unwrap()).unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    let output = timeout(Duration::from_secs(10), child.wait_with_output()).await;
    let output = output.expect("it does not stop").unwrap();
    assert!(output.status.success());
    assert!(
        !text(&output.stderr).contains("ERROR"),
        "{}",
        text(&output.stderr)
    );

    let gone = run(directory.path(), &["users", "list"]).await;
    assert!(!gone.status.success());
    let said = text(&gone.stderr);
    assert!(
        said.contains("the coordinator is not running: no socket at"),
        "{said}"
    );
    assert!(said.contains("systemctl start weir-coordinator"), "{said}");
}

#[tokio::test]
async fn serve_names_what_keeps_it_from_starting() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = serve(directory.path(), &address).output().await.unwrap();
    let said = text(&output.stderr);
    assert!(!output.status.success());
    assert!(
        said.contains(&format!("cannot listen on {address}")),
        "{said}"
    );
    assert!(said.contains("Address already in use"), "{said}");
    assert!(
        !directory.path().join("admin.sock").exists(),
        "nothing is left"
    );

    std::fs::remove_dir_all(directory.path().join("state")).unwrap();
    std::fs::write(directory.path().join("state"), "a file").unwrap();
    let output = serve(directory.path(), "127.0.0.1:0")
        .output()
        .await
        .unwrap();
    let said = text(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("cannot use the state directory"), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
}

#[tokio::test]
async fn a_socket_that_a_dead_coordinator_left_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let said = text(&run(directory.path(), &["status"]).await.stderr);
    assert!(said.contains("nobody answers"), "{said}");
    let server = TestServer::start_in(directory).await.unwrap();
    assert!(server.run(&["status"]).await.status.success());
}

#[tokio::test]
async fn settings_come_from_a_file_and_unknown_ones_are_refused() {
    let server = TestServer::start().await;
    let file = server.directory.path().join("coordinator.toml");
    let socket = server.directory.path().join("admin.sock");
    std::fs::write(&file, format!("socket = {:?}\n", socket)).unwrap();
    let users = |file: &Path| {
        Command::new(env!("CARGO_BIN_EXE_coordinator"))
            .env_remove("WEIR_COORDINATOR_SOCKET")
            .args(["users", "list", "--config"])
            .arg(file)
            .output()
    };
    assert!(users(&file).await.unwrap().status.success());
    std::fs::write(&file, "sockett = \"x\"\n").unwrap();
    let refused = users(&file).await.unwrap();
    assert!(!refused.status.success());
    assert!(
        text(&refused.stderr).contains("sockett"),
        "{}",
        text(&refused.stderr)
    );
}

#[tokio::test]
async fn users_and_keys() {
    let server = TestServer::start().await;
    assert!(text(&server.run(&["users", "list"]).await.stdout).contains("no users yet"));
    server.json(&["users", "create", "alice@example.com"]).await;
    let again = server
        .refused(&["users", "create", "Alice@example.com"])
        .await;
    assert!(again.contains("already"), "{again}");
    let unknown = server.refused(&["keys", "create", "--user", "bob"]).await;
    assert!(
        unknown.contains("coordinator users create bob"),
        "{unknown}"
    );

    let created = server
        .run(&["keys", "create", "--user", "alice@example.com"])
        .await;
    let key = text(&created.stdout).trim().to_owned();
    assert!(key.parse::<weir_protocol::AuthKey>().is_ok(), "{key}");
    assert!(text(&created.stderr).contains("agent up --coordinator https://"));
    let list = text(&server.run(&["keys", "list"]).await.stdout);
    assert!(list.starts_with("ID        STATE"), "{list}");
    let secret = key.split('-').nth(3).unwrap();
    assert!(!list.contains(secret), "the secret is shown once");
    let keys = server.json(&["keys", "list"]).await;
    assert_eq!(keys[0]["state"], "usable");

    for flags in [
        &["--user", "alice@example.com", "--tags", "tag:x"][..],
        &[],
        &["--user", "alice@example.com", "--expires", "500d"],
        &["--user", "alice@example.com", "--expires", "soon"],
        &["--tags", "relay"],
    ] {
        server.refused(&[&["keys", "create"], flags].concat()).await;
    }
    server.json(&["users", "delete", "alice@example.com"]).await;
    assert_eq!(server.json(&["keys", "list"]).await, serde_json::json!([]));
}

#[tokio::test]
async fn nodes_are_renamed_tagged_and_deleted() {
    let server = TestServer::start().await;
    let mut agent = crate::agent::Agent::new(&server, "laptop");
    agent.join(&server.key("alice").await).await.unwrap();
    let owned = server.refused(&["users", "delete", "alice"]).await;
    assert!(owned.contains("alice owns laptop"), "{owned}");
    // A node follows its host name until an admin names it.
    agent.host.hostname = "notebook".to_owned();
    agent.update().await.unwrap();
    assert_eq!(
        server.json(&["nodes", "show", "1"]).await["name"],
        "notebook"
    );
    server.json(&["nodes", "rename", "notebook", "work"]).await;
    agent.host.hostname = "other".to_owned();
    agent.update().await.unwrap();
    assert_eq!(server.json(&["nodes", "show", "1"]).await["name"], "work");
    server
        .refused(&["nodes", "rename", "work", "Not A Name"])
        .await;
    let tagged = server.json(&["nodes", "tag", "work", "tag:a,tag:b"]).await;
    assert_eq!(tagged["tags"], serde_json::json!(["tag:a", "tag:b"]));
    assert_eq!(tagged["user"], serde_json::Value::Null);
    let list = text(&server.run(&["nodes", "list"]).await.stdout);
    assert!(list.contains("100.64.0.1, fd77:6569:7200::1"), "{list}");
    server.json(&["nodes", "delete", "work"]).await;
    assert!(
        server
            .refused(&["nodes", "show", "work"])
            .await
            .contains("no node")
    );
}

#[tokio::test]
async fn a_policy_is_checked_without_a_server() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("policy.hujson");
    std::fs::write(&file, "{\"acls\": [],}").unwrap();
    let path = file.to_str().unwrap();
    assert!(
        run(directory.path(), &["policy", "check", path])
            .await
            .status
            .success()
    );
    std::fs::write(&file, "{\"acl\": []}").unwrap();
    let bad = run(directory.path(), &["policy", "check", path]).await;
    assert!(!bad.status.success());
    assert!(
        text(&bad.stderr).contains("did you mean"),
        "{}",
        text(&bad.stderr)
    );
}
