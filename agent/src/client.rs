//! Asks the daemon.

use anyhow::{Context, Result, anyhow, bail};
use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use crate::control::{AnyEnvelope, Envelope, MAX_RESPONSE, Request, Response, VERSION};

/// Sends a request and waits for its answer, at most for the deadline.
///
/// # Errors
/// A daemon that is not there, may not be asked, or does not answer.
pub(crate) fn ask(socket: &Path, request: Request, deadline: Duration) -> Result<Response> {
    let mut stream = UnixStream::connect(socket).map_err(|error| explain(socket, &error))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    stream.set_read_timeout(Some(deadline))?;
    let mut line = serde_json::to_vec(&Envelope::new(request))?;
    line.push(b'\n');
    stream
        .write_all(&line)
        .context("the daemon does not take the request")?;
    let mut answer = Vec::new();
    BufReader::new(stream.take(MAX_RESPONSE as u64))
        .read_until(b'\n', &mut answer)
        .map_err(|error| {
            if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) {
                return anyhow!(
                    "the daemon did not answer within {} s; `journalctl -u weir-agent` shows what \
                     it does",
                    deadline.as_secs()
                );
            }
            anyhow!(error).context("the daemon's answer broke off")
        })?;
    let any: AnyEnvelope =
        serde_json::from_slice(&answer).context("the daemon's answer is not understood")?;
    if any.version != VERSION {
        bail!(
            "the daemon is of agent {}, this command of agent {}: restart the daemon with \
             `systemctl restart weir-agent`",
            any.agent,
            env!("CARGO_PKG_VERSION")
        );
    }
    let envelope: Envelope<Response> =
        serde_json::from_slice(&answer).context("the daemon's answer is not understood")?;
    Ok(envelope.body)
}

fn explain(socket: &Path, error: &std::io::Error) -> anyhow::Error {
    let socket = socket.display();
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the kinds are many and grow; the others speak for themselves"
    )]
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => anyhow!(
            "the agent's daemon does not run (nobody listens on {socket}): start it with \
             `systemctl start weir-agent`, or `agent daemon` as root"
        ),
        ErrorKind::PermissionDenied => anyhow!(
            "no right to talk to the agent's daemon ({socket}): run this as root, or as a member \
             of the group weir"
        ),
        _ => anyhow!("cannot talk to the agent's daemon at {socket}: {error}"),
    }
}
