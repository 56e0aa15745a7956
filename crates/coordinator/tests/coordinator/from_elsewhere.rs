//! The commands, talking to a coordinator over the network.

use crate::server::TestServer;
use std::{path::PathBuf, process::Output};
use tokio::process::Command;
use weir_protocol::Pin;

/// Somebody with a token in a file, and no socket.
struct Elsewhere<'a> {
    server: &'a TestServer,
    token_file: PathBuf,
}

impl<'a> Elsewhere<'a> {
    async fn with_token(server: &'a TestServer, scopes: &str) -> Self {
        let name = ["--name", "laptop", "--scope", scopes];
        let created = server
            .json(&[&["tokens", "create"], &name[..]].concat())
            .await;
        let token_file = server.directory.path().join("token");
        let text = format!("{}\n", created["token"].as_str().unwrap());
        std::fs::write(&token_file, text).unwrap();
        Self { server, token_file }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coordinator"));
        command
            .env("WEIR_COORDINATOR_SOCKET", "/nonexistent")
            .env("WEIR_SERVER", format!("https://{}", self.server.address))
            .env("WEIR_TOKEN_FILE", &self.token_file)
            .args(arguments);
        command
    }

    async fn run(&self, pin: Pin, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        command.args(["--server-pin", &pin.to_string()]);
        command.output().await.unwrap()
    }

    async fn refused(&self, pin: Pin, arguments: &[&str]) -> String {
        let output = self.run(pin, arguments).await;
        assert!(!output.status.success(), "{arguments:?} worked");
        String::from_utf8(output.stderr).unwrap()
    }
}

#[tokio::test]
async fn with_a_token_and_the_pin_the_commands_work_from_elsewhere() {
    let server = TestServer::start().await;
    let elsewhere = Elsewhere::with_token(&server, "users:read,users:write").await;
    let created = elsewhere
        .run(server.pin, &["users", "create", "alice"])
        .await;
    let errors = String::from_utf8_lossy(&created.stderr);
    assert!(created.status.success(), "{errors}");
    let listed = server.json(&["users", "list"]).await;
    assert_eq!(listed[0]["name"], "alice");
    // As curl takes it.
    let token = std::fs::read_to_string(&elsewhere.token_file).unwrap();
    let header = format!("Authorization: Bearer {token}");
    std::fs::write(&elsewhere.token_file, header).unwrap();
    let listed = elsewhere.run(server.pin, &["users", "list"]).await;
    assert!(String::from_utf8_lossy(&listed.stdout).contains("alice"));
}

#[tokio::test]
async fn what_a_token_may_not_is_refused_and_says_so() {
    let server = TestServer::start().await;
    let elsewhere = Elsewhere::with_token(&server, "users:read").await;
    let said = elsewhere
        .refused(server.pin, &["users", "create", "mallory"])
        .await;
    assert!(said.contains("users:write"), "{said}");
    assert_eq!(server.json(&["users", "list"]).await, serde_json::json!([]));
    let token = std::fs::read_to_string(&elsewhere.token_file).unwrap();
    for (text, why) in [
        ("hello", "holds no token"),
        (
            "weir_admin_00000000_00000000000000000000000000000000",
            "token",
        ),
    ] {
        std::fs::write(&elsewhere.token_file, text).unwrap();
        let said = elsewhere.refused(server.pin, &["users", "list"]).await;
        assert!(said.contains(why), "{said}");
        assert!(!said.contains(token.trim()), "{said}");
    }
}

#[tokio::test]
async fn a_token_is_shown_only_to_the_coordinator_with_the_pin() {
    let server = TestServer::start().await;
    let elsewhere = Elsewhere::with_token(&server, "users:read").await;
    let other = Pin::of_public_key_info(b"somebody else");
    let said = elsewhere.refused(other, &["users", "list"]).await;
    assert!(said.contains(&server.pin.to_string()), "{said}");
    assert!(said.contains(&other.to_string()), "{said}");
    // Without a pin, its certificate is one that nobody vouches for.
    let output = elsewhere
        .command(&["users", "list"])
        .output()
        .await
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && said.contains("--server-pin"),
        "{said}"
    );
    // Nothing came with a token: it was never used.
    let tokens = server.json(&["tokens", "list"]).await;
    assert!(tokens[0]["last_used"].is_null(), "{tokens}");
}

#[tokio::test]
async fn what_is_missing_from_elsewhere_is_named() {
    let server = TestServer::start().await;
    for (arguments, why) in [
        (
            &["--server", "https://192.0.2.1", "status"][..],
            "--token-file",
        ),
        (&["--server", "http://192.0.2.1", "status"], "https://"),
        (
            &[
                "--server",
                "https://192.0.2.1",
                "--token-file",
                "/nonexistent",
                "status",
            ],
            "/nonexistent",
        ),
    ] {
        let said = server.refused(arguments).await;
        assert!(said.contains(why), "{said}");
    }
    let elsewhere = Elsewhere::with_token(&server, "*").await;
    let said = elsewhere.refused(server.pin, &["serve"]).await;
    assert!(said.contains("takes no --server"), "{said}");
}
