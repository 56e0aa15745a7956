//! What every request handler shares.

use crate::{
    clock,
    engine::Engine,
    presence::Presence,
    replay::ReplayCache,
    store::{Store, StoreError},
};
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Instant};
use tokio::task::JoinHandle;
use weir_protocol::Pin;

/// What a coordinator is known by.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Where agents are told to reach it.
    pub url: String,
    /// Where it listens.
    pub listen: SocketAddr,
    /// The pin of its key.
    pub pin: Pin,
    /// Since when it runs, in seconds since 1970.
    pub started: i64,
}

/// The running coordinator.
#[derive(Debug)]
pub(crate) struct Coordinator {
    /// What it remembers.
    pub store: Store,
    /// What makes the maps.
    pub engine: Engine,
    /// Who is connected.
    pub presence: Arc<Presence>,
    /// Which signatures were accepted.
    pub replay: ReplayCache,
    /// What it is known by.
    pub identity: Identity,
    /// Where its key is, and room for files.
    pub state_dir: PathBuf,
}

impl Coordinator {
    /// Puts the parts together and makes the first maps. The task ends once the coordinator is
    /// dropped.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn start(
        store: Store,
        identity: Identity,
        state_dir: PathBuf,
    ) -> Result<(Arc<Self>, JoinHandle<()>), StoreError> {
        let accepted = store
            .read()
            .await?
            .accepted_signatures(clock::now())
            .await?;
        let presence = Presence::new(Instant::now());
        let (engine, task) = Engine::start(store.clone(), Arc::clone(&presence)).await?;
        let coordinator = Self {
            store,
            engine,
            presence,
            replay: ReplayCache::new(accepted),
            identity,
            state_dir,
        };
        Ok((Arc::new(coordinator), task))
    }
}
