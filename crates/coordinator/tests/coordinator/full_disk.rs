//! A coordinator whose disk is full: it says so, changes nothing, and goes on when there is room.

use crate::server::run;
use serde_json::Value;
use std::{
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Output, Stdio},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

/// Serves on a disk of 2 MiB of its own, which only it sees, with a file on it to make room later.
const SMALL_DISK: &str = r#"
mount -t tmpfs -o size=2m none "$1/state" || exit 1
head -c 500000 /dev/zero > "$1/state/ballast"
exec "$2" serve --json --listen 127.0.0.1:0 --log-level error --state-dir "$1/state/coordinator"
"#;

async fn start(directory: &Path) -> Child {
    std::fs::create_dir(directory.join("state")).unwrap();
    let mut command = Command::new("unshare");
    // Without rights of its own, in a world where it has them.
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        command.args(["--user", "--map-root-user"]);
    }
    let mut child = command
        .args(["--mount", "sh", "-c", SMALL_DISK, "small-disk"])
        .arg(directory)
        .arg(env!("CARGO_BIN_EXE_coordinator"))
        .env("WEIR_COORDINATOR_SOCKET", directory.join("admin.sock"))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while lines.next_line().await.unwrap().expect("it did not start") != "}" {}
    child
}

async fn json(directory: &Path, arguments: &[&str]) -> Value {
    let output = run(directory, &[arguments, &["--json"]].concat()).await;
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Sets ever new policies of 100 kB, until that fails.
async fn fill(directory: &Path) -> (u64, Output) {
    for number in 1.. {
        let file = directory.join("policy.hujson");
        let text = format!("// {number}{}\n{{}}\n", " ".repeat(100_000));
        std::fs::write(&file, text).unwrap();
        let output = run(directory, &["policy", "set", file.to_str().unwrap()]).await;
        if !output.status.success() {
            return (number - 1, output);
        }
        assert!(number < 100, "the disk is never full");
    }
    unreachable!("numbers have no end")
}

#[tokio::test]
async fn a_full_disk_is_named_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let child = start(at).await;
    let (set, refused) = fill(at).await;
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("disk is full"), "{said}");
    assert!(said.contains("nothing was changed"), "{said}");
    // What was acknowledged is there, and nothing else; reading goes on.
    let policy = json(at, &["policy", "get"]).await;
    assert_eq!(policy["revision"], set);
    let report = json(at, &["audit", "verify"]).await;
    assert_eq!(report["entries"], set);
    let mount = format!("/proc/{}/root{}/state", child.id().unwrap(), at.display());
    std::fs::remove_file(Path::new(&mount).join("ballast")).unwrap();
    let user = json(at, &["users", "create", "alice"]).await;
    assert_eq!(user["name"], "alice");
    let report = json(at, &["audit", "verify"]).await;
    assert_eq!(report["entries"], set + 1);
}
