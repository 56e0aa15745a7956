//! What the policy takes away ends at once, whatever kind of traffic it is and while it runs.
//!
//! All flows run at once, each is revoked in turn, and the agents of the clients are frozen: it is
//! the relays and the nodes at the other end that stop them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use weir_lab::{Node, Spawned, addresses, patient, wait_until};
use weir_tests::Agent;
use weir_tests::story::{ALICE, BOB, Quiet, World};

const SOON: Duration = Duration::from_secs(15);
/// For so many more packets of a revoked flow it is watched that none arrives.
const WATCHED: u64 = 4;

/// Something that sends packets until the end of the test, counted where they start and where they
/// should arrive.
struct Flow<'a> {
    what: &'static str,
    start: &'a Node,
    end: &'a Node,
    table: String,
    /// Whether it sends as before when nothing arrives. TCP sends again at ever longer intervals.
    is_steady: bool,
    _program: Spawned,
}

/// Where a flow leads: the server, the address that it is asked at, and the one that it sees.
struct Way<'a> {
    client: &'a Agent,
    server: &'a Node,
    to: String,
    seen_as: String,
}

impl<'a> Way<'a> {
    /// Counts what leaves `start` and what comes to `end`, and runs a program on the client.
    fn flow(
        &self,
        what: &'static str,
        (start, leaving): (&'a Node, String),
        (end, coming): (&'a Node, String),
        program: &[&str],
    ) -> Result<Flow<'a>> {
        let table: String = what
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .collect();
        // Before any filter where they start, behind all of them where they arrive.
        let watch = |hook: &str, priority: i32, packets: &str| {
            format!(
                "table inet {table} {{\ncounter seen {{}}\nchain watch {{\n\
                 type filter hook {hook} priority {priority}\n{packets} counter name seen\n}}\n}}\n"
            )
        };
        start.nft(&watch("output", -400, &leaving))?;
        end.nft(&watch("input", 400, &coming))?;
        Ok(Flow {
            what,
            start,
            end,
            table,
            is_steady: !coming.contains("tcp"),
            _program: self.client.machine().node().spawn(program)?,
        })
    }

    fn udp(&self, what: &'static str) -> Result<Flow<'a>> {
        let (to, seen_as) = (&self.to, &self.seen_as);
        let leaving = format!("ip daddr {to} udp dport 53");
        let coming = format!("ip saddr {seen_as} udp dport 53");
        self.flow(
            what,
            (self.client.machine().node(), leaving),
            (self.server, coming),
            &["weir-lab-host", "talk", &format!("{to}:53")],
        )
    }

    fn icmp(&self, what: &'static str) -> Result<Flow<'a>> {
        let (to, seen_as) = (&self.to, &self.seen_as);
        let leaving = format!("ip daddr {to} icmp type echo-request");
        let coming = format!("ip saddr {seen_as} icmp type echo-request");
        self.flow(
            what,
            (self.client.machine().node(), leaving),
            (self.server, coming),
            &["ping", "-n", "-i", "0.1", to],
        )
    }

    /// A download: what is counted are the answers.
    fn tcp(&self, what: &'static str) -> Result<Flow<'a>> {
        let (to, seen_as) = (&self.to, &self.seen_as);
        let leaving = format!("ip daddr {seen_as} tcp sport 443");
        let coming = format!("ip saddr {to} tcp sport 443");
        let (server, idle) = (format!("{to}:443"), patient(SOON).as_secs_f64().to_string());
        self.flow(
            what,
            (self.server, leaving),
            (self.client.machine().node(), coming),
            &["weir-lab-host", "download", &server, "--idle", &idle],
        )
    }
}

impl Flow<'_> {
    fn count(&self, node: &Node) -> Result<u64> {
        let listed = node.run(["nft", "list", "counter", "inet", &self.table, "seen"])?;
        let mut words = listed.stdout.split_whitespace();
        words
            .find(|word| *word == "packets")
            .and_then(|_| words.next()?.parse().ok())
            .with_context(|| format!("no counter in {}", listed.stdout))
    }

    fn more(&self, node: &Node, packets: u64, what: &str) -> Result<()> {
        let wanted = self.count(node)? + packets;
        let what = format!("{packets} more packets of {} {what}", self.what);
        wait_until(&what, patient(SOON), || Ok(self.count(node)? >= wanted)).map(drop)
    }

    fn goes_on(&self) -> Result<()> {
        self.more(self.end, 2, "to arrive")
    }

    /// Its packets are sent as before, and none arrives.
    fn has_ended(&self) -> Result<()> {
        if self.is_steady {
            self.more(self.start, 1, "to be sent after the change")?;
        }
        let arrived = self.count(self.end)?;
        let watched = if self.is_steady { WATCHED } else { 1 };
        self.more(self.start, watched, "to be sent in vain")?;
        let after = self.count(self.end)?;
        ensure!(
            after == arrived,
            "{} packets of {} arrived after it was revoked",
            after - arrived,
            self.what
        );
        Ok(())
    }
}

/// The last `left` of alice's three grants, and bob's.
fn policy(left: usize) -> String {
    let grants = [
        r#""autogroup:internet:*""#,
        r#""10.20.0.0/24:*""#,
        r#""tag:build:*""#,
    ];
    let grants: String = grants
        .iter()
        .skip(grants.len().saturating_sub(left))
        .map(|to| format!(r#"{{"action": "accept", "src": ["{ALICE}"], "dst": [{to}]}},"#))
        .collect();
    // What stays keeps the nodes each other's peers: it is the firewall that has to act.
    format!(
        r#"{{
    "tagOwners": {{"tag:relay": [], "tag:office": [], "tag:build": []}},
    "acls": [
        {grants}
        {{"action": "accept", "src": ["{BOB}"], "dst": ["8.8.8.8/32:443,53", "tag:build:*"]}},
        {{"action": "accept", "proto": "tcp", "src": ["{ALICE}"], "dst": ["tag:relay:9", "tag:office:9", "tag:build:9"]}},
    ],
}}
"#
    )
}

/// Makes a change, and waits until these agents have it in their kernels.
fn commit(agents: &[&Agent], change: impl FnOnce() -> Result<()>) -> Result<()> {
    let applied = |agent: &Agent| Ok::<_, anyhow::Error>(agent.status()?.map.applied);
    let before = agents
        .iter()
        .map(|agent| applied(agent))
        .collect::<Result<Vec<_>>>()?;
    change()?;
    for (agent, before) in agents.iter().zip(before) {
        let what = format!("{} to have the change in force", agent.name());
        agent.wait_for_status(&what, patient(SOON), |status| {
            status.map.applied > before && status.map.applied == status.map.held
        })?;
    }
    Ok(())
}

#[test]
fn every_kind_of_traffic_ends_with_what_allowed_it() -> Result<()> {
    let hosts = ["relay", "office-relay", "alice", "bob", "build"];
    let world = World::with_agents(&mut Quiet, &hosts)?;
    world.coordinator.set_policy(&policy(3))?;
    let alice_node = world.alice.machine().node();
    let loosely = ["all", "default", "eth0"];
    alice_node
        .set_sysctls(&loosely.map(|link| (format!("net.ipv4.conf.{link}.rp_filter"), "2")))?;
    world
        .relay
        .up("--advertise-routes=8.8.8.8 --advertise-exit-node")?;
    world.office_relay.up("--advertise-routes=10.20.0.0/24")?;
    world
        .coordinator
        .approve("relay", "8.8.8.8/32,0.0.0.0/0,::/0")?;
    world.coordinator.approve("office-relay", "10.20.0.0/24")?;
    world.build.up("")?;
    world.alice.up("--exit-node=relay")?;
    world.bob.up("")?;
    for agent in world.agents() {
        agent.settled()?;
    }
    let build_server = ["weir-lab-host", "serve", "--tcp", "443", "--udp", "53"];
    let build_node = world.build.machine().node();
    let server = build_node.spawn(build_server)?;
    server.wait_for_log("listening", patient(SOON))?;

    let way = |client, server, to: String, seen_as: String| Way {
        client,
        server,
        to,
        seen_as,
    };
    let at = |agent| world.overlay_address(agent);
    let (relay, network) = (addresses::RELAY.to_string(), &world.network);
    let exit = way(
        &world.alice,
        &network.elsewhere,
        addresses::ELSEWHERE.to_string(),
        relay.clone(),
    );
    let office = way(
        &world.alice,
        &network.office,
        addresses::OFFICE.to_string(),
        addresses::OFFICE_GATEWAY.to_string(),
    );
    let build = at(&world.build)?;
    let node = way(&world.alice, build_node, build.clone(), at(&world.alice)?);
    let bank = way(
        &world.bob,
        &network.service,
        addresses::SERVICE.to_string(),
        relay,
    );
    let from_bob = way(&world.bob, build_node, build, at(&world.bob)?);
    let by_exit = [
        exit.tcp("exit tcp")?,
        exit.udp("exit udp")?,
        exit.icmp("exit icmp")?,
    ];
    let to_subnet = [
        office.tcp("subnet tcp")?,
        office.udp("subnet udp")?,
        office.icmp("subnet icmp")?,
    ];
    let to_node = [
        node.tcp("node tcp")?,
        node.udp("node udp")?,
        node.icmp("node icmp")?,
    ];
    let of_bob = [
        bank.tcp("bob relayed tcp")?,
        bank.udp("bob relayed udp")?,
        from_bob.icmp("bob node icmp")?,
    ];
    let turns = [&by_exit, &to_subnet, &to_node, &of_bob];
    let all_go_on = |from: usize| {
        let mut flows = turns.iter().skip(from).flat_map(|flows| flows.iter());
        flows.try_for_each(Flow::goes_on)
    };
    let all_have_ended = |until: usize| {
        for (turn, flows) in turns.iter().take(until).enumerate() {
            let is_new = turn + 1 == until;
            let mut watched = flows.iter().filter(|flow| is_new || flow.is_steady);
            watched.try_for_each(Flow::has_ended)?;
        }
        Ok::<_, anyhow::Error>(())
    };
    all_go_on(0)?;
    world.alice.signal(Signal::SIGSTOP)?;
    world.bob.signal(Signal::SIGSTOP)?;

    let set = |left| world.coordinator.set_policy(&policy(left)).map(drop);
    commit(&[&world.relay], || set(2))?;
    all_have_ended(1)?;
    all_go_on(1)?;
    commit(&[&world.office_relay], || set(1))?;
    all_have_ended(2)?;
    all_go_on(2)?;
    commit(&[&world.build], || set(0))?;
    all_have_ended(3)?;
    all_go_on(3)?;
    // A node that is removed.
    commit(&[&world.relay, &world.build], || {
        let coordinator = world.coordinator.machine();
        coordinator.must("coordinator nodes delete bob").map(drop)
    })?;
    all_have_ended(4)?;

    // And what is granted again flows again, over the same sockets.
    commit(&[&world.relay], || set(3))?;
    by_exit[1..].iter().try_for_each(Flow::goes_on)?;
    world.network.lab.finish()
}
