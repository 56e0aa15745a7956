//! The agent with the rights that its systemd unit gives it: a user of its own, CAP_NET_ADMIN,
//! and nothing else.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use weir_lab::program;
use weir_tests::{Agent, Outpost};

const UNIT: &str = include_str!("../../packaging/agent/weir-agent.service");
/// As systemd sets it up: the capability can be handed on to nft, and none other be had.
const WITH_THE_UNITS_RIGHTS: &str = "setpriv --reuid 64086 --regid 64086 --clear-groups \
     --no-new-privs --inh-caps=-all,+net_admin --ambient-caps=-all,+net_admin \
     --bounding-set=-all,+net_admin /run/agent daemon";
/// `CAP_NET_ADMIN` alone, as `/proc` shows it.
const NET_ADMIN: &str = "0000000000001000";

/// Makes what the package and the unit make before the daemon starts.
fn prepare(host: &Agent) -> Result<()> {
    let machine = host.machine();
    // Where the program lies, not everybody may go.
    let copy = machine.node().host_path("/run/agent");
    fs::copy(program("agent")?, &copy).context("cannot copy the agent")?;
    for command in [
        "mkdir -p /run/weir /run/wireguard /var/lib/weir/agent /dev/net",
        "chown 64086:64086 /run/weir /run/wireguard /var/lib/weir/agent",
        "chmod 700 /var/lib/weir/agent",
        // udev opens it to everybody; making a link with it takes the capability.
        "mount -t tmpfs -o mode=755 tmpfs /dev/net",
        "mknod -m 666 /dev/net/tun c 10 200",
    ] {
        machine.must(command)?;
    }
    Ok(())
}

/// What `/proc` says of the daemon, a line for each of these.
fn rights(host: &Agent) -> Result<Vec<String>> {
    let path = format!("/proc/{}/status", host.daemon()?.pid());
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let words = ["Uid:", "CapEff:", "CapBnd:", "NoNewPrivs:"];
    let lines = words.iter().filter_map(|word| {
        let line = status.lines().find_map(|line| line.strip_prefix(word))?;
        Some(line.split_whitespace().next()?.to_owned())
    });
    Ok(lines.collect())
}

#[test]
fn a_relay_works_with_the_rights_of_its_unit() -> Result<()> {
    for line in [
        "AmbientCapabilities=CAP_NET_ADMIN",
        "CapabilityBoundingSet=CAP_NET_ADMIN",
        "NoNewPrivileges=yes",
    ] {
        ensure!(
            UNIT.lines().any(|other| other == line),
            "the unit has no {line}"
        );
    }
    let mut outpost = Outpost::new()?;
    prepare(&outpost.host)?;
    let before = outpost.look()?;
    outpost.host.start_by(WITH_THE_UNITS_RIGHTS)?;
    let found = rights(&outpost.host)?;
    ensure!(
        found == ["64086", NET_ADMIN, NET_ADMIN, "1"],
        "the daemon has other rights: {found:?}"
    );

    let key = outpost.key()?;
    let joining = outpost.joining_with(&key)?;
    outpost
        .host
        .up(&format!("{joining} --advertise-routes=8.8.8.8"))?;
    outpost
        .coordinator()
        .approve(outpost.host.name(), "8.8.8.8/32")?;
    let serving = |host: &Agent| {
        host.wait_for_status(
            "the host to serve its route",
            Duration::from_secs(10),
            |status| status.is_settled() && status.advertised.iter().any(|r| r.state == "serving"),
        )
    };
    serving(&outpost.host)?;
    let forwarding = outpost
        .host
        .machine()
        .must("cat /proc/sys/net/ipv4/ip_forward")?;
    ensure!(forwarding.stdout.trim() == "1", "{}", forwarding.text());

    outpost.host.stop(Signal::SIGTERM)?;
    outpost.host.start_by(WITH_THE_UNITS_RIGHTS)?;
    serving(&outpost.host)?;

    outpost.host.machine().must("agent down")?;
    let difference = before.difference(&outpost.look()?);
    ensure!(difference.is_none(), "{difference:?}");
    outpost.finish()
}
