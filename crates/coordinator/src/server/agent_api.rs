//! What agents ask, over TLS.

use super::{
    admin_api, answer, approval_page,
    signed::{self, SignedRequest},
    stream::{self, Source},
};
use crate::{Coordinator, enrolment, refusal::Refusal};
use axum::{
    Json, Router,
    body::Body,
    extract::{Extension, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::post,
};
use futures_util::TryStreamExt;
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};
use weir_protocol::{
    APPROVAL_PATH, ApprovalAnswer, ApprovalRequest, DOWN_PATH, DownRequest, DownResponse,
    LEAVE_PATH, LeaveRequest, MAP_PATH, MapRequest, REGISTER_PATH, REPORT_PATH, RegisterRequest,
    RegisterResponse, ReportRequest, UPDATE_PATH, UpdateRequest,
};

/// Turns true when the coordinator stops: streams end then.
#[derive(Clone, Debug)]
pub(super) struct Stopping(pub(super) watch::Receiver<bool>);

/// Lets so many agents be told their first map at a time.
#[derive(Clone, Debug)]
struct FirstMaps(Arc<Semaphore>);

/// How many agents are told their first map at a time. Whole maps are long: when all agents come
/// back at once, only so many of them are in memory.
const FIRST_MAPS: usize = 64;

/// What is served over TLS: the agent API, and the admin API for who has a token.
pub(super) fn router(coordinator: Arc<Coordinator>, stopping: Stopping) -> Router {
    let first_maps = FirstMaps(Arc::new(Semaphore::new(FIRST_MAPS)));
    let admins = admin_api::routes(&coordinator);
    Router::new()
        .route(REGISTER_PATH, post(register))
        .route(APPROVAL_PATH, post(approval))
        .route(MAP_PATH, post(map))
        .route(UPDATE_PATH, post(update))
        .route(REPORT_PATH, post(report))
        .route(LEAVE_PATH, post(leave))
        .route(DOWN_PATH, post(down))
        .layer(Extension(stopping))
        .layer(Extension(first_maps))
        .merge(admins)
        .merge(approval_page::routes())
        .fallback(answer::no_such_path)
        .method_not_allowed_fallback(answer::no_such_method)
        .with_state(coordinator)
}

async fn register(
    State(coordinator): State<Arc<Coordinator>>,
    request: SignedRequest<RegisterRequest>,
) -> Result<Json<RegisterResponse>, Refusal> {
    let policy = coordinator.engine.policy();
    let (store, sender) = (&coordinator.store, request.sender);
    let response = enrolment::register(store, &policy.policy, request.body, sender).await;
    if request.node.is_none() {
        match &response {
            Ok(_) => coordinator.metrics.enrolments.count(),
            Err(_) => coordinator.metrics.enrolments_refused.count(),
        }
    }
    let response = response?;
    if request.node.is_none() {
        // It was a stranger's request, and is a node's now.
        coordinator.replay.enrolled(request.signed.machine);
        signed::remember(&coordinator, &request.signed).await?;
    }
    coordinator.engine.changed().await;
    Ok(Json(response))
}

async fn approval(
    State(coordinator): State<Arc<Coordinator>>,
    request: SignedRequest<ApprovalRequest>,
) -> Result<Json<ApprovalAnswer>, Refusal> {
    enrolment::ask(&coordinator, request.body, request.sender)
        .await
        .map(Json)
}

async fn map(
    State(coordinator): State<Arc<Coordinator>>,
    Extension(Stopping(stopping)): Extension<Stopping>,
    Extension(FirstMaps(first_maps)): Extension<FirstMaps>,
    request: SignedRequest<MapRequest>,
) -> Result<Response, Refusal> {
    let node = request.node.ok_or_else(enrolment::not_enrolled)?;
    if enrolment::moved(&coordinator.store, &node, request.sender).await? {
        coordinator.engine.changed().await;
    }
    let lines = stream::lines(Source {
        maps: coordinator.engine.follow(node.id, request.body).await?,
        first_maps,
        stopping,
        connected: coordinator.presence.connect(node.id),
    });
    let metrics = Arc::clone(&coordinator.metrics);
    let lines = lines.inspect_ok(move |line| {
        let bytes = u64::try_from(line.len()).unwrap_or(u64::MAX);
        metrics.stream_bytes.add(bytes);
    });
    let content_type = [(CONTENT_TYPE, "application/x-ndjson")];
    Ok((content_type, Body::from_stream(lines)).into_response())
}

async fn update(
    State(coordinator): State<Arc<Coordinator>>,
    request: SignedRequest<UpdateRequest>,
) -> Result<StatusCode, Refusal> {
    let node = request.node.ok_or_else(enrolment::not_enrolled)?;
    if enrolment::update(&coordinator.store, &node, request.body.host, request.sender).await? {
        coordinator.engine.changed().await;
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn report(
    State(coordinator): State<Arc<Coordinator>>,
    request: SignedRequest<ReportRequest>,
) -> Result<StatusCode, Refusal> {
    let node = request.node.ok_or_else(enrolment::not_enrolled)?;
    enrolment::report(&coordinator, &node, request.body, request.sender).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn leave(
    State(coordinator): State<Arc<Coordinator>>,
    request: SignedRequest<LeaveRequest>,
) -> Result<StatusCode, Refusal> {
    enrolment::leave(&coordinator.store, request.sender).await?;
    coordinator.engine.changed().await;
    Ok(StatusCode::NO_CONTENT)
}

async fn down(
    State(coordinator): State<Arc<Coordinator>>,
    request: SignedRequest<DownRequest>,
) -> Result<Json<DownResponse>, Refusal> {
    let node = request.node.ok_or_else(enrolment::not_enrolled)?;
    if node.ephemeral {
        enrolment::leave(&coordinator.store, request.sender).await?;
        coordinator.engine.changed().await;
    }
    Ok(Json(DownResponse {
        deleted: node.ephemeral,
    }))
}
