//! The unix socket that commands come in by.

use anyhow::{Context, Result, bail};
use nix::{
    sys::stat::{Mode, umask},
    unistd::{Group, chown},
};
use std::{
    fs::{self, Permissions},
    io::ErrorKind,
    os::unix::{fs::PermissionsExt, net::UnixStream as BlockingStream},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};
use tracing::{debug, warn};

use super::{agent::Agent, host::Host};
use crate::{
    control::{AnyEnvelope, Envelope, MAX_REQUEST, Request, Response, VERSION},
    settings::SettingCommand,
};

/// The group whose members may use the socket.
const GROUP: &str = "weir";
/// How many commands are served at once; more wait.
const AT_ONCE: usize = 64;
/// How long a command may take to say what it wants, and to take the answer.
const TALK_DEADLINE: Duration = Duration::from_secs(10);

/// Binds the socket, for root and the group `weir` only.
///
/// # Errors
/// Another daemon that serves there, or a directory that cannot be written.
pub(crate) fn bind(path: &Path) -> Result<UnixListener> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
    }
    match BlockingStream::connect(path) {
        Ok(_) => bail!(
            "another agent daemon already serves {}: stop it first (systemctl stop weir-agent)",
            path.display()
        ),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        // Nobody listens: a daemon that is gone left it behind.
        Err(_) => fs::remove_file(path)
            .with_context(|| format!("cannot remove the old socket {}", path.display()))?,
    }
    // Between bind and chmod nobody else may connect.
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    umask(before);
    let listener = bound.with_context(|| format!("cannot bind the socket {}", path.display()))?;
    if let Ok(Some(group)) = Group::from_name(GROUP) {
        chown(path, None, Some(group.gid))
            .with_context(|| format!("cannot give {} to the group {GROUP}", path.display()))?;
        fs::set_permissions(path, Permissions::from_mode(0o660))
            .with_context(|| format!("cannot open {} to the group {GROUP}", path.display()))?;
    }
    Ok(listener)
}

/// Serves commands. Never ends.
pub(crate) async fn serve<H: Host>(agent: Arc<Agent<H>>, listener: UnixListener) {
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let agent = Arc::clone(&agent);
                tokio::spawn(async move {
                    if let Err(error) = talk(&agent, stream).await {
                        debug!("a command went away: {error:#}");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                warn!(%error, "cannot take a command");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn talk<H: Host>(agent: &Arc<Agent<H>>, stream: UnixStream) -> Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    let mut reader = BufReader::new(read.take(MAX_REQUEST as u64 + 1));
    tokio::time::timeout(TALK_DEADLINE, reader.read_until(b'\n', &mut line))
        .await
        .context("it said nothing")??;
    let response = if line.len() > MAX_REQUEST {
        refused(format!("a request has at most {MAX_REQUEST} bytes"))
    } else {
        answer(agent, &line).await
    };
    let mut text = serde_json::to_vec(&Envelope::new(response))?;
    text.push(b'\n');
    tokio::time::timeout(TALK_DEADLINE, async {
        write.write_all(&text).await?;
        write.shutdown().await
    })
    .await
    .context("it did not take the answer")??;
    Ok(())
}

const fn refused(message: String) -> Response {
    Response::Refused { message }
}

async fn answer<H: Host>(agent: &Arc<Agent<H>>, line: &[u8]) -> Response {
    let Ok(any) = serde_json::from_slice::<AnyEnvelope>(line) else {
        return refused("this is not a request of an agent command".to_owned());
    };
    if any.version != VERSION {
        return refused(format!(
            "this command is of agent {}, the daemon of agent {}: restart the daemon with \
             `systemctl restart weir-agent`",
            any.agent,
            env!("CARGO_PKG_VERSION")
        ));
    }
    let request = match serde_json::from_slice::<Envelope<Request>>(line) {
        Ok(envelope) => envelope.body,
        Err(error) => return refused(format!("the request is not understood: {error}")),
    };
    let result = match request {
        Request::Up(up) => {
            let command = SettingCommand::Up { reset: up.reset };
            agent.change(command, *up).await
        }
        Request::Set(set) => agent.change(SettingCommand::Set, *set).await,
        Request::Down { timeout } => agent.down(timeout).await.map(Response::Down),
        Request::Status => Ok(Response::Status(Box::new(agent.status().await))),
        Request::Logout { force } => agent.logout(force).await.map(Response::LoggedOut),
        Request::RotateKey => agent.rotate_key().await.map(Response::KeyRotated),
        Request::Doctor => agent.doctor().await.map(Response::Doctor),
        Request::Explain(question) => agent
            .explain(*question)
            .await
            .map(|report| Response::Explained(Box::new(report))),
        Request::Version => Ok(Response::Version {
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }),
    };
    result.unwrap_or_else(|error| refused(format!("{error:#}")))
}
