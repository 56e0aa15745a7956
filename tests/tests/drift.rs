//! What others change of ours comes back, and `agent status` says what it was and who did it.

#![expect(
    clippy::print_stdout,
    reason = "the figures of a test that was run by hand"
)]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use weir_lab::{is_emulated, patient, wait_until};
use weir_tests::story::{Quiet, World};
use weir_tests::{Agent, Repair};

const SOON: Duration = Duration::from_secs(10);
/// How long a repair may take. The promise is a second; a loaded machine may be slower.
const REPAIRED: Duration = Duration::from_secs(5);

/// All that is ours on a host, without counters, what WireGuard changes by itself, and what is
/// another one with each load of the ruleset.
const LOOK: &str = "nft -s list table inet weir | \
    sed -E 's/mark (set ct mark . )?0x[0-9a-f]+/mark/; s/loaded_[0-9a-z_]+/loaded/' | sort; \
    for f in -4 -6; do ip $f rule; ip $f route show table 5701; ip $f route show table 5702; \
    ip $f route show proto 87; done; \
    ip -o address show dev weir0 | grep -v fe80 | cut -d' ' -f2-7; \
    ip -o link show weir0 | grep -o 'mtu [0-9]*\\|[<,]UP[,>]'; \
    wg show weir0 allowed-ips | awk '{ for (i = 2; i <= NF; i++) print $1, $i }' | sort; \
    wg show weir0 listen-port; wg show weir0 fwmark; \
    cat /proc/sys/net/ipv4/ip_forward";

/// Somebody else's command, a part of what is said to have been found, and the process that is
/// named when the kernel names it.
type Drift<'a> = (&'a str, String, &'a str, Option<&'a str>);

fn look(agent: &Agent) -> Result<String> {
    let output = agent.machine().node().try_run(["sh", "-c", LOOK])?;
    Ok(output.text())
}

/// What was repaired since there were so many repairs. What somebody changes by several commands,
/// the agent may put back by several repairs.
fn repairs_since(agent: &Agent, so_far: usize) -> Result<Vec<Repair>> {
    Ok(agent.status()?.repairs.into_iter().skip(so_far).collect())
}

/// Plays somebody else on a host, and waits until everything is as it was.
fn repaired(agent: &Agent, (what, command, found, by): Drift<'_>) -> Result<()> {
    let before = look(agent)?;
    let repairs = agent.status()?.repairs.len();
    ensure!(
        repairs < 16,
        "the oldest repairs are forgotten: use another host"
    );
    agent.machine().node().run(["sh", "-c", &command])?;
    let started = Instant::now();
    let waited = wait_until(&format!("{what} to be put back"), patient(REPAIRED), || {
        Ok(look(agent)? == before)
    });
    waited.with_context(|| {
        format!(
            "before:\n{before}\nnow:\n{}",
            look(agent).unwrap_or_default()
        )
    })?;
    let took = started.elapsed();
    // The agent says so when it has looked again.
    let mut since = Vec::new();
    let reported = wait_until(&format!("{what} to be reported"), patient(SOON), || {
        since = repairs_since(agent, repairs)?;
        let mut things = since.iter().flat_map(|repair| &repair.found);
        Ok(things.any(|thing| thing.contains(found)))
    });
    reported.with_context(|| format!("\"{found}\" is in none of {since:?}"))?;
    for repair in &since {
        println!(
            "{what}: back after {took:?}; the agent took {:.3} s, found {:?}, done by {:?}",
            repair.seconds, repair.found, repair.by
        );
    }
    if let Some(by) = by {
        let mut authors = since.iter().flat_map(|repair| &repair.by);
        ensure!(
            authors.any(|author| author.name.as_deref() == Some(by)),
            "{what}: {by} is in none of {since:?}"
        );
    }
    Ok(())
}

/// The first map of the ruleset that has elements.
fn full_map(agent: &Agent) -> Result<String> {
    let listing = agent.machine().must("nft -j list table inet weir")?.stdout;
    let listing: serde_json::Value = serde_json::from_str(&listing)?;
    listing["nftables"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|object| &object["map"])
        .find(|map| map["elem"].is_array())
        .and_then(|map| map["name"].as_str())
        .map(str::to_owned)
        .context("no map has elements")
}

