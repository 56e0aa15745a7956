//! Connections: accepting them, TLS, time limits, and ending them in good order.

use super::{prompt::Prompt, signed::PeerAddress};
use axum::Router;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use nix::sys::socket::{setsockopt, sockopt::TcpUserTimeout};
use rustls::ServerConfig;
use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

/// The most connections at a time: ten thousand agents with one stream and one request each.
const MAX_CONNECTIONS: usize = 20_000;
/// How long a TLS handshake may take.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// How many TLS handshakes run at a time. They are most of what a new connection costs: done one
/// after the other the first agents are served while the last still wait, instead of all waiting
/// until none has patience left.
const MAX_HANDSHAKES: usize = 128;
/// How long a handshake counts as one of them. A slow peer goes on beside the others, so that
/// silent connections keep nobody out.
const HANDSHAKE_TURN: Duration = Duration::from_millis(500);
/// How long the head of a request may take, and the first bytes of a connection.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// How long sent data may stay unacknowledged until the peer counts as gone: one and a half
/// heartbeats of the map stream.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
/// How long connections get to end when the coordinator stops.
const STOP_DEADLINE: Duration = Duration::from_secs(3);
/// The pause after a failed accept: when files run out, trying at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves TLS connections until `stopping` turns true.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) {
    let acceptor = TlsAcceptor::from(tls);
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop(&mut stopping) => break,
            accepted = accept(&listener, &room) => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let (permit, stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (acceptor, router, stopping) = (acceptor.clone(), router.clone(), stopping.clone());
        let handshakes = Arc::clone(&handshakes);
        connections.spawn(async move {
            connection(stream, peer, &acceptor, &handshakes, router, stopping).await;
            drop(permit);
        });
    }
    drop(listener);
    let ended = timeout(STOP_DEADLINE, async {
        while connections.join_next().await.is_some() {}
    });
    if ended.await.is_err() {
        tracing::info!(
            left = connections.len(),
            "closed connections that did not end in time"
        );
    }
}

/// Waits until the server is told to stop, or is gone altogether.
pub(super) async fn stop(stopping: &mut watch::Receiver<bool>) {
    stopping.wait_for(|stopping| *stopping).await.ok();
}

/// Waits for room before it accepts, so that the kernel's backlog holds back what is too much.
async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> std::io::Result<(OwnedSemaphorePermit, TcpStream, SocketAddr)> {
    let permit = Arc::clone(room)
        .acquire_owned()
        .await
        .map_err(std::io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((permit, stream, peer))
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: &TlsAcceptor,
    handshakes: &Semaphore,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) {
    let unacknowledged = u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = setsockopt(&stream, TcpUserTimeout, &unacknowledged) {
        tracing::debug!(%peer, %error, "cannot set TCP_USER_TIMEOUT");
    }
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "cannot set TCP_NODELAY");
    }
    let handshake = async {
        // Never closed.
        let turn = handshakes.acquire().await;
        let mut handshake = pin!(timeout(HANDSHAKE_DEADLINE, acceptor.accept(stream)));
        if let Ok(done) = timeout(HANDSHAKE_TURN, handshake.as_mut()).await {
            return done;
        }
        drop(turn);
        handshake.await
    };
    let stream = match handshake.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::info!(%peer, %error, "a TLS handshake failed");
            return;
        }
        Err(_) => {
            tracing::info!(%peer, "a TLS handshake took too long");
            return;
        }
    };
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(PeerAddress(peer));
        router.clone().oneshot(request.map(axum::body::Body::new))
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(16)
        .keep_alive_interval(Some(UNACKNOWLEDGED))
        .keep_alive_timeout(HANDSHAKE_DEADLINE);
    let stream = TokioIo::new(Prompt::new(stream, HEAD_DEADLINE));
    let mut serving = pin!(builder.serve_connection(stream, service));
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = stop(&mut stopping) => {
            serving.as_mut().graceful_shutdown();
            serving.as_mut().await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn so_many_are_served_and_the_next_one_waits_for_room() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let room = Arc::new(Semaphore::new(1));
        let _one = TcpStream::connect(address).await.unwrap();
        let _other = TcpStream::connect(address).await.unwrap();
        let (permit, ..) = accept(&listener, &room).await.unwrap();
        let mut next = pin!(accept(&listener, &room));
        let soon = Duration::from_millis(50);
        assert!(timeout(soon, next.as_mut()).await.is_err());
        drop(permit);
        drop(next.await.unwrap());
    }
}
