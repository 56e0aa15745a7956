//! `agent daemon`: wiring. The state on disk, the reconciler, the coordinator, the socket.

mod agent;
mod approval;
mod doctor;
mod down;
mod explain;
mod host;
mod keys;
mod logout;
mod rotate;
mod saved;
mod server;
mod session;
mod status;
#[cfg(test)]
mod tests;
mod up;
mod warnings;

use anyhow::{Context, Result, bail};
use caps::{CapSet, Capability};
use sd_notify::NotifyState;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};
use weir_kernel::{KernelOptions, LinuxKernel};
use weir_reconcile::{Reconciler, StateDirectory, Timing};

use agent::Agent;
pub(crate) use doctor::doctor_without_daemon;

/// How long a pass under way may take to end when the daemon stops.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Where the daemon keeps its things.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The settings file.
    pub(crate) config: PathBuf,
    /// The state directory.
    pub(crate) state: PathBuf,
    /// The socket.
    pub(crate) socket: PathBuf,
}

/// Runs until SIGTERM or SIGINT, and then leaves the kernel as it is: traffic goes on.
///
/// # Errors
/// What keeps the daemon from starting.
pub(crate) fn run(options: Options) -> Result<()> {
    if !caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_ADMIN).unwrap_or(false) {
        bail!(
            "the daemon needs the right to administer the network (CAP_NET_ADMIN): run it as \
             root, or through its unit (systemctl start weir-agent)"
        );
    }
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(serve(options))
}

async fn serve(options: Options) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let directory = StateDirectory::open(&options.state)?;
    let listener = server::bind(&options.socket)?;
    let kernel = Arc::new(LinuxKernel::new(KernelOptions::default()));
    let (reconciler, handle) =
        Reconciler::new(Arc::clone(&kernel), directory.clone(), Timing::default())?;
    let working = tokio::spawn(reconciler.run());
    let agent = Agent::open(kernel, directory, options.config, handle)?;
    agent.go_on();
    let serving = tokio::spawn(server::serve(Arc::clone(&agent), listener));
    let watching = tokio::spawn({
        let agent = Arc::clone(&agent);
        async move { agent.watch_way_down().await }
    });
    info!(
        version = env!("CARGO_PKG_VERSION"),
        socket = %options.socket.display(),
        "the agent's daemon serves"
    );
    // Outside systemd there is nobody to tell.
    drop(sd_notify::notify(&[NotifyState::Ready]));

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    drop(sd_notify::notify(&[NotifyState::Stopping]));
    info!("stopping; the kernel stays as it is");
    drop(std::fs::remove_file(&options.socket));
    serving.abort();
    watching.abort();
    agent.state().session = None;
    agent.state().waiting.stop();
    // The reconciler ends with the last handle, after the pass that is under way.
    drop(agent);
    if tokio::time::timeout(STOP_DEADLINE, working).await.is_err() {
        warn!("a pass over the kernel did not end in time");
    }
    Ok(())
}
