//! The running server: listening sockets, TLS, both APIs, and how it starts and stops.

pub(crate) mod admin_api;
mod agent_api;
mod answer;
mod approval_page;
mod listen;
mod prompt;
mod signed;
mod socket;
mod stream;
mod tls;

pub use socket::SocketError;
pub use tls::TlsError;

use crate::{
    Coordinator, Identity,
    accounts::SetupCode,
    admin::{offer_setup, remove_scratch},
    clock,
    cluster::{self, Cluster},
    store::{Database, OpenError, Store, StoreError},
};
use agent_api::Stopping;
use nix::unistd::gethostname;
use socket::SocketFile;
use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tls::TlsIdentity;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::timeout};

/// How long each part of the server gets to end.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// What the server needs to know. All of it has a default in the command line.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where key and certificate are, and the database when it is a file.
    pub state_dir: PathBuf,
    /// Where everything else is stored; a file in the state directory when not given.
    pub database: Option<Database>,
    /// Where agents connect to. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where agents are told to connect to; made of the host's name and the port when not given.
    pub url: Option<String>,
    /// The admin socket.
    pub socket: PathBuf,
    /// Where metrics and health are served to whoever asks, without TLS; nowhere when not given.
    pub metrics_listen: Option<SocketAddr>,
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory cannot be made or used.
    #[error(
        "cannot use the state directory {path}: run as root or as its owner, or name another one \
         with --state-dir"
    )]
    StateDirectory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The database cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The database can be opened and not read.
    #[error("cannot read the database {database}: put a backup in its place")]
    Read {
        /// Which.
        database: String,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// The kernel gave no random numbers.
    #[error("the kernel gave no random numbers")]
    Random(#[from] getrandom::Error),
    /// Agents could not go from one to the other.
    #[error(
        "the coordinator at {url} uses the same database and has another key: copy tls-key.pem \
         and tls-cert.pem from its state directory to this one's"
    )]
    OtherKey {
        /// Where agents reach the other one.
        url: String,
    },
    /// There is no certificate to serve.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Another program has the port, or it may not be had.
    #[error(
        "cannot listen on {address}: stop the program that has it (ss -ltnp shows it), or choose \
         another with --listen"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The admin socket cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
}

/// A server that is up.
#[derive(Debug)]
pub struct Server {
    coordinator: Arc<Coordinator>,
    stopping: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    socket_file: SocketFile,
    setup_code: Option<SetupCode>,
    metrics_listen: Option<SocketAddr>,
}

