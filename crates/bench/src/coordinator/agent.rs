//! An agent as far as the protocol goes: TLS, signatures, the map stream, reports. No kernel.

use super::network::Role;
use anyhow::{Context as _, Result, bail};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use serde::Serialize;
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{
    net::TcpSocket,
    sync::{Semaphore, mpsc},
    task::JoinHandle,
    time::sleep,
};
use tokio_rustls::TlsConnector;
use weir_overlay::{Generation, MachinePrivateKey, NodePrivateKey};
use weir_protocol::{
    HostInfo, MAP_PATH, MapRequest, NetworkMap, REGISTER_PATH, REPORT_PATH, RegisterRequest,
    ReportRequest, StreamMessage, UPDATE_PATH, UpdateRequest, apply_delta, sign,
};

/// How often an agent tries in a row before the benchmark is given up.
const TRIES: u32 = 8;
/// The pause after the first failure; each further one is twice as long, and half of each is chance.
const PAUSE: Duration = Duration::from_millis(500);
/// How many connections for reports there are at a time: files are limited.
const REPORTS: usize = 4_000;

/// What an agent did.
#[derive(Debug)]
pub(super) enum Event {
    /// It received a message whole.
    Received {
        agent: usize,
        at: Instant,
        bytes: usize,
        /// The map that it has then.
        map: Box<NetworkMap>,
        /// Whether it will report.
        reports: bool,
    },
    /// Its report was taken.
    Reported,
}

/// How agents reach the coordinator.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) server: SocketAddr,
    /// Whether they speak HTTP/2: one connection for all. With HTTP/1.1 a request beside the stream
    /// needs another one.
    pub(super) http2: bool,
    /// How often an agent was sent away or lost its connection, and tried again.
    pub(super) tried_again: Arc<AtomicUsize>,
    reports: Arc<Semaphore>,
}

impl Way {
    pub(super) fn new(server: SocketAddr, http2: bool) -> Self {
        Self {
            server,
            http2,
            tried_again: Arc::default(),
            reports: Arc::new(Semaphore::new(REPORTS)),
        }
    }

    /// Waits before the next try, unless there were too many.
    async fn pause(&self, tries: u32, error: anyhow::Error) -> Result<()> {
        if tries >= TRIES {
            return Err(error.context(format!("{tries} tries in a row failed")));
        }
        self.tried_again.fetch_add(1, Ordering::Relaxed);
        let most = PAUSE * 2_u32.saturating_pow(tries.saturating_sub(1));
        let mut random = [0];
        getrandom::fill(&mut random).context("the kernel has no random numbers")?;
        sleep(most / 2 + most * u32::from(random[0]) / 512).await;
        Ok(())
    }
}

/// An agent.
#[derive(Clone, Debug)]
pub(super) struct Agent {
    pub(super) number: usize,
    pub(super) role: Role,
    machine: MachinePrivateKey,
    pub(super) host: HostInfo,
}

/// Checks that the server holds the key of its certificate, whichever that is.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// TLS of one agent: sessions are resumed by the host that had them only.
fn connector(http2: bool) -> Result<TlsConnector> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::in_memory_sessions(2);
    config.alpn_protocols = vec![if http2 {
        b"h2".to_vec()
    } else {
        b"http/1.1".to_vec()
    }];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn key_of(number: usize) -> [u8; 32] {
    let mut key = [7; 32];
    // Not in front: X25519 does not look at the last bits of the first byte.
    key[8..16].copy_from_slice(&number.to_le_bytes());
    key
}

/// Ends with whoever holds it.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Connection {
    sender: Sender,
    _driver: Driver,
}

enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    /// Gives the answer once its head has come.
    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>> {
        match &mut self.sender {
            Sender::One(sender) => {
                sender.ready().await?;
                Ok(sender.send_request(request).await?)
            }
            Sender::Two(sender) => {
                sender.ready().await?;
                Ok(sender.send_request(request).await?)
            }
        }
    }
}

