//! The coordinators of a network, spoken to one at a time.

use serde::{Serialize, de::DeserializeOwned};
use std::{
    sync::Once,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use weir_overlay::MachinePrivateKey;
use weir_protocol::{
    APPROVAL_PATH, ApprovalAnswer, ApprovalRequest, DOWN_PATH, DownRequest, DownResponse,
    HEARTBEAT_SECONDS, LEAVE_PATH, LeaveRequest, MAP_PATH, MapRequest, Pin, ProblemDetails,
    REGISTER_PATH, REPORT_PATH, RegisterRequest, RegisterResponse, ReportRequest, StreamMessage,
    UPDATE_PATH, UpdateRequest, sign,
};
use weir_tls::{OtherPin, pinned};

use super::{
    ClientError,
    choice::Choice,
    error::{untrusted, why_unreachable},
    lines::Lines,
};
use crate::settings::{CoordinatorUrl, CoordinatorUrls};

/// How long a connection may take to come about.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// How much of the map stream may be on its way, in bytes. A connection has room for twice that, so
/// that reports pass a map that is not read yet.
const STREAM_WINDOW: u32 = 1 << 20;
/// How often a connection is asked whether it is there still, and how long it has to answer. One
/// that is gone takes the map stream and what is asked beside it along.
const PING_INTERVAL: Duration = Duration::from_secs(15);
const PING_DEADLINE: Duration = Duration::from_secs(10);
/// The longest line of the map stream, in bytes: a full map of ten thousand peers is under 10 MB.
const MAX_LINE: usize = 64 << 20;
/// The longest answer that is not a stream, in bytes.
const MAX_ANSWER: usize = 1 << 20;
/// How long the map stream may be silent: three heartbeats.
const SILENCE: Duration = Duration::from_secs(3 * HEARTBEAT_SECONDS);

/// Speaks to one of a network's coordinators for one machine. Cheap to clone; clones speak to the
/// same one.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    choice: Choice,
    machine: MachinePrivateKey,
    pin: Option<Pin>,
    other: OtherPin,
}

