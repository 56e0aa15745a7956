//! The admin socket: a unix socket that root and the group of its directory may open.

use super::{admin_api::LocalUser, listen::stop};
use axum::Router;
use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    sync::watch,
};

/// Why there is no admin socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers there.
    #[error(
        "a coordinator is running already: it answers on {path} (stop it with systemctl stop \
         weir-coordinator, or start this one with another --socket and --state-dir)"
    )]
    Running {
        /// The socket.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot make the admin socket {path}: run as root, or name another one with --socket")]
    Bind {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The listening socket. Its file goes away with [`SocketFile`].
pub(super) async fn bind(path: &Path) -> Result<(UnixListener, SocketFile), SocketError> {
    if UnixStream::connect(path).await.is_ok() {
        return Err(SocketError::Running {
            path: path.to_owned(),
        });
    }
    let make = || {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        // Nobody answered, so it was left by a coordinator that died.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        let file = SocketFile(path.to_owned());
        fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
        Ok((listener, file))
    };
    make().map_err(|source| SocketError::Bind {
        path: path.to_owned(),
        source,
    })
}

/// Takes the socket's file away when it is dropped, so that the command line can say that nobody
/// is running.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::debug!(path = %self.0.display(), %error, "cannot remove the admin socket");
        }
    }
}

/// Serves metrics and health until `stopping` turns true.
pub(super) async fn serve_open(
    listener: TcpListener,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) {
    let served = axum::serve(listener, router)
        .with_graceful_shutdown(async move { stop(&mut stopping).await });
    if let Err(error) = served.await {
        tracing::error!(%error, "metrics are served no more; restart the coordinator");
    }
}

/// Serves the admin API until `stopping` turns true.
pub(super) async fn serve(
    listener: UnixListener,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) {
    let service = router.into_make_service_with_connect_info::<LocalUser>();
    let served = axum::serve(listener, service)
        .with_graceful_shutdown(async move { stop(&mut stopping).await });
    if let Err(error) = served.await {
        tracing::error!(%error, "the admin socket failed; restart the coordinator");
    }
}
