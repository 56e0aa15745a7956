//! What must be refused: each time one clear sentence with what to do, a status that is not 0,
//! and nothing changed.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use weir_lab::program;
use weir_tests::{AuthKey, Coordinator, Outpost, one_sentence};

/// Long enough for a handshake in emulation, and shorter than the test's patience.
const SOON: &str = "--timeout=5";

/// An outpost whose daemon runs, and flags with a good key.
fn outpost() -> Result<(Outpost, String)> {
    let mut outpost = Outpost::new()?;
    outpost.host.start()?;
    let key = outpost.key()?;
    let joining = outpost.joining_with(&key)?;
    Ok((outpost, joining))
}

#[test]
fn no_coordinator_configured() -> Result<()> {
    let (outpost, _) = outpost()?;
    outpost.refuses("", &["no coordinator is configured", "--coordinator"])?;
    outpost.finish()
}

#[test]
fn no_auth_key() -> Result<()> {
    let (outpost, _) = outpost()?;
    let flags = format!("--coordinator={}", Coordinator::url());
    outpost.refuses(
        &flags,
        &["certificate", "--pin", "coordinator status", "--auth-key"],
    )?;
    outpost.finish()
}

#[test]
fn a_wrong_key() -> Result<()> {
    let (outpost, _) = outpost()?;
    let good = outpost.key()?;
    let parts: Vec<_> = good.reveal().splitn(5, '-').collect();
    let [weir, key, id, secret, pin] = parts.as_slice() else {
        anyhow::bail!("a key has another shape");
    };
    let other: String = secret.chars().rev().collect();
    let wrong = AuthKey::new(format!("{weir}-{key}-{id}-{other}-{pin}"));
    let joining = outpost.joining_with(&wrong)?;
    outpost.refuses(&joining, &["auth key"])?;
    let joining = outpost.joining_with(&AuthKey::new("swordfish"))?;
    outpost.refuses(&joining, &["not an auth key", "keys create"])?;
    // The right one is none the worse for it.
    let joining = outpost.joining_with(&good)?;
    outpost.host.up(&joining)?;
    outpost.finish()
}

#[test]
fn a_used_up_key() -> Result<()> {
    let (mut outpost, joining) = outpost()?;
    outpost.host.up(&joining)?;
    outpost.host.machine().must("agent down")?;
    // The same host with nothing of the agent left is another machine.
    outpost.host.stop(Signal::SIGTERM)?;
    outpost.host.machine().must("rm -r /var/lib/weir/agent")?;
    outpost.host.start()?;
    outpost.refuses(&joining, &["auth key", "used"])?;
    outpost.finish()
}

#[test]
fn an_unreachable_coordinator() -> Result<()> {
    let (outpost, joining) = outpost()?;
    let closed = joining.replace(":8443", ":8444");
    outpost.refuses(
        &format!("{closed} {SOON}"),
        &["cannot reach the coordinator", ":8444", "refused"],
    )?;
    let nobody = joining.replace("198.51.100.10", "198.51.100.99");
    outpost.refuses(
        &format!("{nobody} {SOON}"),
        &["coordinator", "198.51.100.99"],
    )?;
    outpost.finish()
}

#[test]
fn a_wrong_pin() -> Result<()> {
    let (outpost, _) = outpost()?;
    let good = outpost.key()?;
    let (rest, pin) = good.reveal().split_at(good.reveal().len() - 43);
    let other: String = pin.chars().skip(1).chain(['A']).collect();
    let last_of_32_bytes = format!("{}A", &other[..42]);
    let joining = outpost.joining_with(&AuthKey::new(format!("{rest}{last_of_32_bytes}")))?;
    outpost.refuses(&joining, &["is not the one", "auth key", "check the URL"])?;
    outpost.finish()
}

#[test]
fn a_prefix_with_host_bits() -> Result<()> {
    let (outpost, joining) = outpost()?;
    outpost.refuses(
        &format!("{joining} --advertise-routes=10.20.0.5/24"),
        &["10.20.0.5/24", "host bits", "10.20.0.0/24"],
    )?;
    outpost.finish()
}

#[test]
fn an_unknown_flag() -> Result<()> {
    let (outpost, joining) = outpost()?;
    outpost.refuses(
        &format!("{joining} --advertise-route=8.8.8.8"),
        &["--advertise-route", "--advertise-routes"],
    )?;
    outpost.finish()
}

