//! The engine with many agents, faults and a clock of its own, against the simplest model there
//! is: every map made anew of what is stored. What happens is drawn from a seed that a failure
//! names; `WEIR_SIMULATION_STEPS` makes it longer, `WEIR_SIMULATION_SEED` repeats one.

mod agent;
mod several;

use super::{Engine, Follower, Next};
use crate::{
    clock,
    cluster::Role,
    presence::{Connected, GRACE, Presence},
    snapshot,
    store::{Database, Decision, NewNode, Store},
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};
use tempfile::TempDir;
use tokio::{sync::watch, time::Instant};
use weir_netmap::{Network, NetworkState};
use weir_overlay::{Generation, MachinePrivateKey, NodeId, NodePrivateKey};
use weir_policy::Policy;
use weir_protocol::{HostInfo, MapRequest, NetworkMap, StreamMessage};

const NOW: i64 = 1_900_000_000;
const TAGS: [&str; 3] = ["tag:a", "tag:b", "tag:relay"];
const ROUTES: [&str; 4] = ["8.8.8.8/32", "10.20.0.0/24", "192.168.1.0/24", "0.0.0.0/0"];
const POLICIES: [&str; 5] = [
    r#"{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]}"#,
    r#"{"tagOwners": {"tag:a": [], "tag:b": [], "tag:relay": []},
        "acls": [{"action": "accept", "src": ["tag:a"], "dst": ["tag:b:22", "8.8.8.8:443"]}]}"#,
    r#"{"tagOwners": {"tag:a": [], "tag:b": [], "tag:relay": []},
        "autoApprovers": {"routes": {"10.20.0.0/24": ["tag:relay"]}},
        "acls": [{"action": "accept", "src": ["tag:a", "tag:b"], "dst": ["10.20.0.0/24:*"]}]}"#,
    r#"{"tagOwners": {"tag:a": [], "tag:b": [], "tag:relay": []},
        "grants": [{"src": ["tag:b"], "dst": ["8.8.8.8/32"], "ip": ["tcp:443"], "via": ["tag:relay"]},
                   {"src": ["tag:a"], "dst": ["autogroup:internet"], "ip": ["*"]}]}"#,
    r#"{"acls": []}"#,
];

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let below = (mixed ^ (mixed >> 31)) % u64::try_from(end).unwrap();
        usize::try_from(below).unwrap()
    }

    fn pick<T: Clone>(&mut self, among: &[T]) -> T {
        among[self.below(among.len())].clone()
    }
}

/// An agent: what it holds, and its stream while it has one.
#[derive(Default)]
struct Agent {
    map: Option<NetworkMap>,
    stream: Option<(Follower, Connected)>,
}

struct World {
    random: Random,
    _directory: TempDir,
    store: Store,
    presence: Arc<Presence>,
    engine: Engine,
    agents: BTreeMap<NodeId, Agent>,
    /// How many nodes there ever were.
    enrolled: u32,
    /// What was ever told under a number.
    told: BTreeMap<(NodeId, Generation), NetworkMap>,
    primaries: BTreeMap<IpNet, NodeId>,
}