#[test]
fn what_others_change_comes_back_and_is_reported() -> Result<()> {
    let world = World::with_agents(&mut Quiet, &["relay", "alice"])?;
    world.relay.up("--advertise-routes=8.8.8.8")?;
    world.alice.up("")?;
    world.coordinator.approve("relay", "8.8.8.8/32")?;
    let served = || {
        wait_until("alice to be served", patient(SOON), || {
            let wait = Duration::from_millis(500);
            let answer = world.alice.machine().ask_tcp("8.8.8.8:443", wait)?;
            Ok(answer.as_deref() == Some("203.0.113.7"))
        })
    };
    served()?;
    let relay = &world.relay;
    let nft = Some("nft");
    let alice_key = world
        .alice
        .status()?
        .wireguard
        .context("WireGuard")?
        .public_key;
    let relay_key = relay.status()?.wireguard.context("WireGuard")?.public_key;
    let own = world.overlay_address(relay)?;
    let last_rule = "nft delete rule inet weir forward handle \
        $(nft -a list chain inet weir forward | sed -n 's/.*# handle //p' | tail -1)";
    let of_relay: [Drift<'_>; 11] = [
        (
            "the ruleset",
            "nft flush ruleset".into(),
            "table inet weir was gone",
            nft,
        ),
        (
            "a rule",
            last_rule.into(),
            "table inet weir was changed",
            nft,
        ),
        (
            "the elements of a map",
            format!("nft flush map inet weir {}", full_map(relay)?),
            "table inet weir was changed",
            nft,
        ),
        (
            "a rule that was added",
            "nft insert rule inet weir forward accept".into(),
            "table inet weir was changed",
            nft,
        ),
        (
            "forwarding",
            "sysctl -w net.ipv4.ip_forward=0".into(),
            "ip_forward was 0",
            None,
        ),
        (
            "a peer",
            format!("wg set weir0 peer {alice_key} remove"),
            "was gone",
            None,
        ),
        (
            "a peer's prefixes",
            format!("wg set weir0 peer {alice_key} allowed-ips 0.0.0.0/0"),
            &alice_key,
            None,
        ),
        (
            "the mark",
            "wg set weir0 fwmark 0x1".into(),
            "listen port or mark",
            None,
        ),
        (
            "an address",
            format!("ip address del {own}/32 dev weir0"),
            "address",
            None,
        ),
        (
            "the link's state",
            "ip link set weir0 down".into(),
            "the link was down",
            None,
        ),
        (
            "the link",
            "ip link del weir0".into(),
            "the link was gone",
            None,
        ),
    ];
    // All that others do by nft is found in one way: where a repair takes long, one has to do.
    let takes_long = |(what, _, _, by): &Drift<'_>| *by == nft && *what != "the ruleset";
    for drift in of_relay {
        if is_emulated() && takes_long(&drift) {
            continue;
        }
        repaired(relay, drift)?;
    }
    // As a network manager does that takes what is not its own for garbage.
    let foreign = "for p in $(ip rule | sed -n 's/^\\(57[0-9]*\\):.*/\\1/p'); do \
        ip rule del priority $p; done; ip route flush table all proto 87";
    let rules = "ip rule flush; ip rule add lookup main priority 32766; \
        ip rule add lookup default priority 32767";
    let of_alice: [Drift<'_>; 5] = [
        ("the rules", rules.into(), "rule 57", None),
        (
            "a table",
            "ip route flush table 5701".into(),
            "route 8.8.8.8/32",
            None,
        ),
        ("rules and routes", foreign.into(), "rule 57", None),
        (
            "the relay's prefixes",
            format!("wg set weir0 peer {relay_key} allowed-ips 1.1.1.1/32"),
            &relay_key,
            None,
        ),
        (
            "the link",
            "ip link del weir0".into(),
            "the link was gone",
            None,
        ),
    ];
    for drift in of_alice {
        repaired(&world.alice, drift)?;
    }
    served()?;
    let text = relay.machine().type_in("agent status")?.text();
    ensure!(
        text.contains("Changed by others") && text.contains("the link was gone"),
        "the status does not tell of the repairs:\n{text}"
    );
    world.network.lab.finish()
}
