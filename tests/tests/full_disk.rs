//! No packet needs the disk, and neither does a change of what is allowed.

use std::time::Duration;

use anyhow::{Result, ensure};
use weir_tests::{Agent, Outpost};

const ROUTE: &str = "8.8.8.8/32";
/// How long a decision may take to reach the host's kernel.
const SOON: Duration = Duration::from_secs(10);

/// Waits until the host's kernel conforms to a map in which the route is in this state.
fn wait_for_route(host: &Agent, state: &str) -> Result<()> {
    let what = format!("the route to be {state}");
    let is_so = |status: &weir_tests::Status| {
        status.is_settled() && status.advertised.iter().all(|route| route.state == state)
    };
    host.wait_for_status(&what, SOON, is_so).map(drop)
}

#[test]
fn a_full_disk_keeps_no_change_from_the_kernel() -> Result<()> {
    let mut outpost = Outpost::new()?;
    let small_disk = "mount -t tmpfs -o size=1m,mode=755 small /var/lib/weir";
    outpost.host.machine().must(small_disk)?;
    outpost.host.start()?;
    let key = outpost.key()?;
    let joining = outpost.joining_with(&key)?;
    outpost
        .host
        .up(&format!("{joining} --advertise-routes={ROUTE}"))?;
    let name = outpost.host.name();
    outpost.coordinator().approve(name, ROUTE)?;
    wait_for_route(&outpost.host, "serving")?;

    let machine = outpost.host.machine();
    outpost.expect_error("No space left on device");
    let full = machine.type_in("dd if=/dev/zero of=/var/lib/weir/full bs=4096")?;
    ensure!(full.stderr.contains("No space left"), "{}", full.text());
    let reject = format!("coordinator routes reject {name} {ROUTE}");
    outpost.coordinator().machine().must(&reject)?;
    wait_for_route(&outpost.host, "rejected")?;
    let status = machine.type_in("agent status")?;
    ensure!(
        status.text().contains("take network map") && status.text().contains("No space left"),
        "the status does not tell of the full disk: {}",
        status.text()
    );

    machine.must("rm /var/lib/weir/full")?;
    outpost.coordinator().approve(name, ROUTE)?;
    wait_for_route(&outpost.host, "serving")?;
    machine.must("agent status")?;
    outpost.finish()
}
