//! A coordinator of a few lines, on loopback in the clear: says what a test tells it to say.

use std::sync::{Arc, Mutex};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::broadcast,
    task::JoinHandle,
};
use weir_overlay::{NodeId, NodePublicKey};
use weir_protocol::{
    APPROVAL_PATH, ApprovalAnswer, ApprovalRequest, DOWN_PATH, DownResponse, ErrorCode, MAP_PATH,
    MapRequest, NetworkMap, ProblemDetails, REGISTER_PATH, RegisterRequest, RegisterResponse,
    SignedHeaders, StreamMessage, verify,
};

/// What the coordinator does and has seen.
#[derive(Debug, Default)]
pub(super) struct Script {
    /// The map that a stream begins with.
    pub(super) map: Option<NetworkMap>,
    /// What it says to who registers, instead of yes.
    pub(super) refusal: Option<ProblemDetails>,
    /// What it says to everybody, instead of anything else.
    pub(super) shuts_out: Option<ProblemDetails>,
    /// What it says to who asks to be let in; without it, it does not know such requests.
    pub(super) approval: Option<ApprovalAnswer>,
    /// The codes that were asked about, in their order.
    pub(super) codes: Vec<Option<String>>,
    /// Whether it takes requests and never answers.
    pub(super) silent: bool,
    /// The paths of the requests, in their order.
    pub(super) requests: Vec<String>,
    /// The WireGuard keys of those who registered, in their order.
    pub(super) node_keys: Vec<NodePublicKey>,
    /// What map requests said they hold.
    pub(super) held: Vec<Option<u64>>,
}

/// The running coordinator; ends when dropped, and all its connections with it.
#[derive(Debug)]
pub(super) struct FakeCoordinator {
    /// Where it is.
    pub(super) url: String,
    script: Arc<Mutex<Script>>,
    lines: broadcast::Sender<String>,
    task: JoinHandle<()>,
}

impl Drop for FakeCoordinator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeCoordinator {
    pub(super) async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let script = Arc::new(Mutex::new(script));
        let (lines, _) = broadcast::channel(16);
        let task = tokio::spawn({
            let (script, lines) = (Arc::clone(&script), lines.clone());
            async move {
                let mut connections = tokio::task::JoinSet::new();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    connections.spawn(serve(stream, Arc::clone(&script), lines.clone()));
                }
            }
        });
        Self {
            url,
            script,
            lines,
            task,
        }
    }

    /// Changes what it does, or looks at what it has seen.
    pub(super) fn script<T>(&self, look: impl FnOnce(&mut Script) -> T) -> T {
        look(&mut self.script.lock().unwrap())
    }

    /// Sends a message on the open map streams.
    pub(super) fn send(&self, message: &StreamMessage) {
        let line = serde_json::to_string(message).unwrap();
        drop(self.lines.send(format!("{line}\n")));
    }
}

struct Request {
    path: String,
    body: Vec<u8>,
}

/// Reads one request and checks its signature.
async fn read(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut first = String::new();
    reader.read_line(&mut first).await.ok()?;
    let path = first.split_whitespace().nth(1)?.to_owned();
    let mut headers = std::collections::BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    reader.read_exact(&mut body).await.ok()?;
    let signed = SignedHeaders {
        content_digest: headers["content-digest"].clone(),
        signature_input: headers["signature-input"].clone(),
        signature: headers["signature"].clone(),
    };
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let now = i64::try_from(now.as_secs()).unwrap();
    verify(&signed, "POST", &path, &body, now).expect("every request is signed");
    Some(Request { path, body })
}

async fn serve(stream: TcpStream, script: Arc<Mutex<Script>>, lines: broadcast::Sender<String>) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader).await {
        let mut news = lines.subscribe();
        let (answer, silent) = {
            let mut script = script.lock().unwrap();
            script.requests.push(request.path.clone());
            (answer(&mut script, &request), script.silent)
        };
        if silent {
            std::future::pending::<()>().await;
        }
        if reader.get_mut().write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        if request.path == MAP_PATH {
            while let Ok(line) = news.recv().await {
                if reader.get_mut().write_all(line.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn answer(script: &mut Script, request: &Request) -> String {
    let whole = |status: &str, body: String| {
        format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    if let Some(problem) = &script.shuts_out {
        return whole("403 Forbidden", serde_json::to_string(problem).unwrap());
    }
    match (request.path.as_str(), &script.refusal) {
        (DOWN_PATH, _) => {
            let response = DownResponse { deleted: true };
            whole("200 OK", serde_json::to_string(&response).unwrap())
        }
        (REGISTER_PATH, Some(refusal)) => {
            whole("403 Forbidden", serde_json::to_string(refusal).unwrap())
        }
        (REGISTER_PATH, None) => {
            let asked: RegisterRequest = serde_json::from_slice(&request.body).unwrap();
            script.node_keys.push(asked.node_key);
            let map = script.map.as_ref().unwrap();
            let response = RegisterResponse {
                node_id: NodeId(1),
                name: map.node.name.clone(),
                addresses: map.node.addresses.clone(),
                enrolled: false,
            };
            whole("200 OK", serde_json::to_string(&response).unwrap())
        }
        (APPROVAL_PATH, _) => {
            let asked: ApprovalRequest = serde_json::from_slice(&request.body).unwrap();
            script.codes.push(asked.code);
            match &script.approval {
                Some(answer) => whole("200 OK", serde_json::to_string(answer).unwrap()),
                None => {
                    let problem = ProblemDetails {
                        code: ErrorCode::NotFound,
                        status: 404,
                        detail: "there is no such path".to_owned(),
                    };
                    whole("404 Not Found", serde_json::to_string(&problem).unwrap())
                }
            }
        }
        (MAP_PATH, _) => {
            let held: MapRequest = serde_json::from_slice(&request.body).unwrap();
            script.held.push(held.held.map(|held| held.0));
            let map = Box::new(script.map.clone().unwrap());
            let line = serde_json::to_string(&StreamMessage::Full { map }).unwrap();
            format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{line}\n")
        }
        (_, _) => whole("204 No Content", String::new()),
    }
}
