//! The task that talks to the coordinator: holds the map stream open, reports what came of it.

use anyhow::Result;
use std::{sync::Arc, time::Duration};
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};
use weir_overlay::Generation;
use weir_protocol::{
    HostInfo, ItemFailure, MapRequest, ReportRequest, StreamMessage, UpdateRequest,
};
use weir_reconcile::{Backoff, Status};

use super::{
    agent::{Agent, FullMapNeeded},
    host::{Host, host_info},
    keys::Keys,
    saved::Saved,
};
use crate::coordinator::{Client, ClientError, MapStream};

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// How often the addresses of the host are looked at; a change that matters mostly breaks the
/// connection, and is told when it is open again.
const ADDRESS_INTERVAL: Duration = Duration::from_secs(300);
/// How long a single request may take.
const REQUEST_DEADLINE: Duration = Duration::from_secs(15);

/// The running task; ends when dropped.
#[derive(Debug)]
pub(crate) struct Session {
    task: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Session {
    /// Starts with a stream that is open already.
    pub(crate) fn start<H: Host>(agent: &Arc<Agent<H>>, client: Client, stream: MapStream) -> Self {
        Self::spawn(agent, client, Some(stream))
    }

    /// Starts from what is saved; `None` when this machine is not enrolled anywhere.
    ///
    /// # Errors
    /// A client that cannot be made.
    pub(crate) fn resume<H: Host>(
        agent: &Arc<Agent<H>>,
        saved: &Saved,
        keys: &Keys,
    ) -> Result<Option<Self>> {
        let Some(enrolment) = &saved.enrolment else {
            return Ok(None);
        };
        let Some(urls) = enrolment.coordinator.0.clone() else {
            return Ok(None);
        };
        let client = Client::new(urls, enrolment.pin, keys.machine.clone())?;
        Ok(Some(Self::spawn(agent, client, None)))
    }

    fn spawn<H: Host>(agent: &Arc<Agent<H>>, client: Client, stream: Option<MapStream>) -> Self {
        let agent = Arc::clone(agent);
        Self {
            task: tokio::spawn(async move {
                tokio::join!(
                    follow_maps(&agent, &client, stream),
                    send_reports(&agent, &client),
                    tell_addresses(&agent, &client)
                );
            }),
        }
    }
}

/// Follows the map stream, and opens it again whenever it ends.
async fn follow_maps<H: Host>(agent: &Agent<H>, client: &Client, first: Option<MapStream>) {
    let mut stream = first;
    let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
    let mut whole = false;
    loop {
        let opened = match stream.take() {
            Some(stream) => Ok(stream),
            None => open(agent, client, whole).await,
        };
        let error = match opened {
            Ok(stream) => {
                connected(agent);
                match follow(agent, stream, &mut backoff).await {
                    Ended::Closing(wait) => {
                        whole = false;
                        disconnected(agent, &ClientError::Closing(wait));
                        client.move_on();
                        tokio::time::sleep(wait).await;
                        continue;
                    }
                    Ended::Broken(error) => {
                        whole = false;
                        error
                    }
                    Ended::FullMapNeeded => {
                        info!("asking for a full network map");
                        whole = true;
                        tokio::time::sleep(backoff.next_wait()).await;
                        continue;
                    }
                }
            }
            Err(error) => error,
        };
        if error.is_not_enrolled() {
            agent.shut_out();
        }
        disconnected(agent, &error);
        client.move_on();
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

async fn open<H: Host>(
    agent: &Agent<H>,
    client: &Client,
    whole: bool,
) -> Result<MapStream, ClientError> {
    let request = match agent.state().ledger.map().filter(|_| !whole) {
        Some(map) => MapRequest {
            held: Some(map.generation),
            digest: map.digest(),
        },
        None => MapRequest::default(),
    };
    if let Some(host) = host_now(agent).await {
        let host = UpdateRequest { host };
        client.update(&host, REQUEST_DEADLINE).await?;
    }
    client.map(&request, REQUEST_DEADLINE).await
}

enum Ended {
    Broken(ClientError),
    /// The coordinator stops, and says when to come back.
    Closing(Duration),
    FullMapNeeded,
}

async fn follow<H: Host>(agent: &Agent<H>, mut stream: MapStream, backoff: &mut Backoff) -> Ended {
    loop {
        match stream.next_message().await {
            Ok(StreamMessage::Closing { reconnect_in_ms }) => {
                let wait = Duration::from_millis(reconnect_in_ms);
                return Ended::Closing(wait.clamp(FIRST_RETRY, LAST_RETRY));
            }
            Ok(message) => match agent.take_message(message) {
                Ok(()) => backoff.reset(),
                Err(FullMapNeeded) => return Ended::FullMapNeeded,
            },
            Err(error) => return Ended::Broken(error),
        }
    }
}

fn connected<H: Host>(agent: &Agent<H>) {
    agent.connection.send_modify(|connection| {
        if !connection.open {
            info!("connected to the coordinator");
        }
        connection.open = true;
        connection.opened += 1;
        connection.problem = None;
    });
}

fn disconnected<H: Host>(agent: &Agent<H>, error: &ClientError) {
    let problem = error.to_string();
    agent.connection.send_modify(|connection| {
        if connection.problem.as_ref() != Some(&problem) {
            warn!(
                problem,
                "not connected to the coordinator; the last network map stays in force"
            );
        }
        connection.open = false;
        connection.problem = Some(problem);
    });
}

/// Tells the coordinator when the host's addresses change: a relay's are where its clients find
/// it.
async fn tell_addresses<H: Host>(agent: &Agent<H>, client: &Client) {
    let mut told = None;
    loop {
        match (host_now(agent).await, &told) {
            // What is true when the session begins is told by who opens it.
            (Some(host), None) => told = Some(host),
            (Some(host), Some(before)) if host != *before => {
                let request = UpdateRequest { host };
                match client.update(&request, REQUEST_DEADLINE).await {
                    Ok(()) => told = Some(request.host),
                    Err(error) => debug!(%error, "the new addresses are not told yet"),
                }
            }
            (Some(_), Some(_)) | (None, _) => {}
        }
        tokio::time::sleep(ADDRESS_INTERVAL).await;
    }
}

/// What is to be told of the host; `None` when it cannot be looked at, or is on its way down.
pub(super) async fn host_now<H: Host>(agent: &Agent<H>) -> Option<HostInfo> {
    let applied = agent.state().saved.applied.clone()?;
    let settings = &applied.settings;
    match agent
        .host
        .facts(&settings.interface.0, settings.listen_port)
        .await
    {
        Ok(facts) => Some(host_info(settings, applied.host.ipv6, facts.addresses)),
        Err(error) => {
            warn!(%error, "the host's addresses cannot be read");
            None
        }
    }
}

/// What was reported last, to report only news.
#[derive(Clone, PartialEq, Eq)]
struct Reported {
    stream: u64,
    generation: Option<Generation>,
    failures: Vec<ItemFailure>,
}

/// Tells the coordinator what is in force, once for each change and each new connection.
async fn send_reports<H: Host>(agent: &Agent<H>, client: &Client) {
    let mut status = agent.reconciler.status();
    let mut connection = agent.connection.subscribe();
    let mut last: Option<Reported> = None;
    let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
    loop {
        let (open, stream) = {
            let connection = connection.borrow_and_update();
            (connection.open, connection.opened)
        };
        let news = reported(&status.borrow_and_update(), stream);
        let mut retry = None;
        if open && let Some(news) = news.filter(|news| last.as_ref() != Some(news)) {
            let request = ReportRequest {
                generation: news.generation.unwrap_or_default(),
                failures: news.failures.clone(),
            };
            match client.report(&request, REQUEST_DEADLINE).await {
                Ok(()) => {
                    backoff.reset();
                    last = Some(news);
                }
                Err(error) => {
                    debug!(%error, "the report was not taken");
                    retry = Some(backoff.next_wait());
                }
            }
        }
        let ended = tokio::select! {
            changed = status.changed() => changed.is_err(),
            changed = connection.changed() => changed.is_err(),
            () = tokio::time::sleep(retry.unwrap_or_default()), if retry.is_some() => false,
        };
        if ended {
            return;
        }
    }
}

/// What there is to report: nothing before the first pass.
fn reported(status: &Status, stream: u64) -> Option<Reported> {
    (status.applied.is_some() || !status.failures.is_empty()).then(|| Reported {
        stream,
        generation: status.applied,
        failures: status.failures.clone(),
    })
}
