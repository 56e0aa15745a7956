//! The one rtnetlink session.
//!
//! A netlink socket carries one dump at a time (a second gets `EBUSY`), a dump during which the
//! table changed says so in a flag (`NLM_F_DUMP_INTR`), and a socket that overran has lost part of
//! an answer. So requests go one after the other, and what was interrupted is asked again.

use futures_util::StreamExt;
use rtnetlink::{
    Handle,
    packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
};
use std::time::{Duration, SystemTime};
use tokio::{sync::Mutex, task::JoinHandle, time};
use weir_kernel_plan::KernelError;

use crate::error::{failed, io_failed, kernel_said, timed_out};

/// How long one request may take, in seconds. The kernel answers at once, and dumps are small: it
/// filters them.
const DEADLINE_SECONDS: u64 = 10;
/// How often an interrupted request is asked again.
const ATTEMPTS: u32 = 10;
/// The kernel changed what was being dumped (linux/netlink.h).
const NLM_F_DUMP_INTR: u16 = 0x10;

/// Why a request has no answer.
enum Failure {
    /// The kernel's error number.
    Errno(i32),
    /// The answer is torn; ask again.
    Interrupted,
    /// The session is gone.
    Lost,
}

/// The task that moves messages between the socket and the requests.
struct Session {
    handle: Handle,
    task: JoinHandle<()>,
}

impl Session {
    fn open() -> std::io::Result<Self> {
        // Strict checking makes the kernel filter dumps by what the request says, so that a router
        // with a full table does not have to send it.
        let (mut connection, handle, _messages) = rtnetlink::new_connection_with_strict_check()?;
        // Left to itself it keeps the ends of answers, and with them a failed dump's error number.
        connection.set_forward_done(true);
        connection.set_forward_ack(true);
        Ok(Self {
            handle,
            task: tokio::spawn(connection),
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The session, opened on first use and again when it is lost.
#[derive(Default)]
pub(crate) struct Netlink {
    session: Mutex<Option<Session>>,
}

impl Netlink {
    /// All objects that fit `message`.
    pub(crate) async fn dump(
        &self,
        operation: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, KernelError> {
        self.request(operation, message, NLM_F_REQUEST | NLM_F_DUMP)
            .await
    }

    /// The one object that `message` names.
    pub(crate) async fn get(
        &self,
        operation: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, KernelError> {
        self.request(operation, message, NLM_F_REQUEST).await
    }

    /// Makes a change; `flags` besides request and acknowledgement.
    pub(crate) async fn change(
        &self,
        operation: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), KernelError> {
        self.request(operation, message, NLM_F_REQUEST | NLM_F_ACK | flags)
            .await
            .map(|_| ())
    }

    async fn request(
        &self,
        operation: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, KernelError> {
        let deadline = Duration::from_secs(DEADLINE_SECONDS);
        let Ok(mut session) = time::timeout(deadline, self.session.lock()).await else {
            return Err(timed_out(operation, DEADLINE_SECONDS));
        };
        for attempt in 1..=ATTEMPTS {
            let open = match session.as_mut() {
                Some(open) => open,
                None => {
                    session.insert(Session::open().map_err(|error| io_failed(operation, &error))?)
                }
            };
            let asked = ask(&mut open.handle, message.clone(), flags);
            match time::timeout(deadline, asked).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(Failure::Errno(libc::EBUSY | libc::EINTR | libc::EAGAIN)))
                | Ok(Err(Failure::Interrupted)) => {}
                Ok(Err(Failure::Errno(errno))) => return Err(kernel_said(operation, errno)),
                Ok(Err(Failure::Lost)) => *session = None,
                Err(_) => {
                    *session = None;
                    return Err(timed_out(operation, DEADLINE_SECONDS));
                }
            }
            time::sleep(pause(attempt)).await;
        }
        Err(failed(
            operation,
            "the kernel's answer was interrupted again and again by changes",
        ))
    }
}

/// 5 ms for each attempt so far, and up to as much again by chance.
fn pause(attempt: u32) -> Duration {
    let base = Duration::from_millis(5) * attempt;
    let chance = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |now| now.subsec_nanos() % 1000);
    base + base * chance / 1000
}

async fn ask(
    handle: &mut Handle,
    message: RouteNetlinkMessage,
    flags: u16,
) -> Result<Vec<RouteNetlinkMessage>, Failure> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = flags;
    let mut replies = handle.request(request).map_err(|_| Failure::Lost)?;
    let mut objects = Vec::new();
    let mut interrupted = false;
    // A dump ends with a message of its own, a change with its acknowledgement.
    let mut complete = flags & (NLM_F_ACK | NLM_F_DUMP) == 0;
    while let Some(reply) = replies.next().await {
        interrupted |= reply.header.flags & NLM_F_DUMP_INTR != 0;
        match reply.payload {
            NetlinkPayload::InnerMessage(object) => objects.push(object),
            NetlinkPayload::Done(done) if done.code != 0 => {
                return Err(Failure::Errno(done.code.abs()));
            }
            NetlinkPayload::Done(_) => complete = true,
            NetlinkPayload::Error(error) => match error.code {
                Some(code) => return Err(Failure::Errno(code.get().abs())),
                None => complete = true,
            },
            NetlinkPayload::Overrun(_) => return Err(Failure::Interrupted),
            NetlinkPayload::Noop | _ => {}
        }
    }
    match (complete, interrupted) {
        (false, _) => Err(Failure::Lost),
        (true, true) => Err(Failure::Interrupted),
        (true, false) => Ok(objects),
    }
}
