//! Who takes ever so long with a request is cut off, and keeps nobody waiting.

use crate::{
    agent::{Agent, tls},
    server::TestServer,
};
use rustls::pki_types::ServerName;
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Longer than the longest deadline, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

async fn open(server: &TestServer, protocol: &[u8]) -> TlsStream<TcpStream> {
    let mut config = tls(server.pin);
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.unwrap()
}

/// Sends the beginning at once and then a byte every quarter of a second, until the other end has
/// enough of it. Gives what it said.
async fn dribble(mut stream: TlsStream<TcpStream>, beginning: &str, more: bool) -> String {
    // Whatever was not taken shows in what is read.
    stream.write_all(beginning.as_bytes()).await.ok();
    stream.flush().await.ok();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let writing = async {
        while more && writer.write_all(b"x").await.is_ok() && writer.flush().await.is_ok() {
            sleep(Duration::from_millis(250)).await;
        }
        std::future::pending::<()>().await;
    };
    let mut said = Vec::new();
    let reading = async {
        // An end without a farewell is an end.
        reader.read_to_end(&mut said).await.ok();
    };
    tokio::select! {
        () = writing => {}
        ended = timeout(DEADLINE, reading) => ended.expect("the connection is still open"),
    }
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test]
async fn who_dribbles_is_cut_off_and_keeps_nobody_waiting() {
    const HEAD: &str = "POST /agent/v1/report HTTP/1.1\r\nHost: localhost\r\n";
    let server = TestServer::start().await;
    let agent = Agent::new(&server, "laptop");
    let key = server.key("alice").await;
    let whole = format!(
        "{HEAD}Connection: close\r\nContent-Length: 100000\r\nContent-Digest: a\r\n\
         Signature-Input: b\r\nSignature: c\r\n\r\n"
    );
    let (silent, silent_2, head, body) = (
        open(&server, b"http/1.1").await,
        open(&server, b"h2").await,
        open(&server, b"http/1.1").await,
        open(&server, b"http/1.1").await,
    );
    let others = async {
        agent.join(&key).await.unwrap();
        agent.update().await.unwrap();
        agent.map_stream(None).await.first().await;
    };
    let head_only = format!("{HEAD}X-Slow: ");
    let (.., body, ()) = tokio::join!(
        dribble(silent, "", false),
        dribble(silent_2, "", false),
        dribble(head, &head_only, true),
        dribble(body, &whole, true),
        others
    );
    assert!(body.starts_with("HTTP/1.1 400"), "{body}");
    assert!(body.contains("did not arrive within"), "{body}");
    agent.update().await.unwrap();
}