impl Server {
    /// Opens the store, makes or reads the certificate, listens, and begins to serve.
    ///
    /// # Errors
    /// [`StartError`]; then nothing is left running.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let state_dir = &settings.state_dir;
        make_private_directory(state_dir).map_err(|source| StartError::StateDirectory {
            path: state_dir.clone(),
            source,
        })?;
        // Before anything is written: a second coordinator must not touch the first one's state.
        let (admin_listener, socket_file) = socket::bind(&settings.socket).await?;
        remove_scratch(state_dir).map_err(|source| StartError::StateDirectory {
            path: state_dir.clone(),
            source,
        })?;
        let listener =
            TcpListener::bind(settings.listen)
                .await
                .map_err(|source| StartError::Listen {
                    address: settings.listen,
                    source,
                })?;
        let open_listener = match settings.metrics_listen {
            Some(address) => Some(
                TcpListener::bind(address)
                    .await
                    .map_err(|source| StartError::Listen { address, source })?,
            ),
            None => None,
        };
        let metrics_listen = open_listener
            .as_ref()
            .and_then(|listener| listener.local_addr().ok());
        let listen = listener.local_addr().unwrap_or(settings.listen);
        let url = settings.url.unwrap_or_else(|| default_url(listen));
        let tls = TlsIdentity::load_or_make(state_dir, &certificate_names(&url, listen))?;
        let database = settings
            .database
            .unwrap_or_else(|| Database::File(state_dir.join("coordinator.db")));
        let store = Store::open(&database).await?;
        let identity = Identity {
            url,
            listen,
            pin: tls.pin,
            started: clock::now(),
        };
        let unreadable = |source| StartError::Read {
            database: database.to_string(),
            source,
        };
        let member = Cluster::member(&identity)?;
        if store.is_shared() {
            let others = cluster::others(&store, &member).await.map_err(unreadable)?;
            if let Some(other) = others.into_iter().find(|other| other.pin != member.pin) {
                return Err(StartError::OtherKey { url: other.url });
            }
        }
        let (coordinator, engine) = Coordinator::start(store, identity, state_dir.clone(), member)
            .await
            .map_err(unreadable)?;
        let setup_code = offer_setup(&coordinator, SetupCode::generate()?)
            .await
            .map_err(unreadable)?;
        let (stopping, seen) = watch::channel(false);
        let agents = agent_api::router(Arc::clone(&coordinator), Stopping(seen.clone()));
        let admins = admin_api::router(Arc::clone(&coordinator));
        let agents = listen::serve(listener, tls.server_config(), agents, seen.clone());
        let admins = socket::serve(admin_listener, admins, seen.clone());
        let mut tasks = vec![tokio::spawn(agents), tokio::spawn(admins), engine];
        if let Some(listener) = open_listener {
            let open = admin_api::open_router(Arc::clone(&coordinator));
            tasks.push(tokio::spawn(socket::serve_open(listener, open, seen)));
        }
        Ok(Self {
            coordinator,
            stopping,
            tasks,
            socket_file,
            setup_code,
            metrics_listen,
        })
    }

    /// The code with which the first admin is made, when there is none yet. To be shown on the
    /// console only: whoever has it becomes an admin.
    #[must_use]
    pub fn setup_code(&self) -> Option<&str> {
        self.setup_code.as_ref().map(SetupCode::reveal)
    }

    /// What the server is known by.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.coordinator.identity
    }

    /// Where metrics and health are served to whoever asks.
    #[must_use]
    pub const fn metrics_listen(&self) -> Option<SocketAddr> {
        self.metrics_listen
    }

    /// Ends all streams and connections, and closes the store.
    pub async fn stop(self) {
        self.coordinator.stop();
        self.stopping.send_replace(true);
        let Self {
            coordinator,
            tasks,
            socket_file,
            ..
        } = self;
        let (store, member) = (coordinator.store.clone(), coordinator.member.clone());
        drop(coordinator);
        for mut task in tasks {
            match timeout(STOP_DEADLINE, &mut task).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "a part of the server ended badly"),
                // A client that does not go away must not hold up the restart.
                Err(_) => task.abort(),
            }
        }
        if store.is_shared() {
            cluster::leave(&store, &member).await;
        }
        store.close().await;
        drop(socket_file);
    }
}

/// The state holds a private key and the policy: nobody else's business.
fn make_private_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)?;
    let metadata = fs::metadata(path)?;
    if metadata.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    }
    // Mode bits do not tell whether we may write: root may, a read-only disk may not.
    let probe = path.join(".writable");
    fs::write(&probe, b"")?;
    fs::remove_file(&probe)
}

fn default_url(listen: SocketAddr) -> String {
    if !listen.ip().is_unspecified() {
        return format!("https://{listen}");
    }
    // Not from /proc, which a hardened unit hides.
    let host = gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned());
    format!("https://{host}:{}", listen.port())
}

/// What is written into a certificate that is made. Agents go by the pin, so this is for browsers
/// and people.
fn certificate_names(url: &str, listen: SocketAddr) -> Vec<String> {
    let mut names = vec!["localhost".to_owned()];
    if let Some(host) = url
        .parse::<http::Uri>()
        .ok()
        .and_then(|url| Some(url.host()?.trim_matches(['[', ']']).to_owned()))
    {
        names.push(host);
    }
    if !listen.ip().is_unspecified() {
        names.push(listen.ip().to_string());
    }
    names.sort();
    names.dedup();
    names
}
