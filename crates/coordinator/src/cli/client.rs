//! Talking to the running coordinator: requests of the admin API, and their answers.

use super::connection::Target;
use crate::api::{self, AdminProblem, PATH_PREFIX, Page};
use anyhow::{Context, anyhow};
use axum::body::Bytes;
use futures_util::TryStreamExt;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::{
    body::{Body, Frame, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use std::{error::Error, fmt, time::Duration};
use tokio::{fs::File, io::AsyncWriteExt, time::timeout};

/// How long an answer may take. A change is answered when it is published.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long a backup may take, either way.
const TRANSFER_DEADLINE: Duration = Duration::from_secs(600);
const BROKEN: &str = "the connection to the coordinator broke: see journalctl -u weir-coordinator";
/// The longest answer: a hundred thousand nodes fit.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// What the coordinator did not do, and why.
#[derive(Debug)]
pub(super) struct Refused(pub(super) AdminProblem);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.problem.detail)?;
        match &self.0.diagnostics {
            Some(diagnostics) => write!(f, "\n\n{diagnostics}"),
            None => Ok(()),
        }
    }
}

impl Error for Refused {}

#[derive(Debug)]
pub(super) struct Client {
    target: Target,
}

impl Client {
    pub(super) const fn new(target: Target) -> Self {
        Self { target }
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    /// All of a list, however many pages it has. `path` has no question mark.
    pub(super) async fn list<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<Vec<T>> {
        let mut all = Vec::new();
        let mut next = None;
        loop {
            let cursor = next.map_or_else(String::new, |next| format!("&cursor={next}"));
            let page: Page<T> = self.get(&format!("{path}?limit=1000{cursor}")).await?;
            all.extend(page.items);
            next = page.next;
            if next.is_none() {
                return Ok(all);
            }
        }
    }

    pub(super) async fn delete<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.call(Method::DELETE, path, Bytes::new()).await
    }

    pub(super) async fn post<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> anyhow::Result<T> {
        self.call(Method::POST, path, to_json(body)?).await
    }

    pub(super) async fn put<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> anyhow::Result<T> {
        self.call(Method::PUT, path, to_json(body)?).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<T> {
        let answer = async {
            let answer = self.exchange(method, path, Full::new(body)).await?;
            whole(answer).await
        };
        read(within(DEADLINE, answer).await?)
    }

    /// Writes what comes to a file, and gives its length in bytes.
    pub(super) async fn download(&self, path: &str, file: &mut File) -> anyhow::Result<u64> {
        let transfer = async {
            let answer = self
                .exchange(Method::GET, path, Full::<Bytes>::default())
                .await?;
            if !answer.status().is_success() {
                return read::<()>(whole(answer).await?).map(|()| 0);
            }
            let mut length = 0;
            let mut body = answer.into_body();
            while let Some(frame) = body.frame().await {
                // An answer that is cut off has not the length that it announced.
                let Ok(data) = frame.context(BROKEN)?.into_data() else {
                    continue;
                };
                length += u64::try_from(data.len())?;
                file.write_all(&data)
                    .await
                    .context("cannot write the file")?;
            }
            Ok(length)
        };
        within(TRANSFER_DEADLINE, transfer).await
    }

    /// Sends a file.
    pub(super) async fn upload<T: DeserializeOwned>(
        &self,
        path: &str,
        file: File,
    ) -> anyhow::Result<T> {
        let chunks = api::chunks(file).map_ok(Frame::data);
        let transfer = async {
            let body = StreamBody::new(Box::pin(chunks));
            whole(self.exchange(Method::POST, path, body).await?).await
        };
        read(within(TRANSFER_DEADLINE, transfer).await?)
    }

    async fn exchange<B>(
        &self,
        method: Method,
        path: &str,
        body: B,
    ) -> anyhow::Result<Response<Incoming>>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        let stream = self.target.connect().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .context(BROKEN)?;
        // Ends with the connection; what goes wrong there is seen by the request.
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{PATH_PREFIX}{path}"))
            .header(header::HOST, self.target.host())
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = self.target.token() {
            let bearer = format!("Bearer {}", token.reveal());
            request = request.header(header::AUTHORIZATION, bearer);
        }
        let request = request.body(body).context("cannot make the request")?;
        sender.send_request(request).await.context(BROKEN)
    }
}

async fn within<T>(
    deadline: Duration,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    timeout(deadline, work).await.map_err(|_| {
        anyhow!(
            "the coordinator did not answer within {} seconds: see journalctl -u weir-coordinator",
            deadline.as_secs()
        )
    })?
}

async fn whole(answer: Response<Incoming>) -> anyhow::Result<(StatusCode, Bytes)> {
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES)
        .collect()
        .await
        .map_err(|error| anyhow!("{BROKEN} ({error})"))?;
    Ok((status, body.to_bytes()))
}

fn read<T: DeserializeOwned>((status, answer): (StatusCode, Bytes)) -> anyhow::Result<T> {
    let versions = "this command and the running coordinator may be of different versions: \
                    restart it with systemctl restart weir-coordinator";
    if status.is_success() {
        return serde_json::from_slice(&answer)
            .with_context(|| format!("cannot read the coordinator's answer; {versions}"));
    }
    let problem: AdminProblem = serde_json::from_slice(&answer)
        .with_context(|| format!("the coordinator answered {status}; {versions}"))?;
    Err(Refused(problem).into())
}

fn to_json<B: Serialize>(body: &B) -> anyhow::Result<Bytes> {
    Ok(serde_json::to_vec(body)
        .context("cannot make the request")?
        .into())
}

/// A name as one segment of a path (RFC 3986, section 2.1).
pub(super) fn segment(name: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~@".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}
