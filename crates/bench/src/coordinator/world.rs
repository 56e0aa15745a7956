//! All agents of a network, what they hold, and what happens to them.

use super::{
    agent::{Agent, Event, Way},
    network::{EVERYBODY, Role, Text, roles},
    server::Server,
};
use anyhow::{Context as _, Result, bail};
use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{sleep, timeout},
};
use weir_protocol::NetworkMap;

/// The longest that anything may take.
const DEADLINE: Duration = Duration::from_secs(120);
/// What agents did and nobody has looked at yet. When it is full they wait; all fit who do
/// something at once.
const EVENTS: usize = 1 << 15;
/// How many machines enrol at a time.
const LANES: usize = 16;
/// The port that grants of a monitor open.
const MONITORED_PORT: u16 = 9100;

/// What a change took.
#[derive(Debug)]
pub(super) struct Spent {
    pub(super) time: Duration,
    /// Of the coordinator.
    pub(super) cpu_ms: f64,
    /// Lines of map streams.
    pub(super) bytes: usize,
    /// Until the last agent's report was taken, too.
    pub(super) reported: Duration,
}

pub(super) struct World {
    pub(super) server: Server,
    way: Way,
    auth_key: String,
    agents: Vec<Agent>,
    /// What each holds.
    maps: Vec<Option<NetworkMap>>,
    streams: JoinSet<Result<()>>,
    sender: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
    text: Text,
}

impl World {
    /// A coordinator and its enrolled agents, none of them connected; and how long each took to
    /// enrol.
    pub(super) async fn start(agents: usize, http2: bool) -> Result<(Self, Duration)> {
        let server = Server::start()?;
        let text = Text {
            agents,
            port: 22,
            monitored: false,
        };
        server.set_policy(&text.write()?).await?;
        let key = serde_json::json!({
            "tags": [EVERYBODY], "reusable": true, "expires_in_seconds": 86_400,
        });
        let key = server.admin("POST", "/keys", &key).await?;
        let auth_key = key["key"].as_str().context("no auth key came")?.to_owned();
        let roles = roles(agents);
        let agents = roles.into_iter().enumerate();
        let agents: Vec<_> = agents
            .map(|(number, role)| Agent::new(number, role))
            .collect();
        let (sender, events) = mpsc::channel(EVENTS);
        let world = Self {
            way: Way::new(server.address, http2),
            auth_key,
            maps: vec![None; agents.len()],
            agents,
            server,
            streams: JoinSet::new(),
            sender,
            events,
            text,
        };
        let start = Instant::now();
        world.enrol().await?;
        let each = start.elapsed() / u32::try_from(world.agents.len())?;
        Ok((world, each))
    }

    async fn enrol(&self) -> Result<()> {
        let lanes = Arc::new(Semaphore::new(LANES));
        let mut joining = JoinSet::new();
        for agent in &self.agents {
            let lane = Arc::clone(&lanes).acquire_owned().await?;
            let (agent, way, key) = (agent.clone(), self.way.clone(), self.auth_key.clone());
            joining.spawn(async move {
                let joined = agent.join(&way, &key).await;
                drop(lane);
                joined
            });
        }
        while let Some(joined) = joining.join_next().await {
            joined??;
        }
        Ok(())
    }

    fn follow(&mut self, number: usize) {
        let agent = self.agents[number].clone();
        let held = self.maps[number].clone();
        let (way, sender) = (self.way.clone(), self.sender.clone());
        self.streams.spawn(agent.follow(way, held, sender));
    }

    async fn event(&mut self) -> Result<Event> {
        loop {
            tokio::select! {
                event = timeout(DEADLINE, self.events.recv()) => {
                    return event.context("agents wait for news")?.context("no agent is left");
                }
                Some(ended) = self.streams.join_next() => match ended {
                    Ok(Err(error)) => return Err(error.context("an agent's stream ended")),
                    Ok(Ok(())) => bail!("an agent's stream ended"),
                    // One of those that were disconnected.
                    Err(_) => {}
                },
            }
        }
    }

    /// Waits until all of `waiting` hold what is wanted, and all have reported. Gives when the last
    /// one held it, and the bytes that all received meanwhile.
    async fn until(
        &mut self,
        mut waiting: BTreeSet<usize>,
        wanted: impl Fn(&NetworkMap) -> bool,
    ) -> Result<(Instant, usize)> {
        let (mut last, mut bytes, mut unreported) = (Instant::now(), 0, 0_usize);
        while !waiting.is_empty() || unreported > 0 {
            let left = waiting.len();
            let event = self.event().await;
            match event.with_context(|| format!("{left} agents have not heard of it"))? {
                Event::Received {
                    agent,
                    at,
                    bytes: received,
                    map,
                    reports,
                } => {
                    bytes += received;
                    unreported += usize::from(reports);
                    if wanted(&map) && waiting.remove(&agent) {
                        last = at;
                    }
                    self.maps[agent] = Some(*map);
                }
                Event::Reported => unreported = unreported.saturating_sub(1),
            }
        }
        Ok((last, bytes))
    }

