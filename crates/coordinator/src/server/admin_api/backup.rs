//! Backups: a file each way, never as a whole in memory.

use super::{Answer, Shared, access::Admin};
use crate::{
    admin::{self, Scratch},
    api,
    refusal::Refusal,
};
use axum::{
    Json,
    body::Body,
    extract::State,
    http::header::{CONTENT_LENGTH, CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use futures_util::TryStreamExt;
use http_body_util::{BodyDataStream, LengthLimitError, Limited};
use std::io;
use tokio::{fs::File, io::AsyncWriteExt};
use weir_protocol::ErrorCode;

/// The longest backup that is taken in, in bytes. A network of ten thousand nodes is under 100 MB,
/// and the rest is its audit log.
const MAX_BACKUP_BYTES: usize = 64 << 30;

pub(super) async fn back_up(State(coordinator): Shared) -> Result<Response, Refusal> {
    let made = admin::back_up(&coordinator).await?;
    let opened = File::open(made.path()).await;
    // The open file outlives its name.
    drop(made);
    let file = opened.map_err(disk)?;
    let length = file.metadata().await.map_err(disk)?.len();
    let headers = [
        (CONTENT_TYPE, "application/vnd.sqlite3".to_owned()),
        (CONTENT_LENGTH, length.to_string()),
    ];
    Ok((headers, Body::from_stream(api::chunks(file))).into_response())
}

pub(super) async fn restore(
    State(coordinator): Shared,
    Admin(actor): Admin,
    body: Body,
) -> Answer<api::Restored> {
    let from = Scratch::new(&coordinator)?;
    receive(body, &from).await?;
    admin::restore(&coordinator, &actor, &from).await.map(Json)
}

async fn receive(body: Body, into: &Scratch) -> Result<(), Refusal> {
    let mut file = File::create_new(into.path()).await.map_err(disk)?;
    let mut chunks = BodyDataStream::new(Limited::new(body, MAX_BACKUP_BYTES));
    loop {
        let chunk = chunks.try_next().await.map_err(|error| {
            let detail = if error.is::<LengthLimitError>() {
                "this is longer than any backup".to_owned()
            } else {
                format!("the backup did not arrive as a whole ({error})")
            };
            Refusal::new(ErrorCode::BadRequest, detail)
        })?;
        let Some(chunk) = chunk else {
            break;
        };
        file.write_all(&chunk).await.map_err(disk)?;
    }
    file.flush().await.map_err(disk)
}

fn disk(error: io::Error) -> Refusal {
    Refusal::new(
        ErrorCode::Internal,
        format!("the coordinator cannot keep a file in its state directory: {error}"),
    )
}
