//! Several coordinators on one PostgreSQL.

use crate::{
    agent::{Agent, refused_or_done},
    postgres::{self, Cluster},
    process::Process,
    server::{ALLOW_ALL, TestServer, run},
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use weir_coordinator::store::Store;
use weir_overlay::{Generation, NodeId, NodePrivateKey};
use weir_protocol::{
    ErrorCode, MAP_PATH, MapRequest, NetworkMap, REGISTER_PATH, RegisterResponse, RouteState,
    StreamMessage, UPDATE_PATH, UpdateRequest,
};

/// Longer than anything here may take, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(90);

/// A policy that can be told from all others by the port that it allows.
fn policy(port: u16) -> String {
    format!(r#"{{"acls": [{{"action": "accept", "src": ["*"], "dst": ["*:{port}"]}}]}}"#)
}

/// The policy that a map was made with; none before there is one.
fn port(map: &NetworkMap) -> Option<u16> {
    Some(map.filter.first()?.destinations.first()?.ports.first)
}

/// What the agents saw of all coordinators.
#[derive(Default)]
struct Seen {
    /// The content of each map, as JSON.
    contents: BTreeMap<(NodeId, Generation), String>,
    /// The newest map of each agent.
    newest: BTreeMap<usize, NetworkMap>,
    /// How many streams of each agent ended.
    ended: BTreeMap<usize, usize>,
}

impl Seen {
    fn take(&mut self, agent: usize, map: NetworkMap) {
        let content = serde_json::to_string(&map).unwrap();
        let known = self
            .contents
            .entry((map.node.id, map.generation))
            .or_insert_with(|| content.clone());
        assert_eq!(*known, content, "one number, two maps");
        if let Some(before) = self.newest.get(&agent) {
            assert!(map.generation >= before.generation);
            assert!(port(&map) >= port(before), "back to an older policy");
        }
        self.newest.insert(agent, map);
    }
}

/// An agent as far as maps go: moves on to the next coordinator when a stream ends, takes no map
/// that is older than the one it has.
async fn roam(
    number: usize,
    agent: Agent,
    coordinators: Arc<Mutex<Vec<SocketAddr>>>,
    seen: Arc<Mutex<Seen>>,
) {
    let mut agent = agent;
    for turn in number.. {
        {
            let coordinators = coordinators.lock().unwrap();
            agent.address = coordinators[turn % coordinators.len()];
        }
        follow(number, &agent, &seen).await;
        *seen.lock().unwrap().ended.entry(number).or_default() += 1;
        sleep(Duration::from_millis(100)).await;
    }
}

async fn follow(number: usize, agent: &Agent, seen: &Mutex<Seen>) -> Option<()> {
    let held = seen
        .lock()
        .unwrap()
        .newest
        .get(&number)
        .map(|map| map.generation);
    let request = agent.prepare(MAP_PATH, &MapRequest { held, digest: None });
    let answer = timeout(Duration::from_secs(15), agent.try_send(&request)).await;
    let mut answer = answer.ok()?.ok().filter(|answer| answer.status() == 200)?;
    let mut buffer = Vec::new();
    loop {
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let mut seen = seen.lock().unwrap();
            match serde_json::from_slice(&line).unwrap() {
                StreamMessage::Full { map } => {
                    let held = seen.newest.get(&number).map(|map| map.generation);
                    if held.is_none_or(|held| held <= map.generation) {
                        seen.take(number, *map);
                    }
                }
                StreamMessage::Delta { delta } => {
                    let mut map = seen.newest.get(&number)?.clone();
                    // Not made for the map it has: it asks anew.
                    weir_netmap::apply(&mut map, &delta).ok()?;
                    seen.take(number, map);
                }
                StreamMessage::Heartbeat { .. } | StreamMessage::Closing { .. } => {}
            }
        }
        buffer.extend_from_slice(&answer.chunk().await.ok()??);
    }
}

/// Three coordinators, and an admin who changes the policy again and again at each in turn.
struct World {
    directory: TempDir,
    database: String,
    processes: BTreeMap<usize, Process>,
    next: u16,
    /// Which port each acknowledged revision of the policy allows.
    acknowledged: BTreeMap<u64, u16>,
}

impl World {
    fn home(&self, number: usize) -> PathBuf {
        self.directory.path().join(number.to_string())
    }

    async fn start(&mut self, number: usize) {
        let home = self.home(number);
        let state = home.join("state");
        if !state.exists() {
            std::fs::create_dir_all(&state).unwrap();
            if number > 0 {
                for file in ["tls-key.pem", "tls-cert.pem"] {
                    std::fs::copy(self.home(0).join("state").join(file), state.join(file)).unwrap();
                }
            }
        }
        let process = Process::start(&home, Some(&self.database)).await;
        self.processes.insert(number, process);
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.processes
            .values()
            .map(|process| process.address)
            .collect()
    }

    /// Tries the next change at one coordinator. Says what went wrong.
    async fn change(&mut self, number: usize) -> Result<(), String> {
        let port = self.next;
        self.next += 1;
        let home = self.home(number);
        let file = home.join(format!("{port}.hujson"));
        std::fs::write(&file, policy(port)).unwrap();
        let file = file.to_str().unwrap();
        let output = run(&home, &["policy", "set", file, "--json"]).await;
        if !output.status.success() {
            return Err(String::from_utf8(output.stderr).unwrap());
        }
        let done: Value = serde_json::from_slice(&output.stdout).unwrap();
        self.acknowledged
            .insert(done["revision"].as_u64().unwrap(), port);
        Ok(())
    }

    /// Makes changes at all that run until so many more are acknowledged.
    async fn changes(&mut self, more: usize) {
        let wanted = self.acknowledged.len() + more;
        let started = Instant::now();
        while self.acknowledged.len() < wanted {
            assert!(started.elapsed() < DEADLINE, "no change works");
            let running: Vec<_> = self.processes.keys().copied().collect();
            for number in running {
                // Whether it worked is in the list.
                self.change(number).await.ok();
            }
        }
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < DEADLINE, "never: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn json(home: &Path, arguments: &[&str]) -> Value {
    let output = run(home, &[arguments, &["--json"]].concat()).await;
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_lose_one_and_then_the_database_in_the_middle_of_changes() {
    let mut cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap();
    let database = cluster.database().await;
    let mut world = World {
        directory: tempfile::tempdir().unwrap(),
        database,
        processes: BTreeMap::new(),
        next: 1,
        acknowledged: BTreeMap::new(),
    };
    for number in 0..3 {
        world.start(number).await;
    }
    let coordinators = Arc::new(Mutex::new(world.addresses()));
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut agents = tokio::task::JoinSet::new();
    json(&world.home(0), &["users", "create", "alice"]).await;
    for number in 0..4 {
        let first = &world.processes[&(number % 3)];
        let key = ["keys", "create", "--user", "alice"];
        let key = json(&world.home((number + 1) % 3), &key).await;
        let agent = Agent::at(first.address, first.pin, &format!("agent-{number}"));
        agent.join(key["key"].as_str().unwrap()).await.unwrap();
        agents.spawn(roam(
            number,
            agent,
            Arc::clone(&coordinators),
            Arc::clone(&seen),
        ));
    }
    let converged = |port_wanted: u16| {
        let seen = seen.lock().unwrap();
        seen.newest.len() == 4
            && seen
                .newest
                .values()
                .all(|map| port(map) == Some(port_wanted) && map.peers.len() == 3)
    };
    world.changes(6).await;
    let newest = *world.acknowledged.values().last().unwrap();
    until("all have the newest policy", || converged(newest)).await;

    // One is killed in the middle of changes.
    let victim = world.processes.remove(&0).unwrap();
    let (killed, ()) = tokio::join!(
        async {
            sleep(Duration::from_millis(150)).await;
            victim.kill().await;
        },
        world.changes(6)
    );
    let () = killed;
    world.changes(2).await;
    let newest = *world.acknowledged.values().last().unwrap();
    until("all have moved on", || converged(newest)).await;

    // The database goes, in the middle of changes, and nobody loses its stream.
    let ended = seen.lock().unwrap().ended.clone();
    let (pulled, ()) = tokio::join!(
        async {
            sleep(Duration::from_millis(150)).await;
            tokio::task::spawn_blocking(move || {
                cluster.pull_the_plug();
                cluster
            })
            .await
            .unwrap()
        },
        async { while world.change(1).await.is_ok() {} }
    );
    cluster = pulled;
    let said = world.change(2).await.unwrap_err();
    assert!(said.contains("database does not answer"), "{said}");
    assert_eq!(
        seen.lock().unwrap().ended,
        ended,
        "streams ended with the database"
    );

    // It comes back, and so does the first coordinator.
    let _cluster = tokio::task::spawn_blocking(move || {
        cluster.plug_in();
        cluster
    })
    .await
    .unwrap();
    world.changes(4).await;
    world.start(0).await;
    *coordinators.lock().unwrap() = world.addresses();
    world.changes(3).await;
    world.change(0).await.unwrap();
    let newest = *world.acknowledged.values().last().unwrap();
    until("all converge", || converged(newest)).await;
    for (revision, port) in &world.acknowledged {
        let revision = revision.to_string();
        let stored = json(&world.home(2), &["policy", "get", "--revision", &revision]).await;
        assert_eq!(
            stored["text"],
            policy(*port),
            "an acknowledged change is lost"
        );
    }
    json(&world.home(1), &["audit", "verify"]).await;
    assert!(
        agents.try_join_next().is_none(),
        "an agent saw something wrong"
    );
}

#[tokio::test]
async fn what_one_accepted_no_other_accepts_again() {
    let database = postgres::database().await;
    let one = TestServer::start_on(database.clone()).await;
    one.set_policy(ALLOW_ALL).await;
    let other = one.start_beside(database).await;
    let mut agent = Agent::new(&one, "alice");
    agent.join(&one.key("alice").await).await.unwrap();
    let host = agent.host.clone();
    let request = agent.prepare(UPDATE_PATH, &UpdateRequest { host });
    refused_or_done(agent.send(&request).await).await.unwrap();
    agent.address = other.address;
    let again = refused_or_done(agent.send(&request).await).await;
    assert!(again.unwrap_err().detail.contains("received before"));
    // A new one is as good there.
    agent.update().await.unwrap();
    // And so is a change, within the moment that a hint takes.
    let mut stream = agent.map_stream(None).await;
    stream.first().await;
    let bob = Agent::new(&one, "bob");
    bob.join(&one.key("bob").await).await.unwrap();
    stream.until(|map| map.peers.len() == 1).await;
    // Who is connected to one is shown by the other, and a new agent is told of both.
    until_shown(&one, "alice").await;
    let created = one.json(&["keys", "create", "--user", "alice"]).await;
    let both = format!("https://{},https://{} ", one.address, other.address);
    assert!(
        created["command"].as_str().unwrap().contains(&both),
        "{created}"
    );
}

async fn until_shown(server: &TestServer, node: &str) {
    let started = Instant::now();
    while server.json(&["nodes", "show", node]).await["online"] != true {
        assert!(
            started.elapsed() < DEADLINE,
            "{node} is not shown as connected"
        );
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn who_is_removed_at_one_is_refused_by_the_other_at_once() {
    let database = postgres::database().await;
    let one = TestServer::start_on(database.clone()).await;
    let other = one.start_beside(database.clone()).await;
    let mut agents = Vec::new();
    for name in ["deleted", "revoked", "rotated"] {
        let mut agent = Agent::new(&one, name);
        agent.join(&one.key("alice").await).await.unwrap();
        agent.address = other.address;
        // The other one knows it from here on.
        agent.update().await.unwrap();
        agents.push(agent);
    }
    one.json(&["nodes", "delete", "deleted"]).await;
    let refused = agents[0].update().await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::NotEnrolled);
    one.json(&["nodes", "revoke", "revoked"]).await;
    let refused = agents[1].update().await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::MachineRevoked);
    // Whoever has a new key is known by it, and stays who it is.
    let rotated = &mut agents[2];
    rotated.address = one.address;
    rotated.node_key = NodePrivateKey::from_bytes([77; 32]).public();
    let request = rotated.join_request(None, &[]);
    let renewed: RegisterResponse = rotated.call(REGISTER_PATH, &request).await.unwrap();
    rotated.address = other.address;
    rotated.update().await.unwrap();
    let again: RegisterResponse = rotated.call(REGISTER_PATH, &request).await.unwrap();
    assert_eq!((again.node_id, again.enrolled), (renewed.node_id, false));
    // One that was just started takes nobody for another either.
    let third = one.start_beside(database).await;
    for (agent, expected) in agents.iter_mut().zip([
        Some(ErrorCode::NotEnrolled),
        Some(ErrorCode::MachineRevoked),
        None,
    ]) {
        agent.address = third.address;
        assert_eq!(agent.update().await.err().map(|error| error.code), expected);
    }
}

#[tokio::test]
async fn a_relay_that_is_absent_is_replaced_by_all() {
    let database = postgres::database().await;
    let one = TestServer::start_on(database.clone()).await;
    one.set_policy(ALLOW_ALL).await;
    let other = one.start_beside(database.clone()).await;
    let key = one.key_with(&["--tags", "tag:relay", "--reusable"]).await;
    let older = Agent::new(&one, "older").advertising("8.8.8.8");
    let joined = older.join(&key).await.unwrap();
    let newer = Agent::new(&other, "newer").advertising("8.8.8.8");
    newer.join(&key).await.unwrap();
    for relay in ["older", "newer"] {
        one.json(&["routes", "approve", relay, "8.8.8.8"]).await;
    }
    let state = |map: &NetworkMap| map.node.routes.first().map(|route| route.state);
    let mut stream = newer.map_stream(None).await;
    stream
        .until(|map| state(map) == Some(RouteState::Standby))
        .await;
    // As the one that leads does once the grace is over.
    let store = Store::open(&database).await.unwrap();
    let mut tx = store.write().await.unwrap();
    tx.set_absent_nodes(&[joined.node_id].into()).await.unwrap();
    tx.commit().await.unwrap();
    stream
        .until(|map| state(map) == Some(RouteState::Serving))
        .await;
    // It is back, and stands by: a prefix moves only when it must.
    let mut back = older.map_stream(None).await;
    back.until(|map| state(map) == Some(RouteState::Standby))
        .await;
}

#[tokio::test]
async fn a_coordinator_with_another_key_is_turned_away() {
    let database = postgres::database().await;
    let one = TestServer::start_on(database.clone()).await;
    // It says that it is there every other second.
    let store = Store::open(&database).await.unwrap();
    let started = Instant::now();
    while store
        .read()
        .await
        .unwrap()
        .coordinators(0)
        .await
        .unwrap()
        .is_empty()
    {
        assert!(started.elapsed() < DEADLINE);
        sleep(Duration::from_millis(50)).await;
    }
    let error = TestServer::try_start_on(database).await.err().unwrap();
    assert!(error.to_string().contains("tls-key.pem"), "{error}");
    one.stop().await;
}

#[tokio::test]
async fn one_leads_at_a_time_and_an_old_lead_counts_no_more() {
    let database = postgres::database().await;
    let (one, two) = (
        Store::open(&database).await.unwrap(),
        Store::open(&database).await.unwrap(),
    );
    let mut first = one.candidate().unwrap();
    let mut second = two.candidate().unwrap();
    let epoch = first.lead().await.unwrap().unwrap();
    assert_eq!(first.lead().await.unwrap(), Some(epoch));
    assert_eq!(second.lead().await.unwrap(), None);
    assert!(two.read().await.unwrap().leads(epoch).await.unwrap());
    first.resign().await;
    let started = Instant::now();
    let next = loop {
        if let Some(next) = second.lead().await.unwrap() {
            break next;
        }
        assert!(started.elapsed() < DEADLINE);
        sleep(Duration::from_millis(20)).await;
    };
    assert!(next > epoch);
    assert!(!one.read().await.unwrap().leads(epoch).await.unwrap());
}
