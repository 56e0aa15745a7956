//! `coordinator serve` as a process of its own, which can be killed.

use serde_json::Value;
use std::{net::SocketAddr, path::Path, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};
use weir_protocol::Pin;

/// How long it may take to start on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) pin: Pin,
}

impl Process {
    /// Starts it with its state and its socket in this directory, and waits until it serves.
    pub(crate) async fn start(directory: &Path, database: Option<&str>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coordinator"));
        command
            .args(["serve", "--json", "--listen", "127.0.0.1:0"])
            .args(["--log-level", "error", "--state-dir"])
            .arg(directory.join("state"))
            .env("WEIR_COORDINATOR_SOCKET", directory.join("admin.sock"))
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if let Some(url) = database {
            command.args(["--database", url]);
        }
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut text = String::new();
        while !text.ends_with('}') {
            let line = timeout(DEADLINE, lines.next_line()).await.unwrap().unwrap();
            text.push_str(&line.expect("it did not start"));
        }
        let said: Value = serde_json::from_str(&text).unwrap();
        Self {
            child,
            address: said["listen"].as_str().unwrap().parse().unwrap(),
            pin: said["pin"].as_str().unwrap().parse().unwrap(),
        }
    }

    /// Kills it with SIGKILL.
    pub(crate) async fn kill(mut self) {
        self.child.start_kill().unwrap();
        self.child.wait().await.unwrap();
    }
}