    /// Measures from `start` on.
    async fn spend(
        &mut self,
        cpu_before: f64,
        start: Instant,
        waiting: BTreeSet<usize>,
        wanted: impl Fn(&NetworkMap) -> bool,
    ) -> Result<Spent> {
        let (last, bytes) = self.until(waiting, wanted).await?;
        let reported = start.elapsed();
        // What comes after the last receipt is part of the cost.
        sleep(Duration::from_millis(50)).await;
        Ok(Spent {
            time: last.saturating_duration_since(start),
            cpu_ms: self.server.cpu_ms()? - cpu_before,
            bytes,
            reported,
        })
    }

    /// All connect at once.
    pub(super) async fn connect_all(&mut self) -> Result<Spent> {
        let (cpu, start) = (self.server.cpu_ms()?, Instant::now());
        for number in 0..self.agents.len() {
            self.follow(number);
        }
        let all = (0..self.agents.len()).collect();
        self.spend(cpu, start, all, |_| true).await
    }

    /// All connections break.
    pub(super) async fn disconnect_all(&mut self) {
        self.streams.shutdown().await;
        while self.events.try_recv().is_ok() {}
        // The coordinator notices.
        sleep(Duration::from_secs(2)).await;
    }

    /// How often agents were sent away or lost their connection, and tried again.
    pub(super) fn tried_again(&self) -> usize {
        self.way.tried_again.load(Ordering::Relaxed)
    }

    /// No agent holds a map any more.
    pub(super) fn forget_maps(&mut self) {
        self.maps.fill(None);
    }

    fn members(&self, role: impl Fn(Role) -> bool) -> Vec<usize> {
        let agents = self.agents.iter().filter(|agent| role(agent.role));
        agents.map(|agent| agent.number).collect()
    }

    /// Those who have a node as their peer.
    fn peers_of(&self, number: usize) -> Result<BTreeSet<usize>> {
        let map = self.maps[number].as_ref().context("it holds no map")?;
        let id = map.node.id;
        let has =
            |map: &Option<NetworkMap>| map.as_ref().is_some_and(|map| map.peers.contains_key(&id));
        Ok((0..self.maps.len())
            .filter(|other| has(&self.maps[*other]))
            .collect())
    }

    /// A device says that it is found elsewhere.
    pub(super) async fn change_endpoint(&mut self, round: usize) -> Result<Spent> {
        let number = (round * 37) % self.members(|role| matches!(role, Role::Device(_))).len();
        let port = 40_000 + u16::try_from(round)?;
        let endpoint = Some(([203, 0, 113, 1], port).into());
        self.agents[number].host.endpoint = endpoint;
        let id = self.maps[number]
            .as_ref()
            .context("it holds no map")?
            .node
            .id;
        let peers = self.peers_of(number)?;
        let cpu = self.server.cpu_ms()?;
        let agent = self.agents[number].clone();
        let start = agent.update(&self.way).await?;
        let told = |map: &NetworkMap| map.peers.get(&id).is_some_and(|p| p.endpoint == endpoint);
        self.spend(cpu, start, peers, told).await
    }

    /// A device joins a team.
    pub(super) async fn join_one(&mut self, round: usize) -> Result<Spent> {
        let team = round + 1;
        let number = self.agents.len();
        let agent = Agent::new(number, Role::Device(team));
        let mate = self.members(|role| role == Role::Device(team));
        let first = *mate.first().context("no such team")?;
        let mut waiting = self.peers_of(first)?;
        waiting.insert(first);
        let name = agent.host.hostname.clone();
        self.agents.push(agent.clone());
        self.maps.push(None);
        let cpu = self.server.cpu_ms()?;
        let start = Instant::now();
        agent.join(&self.way, &self.auth_key).await?;
        self.follow(number);
        waiting.insert(number);
        let told = |map: &NetworkMap| {
            let mut peers = map.peers.values();
            map.node.name.as_str() == name || peers.any(|peer| peer.name.as_str() == name)
        };
        self.spend(cpu, start, waiting, told).await
    }

    /// One line of the policy changes that concerns one team.
    pub(super) async fn change_policy_of_a_team(&mut self, round: usize) -> Result<Spent> {
        let port = 1_000 + u16::try_from(round)?;
        self.text.port = port;
        let waiting = self.members(|role| role == Role::Device(0));
        self.change_policy(waiting, move |map| opens(map, port))
            .await
    }

    /// One line of the policy comes or goes that concerns everybody.
    pub(super) async fn change_policy_of_all(&mut self, monitored: bool) -> Result<Spent> {
        self.text.monitored = monitored;
        let waiting = self.members(|role| role != Role::Monitor);
        let told = move |map: &NetworkMap| opens(map, MONITORED_PORT) == monitored;
        self.change_policy(waiting, told).await
    }

    async fn change_policy(
        &mut self,
        waiting: Vec<usize>,
        told: impl Fn(&NetworkMap) -> bool,
    ) -> Result<Spent> {
        let text = self.text.write()?;
        let (cpu, start) = (self.server.cpu_ms()?, Instant::now());
        self.server.set_policy(&text).await?;
        self.spend(cpu, start, waiting.into_iter().collect(), told)
            .await
    }
}

/// Whether the filter lets somebody in at a port.
fn opens(map: &NetworkMap, port: u16) -> bool {
    let mut destinations = map.filter.iter().flat_map(|grant| &grant.destinations);
    destinations.any(|to| to.ports.first == port)
}