fn directory() -> TempDir {
    // Nothing outlives the test, and a disk would be most of what it waits for.
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

async fn engine(store: &Store, presence: &Arc<Presence>) -> Engine {
    let role = watch::channel(Role::Alone).1;
    let started = Engine::start(store.clone(), Arc::clone(presence), role).await;
    started.unwrap().0
}

impl World {
    async fn new(seed: u64) -> Self {
        let directory = directory();
        let database = Database::File(directory.path().join("a.db"));
        let store = Store::open(&database).await.unwrap();
        let presence = Presence::new(Instant::now());
        Self {
            random: Random(seed),
            _directory: directory,
            engine: engine(&store, &presence).await,
            store,
            presence,
            agents: BTreeMap::new(),
            enrolled: 0,
            told: BTreeMap::new(),
            primaries: BTreeMap::new(),
        }
    }

    /// The model: what is stored, and a compilation of it.
    async fn stored(&self) -> (NetworkState, Policy) {
        let mut tx = self.store.read().await.unwrap();
        let mut state = snapshot::read(&mut tx, clock::now()).await.unwrap();
        let newest = tx.newest_policies(1).await.unwrap();
        let relays = state
            .nodes
            .values()
            .filter(|node| !node.host.advertised_routes.is_empty());
        let relays = relays.map(|node| node.id).collect();
        for id in self.presence.absent(&relays, Instant::now()) {
            state.nodes.get_mut(&id).unwrap().healthy = false;
        }
        let policy = newest.first().map(|row| Policy::parse(&row.text).unwrap());
        (state, policy.unwrap_or_else(Policy::empty))
    }

    /// One thing happens.
    async fn step(&mut self) {
        let known: Vec<_> = self.agents.keys().copied().collect();
        if known.len() < 3 {
            return self.enrol().await;
        }
        let id = self.random.pick(&known);
        match self.random.below(20) {
            0..5 => self.connect(id).await,
            5..10 => self.read(id).await,
            10 => self.agents.get_mut(&id).unwrap().stream = None,
            11 if known.len() < 20 => self.enrol().await,
            12 if known.len() > 8 => self.delete(id).await,
            13 => {
                // Only longer than the grace makes a difference.
                tokio::time::advance(GRACE * 2).await;
            }
            14 => {
                let text = self.random.pick(&POLICIES);
                let mut tx = self.store.write().await.unwrap();
                tx.insert_policy(text, "a test", "", NOW).await.unwrap();
                tx.commit().await.unwrap();
            }
            15 if self.random.below(5) == 0 => {
                for agent in self.agents.values_mut() {
                    agent.stream = None;
                }
                self.engine = engine(&self.store, &self.presence).await;
            }
            _ => self.change(id).await,
        }
        self.engine.changed().await;
        self.check_primaries().await;
    }

    async fn enrol(&mut self) {
        self.enrolled += 1;
        let number = self.enrolled;
        let key = u8::try_from(number).unwrap();
        let node = NewNode {
            machine_key: MachinePrivateKey::from_bytes([key; 32]).public(),
            node_key: NodePrivateKey::from_bytes([key; 32]).public(),
            name: format!("n{number}").parse().unwrap(),
            user: None,
            tags: [self.random.pick(&TAGS).parse().unwrap()].into(),
            ephemeral: false,
            ipv4: Ipv4Addr::from_bits(0x6440_0000 + number),
            ipv6: Ipv6Addr::from_bits((0xfd77_6569_7200_u128 << 80) + u128::from(number)),
            host: HostInfo::default(),
            observed_address: [203, 0, 113, key].into(),
            created_at: NOW,
            key_expires_at: None,
        };
        let mut tx = self.store.write().await.unwrap();
        let id = tx.insert_node(&node).await.unwrap();
        tx.commit().await.unwrap();
        self.agents.insert(id, Agent::default());
        self.engine.changed().await;
    }

    async fn delete(&mut self, id: NodeId) {
        let mut tx = self.store.write().await.unwrap();
        tx.delete_node(id).await.unwrap();
        tx.commit().await.unwrap();
        self.engine.changed().await;
        let agent = self.agents.remove(&id).unwrap();
        if let Some((mut stream, _)) = agent.stream {
            assert_eq!(stream.next(), Next::Gone);
        }
    }

    /// Something about a node changes.
    async fn change(&mut self, id: NodeId) {
        let mut tx = self.store.write().await.unwrap();
        let route: IpNet = self.random.pick(&ROUTES).parse().unwrap();
        match self.random.below(5) {
            0 => {
                let tags = [self.random.pick(&TAGS).parse().unwrap()].into();
                tx.set_node_tags(id, &tags).await.unwrap();
            }
            1 => {
                let row = tx.node(id).await.unwrap().unwrap();
                let port = u16::try_from(self.random.below(60_000)).unwrap();
                let host = HostInfo {
                    endpoint: Some(([203, 0, 113, 9], port).into()),
                    ..row.host
                };
                let address = [203, 0, 113, 9].into();
                tx.update_node_host(id, &row.name, &host, address)
                    .await
                    .unwrap();
            }
            2 => {
                let some = [route].into();
                let routes = self.random.pick(&[BTreeSet::new(), some]);
                tx.set_advertised(id, &routes).await.unwrap();
            }
            3 | 4 => {
                for known in tx.routes_of(id).await.unwrap() {
                    let (yes, no) = (Some(Decision::Approved), Some(Decision::Rejected));
                    let decision = self.random.pick(&[yes, yes, no]);
                    tx.set_decision(id, &known.prefix, decision, NOW)
                        .await
                        .unwrap();
                }
            }
            _ => unreachable!(),
        }
        tx.commit().await.unwrap();
    }

    /// An agent connects: with what it holds, or without, or with a lie.
    async fn connect(&mut self, id: NodeId) {
        let agent = self.agents.get_mut(&id).unwrap();
        let mut request = MapRequest::default();
        if let Some(map) = &agent.map {
            request.held = Some(map.generation);
            request.digest = map.digest();
        }
        let lies = self.random.below(10) == 0;
        match self.random.below(10) {
            0 => request.digest = None,
            1 => request = MapRequest::default(),
            2 if lies => request.held = Some(Generation(u64::MAX)),
            _ => {}
        }
        if request.held != agent.map.as_ref().map(|map| map.generation) {
            // It asks for a whole map, and takes it whatever it holds.
            agent.map = None;
        }
        let stream = self.engine.follow(id, request).await.unwrap();
        agent.stream = Some((stream, self.presence.connect(id)));
    }

    /// An agent reads what there is; others do not, and miss what is in between.
    async fn read(&mut self, id: NodeId) {
        let (state, policy) = self.stored().await;
        let agent = self.agents.get_mut(&id).unwrap();
        let Some((stream, _)) = &mut agent.stream else {
            return;
        };
        let mut spoken = 0;
        loop {
            match stream.next() {
                Next::Message(StreamMessage::Full { map }) => {
                    let before = agent.map.replace(*map);
                    let before = before.map(|map| map.generation);
                    assert!(before <= agent.map.as_ref().map(|map| map.generation));
                }
                Next::Message(StreamMessage::Delta { delta }) => {
                    let map = agent.map.as_mut().unwrap();
                    assert!(delta.from < delta.to);
                    weir_netmap::apply(map, &delta).unwrap();
                }
                Next::Message(StreamMessage::Heartbeat { generation }) => {
                    assert_eq!(agent.map.as_ref().unwrap().generation, generation);
                }
                Next::Message(StreamMessage::Closing { .. }) => panic!("nobody stops"),
                Next::Gone => panic!("it was not deleted"),
                Next::Nothing => break,
            }
            spoken += 1;
        }
        assert!(spoken <= 1, "one message is enough");
        let map = agent.map.clone().unwrap();
        // Whatever it held before was right then; what it holds now is right now.
        let model = Network::new(&state, &policy).map(id, map.generation);
        assert_eq!(Some(&map), model.as_ref());
        let known = self
            .told
            .entry((id, map.generation))
            .or_insert_with(|| map.clone());
        assert_eq!(*known, map, "one number, two maps");
    }

    async fn check_primaries(&mut self) {
        let (state, policy) = self.stored().await;
        let network = Network::new(&state, &policy);
        for (route, before) in &self.primaries {
            let serves = network
                .approved_routes(*before)
                .any(|served| served == *route);
            let healthy = state.nodes.get(before).is_some_and(|node| node.healthy);
            if serves && healthy {
                assert_eq!(state.primaries.get(route), Some(before), "{route} moved");
            }
        }
        self.primaries = state.primaries.clone();
    }
}

fn setting(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(default, |text| text.parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn every_agent_holds_what_a_network_made_anew_would_give_it() {
    // Time passes only when a step says so, not whenever everybody waits for the database: it stands
    // still while a blocking task runs.
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    tokio::task::spawn_blocking(move || stopped.recv());
    let steps = setting("WEIR_SIMULATION_STEPS", 300);
    let first = setting("WEIR_SIMULATION_SEED", 1);
    for seed in first..first + 3 {
        let mut world = World::new(seed).await;
        for _ in 0..steps {
            world.step().await;
        }
        // All come back, and read until there is nothing to read.
        let ids: Vec<_> = world.agents.keys().copied().collect();
        for id in &ids {
            world.connect(*id).await;
        }
        world.engine.changed().await;
        for id in ids {
            world.read(id).await;
        }
        assert!(!world.told.is_empty(), "seed {seed} told nobody anything");
    }
    drop(stop);
}
