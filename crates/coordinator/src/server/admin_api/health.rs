//! For the programs that watch this one: is it alive, can it serve, how is it doing.

use super::{Answer, Shared};
use crate::{admin, metrics::CONTENT_TYPE, refusal::Refusal};
use axum::{
    Json, extract,
    http::header::{self, HeaderName},
};
use schemars::JsonSchema;
use serde::Serialize;
use std::time::Duration;
use tokio::time::timeout;
use weir_protocol::ErrorCode;

/// How long the database may take to say that it is there.
const DEADLINE: Duration = Duration::from_secs(5);

/// The answer of a coordinator that is well.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Health")]
pub(super) struct State {
    /// In a word: `alive` or `ready`.
    status: &'static str,
}

/// The program works: it takes requests and answers them.
pub(super) async fn alive() -> Json<State> {
    Json(State { status: "alive" })
}

/// It serves: the network is read, the database is there, and it is not stopping.
pub(super) async fn ready(extract::State(coordinator): Shared) -> Answer<State> {
    let not_ready = |why: &str| Refusal::new(ErrorCode::Unavailable, format!("not ready: {why}"));
    if coordinator.is_stopping() {
        return Err(not_ready("the coordinator is stopping"));
    }
    let asked = timeout(DEADLINE, admin::reach_store(&coordinator)).await;
    match asked {
        Ok(Ok(())) => Ok(Json(State { status: "ready" })),
        Ok(Err(_)) | Err(_) => Err(not_ready("the coordinator's database does not answer")),
    }
}

/// The metrics, as Prometheus reads them.
pub(super) async fn metrics(
    extract::State(coordinator): Shared,
) -> ([(HeaderName, &'static str); 1], String) {
    let text = admin::metrics(&coordinator).await;
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text)
}
