//! Large packets on paths that carry less than Ethernet, past routers that never say so.

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use weir_lab::{Node, addresses, patient, wait_until};
use weir_tests::story::{ALICE, Quiet, World};

const SOON: Duration = Duration::from_secs(10);
/// How long a transfer may stand still before it counts as stuck.
const STUCK: Duration = Duration::from_secs(2);

fn policy() -> String {
    format!(
        r#"{{
    "tagOwners": {{"tag:relay": [], "tag:office": []}},
    "acls": [
        {{"action": "accept", "src": ["{ALICE}", "10.20.0.0/24", "tag:office"], "dst": ["8.8.8.8/32:443"]}},
    ],
}}
"#
    )
}

/// Sends and takes full segments. False when it gets stuck.
fn transfers(node: &Node) -> Result<bool> {
    transfers_without(node, patient(STUCK))
}

/// Sends and takes full segments. False when it stands still for so long.
fn transfers_without(node: &Node, idle: Duration) -> Result<bool> {
    let idle = idle.as_secs_f64();
    let command = format!(
        "weir-lab-host transfer {}:443 --idle {idle:.1}",
        addresses::SERVICE
    );
    Ok(node.try_run(command.split_whitespace())?.success())
}

/// A router that tells nobody when a packet is too large for it.
fn mute(node: &Node) -> Result<()> {
    node.nft(
        "table inet mute {
            chain output {
                type filter hook output priority filter; policy accept;
                icmp type destination-unreachable drop
            }
        }",
    )
}

/// A router that carries no fragments either, as many do.
fn without_fragments(node: &Node) -> Result<()> {
    node.nft(
        "table inet whole {
            chain prerouting {
                type filter hook prerouting priority -500; policy accept;
                ip frag-off & 0x3fff != 0 drop
            }
        }",
    )
}

fn link_mtu(world: &World) -> Result<u32> {
    let path = "/sys/class/net/weir0/mtu";
    let text = world.alice.machine().must(&format!("cat {path}"))?.stdout;
    Ok(text.trim().parse()?)
}

fn link_mtu_becomes(world: &World, mtu: u32) -> Result<()> {
    let what = format!("the link's MTU to be {mtu}");
    wait_until(&what, patient(SOON), || Ok(link_mtu(world)? == mtu)).map(drop)
}

#[test]
fn full_segments_pass_where_the_path_is_narrow_and_mute() -> Result<()> {
    let world = World::with_agents(&mut Quiet, &["relay", "office-relay", "alice"])?;
    let network = &world.network;
    world.coordinator.set_policy(&policy())?;
    for node in [&network.internet, &network.gateway_a, &network.office_relay] {
        mute(node)?;
    }
    world.relay.up("--advertise-routes=8.8.8.8")?;
    world.office_relay.up("--advertise-routes=10.20.0.0/24")?;
    world.coordinator.approve("relay", "8.8.8.8/32")?;
    world.coordinator.approve("office-relay", "10.20.0.0/24")?;
    world.alice.up("")?;
    let alice = world.alice.machine().node();
    wait_until("alice to be served", patient(SOON), || transfers(alice))?;
    ensure!(
        link_mtu(&world)? == 1420,
        "for Ethernet: {}",
        link_mtu(&world)?
    );

    // Somewhere on the way a link carries 1400: the tunnel's packets pass in pieces.
    let narrow = |mtu: u32| -> Result<()> {
        network.internet.ip(&format!("link set gwa mtu {mtu}"))?;
        network.gateway_a.ip(&format!("link set eth0 mtu {mtu}"))
    };
    narrow(1400)?;
    ensure!(transfers(alice)?, "in pieces");

    // Where pieces are dropped, nobody can know; the admin can.
    for node in [&network.internet, &network.gateway_a] {
        without_fragments(node)?;
    }
    ensure!(
        !transfers_without(alice, STUCK)?,
        "the path is not as narrow as it should be"
    );
    world.alice.machine().must("agent set --mtu=1300")?;
    link_mtu_becomes(&world, 1300)?;
    ensure!(transfers(alice)?, "with an MTU of 1300");
    world.alice.machine().must("agent set --mtu=")?;
    link_mtu_becomes(&world, 1420)?;

    // Where the host itself knows, it needs no admin, also when that changes.
    for (path, mtu) in [(1400, 1320), (1380, 1300)] {
        alice.ip(&format!("link set eth0 mtu {path}"))?;
        link_mtu_becomes(&world, mtu)?;
        ensure!(transfers(alice)?, "with a path of {path}");
    }
    behind_a_relay(&world)?;
    world.network.lab.finish()
}

/// A host in the office believes that Ethernet goes all the way: what it offers to take, and what
/// the bank does, is lowered on the way through.
fn behind_a_relay(world: &World) -> Result<()> {
    let office = &world.network.office;
    office.ip(&format!(
        "route add default via {}",
        addresses::OFFICE_GATEWAY
    ))?;
    wait_until("the office to be served", patient(SOON), || {
        transfers(office)
    })?;
    // It is the clamp that does it.
    let relays = [&world.relay, &world.office_relay];
    for relay in relays {
        relay.signal(Signal::SIGSTOP)?;
        relay.machine().must("nft flush chain inet weir clamp")?;
    }
    let unclamped = transfers_without(office, STUCK)?;
    for relay in relays {
        relay.signal(Signal::SIGCONT)?;
    }
    ensure!(!unclamped, "segments are not too large without the clamp");
    wait_until("the office to be served again", patient(SOON), || {
        transfers(office)
    })
    .map(drop)
}
