//! `agent logout` and `agent bugreport`.

use anyhow::{Context as _, Result, ensure};
use weir_lab::HostSnapshot;
use weir_tests::story::{Quiet, World};
use weir_tests::{AuthKey, one_sentence};

const STATE: &str = "/var/lib/weir/agent";

#[test]
fn a_node_that_logs_out_is_gone_everywhere_and_needs_a_new_key() -> Result<()> {
    let world = World::with_agents(&mut Quiet, &["relay"])?;
    let machine = world.relay.machine();
    let before = world.before.get("relay").context("nobody looked")?;
    one_sentence(&machine.type_in("agent logout --yes")?, &["in no network"])?;
    world.relay.up("--advertise-routes=8.8.8.8")?;
    let key = machine.node().read_file(format!("{STATE}/node.key"))?;
    one_sentence(&machine.type_in("agent logout")?, &["--yes"])?;

    let gone = machine.must("agent logout --yes")?;
    ensure!(
        gone.stdout.contains("no longer in the network"),
        "{}",
        gone.text()
    );
    let after = HostSnapshot::take(machine.node(), weir_lab::TOUCHED_SYSCTLS)?;
    let difference = before.difference(&after);
    ensure!(difference.is_none(), "{difference:?}");
    let nodes = world
        .coordinator
        .machine()
        .must("coordinator nodes list --json")?;
    ensure!(!nodes.stdout.contains("\"relay\""), "{}", nodes.text());
    let audit = world
        .coordinator
        .machine()
        .must("coordinator audit list --json")?;
    ensure!(audit.stdout.contains("nodes.leave"), "{}", audit.text());
    let fresh = machine.node().read_file(format!("{STATE}/node.key"))?;
    ensure!(fresh != key, "the key is still there");
    // The key in the file was used up by the first `up`.
    one_sentence(&machine.type_in("agent up")?, &["one-off"])?;
    let key = world.coordinator.create_key("--tags tag:relay")?;
    machine
        .node()
        .write_file("/etc/weir/auth.key", key.reveal())?;
    world.relay.up("")?;
    world.network.lab.finish()
}

#[test]
fn a_report_of_a_bug_holds_no_key() -> Result<()> {
    let world = World::with_agents(&mut Quiet, &["relay"])?;
    let machine = world.relay.machine();
    world.relay.up("--advertise-routes=8.8.8.8")?;
    let read = |name: &str| -> Result<String> {
        let key = machine.node().read_file(format!("{STATE}/{name}"))?;
        Ok(key.trim().to_owned())
    };
    let auth_key = AuthKey::new(machine.node().read_file("/etc/weir/auth.key")?);
    let secrets = [
        read("node.key")?,
        read("machine.key")?,
        auth_key.reveal().to_owned(),
    ];
    // Where a careless person may have left them.
    for (number, secret) in secrets.iter().enumerate() {
        machine.node().nft(&format!(
            "table inet site{number} {{\n comment \"{}\"\n}}",
            secret.get(..100).unwrap_or(secret)
        ))?;
    }
    let settings = machine.node().read_file("/etc/weir/agent.toml")?;
    let told = format!("# auth key: {}\n{settings}", auth_key.reveal());
    machine.node().write_file("/etc/weir/agent.toml", &told)?;

    let written = machine.must("agent bugreport --output=/run/report.txt")?;
    ensure!(
        written.stdout.contains("read it before"),
        "{}",
        written.text()
    );
    let report = machine.node().read_file("/run/report.txt")?;
    for secret in &secrets {
        ensure!(!report.contains(secret.as_str()), "a key is in the report");
    }
    for part in [
        "== Status",
        "== Doctor",
        "table inet weir",
        "8.8.8.8/32",
        "== Log",
    ] {
        ensure!(report.contains(part), "{part} is missing in:\n{report}");
    }
    ensure!(report.contains("(removed)"), "nothing was removed");
    let mode = machine.must("stat -c %a /run/report.txt")?;
    ensure!(mode.stdout.trim() == "600", "{}", mode.text());
    world.network.lab.finish()
}