#[test]
fn no_privilege() -> Result<()> {
    let (mut outpost, joining) = outpost()?;
    // Where the program lies, not everybody may go.
    let copy = outpost.host.machine().node().host_path("/run/agent");
    std::fs::copy(program("agent")?, &copy).context("cannot copy the agent")?;
    let before = outpost.look()?;
    let nobody = "setpriv --reuid 65534 --clear-groups /run/agent";
    let machine = outpost.host.machine();
    let up = machine.type_in(&format!("{nobody} up {joining}"))?;
    // The key file may be for root only, too: either sentence is the right one.
    one_sentence(&up, &["agent: "])?;
    ensure!(
        up.stderr.contains("right") || up.stderr.contains("ermission"),
        "{}",
        up.stderr
    );
    let up = machine.type_in(&format!("{nobody} up --coordinator={}", Coordinator::url()))?;
    one_sentence(&up, &["right", "root"])?;
    outpost.host.status()?;

    outpost.host.stop(Signal::SIGTERM)?;
    let machine = outpost.host.machine();
    let daemon = machine
        .node()
        .command(format!("{nobody} daemon").split_whitespace())
        .deadline(Duration::from_secs(10))
        .output()?;
    one_sentence(&daemon, &["root"])?;
    ensure!(before.difference(&outpost.look()?).is_none());

    // root, but not over the network: a container.
    let contained = machine
        .node()
        .command("setpriv --bounding-set=-net_admin agent daemon".split_whitespace())
        .deadline(Duration::from_secs(10))
        .output()?;
    one_sentence(&contained, &["CAP_NET_ADMIN", "root"])?;
    outpost.finish()
}

#[test]
fn another_process_holding_the_port() -> Result<()> {
    let (outpost, joining) = outpost()?;
    let node = outpost.host.machine().node();
    let other = node.spawn(["weir-lab-host", "serve", "--udp", "51920"])?;
    other.wait_for_log("listening", Duration::from_secs(5))?;
    outpost.refuses(&joining, &["51920", "in use", "--listen-port"])?;
    outpost.finish()
}

#[test]
fn the_interface_name_taken() -> Result<()> {
    let (outpost, joining) = outpost()?;
    let node = outpost.host.machine().node();
    node.ip("link add weir0 type veth peer name other0")?;
    outpost.refuses(&joining, &["weir0", "not Weir's", "--interface"])?;
    outpost.finish()
}

#[test]
fn nft_missing() -> Result<()> {
    let mut outpost = Outpost::new()?;
    outpost.host.start_by(&format!(
        "env PATH=/nonexistent {} daemon",
        program("agent")?.display()
    ))?;
    let key = outpost.key()?;
    let joining = outpost.joining_with(&key)?;
    outpost.refuses(&joining, &["nft", "apt install nftables"])?;
    outpost.finish()
}

#[test]
fn forwarding_not_settable() -> Result<()> {
    let mut outpost = Outpost::new()?;
    let machine = outpost.host.machine();
    machine.must("mount --bind /proc/sys /proc/sys")?;
    machine.must("mount -o remount,bind,ro /proc/sys")?;
    outpost.host.start()?;
    let key = outpost.key()?;
    let joining = outpost.joining_with(&key)?;
    outpost.refuses(
        &format!("{joining} --advertise-routes=8.8.8.8"),
        &["net/ipv4/ip_forward", "sysctl -w net.ipv4.ip_forward=1"],
    )?;
    outpost.finish()
}

#[test]
fn a_host_without_ipv6() -> Result<()> {
    let mut outpost = Outpost::new()?;
    outpost.host.machine().node().disable_ipv6()?;
    let before = outpost.look()?;
    outpost.host.start()?;
    let key = outpost.key()?;
    let joining = outpost.joining_with(&key)?;
    outpost.refuses(
        &format!("{joining} --advertise-routes=2001:db8::/32"),
        &["2001:db8::/32", "no IPv6", "disable_ipv6"],
    )?;
    let up = outpost
        .host
        .up(&format!("{joining} --advertise-routes=8.8.8.8"))?;
    ensure!(
        up.stdout.contains("8.8.8.8/32: awaiting approval"),
        "{}",
        up.stdout
    );
    ensure!(
        !up.text().contains("IPv6"),
        "a relay without IPv6 is not told about it: {}",
        up.text()
    );
    outpost.host.settled()?;
    outpost.host.machine().must("agent down")?;
    let difference = before.difference(&outpost.look()?);
    ensure!(difference.is_none(), "{difference:?}");
    outpost.finish()
}