impl Client {
    /// Makes a client. With a pin, only the coordinator that has it is accepted; without one, it
    /// must have a certificate that the host trusts.
    ///
    /// # Errors
    /// [`ClientError::Setup`].
    pub(crate) fn new(
        urls: CoordinatorUrls,
        pin: Option<Pin>,
        machine: MachinePrivateKey,
    ) -> Result<Self, ClientError> {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            // Fails only where one is installed already, which is as good.
            drop(rustls::crypto::ring::default_provider().install_default());
        });
        let setup = |error: &dyn std::error::Error| ClientError::Setup(error.to_string());
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("weir-agent/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_DEADLINE)
            .tcp_keepalive(Duration::from_secs(15))
            .pool_idle_timeout(Duration::from_secs(60))
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(2 * STREAM_WINDOW)
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_timeout(PING_DEADLINE)
            .http2_keep_alive_while_idle(true);
        let mut other = OtherPin::default();
        let choice = Choice::new(urls);
        if let (true, Some(pin)) = (choice.any_is_https(), pin) {
            let (mut config, seen) = pinned(pin).map_err(|error| setup(&error))?;
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            builder = builder.tls_backend_preconfigured(config);
            other = seen;
        }
        Ok(Self {
            http: builder.build().map_err(|error| setup(&error))?,
            choice,
            machine,
            pin,
            other,
        })
    }

    /// The coordinator that is spoken to.
    pub(crate) fn url(&self) -> &CoordinatorUrl {
        self.choice.url()
    }

    /// Speaks to the next one from now on.
    pub(crate) fn move_on(&self) {
        self.choice.move_on();
    }

    /// Joins the network, or renews what the coordinator knows. Moves on to the next one where one
    /// cannot do it, until all were tried.
    ///
    /// # Errors
    /// [`ClientError`], of the last one.
    pub(crate) async fn register(
        &self,
        request: &RegisterRequest,
        deadline: Duration,
    ) -> Result<RegisterResponse, ClientError> {
        let end = Instant::now() + deadline;
        let mut tried = 1;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.call(REGISTER_PATH, request, left).await {
                Err(error) if tried < self.choice.count() && error.another_may_do() => {
                    self.move_on();
                    tried += 1;
                }
                result => return result,
            }
        }
    }

    /// Asks to be let in by an admin, or how that stands.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn approval(
        &self,
        request: &ApprovalRequest,
        deadline: Duration,
    ) -> Result<ApprovalAnswer, ClientError> {
        self.call(APPROVAL_PATH, request, deadline).await
    }

    /// Tells what changed on the host.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn update(
        &self,
        request: &UpdateRequest,
        deadline: Duration,
    ) -> Result<(), ClientError> {
        self.within(deadline, self.post(UPDATE_PATH, request))
            .await
            .map(drop)
    }

    /// Tells which map is in force.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn report(
        &self,
        request: &ReportRequest,
        deadline: Duration,
    ) -> Result<(), ClientError> {
        self.within(deadline, self.post(REPORT_PATH, request))
            .await
            .map(drop)
    }

    /// Leaves the network.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn leave(&self, deadline: Duration) -> Result<(), ClientError> {
        self.within(deadline, self.post(LEAVE_PATH, &LeaveRequest {}))
            .await
            .map(drop)
    }

    /// Says that the node goes down on purpose.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn down(&self, deadline: Duration) -> Result<DownResponse, ClientError> {
        self.call(DOWN_PATH, &DownRequest {}, deadline).await
    }

    /// Opens the map stream. When `request` names a map that is held, the coordinator may send only
    /// what is new since.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn map(
        &self,
        request: &MapRequest,
        deadline: Duration,
    ) -> Result<MapStream, ClientError> {
        let response = self.within(deadline, self.post(MAP_PATH, request)).await?;
        Ok(MapStream {
            response,
            lines: Lines::new(MAX_LINE),
            url: self.url().to_string(),
        })
    }

    /// Asks for nothing, to see whether the coordinator answers and has the right key. Gives the
    /// seconds that its clock is ahead of ours, where it tells the time.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn probe(&self, deadline: Duration) -> Result<Option<i64>, ClientError> {
        self.within(deadline, async {
            let asked = self.http.get(self.url().with_path("/")).send().await;
            let response = asked.map_err(|error| self.unreachable(&error))?;
            let date = response.headers().get("date");
            Ok(date
                .and_then(|date| date.to_str().ok())
                .and_then(|date| jiff::fmt::rfc2822::parse(date).ok())
                .map(|date| date.timestamp().as_second() - now()))
        })
        .await
    }

    async fn call<Q: Serialize + Sync, A: DeserializeOwned>(
        &self,
        path: &str,
        request: &Q,
        deadline: Duration,
    ) -> Result<A, ClientError> {
        self.within(deadline, async {
            let response = self.post(path, request).await?;
            let bytes = self.bounded(response).await?;
            serde_json::from_slice(&bytes).map_err(|error| ClientError::NotACoordinator {
                url: self.url().to_string(),
                reason: format!("its answer to {path} is not understood ({error})"),
            })
        })
        .await
    }

    async fn within<T>(
        &self,
        deadline: Duration,
        work: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        tokio::time::timeout(deadline, work)
            .await
            .unwrap_or_else(|_| {
                Err(ClientError::Deadline {
                    url: self.url().to_string(),
                    deadline,
                })
            })
    }

    async fn post<Q: Serialize + Sync>(
        &self,
        path: &str,
        request: &Q,
    ) -> Result<reqwest::Response, ClientError> {
        let setup = |error: &dyn std::error::Error| ClientError::Setup(error.to_string());
        let body = serde_json::to_vec(request).map_err(|error| setup(&error))?;
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|error| setup(&error))?;
        let headers = sign(&self.machine, "POST", path, &body, now(), nonce);
        let response = self
            .http
            .post(self.url().with_path(path))
            .header("content-type", "application/json")
            .header("content-digest", headers.content_digest)
            .header("signature-input", headers.signature_input)
            .header("signature", headers.signature)
            .body(body)
            .send()
            .await
            .map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let bytes = self.bounded(response).await?;
        Err(match serde_json::from_slice::<ProblemDetails>(&bytes) {
            Ok(problem) => ClientError::Refused(problem),
            Err(_) => ClientError::NotACoordinator {
                url: self.url().to_string(),
                reason: format!("it answers {path} with {status}"),
            },
        })
    }

    async fn bounded(&self, mut response: reqwest::Response) -> Result<Vec<u8>, ClientError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.unreachable(&error))?
        {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MAX_ANSWER {
                return Err(ClientError::NotACoordinator {
                    url: self.url().to_string(),
                    reason: "its answer does not end".to_owned(),
                });
            }
        }
        Ok(bytes)
    }

    fn unreachable(&self, error: &reqwest::Error) -> ClientError {
        let url = self.url().to_string();
        match (self.other.take(), self.pin) {
            (Some(seen), Some(wanted)) => ClientError::WrongPin { url, seen, wanted },
            (Some(_), None) | (None, _) => match untrusted(error).filter(|_| self.pin.is_none()) {
                Some(reason) => ClientError::Untrusted { url, reason },
                None => ClientError::Unreachable {
                    url,
                    reason: why_unreachable(error),
                },
            },
        }
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        })
}

/// The map stream.
#[derive(Debug)]
pub(crate) struct MapStream {
    response: reqwest::Response,
    lines: Lines,
    url: String,
}

impl MapStream {
    /// The next message; waits as long as heartbeats allow. Safe to cancel: what was read of a
    /// line is kept.
    ///
    /// # Errors
    /// [`ClientError`]; the stream is then at its end.
    pub(crate) async fn next_message(&mut self) -> Result<StreamMessage, ClientError> {
        loop {
            let line = self
                .lines
                .next_line()
                .map_err(|_| ClientError::NotACoordinator {
                    url: self.url.clone(),
                    reason: format!("a line of its map stream is longer than {MAX_LINE} bytes"),
                })?;
            if let Some(line) = line {
                if line.is_empty() {
                    continue;
                }
                return serde_json::from_slice(&line).map_err(|error| {
                    ClientError::NotACoordinator {
                        url: self.url.clone(),
                        reason: format!("its map stream is not understood ({error})"),
                    }
                });
            }
            match tokio::time::timeout(SILENCE, self.response.chunk()).await {
                Ok(Ok(Some(chunk))) => self.lines.push(&chunk),
                Ok(Ok(None)) => return Err(self.broke("it closed the map stream".to_owned())),
                Ok(Err(error)) => return Err(self.broke(why_unreachable(&error))),
                Err(_) => {
                    return Err(
                        self.broke(format!("nothing was heard for {} s", SILENCE.as_secs()))
                    );
                }
            }
        }
    }

    fn broke(&self, reason: String) -> ClientError {
        ClientError::Unreachable {
            url: self.url.clone(),
            reason,
        }
    }
}
