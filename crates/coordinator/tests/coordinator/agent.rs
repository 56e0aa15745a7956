//! An agent, as far as the protocol goes: keys, signed requests, a pinned TLS connection.

use crate::server::TestServer;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use weir_overlay::{MachinePrivateKey, NodePrivateKey, NodePublicKey, Tag};
use weir_protocol::{
    HostInfo, MAP_PATH, MapRequest, NetworkMap, Pin, ProblemDetails, REGISTER_PATH,
    RegisterRequest, RegisterResponse, SignedHeaders, StreamMessage, UPDATE_PATH, UpdateRequest,
    sign,
};

/// Longer than anything here may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// Accepts the certificate with this pin and no other.
#[derive(Debug)]
struct Pinned {
    pin: Pin,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = x509_parser::parse_x509_certificate(certificate).ok();
        parsed
            .filter(|(_, seen)| Pin::of_public_key_info(seen.public_key().raw) == self.pin)
            .map(|_| ServerCertVerified::assertion())
            .ok_or_else(|| rustls::Error::General("another pin".into()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// What trusts this pin only.
pub(crate) fn tls(pin: Pin) -> ClientConfig {
    let provider = Arc::new(ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { pin, algorithms }))
        .with_no_client_auth()
}

/// A client that trusts this pin only.
pub(crate) fn client(pin: Pin) -> reqwest::Client {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls(pin))
        .build()
        .unwrap()
}

pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

pub(crate) struct Agent {
    pub(crate) address: SocketAddr,
    pub(crate) http: reqwest::Client,
    pub(crate) machine: MachinePrivateKey,
    pub(crate) node_key: NodePublicKey,
    pub(crate) host: HostInfo,
}

/// A request, ready to be sent as it is or tampered with.
pub(crate) struct Prepared {
    pub(crate) path: &'static str,
    pub(crate) headers: SignedHeaders,
    pub(crate) body: Vec<u8>,
}

impl Agent {
    pub(crate) fn new(server: &TestServer, hostname: &str) -> Self {
        Self::at(server.address, server.pin, hostname)
    }

    pub(crate) fn at(address: SocketAddr, pin: Pin, hostname: &str) -> Self {
        Self {
            address,
            http: client(pin),
            machine: MachinePrivateKey::from_bytes(random()),
            node_key: NodePrivateKey::from_bytes(random()).public(),
            host: HostInfo {
                hostname: hostname.to_owned(),
                version: "0.1.0".to_owned(),
                os: "Debian GNU/Linux 12".to_owned(),
                listen_port: 51920,
                addresses: BTreeSet::from(["127.0.0.1".parse().unwrap()]),
                endpoint: None,
                advertised_routes: BTreeSet::new(),
            },
        }
    }

    pub(crate) fn advertising(mut self, routes: &str) -> Self {
        self.host.advertised_routes = weir_overlay::parse_prefix_list(routes)
            .unwrap()
            .into_iter()
            .collect();
        self
    }

    /// Finds the server again after it was restarted at another port.
    pub(crate) fn follow(&mut self, server: &TestServer) {
        self.address = server.address;
    }

    pub(crate) fn prepare<T: Serialize>(&self, path: &'static str, body: &T) -> Prepared {
        self.prepare_at(path, body, now())
    }

    pub(crate) fn prepare_at<T: Serialize>(
        &self,
        path: &'static str,
        body: &T,
        at: i64,
    ) -> Prepared {
        let body = serde_json::to_vec(body).unwrap();
        Prepared {
            path,
            headers: sign(&self.machine, "POST", path, &body, at, random()),
            body,
        }
    }

    pub(crate) async fn send(&self, request: &Prepared) -> reqwest::Response {
        self.try_send(request).await.unwrap()
    }

    pub(crate) async fn try_send(&self, request: &Prepared) -> reqwest::Result<reqwest::Response> {
        self.http
            .post(format!("https://{}{}", self.address, request.path))
            .header("content-digest", &request.headers.content_digest)
            .header("signature-input", &request.headers.signature_input)
            .header("signature", &request.headers.signature)
            .body(request.body.clone())
            .send()
            .await
    }

    pub(crate) async fn call<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &'static str,
        body: &B,
    ) -> Result<T, ProblemDetails> {
        answer(self.send(&self.prepare(path, body)).await).await
    }

    pub(crate) fn join_request(&self, key: Option<&str>, tags: &[&str]) -> RegisterRequest {
        RegisterRequest {
            auth_key: key.map(str::to_owned),
            node_key: self.node_key,
            tags: tags.iter().map(|tag| tag.parse::<Tag>().unwrap()).collect(),
            host: self.host.clone(),
            reauthenticate: false,
        }
    }

    pub(crate) async fn join(&self, key: &str) -> Result<RegisterResponse, ProblemDetails> {
        let request = self.join_request(Some(key), &[]);
        self.call(REGISTER_PATH, &request).await
    }

    pub(crate) async fn update(&self) -> Result<(), ProblemDetails> {
        let request = UpdateRequest {
            host: self.host.clone(),
        };
        refused_or_done(self.send(&self.prepare(UPDATE_PATH, &request)).await).await
    }

    pub(crate) async fn map_stream(&self, held: Option<&NetworkMap>) -> MapStream {
        let request = MapRequest {
            held: held.map(|map| map.generation),
            digest: held.and_then(NetworkMap::digest),
        };
        let response = self.send(&self.prepare(MAP_PATH, &request)).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/x-ndjson");
        Self::read_stream(response)
    }

    pub(crate) const fn read_stream(response: reqwest::Response) -> MapStream {
        MapStream {
            response,
            buffer: Vec::new(),
            map: None,
        }
    }
}

pub(crate) async fn answer<T: DeserializeOwned>(
    response: reqwest::Response,
) -> Result<T, ProblemDetails> {
    if response.status().is_success() {
        return Ok(response.json().await.unwrap());
    }
    Err(problem(response).await)
}

pub(crate) async fn refused_or_done(response: reqwest::Response) -> Result<(), ProblemDetails> {
    if response.status().is_success() {
        return Ok(());
    }
    Err(problem(response).await)
}

async fn problem(response: reqwest::Response) -> ProblemDetails {
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    let status = response.status().as_u16();
    let problem: ProblemDetails = response.json().await.unwrap();
    assert_eq!(problem.status, status);
    problem
}

/// A map stream, and the map that its messages make.
pub(crate) struct MapStream {
    response: reqwest::Response,
    buffer: Vec<u8>,
    pub(crate) map: Option<NetworkMap>,
}

impl MapStream {
    /// The next message; none when the stream ended.
    pub(crate) async fn next(&mut self) -> Option<StreamMessage> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let chunk = tokio::time::timeout(DEADLINE, self.response.chunk())
                .await
                .expect("the stream is silent");
            match chunk.ok().flatten() {
                Some(bytes) => self.buffer.extend_from_slice(&bytes),
                None => return None,
            }
        }
    }

    /// Applies messages until the map is as wanted.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&NetworkMap) -> bool) -> &NetworkMap {
        while !self.map.as_ref().is_some_and(&wanted) {
            match self.next().await.expect("the stream ended") {
                StreamMessage::Full { map } => self.map = Some(*map),
                StreamMessage::Delta { delta } => {
                    weir_netmap::apply(self.map.as_mut().unwrap(), &delta).unwrap();
                }
                StreamMessage::Heartbeat { .. } | StreamMessage::Closing { .. } => {}
            }
        }
        self.map.as_ref().unwrap()
    }

    /// The map there is now.
    pub(crate) async fn first(&mut self) -> NetworkMap {
        self.until(|_| true).await.clone()
    }
}
