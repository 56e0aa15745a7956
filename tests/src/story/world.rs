//! The network of the story with what runs in it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use weir_lab::{HostSnapshot, Internet, Lab, TOUCHED_SYSCTLS};

use super::{ALICE, BOB, Narrator, policy};
use crate::{Agent, Backend, Coordinator, Machine, Transcript};

/// The hosts with an agent.
const HOSTS: [&str; 5] = ["relay", "office-relay", "alice", "bob", "build"];
/// How many of the last commands explain a failure.
const COMMANDS: usize = 12;
/// How many lines of each log explain a failure.
const LOG_LINES: usize = 60;

/// The network of the story with what runs in it.
#[derive(Debug)]
pub struct World {
    // Before the network: what runs in a node ends before the node.
    /// The coordinator.
    pub coordinator: Coordinator,
    /// The relay with the one known address.
    pub relay: Agent,
    /// The relay in front of the office.
    pub office_relay: Agent,
    /// A member of the group that may use the bank.
    pub alice: Agent,
    /// Somebody who is not.
    pub bob: Agent,
    /// A tagged server.
    pub build: Agent,
    /// A machine of somebody else, on the same wire as the relay.
    pub stranger: Machine,
    /// What the host of each agent was before the agent, by name.
    pub before: BTreeMap<String, HostSnapshot>,
    /// The WireGuard that this kernel lets us expect.
    pub expected_backend: Backend,
    /// What was typed.
    pub transcript: Transcript,
    /// The machines.
    pub network: Internet,
}

impl World {
    /// Builds the network, looks at every host, starts the coordinator with its users, keys and
    /// policy, and the daemon of every agent.
    ///
    /// # Errors
    /// Something cannot be built or started.
    pub fn new(narrator: &mut dyn Narrator) -> Result<Self> {
        Self::with_agents(narrator, &HOSTS)
    }

    /// The same with the agents on these hosts only.
    ///
    /// # Errors
    /// Something cannot be built or started.
    pub fn with_agents(narrator: &mut dyn Narrator, names: &[&str]) -> Result<Self> {
        for program in ["agent", "coordinator", "weir-lab-host"] {
            weir_lab::program(program)?;
        }
        let transcript = Transcript::default();
        narrator.say(
            "alice and bob are at home behind NAT gateways. A bank's API at 8.8.8.8 and 8.8.4.4 \
             (TCP 443, UDP 53) drops everything that is not from 203.0.113.7, which is the relay's \
             address. build is a server, 1.1.1.1 a public host that nobody offers, and behind a \
             second relay there is an office, 10.20.0.0/24. Every machine is a network namespace; \
             all packets are real.",
        );
        narrator.waiting("building the network");
        let network = Internet::new()?;
        let stranger = stranger(&network, &transcript)?;
        let agent = |node| Agent::new(node, &transcript);
        let mut agents = network.hosts().map(agent);
        let mut before = BTreeMap::new();
        for agent in agents.iter().filter(|agent| names.contains(&agent.name())) {
            let host = HostSnapshot::take(agent.machine().node(), TOUCHED_SYSCTLS)?;
            before.insert(agent.name().to_owned(), host);
        }
        narrator.waiting("starting the coordinator");
        let coordinator = Coordinator::start(&network.coordinator, &transcript)?;
        for user in [ALICE, BOB] {
            coordinator.create_user(user)?;
        }
        coordinator.set_policy(&policy(ALICE))?;
        narrator.waiting("starting the agents");
        let owners = [
            "--tags tag:relay".to_owned(),
            "--tags tag:office".to_owned(),
            format!("--user {ALICE}"),
            format!("--user {BOB}"),
            "--tags tag:build".to_owned(),
        ];
        for (agent, owner) in agents.iter_mut().zip(&owners) {
            if !names.contains(&agent.name()) {
                continue;
            }
            let key = coordinator.create_key(owner)?;
            agent.configure(&Coordinator::url(), &key)?;
            agent.start()?;
        }
        let expected_backend = if Lab::kernel_has_wireguard()? {
            Backend::Kernel
        } else {
            Backend::Userspace
        };
        narrator.fact("coordinator", &Coordinator::url());
        narrator.fact(
            "WireGuard",
            &format!("{expected_backend} (what this kernel offers)"),
        );
        narrator.fact("policy", "group:finance, which is alice, may use the bank");
        let [relay, office_relay, alice, bob, build] = agents;
        Ok(Self {
            coordinator,
            relay,
            office_relay,
            alice,
            bob,
            build,
            stranger,
            before,
            expected_backend,
            transcript,
            network,
        })
    }

    /// Every agent.
    #[must_use]
    pub fn agents(&self) -> [&Agent; 5] {
        [
            &self.relay,
            &self.office_relay,
            &self.alice,
            &self.bob,
            &self.build,
        ]
    }

    /// Every agent, to be stopped and started.
    pub fn agents_mut(&mut self) -> [&mut Agent; 5] {
        [
            &mut self.relay,
            &mut self.office_relay,
            &mut self.alice,
            &mut self.bob,
            &mut self.build,
        ]
    }

    /// An agent's overlay address (IPv4).
    ///
    /// # Errors
    /// It has none yet.
    pub fn overlay_address(&self, agent: &Agent) -> Result<String> {
        let status = agent.status()?;
        status
            .overlay_ipv4()
            .map(str::to_owned)
            .with_context(|| format!("{} has no overlay address", agent.name()))
    }

    /// How many clients the bank's service has seen so far.
    ///
    /// # Errors
    /// Its log cannot be read.
    pub fn clients_of_the_bank(&self) -> Result<usize> {
        let log = self.network.server_log(&self.network.service)?;
        Ok(log.lines().filter(|line| line.contains(" from ")).count())
    }

    /// All that may explain a failure.
    #[must_use]
    pub fn explain(&self) -> String {
        let mut text = format!("what was typed last:\n{}\n", self.transcript.last(COMMANDS));
        for agent in self.agents() {
            let look = |command: &str| {
                let output = agent
                    .machine()
                    .node()
                    .command(command.split_whitespace())
                    .deadline(Duration::from_secs(5))
                    .output();
                output.map_or_else(|error| format!("{error:#}\n"), |output| output.text())
            };
            text += &format!(
                "agent status on {}:\n{}\n",
                agent.name(),
                look("agent status")
            );
            text += &format!("ip rule: \n{}", look("ip rule"));
            text += &format!("ip route:\n{}", look("ip route show table all"));
            text += &format!("wg:\n{}\n", look("wg show"));
        }
        let relay = self.relay.machine().node();
        let rules = relay.try_run(["nft", "list", "table", "inet", "weir"]);
        text += &rules.map_or_else(
            |error| format!("{error:#}\n"),
            |output| format!("the relay's ruleset:\n{}\n", output.text()),
        );
        text += &format!("the logs:\n{}", self.network.lab.log_tails(LOG_LINES));
        text
    }
}

/// A machine of somebody else on the relay's own wire: the place from which forged packets reach
/// a relay most easily.
fn stranger(network: &Internet, transcript: &Transcript) -> Result<Machine> {
    let node = network.lab.node("stranger")?;
    network
        .lab
        .connect((&network.internet, "stranger"), (&node, "eth0"))?;
    network.internet.ip("link set stranger master east")?;
    node.ip("address add 203.0.113.66/24 dev eth0\nroute add default via 203.0.113.1")?;
    Ok(Machine::new(&node, transcript))
}
