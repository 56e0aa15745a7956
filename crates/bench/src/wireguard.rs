//! Measures our WireGuard adapter against `wg setconf` on the kernel's WireGuard.

use crate::{
    host,
    peers::{self, LINK},
    reconcile::{self, median},
    report::{self, Figure, Report, milliseconds},
};
use anyhow::{Result, ensure};
use clap::{Args, value_parser};
use std::{
    fs,
    time::{Duration, Instant},
};
use weir_kernel::{KernelOptions, LinuxKernel};
use weir_kernel_plan::{Kernel, PeerUpdate, Scope, Step, WireguardBackend, plan, scope};
use weir_reconcile::Target;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Peers of the device; every tenth has two prefixes
    #[arg(long, default_value_t = 10_000, value_parser = value_parser!(u32).range(10..=60_000))]
    peers: u32,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// How often each side programs all peers, in turns.
const TURNS: usize = 3;
/// How often what is quick is measured.
const QUICK_TURNS: usize = 9;

/// The steps of a plan that make the device and its peers.
fn device_steps(steps: &[Step]) -> Vec<&Step> {
    let of_device = |step: &&Step| matches!(step, Step::ConfigureDevice(_) | Step::UpdatePeers(_));
    steps.iter().filter(of_device).collect()
}

/// Removes our link, if it is there, however long that takes: the kernel ends a link's peers one by
/// one, which takes an emulated machine minutes.
fn remove_our_link() -> Result<()> {
    if host::command(&format!("ip link show {LINK}")).is_ok() {
        host::command(&format!("ip link del {LINK}"))?;
    }
    Ok(())
}

/// Programs all peers by our adapter, on a new link; leaves the link.
async fn ours(kernel: &LinuxKernel, scope: &Scope, target: &Target) -> Result<Duration> {
    remove_our_link()?;
    let steps = plan(&target.state, &kernel.observe(scope).await?, None);
    for step in &steps {
        if matches!(step, Step::CreateLink { .. }) {
            kernel.apply(scope, step).await?;
        }
    }
    let start = Instant::now();
    for step in device_steps(&steps) {
        kernel.apply(scope, step).await?;
    }
    Ok(start.elapsed())
}

/// Programs all peers by `wg setconf`, on a new link.
fn theirs(configuration: &str) -> Result<Duration> {
    host::command("ip link add theirs type wireguard")?;
    let start = Instant::now();
    host::command(&format!("wg setconf theirs {configuration}"))?;
    let time = start.elapsed();
    host::command("ip link del theirs")?;
    Ok(time)
}

async fn measure(peers: u32) -> Result<Vec<Figure>> {
    let map = peers::map(peers)?;
    let target = peers::target(&map, WireguardBackend::Kernel)?;
    let scope = scope(&target.state);
    let kernel = LinuxKernel::new(KernelOptions::default());
    let folder = host::Folder::new()?;
    let file = folder.path().join("wg.conf");
    fs::write(&file, peers::configuration(&target)?)?;
    let file = file.display().to_string();

    let (mut by_us, mut by_wg) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        by_wg.push(theirs(&file)?);
        by_us.push(ours(&kernel, &scope, &target).await?);
    }
    let whole = median(by_us);

    let mut looks = Vec::new();
    let mut writes = 0;
    for _ in 0..QUICK_TURNS {
        let start = Instant::now();
        let observed = kernel.observe(&scope).await?;
        let steps = plan(&target.state, &observed, None);
        looks.push(start.elapsed());
        writes += device_steps(&steps).len();
    }
    ensure!(
        writes == 0,
        "a device with all its peers needs {writes} steps"
    );

    let Some((key, _)) = target.state.peers.iter().nth(target.state.peers.len() / 2) else {
        anyhow::bail!("there are no peers");
    };
    let mut one = Vec::new();
    for turn in 0..QUICK_TURNS {
        let prefix = "172.16.0.0/24".parse()?;
        let mut update = PeerUpdate::of(*key);
        if turn % 2 == 0 {
            update.add_allowed_ips.insert(prefix);
        } else {
            update.remove_allowed_ips.insert(prefix);
        }
        let step = Step::UpdatePeers(vec![update]);
        let start = Instant::now();
        kernel.apply(&scope, &step).await?;
        one.push(start.elapsed());
    }
    remove_our_link()?;

    let mut figures = vec![
        Figure::time(
            format!(
                "{peers} new peers programmed by our adapter, median (yardstick: `wg setconf`)"
            ),
            whole,
        )
        .at_most(milliseconds(median(by_wg)), 1.1),
        Figure::time(
            "the device with all its peers read, compared and found right, median".to_owned(),
            median(looks),
        ),
        Figure::time(
            "one peer gets or loses a prefix, by the adapter, median (yardstick: all peers)"
                .to_owned(),
            median(one),
        )
        .against(milliseconds(whole), 50.0),
    ];
    figures.extend(reconcile::measure(WireguardBackend::Kernel, peers).await?);
    Ok(figures)
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let peers = options.peers;
    let figures = host::in_a_namespace(move || async move {
        let kernel = LinuxKernel::new(KernelOptions::default());
        let facts = kernel.facts(&LINK.parse()?, 51920).await?;
        ensure!(facts.kernel_wireguard, "this kernel has no WireGuard");
        measure(peers).await
    })?;
    let report = Report {
        name: "wireguard",
        machine: report::machine(),
        figures,
    };
    report.print(options.json)
}
