//! How the commands reach the coordinator: over its admin socket on this host, or over TLS and
//! with a token from elsewhere.

use crate::accounts::AdminToken;
use anyhow::{Context, anyhow, bail};
use http::{Uri, uri::Scheme};
use rustls::{ClientConfig, pki_types::ServerName};
use std::{
    fmt,
    io::ErrorKind,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use weir_protocol::Pin;
use weir_tls::{OtherPin, pinned, trusted};

/// How long a connection over the network may take to come about.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// The longest file with a token, in bytes.
const MAX_TOKEN_FILE: u64 = 4096;

/// A connection, whichever way.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Where the coordinator is.
#[derive(Debug)]
pub(super) enum Target {
    /// On this host: who may open the socket is an admin.
    Socket(PathBuf),
    /// Anywhere: the token says what may be done.
    Server(Box<Server>),
}

/// A coordinator on the network.
#[derive(Debug)]
pub(super) struct Server {
    /// Where it is.
    pub(super) url: ServerUrl,
    /// Its key; without it, its certificate must be one that this host trusts.
    pub(super) pin: Option<Pin>,
    /// What to show it.
    pub(super) token: AdminToken,
}

/// `https://HOST` or `https://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerUrl {
    host: String,
    port: u16,
}

impl FromStr for ServerUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is not of the form https://HOST:PORT");
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        let is_bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        let host = authority.host();
        if uri.scheme() != Some(&Scheme::HTTPS) || !is_bare || authority.as_str().contains('@') {
            return Err(wrong());
        }
        let port = authority.as_str().strip_prefix(host).unwrap_or_default();
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| wrong())?,
            None => 443,
        };
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}:{}", self.host, self.port)
    }
}

/// Reads a token from a file: alone, or behind `Authorization: Bearer`, as curl takes it.
pub(super) fn read_token(file: &Path) -> anyhow::Result<AdminToken> {
    let shown = file.display();
    let length = std::fs::metadata(file)
        .with_context(|| format!("cannot read the token file {shown}"))?
        .len();
    if length > MAX_TOKEN_FILE {
        bail!("the token file {shown} has {length} bytes: it holds no token");
    }
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the token file {shown}"))?;
    let text = text.trim();
    text.strip_prefix("Authorization: Bearer ")
        .unwrap_or(text)
        .trim()
        .parse()
        .with_context(|| {
            format!(
                "the token file {shown} holds no token: make one with `coordinator tokens create`"
            )
        })
}

impl Target {
    /// Opens a connection.
    pub(super) async fn connect(&self) -> anyhow::Result<Box<dyn Stream>> {
        match self {
            Self::Socket(path) => Ok(Box::new(open_socket(path).await?)),
            Self::Server(server) => timeout(CONNECT_DEADLINE, server.connect()).await.map_err(
                |_| {
                    let seconds = CONNECT_DEADLINE.as_secs();
                    anyhow!(
                        "no connection to {} within {seconds} seconds: does a firewall drop the \
                         packets?",
                        server.url
                    )
                },
            )?,
        }
    }

    /// The name in the `Host` header.
    pub(super) fn host(&self) -> String {
        match self {
            Self::Socket(_) => "coordinator".to_owned(),
            Self::Server(server) => format!("{}:{}", server.url.host, server.url.port),
        }
    }

    /// What to show of who is asking.
    pub(super) fn token(&self) -> Option<&AdminToken> {
        match self {
            Self::Socket(_) => None,
            Self::Server(server) => Some(&server.token),
        }
    }
}

async fn open_socket(socket: &Path) -> anyhow::Result<UnixStream> {
    let path = socket.display();
    let start = "start it with `systemctl start weir-coordinator`";
    let error = match UnixStream::connect(socket).await {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    let kind = error.kind();
    if kind == ErrorKind::NotFound {
        bail!("the coordinator is not running: no socket at {path}: {start}");
    }
    if kind == ErrorKind::ConnectionRefused {
        bail!("the coordinator is not running: nobody answers on {path}: {start}");
    }
    if kind == ErrorKind::PermissionDenied {
        bail!("you may not open the admin socket {path}: use sudo, or join the group that owns it");
    }
    Err(error).with_context(|| format!("cannot open the admin socket {path}"))
}

impl Server {
    async fn connect(&self) -> anyhow::Result<Box<dyn Stream>> {
        let url = &self.url;
        let bare = url.host.trim_start_matches('[').trim_end_matches(']');
        let (config, other) = self.tls()?;
        let stream = TcpStream::connect((bare, url.port))
            .await
            .with_context(|| format!("cannot reach the coordinator at {url}"))?;
        let name = ServerName::try_from(bare.to_owned())
            .with_context(|| format!("{url} names no host that a certificate could be for"))?;
        match TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
        {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(self.refused(error, other.take())),
        }
    }

    fn tls(&self) -> anyhow::Result<(ClientConfig, OtherPin)> {
        match self.pin {
            Some(pin) => pinned(pin),
            None => trusted().map(|config| (config, OtherPin::default())),
        }
        .context("cannot prepare TLS")
    }

    fn refused(&self, error: std::io::Error, seen: Option<Pin>) -> anyhow::Error {
        let url = &self.url;
        match (seen, self.pin) {
            (Some(seen), Some(wanted)) => anyhow!(
                "{url} is not the coordinator with the pin {wanted}: its pin is {seen}; check the \
                 URL, and who answers there"
            ),
            (Some(_) | None, None) => anyhow!(error).context(format!(
                "no safe connection to {url}: if its certificate is its own, give its pin, \
                 which `coordinator status` shows on its host, with --server-pin"
            )),
            (None, Some(_)) => anyhow!(error).context(format!("no safe connection to {url}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_a_host_and_perhaps_a_port_and_are_never_in_the_clear() {
        for (text, shown) in [
            ("https://weir.example.com", "https://weir.example.com:443"),
            ("https://192.0.2.1:8443/", "https://192.0.2.1:8443"),
            ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
        ] {
            assert_eq!(text.parse::<ServerUrl>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "weir.example.com",
            "http://weir.example.com",
            "https://weir.example.com/path",
            "https://carol@weir.example.com",
            "https://weir.example.com:port",
            "https://weir.example.com:99999",
            "https://weir.example.com?x",
        ] {
            assert!(text.parse::<ServerUrl>().is_err(), "{text}");
        }
    }
}
