//! `bugreport`: everything that helps to find out what is wrong, in one text, without secrets.

use anyhow::{Context, Result};
use std::{
    fs,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::{ExitCode, Stdio},
    time::Duration,
};
use tokio::{io::AsyncReadExt, process::Command};

use crate::{
    cli::STATE_DIRECTORY,
    client::ask,
    commands::{now, status},
    control::{Request, Response},
    output,
};

/// How long one program may take.
const DEADLINE: Duration = Duration::from_secs(20);
/// The most that is kept of what one program prints, in bytes.
const MOST: u64 = 1 << 20;
/// What every auth key begins with.
const AUTH_KEY: &str = "weir-key-";
/// What stands in the place of a secret.
const REMOVED: &str = "(removed)";

/// What is run, and what it shows.
const PROGRAMS: [(&str, &[&str]); 10] = [
    ("Kernel", &["uname", "-a"]),
    ("nft", &["nft", "--version"]),
    ("Links", &["ip", "-statistics", "address", "show"]),
    ("Rules", &["ip", "rule", "show"]),
    ("Rules, IPv6", &["ip", "-6", "rule", "show"]),
    ("Routes", &["ip", "route", "show", "table", "all"]),
    (
        "Routes, IPv6",
        &["ip", "-6", "route", "show", "table", "all"],
    ),
    ("Ruleset", &["nft", "list", "ruleset"]),
    // `wg show` prints no private key; `wg showconf` would.
    ("WireGuard", &["wg", "show"]),
    (
        "Log",
        &[
            "journalctl",
            "--unit=weir-agent",
            "--lines=1000",
            "--no-pager",
        ],
    ),
];
/// Files that say something of the host.
const FILES: [&str; 3] = [
    "/etc/os-release",
    "/etc/weir/agent.toml",
    "/proc/net/netlink",
];

/// Writes the report to a file, readable by its owner only, or to standard output.
///
/// # Errors
/// The file cannot be written. What cannot be found out is said in the report.
pub(crate) fn write(socket: &Path, output: Option<&Path>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let secrets = secrets();
    let text = redact(&runtime.block_on(collect(socket)), &secrets);
    let Some(path) = output else {
        output::print(&text);
        return Ok(ExitCode::SUCCESS);
    };
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    std::io::Write::write_all(&mut &file, text.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    output::print(&format!(
        "Written to {}. It holds no keys, but names, addresses and rulesets: read it before you \
         send it.\n",
        path.display()
    ));
    Ok(ExitCode::SUCCESS)
}

async fn collect(socket: &Path) -> String {
    let mut text = format!("Weir agent {}\n", env!("CARGO_PKG_VERSION"));
    let mut section = |title: &str, content: &str| {
        text.push_str(&format!("\n== {title}\n{}\n", content.trim_end()));
    };
    match status(socket) {
        Ok(report) => {
            section("Status", &output::status(&report, now()));
            let json = serde_json::to_string_pretty(&report);
            section("Status, as JSON", &json.unwrap_or_default());
        }
        Err(error) => section("Status", &format!("{error:#}")),
    }
    match ask(socket, Request::Doctor, DEADLINE) {
        Ok(Response::Doctor(checks)) => section("Doctor", &output::doctor(&checks)),
        Ok(_) => section("Doctor", "the daemon answered something else"),
        Err(error) => section("Doctor", &format!("{error:#}")),
    }
    for path in FILES {
        let content = fs::read_to_string(path);
        section(
            path,
            &content.unwrap_or_else(|error| format!("cannot be read: {error}")),
        );
    }
    for (title, command) in PROGRAMS {
        section(
            &format!("{title}: {}", command.join(" ")),
            &run(command).await,
        );
    }
    text
}

/// What a program prints, or why it prints nothing.
async fn run(command: &[&str]) -> String {
    let Some((program, arguments)) = command.split_first() else {
        return String::new();
    };
    let child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return format!("cannot be run: {error}"),
    };
    let Some(stdout) = child.stdout.take() else {
        return String::new();
    };
    let mut printed = Vec::new();
    let read = tokio::time::timeout(DEADLINE, stdout.take(MOST).read_to_end(&mut printed)).await;
    let mut text = String::from_utf8_lossy(&printed).into_owned();
    if read.is_err() {
        text.push_str("\n(it did not end in time)");
    } else if printed.len() as u64 == MOST {
        text.push_str("\n(the rest is left out)");
    }
    text
}

/// The private keys, where this process may read them: to be sure that they are nowhere.
fn secrets() -> Vec<String> {
    ["node.key", "machine.key"]
        .iter()
        .filter_map(|name| fs::read_to_string(Path::new(STATE_DIRECTORY).join(name)).ok())
        .map(|key| key.trim().to_owned())
        .filter(|key| !key.is_empty())
        .collect()
}

/// Takes secrets out of a text: these, whatever looks like an auth key, and what is set as a key.
fn redact(text: &str, secrets: &[String]) -> String {
    let mut text = text.to_owned();
    for secret in secrets {
        text = text.replace(secret, REMOVED);
    }
    text.split_inclusive('\n').map(redact_line).collect()
}

fn redact_line(line: &str) -> String {
    // A setting: `auth-key = "..."`; a path to a key is worth knowing, a key is not.
    if let Some((name, value)) = line.split_once('=')
        && matches!(name.trim(), "auth-key" | "auth_key")
        && !value.trim().trim_matches(['"', '\'']).starts_with("file:")
    {
        return format!("{name}= {REMOVED}\n");
    }
    // WireGuard's own words for its secrets.
    if let Some((name, _)) = line.split_once(':')
        && matches!(name.trim(), "private key" | "preshared key")
    {
        return format!("{name}: {REMOVED}\n");
    }
    let mut clean = String::new();
    let mut rest = line;
    while let Some(at) = rest.find(AUTH_KEY) {
        let (before, key) = rest.split_at(at);
        let is_part = |character: char| {
            character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '+' | '/' | '=')
        };
        let end = key
            .find(|character| !is_part(character))
            .unwrap_or(key.len());
        clean.push_str(before);
        clean.push_str(REMOVED);
        rest = key.get(end..).unwrap_or_default();
    }
    clean.push_str(rest);
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_stays_and_all_else_does() {
        let text = "\
coordinator = \"https://c.example:8443\"
auth_key = \"weir-key-1-SECRET-PIN\"
auth-key = 'weir-key-1-SECRET-PIN'
auth_key = \"file:/etc/weir/auth.key\"
level=INFO joined with weir-key-2-SE_CR/ET=-PIN, and then
  private key: SECRET
  preshared key: (hidden)
  public key: not-secret
a table with cHJpdmF0ZQ== in it
";
        let clean = redact(text, &["cHJpdmF0ZQ==".to_owned()]);
        assert!(
            !clean.contains("SECRET") && !clean.contains("SE_CR"),
            "{clean}"
        );
        assert!(!clean.contains("cHJpdmF0ZQ=="), "{clean}");
        for kept in [
            "https://c.example:8443",
            "file:/etc/weir/auth.key",
            "(removed), and then",
            "public key: not-secret",
            "a table with (removed) in it",
        ] {
            assert!(clean.contains(kept), "{kept}: {clean}");
        }
        assert_eq!(clean.lines().count(), text.lines().count());
    }
}