impl Agent {
    pub(super) fn new(number: usize, role: Role) -> Self {
        Self {
            number,
            role,
            machine: MachinePrivateKey::from_bytes(key_of(number)),
            host: HostInfo {
                hostname: format!("n{number}"),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                os: "Debian GNU/Linux 12, Linux 6.1.0".to_owned(),
                listen_port: 51920,
                ..HostInfo::default()
            },
        }
    }

    async fn connect(&self, way: &Way, tls: &TlsConnector) -> Result<Connection> {
        let socket = TcpSocket::new_v4()?;
        // One address has too few ports for all agents and for their connections before.
        let host = u8::try_from(self.number % 100)?;
        socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 1, host + 1), 0)))?;
        let stream = socket.connect(way.server).await.context("cannot connect")?;
        stream.set_nodelay(true)?;
        let stream = tls
            .connect(ServerName::try_from("localhost")?, stream)
            .await
            .context("no TLS")?;
        let stream = TokioIo::new(stream);
        let (sender, driver) = if way.http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
            // How it ends is seen by whoever waits for an answer.
            let driver = tokio::spawn(async move { drop(connection.await) });
            (Sender::Two(sender), driver)
        } else {
            let (sender, connection) = http1::handshake(stream).await?;
            let driver = tokio::spawn(async move { drop(connection.await) });
            (Sender::One(sender), driver)
        };
        Ok(Connection {
            sender,
            _driver: Driver(driver),
        })
    }

    /// Sends a signed request. Gives the answer once its head has come and says yes.
    async fn ask<B: Serialize>(
        &self,
        connection: &mut Connection,
        path: &str,
        body: &B,
    ) -> Result<Response<Incoming>> {
        let body = serde_json::to_vec(body)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).context("the kernel has no random numbers")?;
        let now = i64::try_from(now)?;
        let signed = sign(&self.machine, "POST", path, &body, now, nonce);
        let uri = match connection.sender {
            Sender::One(_) => path.to_owned(),
            Sender::Two(_) => format!("https://localhost{path}"),
        };
        let mut request = Request::post(uri);
        if let Sender::One(_) = connection.sender {
            request = request.header("host", "localhost");
        }
        let request = request
            .header("content-type", "application/json")
            .header("content-digest", signed.content_digest)
            .header("signature-input", signed.signature_input)
            .header("signature", signed.signature)
            .body(Full::from(body))?;
        let answer = connection.send(request).await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let problem = answer.into_body().collect().await?.to_bytes();
        bail!("{path}: {status}: {}", String::from_utf8_lossy(&problem));
    }

    /// Sends a signed request, and waits for the whole answer.
    async fn tell<B: Serialize>(
        &self,
        connection: &mut Connection,
        path: &str,
        body: &B,
    ) -> Result<()> {
        let answer = self.ask(connection, path, body).await?;
        answer.into_body().collect().await?;
        Ok(())
    }

    /// Joins the network, and tries again when the coordinator is too busy.
    pub(super) async fn join(&self, way: &Way, auth_key: &str) -> Result<()> {
        let mut tries = 0;
        while let Err(error) = self.try_to_join(way, auth_key).await {
            tries += 1;
            way.pause(tries, error).await?;
        }
        Ok(())
    }

    async fn try_to_join(&self, way: &Way, auth_key: &str) -> Result<()> {
        let request = RegisterRequest {
            auth_key: Some(auth_key.to_owned()),
            node_key: NodePrivateKey::from_bytes(key_of(self.number)).public(),
            tags: [self.role.tag()?].into(),
            reauthenticate: false,
            host: self.host.clone(),
        };
        let mut connection = self.connect(way, &connector(way.http2)?).await?;
        self.tell(&mut connection, REGISTER_PATH, &request).await
    }

    /// Tells what its host is now. Gives when it began to, connected already.
    pub(super) async fn update(&self, way: &Way) -> Result<Instant> {
        let mut connection = self.connect(way, &connector(way.http2)?).await?;
        let start = Instant::now();
        self.tell_host(&mut connection).await?;
        Ok(start)
    }

    async fn tell_host(&self, connection: &mut Connection) -> Result<()> {
        let host = self.host.clone();
        self.tell(connection, UPDATE_PATH, &UpdateRequest { host })
            .await
    }

    /// Follows its map, and connects again when the stream ends.
    pub(super) async fn follow(
        self,
        way: Way,
        held: Option<NetworkMap>,
        events: mpsc::Sender<Event>,
    ) -> Result<()> {
        let tls = connector(way.http2)?;
        let mut map = held;
        let mut tries = 0;
        loop {
            let mut is_first = true;
            let followed = self.follow_once(&way, &tls, &mut map, &mut is_first, &events);
            let Err(error) = followed.await else {
                return Ok(());
            };
            // It was connected for a while.
            if !is_first {
                tries = 0;
            }
            tries += 1;
            way.pause(tries, error).await?;
        }
    }

    /// Does what an agent does when it connects: tells of its host, asks for its map, follows it
    /// until the stream ends, and reports each map as put in force.
    async fn follow_once(
        &self,
        way: &Way,
        tls: &TlsConnector,
        map: &mut Option<NetworkMap>,
        is_first: &mut bool,
        events: &mpsc::Sender<Event>,
    ) -> Result<()> {
        let request = MapRequest {
            held: map.as_ref().map(|map| map.generation),
            digest: map.as_ref().and_then(NetworkMap::digest),
        };
        let mut connection = self.connect(way, tls).await?;
        self.tell_host(&mut connection).await?;
        let answer = self.ask(&mut connection, MAP_PATH, &request).await?;
        let mut stream = answer.into_body();
        let mut line = Vec::new();
        loop {
            let frame = stream.frame().await.context("the map stream ended")??;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            line.extend_from_slice(&data);
            if line.last() != Some(&b'\n') {
                continue;
            }
            let at = Instant::now();
            let is_news = match serde_json::from_slice(&line)? {
                StreamMessage::Full { map: full } => {
                    *map = Some(*full);
                    true
                }
                StreamMessage::Delta { delta } => {
                    let map = map.as_mut().context("a delta without a map")?;
                    apply_delta(map, &delta)?;
                    true
                }
                StreamMessage::Heartbeat { .. } => false,
                StreamMessage::Closing { .. } => bail!("the coordinator stops"),
            };
            let map = map.clone().context("a heartbeat without a map")?;
            let generation = map.generation;
            let reports = is_news || *is_first;
            let received = Event::Received {
                agent: self.number,
                at,
                bytes: line.len(),
                map: Box::new(map),
                reports,
            };
            line = Vec::new();
            *is_first = false;
            if events.send(received).await.is_err() {
                return Ok(());
            }
            if reports {
                let reported = self.report(way, tls, &mut connection, generation).await;
                events.send(Event::Reported).await.ok();
                reported?;
            }
        }
    }

    async fn report(
        &self,
        way: &Way,
        tls: &TlsConnector,
        connection: &mut Connection,
        generation: Generation,
    ) -> Result<()> {
        let failures = Vec::new();
        let report = ReportRequest {
            generation,
            failures,
        };
        // The stream goes on meanwhile, as an agent's does.
        let mut tries = 0;
        loop {
            let reported = match way.http2 {
                true => self.tell(connection, REPORT_PATH, &report).await,
                false => self.report_beside(way, tls, &report).await,
            };
            let Err(error) = reported else { return Ok(()) };
            if matches!(&connection.sender, Sender::Two(sender) if sender.is_closed()) {
                return Err(error);
            }
            tries += 1;
            way.pause(tries, error).await?;
        }
    }

    async fn report_beside(
        &self,
        way: &Way,
        tls: &TlsConnector,
        report: &ReportRequest,
    ) -> Result<()> {
        let turn = way.reports.acquire().await?;
        let mut beside = self.connect(way, tls).await?;
        let told = self.tell(&mut beside, REPORT_PATH, report).await;
        drop(turn);
        told
    }
}
