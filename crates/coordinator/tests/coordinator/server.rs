//! A server in a directory of its own, and its command line.

use serde_json::Value;
use std::{net::SocketAddr, path::Path, process::Output};
use tempfile::TempDir;
use tokio::process::Command;
use weir_coordinator::{
    server::{Server, Settings, StartError},
    store::Database,
};
use weir_protocol::Pin;

/// What allows everything.
pub(crate) const ALLOW_ALL: &str =
    r#"{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]}"#;

pub(crate) struct TestServer {
    pub(crate) directory: TempDir,
    server: Option<Server>,
    pub(crate) address: SocketAddr,
    pub(crate) pin: Pin,
}

pub(crate) fn settings(directory: &Path) -> Settings {
    Settings {
        state_dir: directory.join("state"),
        database: None,
        listen: ([127, 0, 0, 1], 0).into(),
        url: None,
        socket: directory.join("admin.sock"),
        metrics_listen: None,
    }
}

impl TestServer {
    pub(crate) async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await.unwrap()
    }

    pub(crate) async fn start_in(directory: TempDir) -> Result<Self, StartError> {
        Self::start_with(directory, None).await
    }

    /// Starts one whose database is not a file of its own.
    pub(crate) async fn start_on(database: Database) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self::start_with(directory, Some(database)).await.unwrap()
    }

    /// The same, where it may be turned away.
    pub(crate) async fn try_start_on(database: Database) -> Result<Self, StartError> {
        Self::start_with(tempfile::tempdir().unwrap(), Some(database)).await
    }

    /// Starts another one with the same key.
    pub(crate) async fn start_beside(&self, database: Database) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (
            self.directory.path().join("state"),
            directory.path().join("state"),
        );
        std::fs::create_dir(&to).unwrap();
        for file in ["tls-key.pem", "tls-cert.pem"] {
            std::fs::copy(from.join(file), to.join(file)).unwrap();
        }
        Self::start_with(directory, Some(database)).await.unwrap()
    }

    async fn start_with(
        directory: TempDir,
        database: Option<Database>,
    ) -> Result<Self, StartError> {
        let settings = Settings {
            database,
            ..settings(directory.path())
        };
        let server = Server::start(settings).await?;
        let identity = server.identity().clone();
        Ok(Self {
            directory,
            server: Some(server),
            address: identity.listen,
            pin: identity.pin,
        })
    }

    /// What the console shows to make the first admin with.
    pub(crate) fn setup_code(&self) -> Option<String> {
        let server = self.server.as_ref()?;
        server.setup_code().map(str::to_owned)
    }

    /// Stops the server and starts it again on the same state, at another port.
    pub(crate) async fn restart(mut self) -> Self {
        self.server.take().unwrap().stop().await;
        Self::start_in(self.directory).await.unwrap()
    }

    /// Stops the server and gives its state.
    pub(crate) async fn stop(mut self) -> TempDir {
        self.server.take().unwrap().stop().await;
        self.directory
    }

    /// Runs the command line against this server.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        run(self.directory.path(), arguments).await
    }

    /// Runs a command that must work and gives its JSON.
    pub(crate) async fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat()).await;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs a command that must fail and gives what it says.
    pub(crate) async fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert!(!output.status.success(), "{arguments:?} worked");
        assert!(output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    }

    /// An auth key for a user, who is created when there is none.
    pub(crate) async fn key(&self, user: &str) -> String {
        self.run(&["users", "create", user]).await;
        self.key_with(&["--user", user]).await
    }

    /// An auth key with these flags.
    pub(crate) async fn key_with(&self, flags: &[&str]) -> String {
        let created = self.json(&[&["keys", "create"], flags].concat()).await;
        created["key"].as_str().unwrap().to_owned()
    }

    /// Sets a policy and gives its revision.
    pub(crate) async fn set_policy(&self, text: &str) -> u64 {
        let file = self.directory.path().join("policy.hujson");
        std::fs::write(&file, text).unwrap();
        let done = self.json(&["policy", "set", file.to_str().unwrap()]).await;
        done["revision"].as_u64().unwrap()
    }
}

/// Runs the command line against the server whose socket is in this directory.
pub(crate) async fn run(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_coordinator"))
        .env("WEIR_COORDINATOR_SOCKET", directory.join("admin.sock"))
        .args(arguments)
        .output()
        .await
        .unwrap()
}
