//! The agent of a relay is killed at random moments while the policy changes under it: what
//! neither policy allows never passes, what both allow passes all the time, and in the end the
//! newest policy is in force.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use weir_lab::{Node, Ping, is_emulated, patient, wait_until};
use weir_tests::story::{ALICE, Quiet, World};

const SOON: Duration = Duration::from_secs(10);
/// How often the agent is killed.
const ROUNDS: u32 = 8;
/// How often it is killed where the machine is emulated, and a life takes long.
const EMULATED_ROUNDS: u32 = 2;
/// The agent lives at most this long after a change of the policy: about as long as it takes it to
/// put the change in force.
const LONGEST_LIFE: Duration = Duration::from_millis(250);
/// A port that no policy allows.
const FORBIDDEN: u16 = 9999;

/// alice may always ping the relay, and use this protocol and port of the bank.
fn policy(protocol: &str, port: u16) -> String {
    format!(
        r#"{{
    "tagOwners": {{"tag:relay": [], "tag:office": [], "tag:build": []}},
    "acls": [
        {{"action": "accept", "src": ["{ALICE}"], "proto": "{protocol}", "dst": ["8.8.8.8/32:{port}"]}},
        {{"action": "accept", "src": ["{ALICE}"], "proto": "icmp", "dst": ["tag:relay:*"]}},
    ],
}}
"#
    )
}

/// Counts what arrives at the service, by port.
fn witness(service: &Node) -> Result<()> {
    service.nft(&format!(
        "table inet witness {{\n chain arrived {{\n \
         type filter hook prerouting priority -300;\n \
         udp dport {FORBIDDEN} counter comment \"forbidden\"\n \
         meta l4proto {{ tcp, udp }} th dport {{ 53, 443 }} counter comment \"allowed\"\n }}\n}}\n"
    ))
}

/// How many packets the witness's rule with this comment has counted.
fn arrived(service: &Node, what: &str) -> Result<u64> {
    let rules = service
        .run(["nft", "list", "table", "inet", "witness"])?
        .stdout;
    let line = rules.lines().find(|line| line.contains(what));
    let count = line
        .and_then(|line| line.split_once("counter packets "))
        .and_then(|(_, rest)| rest.split_whitespace().next());
    let count = count.with_context(|| format!("no counter of {what} in {rules}"))?;
    count
        .parse()
        .with_context(|| format!("{count} is no number"))
}

#[test]
fn killed_again_and_again_while_the_policy_changes_a_relay_passes_nothing_else() -> Result<()> {
    let mut world = World::with_agents(&mut Quiet, &["relay", "alice"])?;
    world.coordinator.set_policy(&policy("tcp", 443))?;
    world.relay.up("--advertise-routes=8.8.8.8")?;
    world.alice.up("")?;
    world.coordinator.approve("relay", "8.8.8.8/32")?;
    let served = |world: &World, by_tcp: bool| {
        let what = if by_tcp {
            "alice to be served by TCP"
        } else {
            "alice to be served by UDP"
        };
        wait_until(what, patient(SOON), || {
            let (alice, wait) = (world.alice.machine(), Duration::from_millis(500));
            let answer = if by_tcp {
                alice.ask_tcp("8.8.8.8:443", wait)?
            } else {
                alice.ask_udp("8.8.8.8:53", wait)?
            };
            Ok(answer.as_deref() == Some("203.0.113.7"))
        })
    };
    served(&world, true)?;
    let service = world.network.service.clone();
    witness(&service)?;
    let relay_address = world.overlay_address(&world.relay)?;
    let alice = world.alice.machine().node();
    let pings = Ping::start(alice, &relay_address, patient(Duration::from_millis(20)))?;
    let flood =
        format!("while :; do echo x > /dev/udp/8.8.8.8/{FORBIDDEN}; sleep 0.01; done 2> /dev/null");
    let flood = alice.spawn(["bash", "-c", &flood])?;

    let rounds = if is_emulated() {
        EMULATED_ROUNDS
    } else {
        ROUNDS
    };
    for round in 1..=rounds {
        let (protocol, port) = if round.is_multiple_of(2) {
            ("tcp", 443)
        } else {
            ("udp", 53)
        };
        let changed = world.coordinator.set_policy(&policy(protocol, port))?;
        // Spread over the agent's life without repeating: multiples of the golden ratio.
        let share = (f64::from(round) * 0.618_034).fract();
        let death = changed + patient(LONGEST_LIFE).mul_f64(share);
        std::thread::sleep(death.saturating_duration_since(Instant::now()));
        world.relay.stop(Signal::SIGKILL)?;
        world.relay.start()?;
    }
    world.relay.settled()?;
    served(&world, rounds.is_multiple_of(2))?;
    flood.stop(Signal::SIGKILL, SOON)?;
    let pings = pings.stop()?;
    let (forbidden, allowed) = (
        arrived(&service, "forbidden")?,
        arrived(&service, "allowed")?,
    );
    let denied = world.relay.packets("denied_relay")?;
    println!(
        "{rounds} kills: {denied} forbidden packets denied since the last start, {forbidden} \
         passed; {} pings, {} lost",
        pings.transmitted,
        pings.lost.len()
    );
    ensure!(
        forbidden == 0,
        "{forbidden} packets passed that no policy allowed"
    );
    ensure!(allowed > 0, "the witness counts nothing");
    ensure!(denied > 0, "the relay saw nothing of the flood");
    ensure!(pings.lost.is_empty(), "pings were lost: {pings:?}");
    world.network.lab.finish()
}
