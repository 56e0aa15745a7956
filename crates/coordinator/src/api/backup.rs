//! Backups.

use axum::body::Bytes;
use futures_util::{Stream, stream};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{io, path::PathBuf};
use tokio::{fs::File, io::AsyncReadExt};

/// How much of a file is read at a time, in bytes.
const CHUNK: usize = 64 << 10;

/// `POST /api/v1/restore`, with a backup as it came from `GET /api/v1/backup`: what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Restored {
    /// Where the coordinator keeps a backup of what was there before.
    #[schemars(with = "String")]
    pub kept: PathBuf,
    /// How many nodes there are now.
    pub nodes: u64,
    /// What is wrong with the audit log that was restored, in words.
    pub audit_flaws: Vec<String>,
}

/// A file, piece by piece.
pub(crate) fn chunks(file: File) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::try_unfold(file, |mut file| async move {
        let mut buffer = vec![0; CHUNK];
        let length = file.read(&mut buffer).await?;
        buffer.truncate(length);
        Ok((length > 0).then(|| (Bytes::from(buffer), file)))
    })
}
