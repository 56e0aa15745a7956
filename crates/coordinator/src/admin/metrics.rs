//! The metrics: what was counted, and what is so now.

use super::now;
use crate::{Coordinator, metrics::Text, store::StoreError};

/// All metrics as text. Without the database there are those that need none of it.
pub(crate) async fn metrics(coordinator: &Coordinator) -> String {
    let mut text = Text::default();
    let online = u64::try_from(coordinator.presence.online()).unwrap_or(u64::MAX);
    text.gauge(
        "weir_agents_connected",
        "Agents that are connected.",
        online,
    );
    let stored = of_store(coordinator).await;
    let up = u64::from(stored.is_ok());
    text.gauge("weir_store_up", "Whether the database answers.", up);
    match stored {
        Ok(stored) => {
            text.gauge("weir_nodes", "Nodes that are enrolled.", stored.nodes);
            text.gauge(
                "weir_agents_lagging",
                "Agents that are connected and have not said that their newest map is in force.",
                stored.lagging,
            );
            text.gauge(
                "weir_map_generation",
                "The newest generation of any network map.",
                stored.generation,
            );
        }
        Err(error) => tracing::warn!(
            error = &error as &dyn std::error::Error,
            "cannot read the database for the metrics"
        ),
    }
    let up_for = now().saturating_sub(coordinator.identity.started);
    let up_for = u64::try_from(up_for).unwrap_or(0);
    text.gauge(
        "weir_uptime_seconds",
        "For how long it has been running.",
        up_for,
    );
    coordinator.metrics.write(&mut text);
    coordinator.engine.figures().write(&mut text);
    coordinator.store.figures().write(&mut text);
    text.into_string()
}

struct Stored {
    nodes: u64,
    lagging: u64,
    generation: u64,
}

async fn of_store(coordinator: &Coordinator) -> Result<Stored, StoreError> {
    let mut tx = coordinator.store.read().await?;
    let reported = tx.reported_generations().await?;
    let generation = tx.newest_generation().await?;
    let lagging = reported.iter().filter(|(node, reported)| {
        coordinator.presence.is_online(*node) && coordinator.engine.generation(*node) > *reported
    });
    Ok(Stored {
        lagging: u64::try_from(lagging.count()).unwrap_or(u64::MAX),
        nodes: u64::try_from(reported.len()).unwrap_or(u64::MAX),
        generation: generation.0,
    })
}

/// Asks the database for next to nothing.
///
/// # Errors
/// [`StoreError`], when it does not answer.
pub(crate) async fn reach_store(coordinator: &Coordinator) -> Result<(), StoreError> {
    coordinator.store.read().await?.revision().await.map(drop)
}
