//! The coordinator: its process, its admin socket, what it costs.

use crate::report::milliseconds;
use anyhow::{Context as _, Result, bail};
use nix::{
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};
use serde_json::{Deserializer, Value};
use std::{
    fs,
    io::BufReader,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

/// A running coordinator. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Server {
    process: Process,
    directory: TempDir,
    /// Where agents connect to.
    pub(super) address: SocketAddr,
}

#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Server {
    /// Starts the program that was built beside this one, with an empty database.
    pub(super) fn start() -> Result<Self> {
        let directory = tempfile::tempdir().context("cannot make a directory")?;
        let own = std::env::current_exe().context("cannot find this program")?;
        let program = own.with_file_name("coordinator");
        let process = Command::new(&program)
            .args(["serve", "--json", "--listen", "127.0.0.1:0"])
            .args(["--log-level", "warn", "--state-dir"])
            .arg(directory.path().join("state"))
            .arg("--socket")
            .arg(directory.path().join("admin.sock"))
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let mut process = Process(process);
        let output = process.0.stdout.take().context("it has no output")?;
        // It says one thing and goes on.
        let said = Deserializer::from_reader(BufReader::new(output)).into_iter::<Value>();
        let said = said
            .take(1)
            .next()
            .context("the coordinator did not start")?;
        let said = said.context("what the coordinator says when it starts is not understood")?;
        let address = said["listen"].as_str().context("no address was said")?;
        Ok(Self {
            process,
            directory,
            address: address.parse()?,
        })
    }

    /// The processor's time that it used so far, in milliseconds.
    pub(super) fn cpu_ms(&self) -> Result<f64> {
        let id = i32::try_from(self.process.0.id()).context("no process has such a number")?;
        let clock = clock_getcpuclockid(Pid::from_raw(id)).context("the coordinator has ended")?;
        let time = clock_gettime(clock).context("the coordinator has ended")?;
        Ok(milliseconds(Duration::from(time)))
    }

    /// The memory that it has, in KiB.
    pub(super) fn memory_kib(&self) -> Result<f64> {
        let path = format!("/proc/{}/status", self.process.0.id());
        let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kib.and_then(|kib| kib.trim().parse().ok())
            .context("/proc does not tell its memory")
    }

    /// Asks the admin API.
    pub(super) async fn admin(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let socket = self.directory.path().join("admin.sock");
        let body = body.to_string();
        let answer = exchange(&socket, method, path, &body);
        let answer = tokio::time::timeout(Duration::from_secs(60), answer)
            .await
            .context("the admin API does not answer")??;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        if !head.starts_with("HTTP/1.1 200") {
            bail!("{method} {path} was refused: {answer}");
        }
        Ok(serde_json::from_str(body)?)
    }

    /// Puts a policy in force.
    pub(super) async fn set_policy(&self, text: &str) -> Result<()> {
        let body = serde_json::json!({ "text": text });
        self.admin("PUT", "/policy", &body).await.map(drop)
    }
}

async fn exchange(socket: &Path, method: &str, path: &str, body: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket).await?;
    let length = body.len();
    let head = format!(
        "{method} /api/v1{path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
