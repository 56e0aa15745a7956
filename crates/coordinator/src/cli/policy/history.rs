//! `coordinator policy history` and `rollback`.

use super::{Session, output, saved, with_findings};
use crate::api;

pub(super) async fn list(session: &Session) -> anyhow::Result<()> {
    let revisions: Vec<api::PolicyRevision> = session.client.list("/policy/revisions").await?;
    if session.json {
        return output::json(&revisions);
    }
    if revisions.is_empty() {
        return output::line(
            "no policy was ever set, so nothing is allowed: coordinator policy set FILE",
        );
    }
    let rows: Vec<_> = revisions
        .iter()
        .map(|revision| {
            [
                revision.revision.to_string(),
                output::time(revision.saved),
                revision.saved_by.clone(),
                revision.bytes.to_string(),
                if revision.in_force { "yes" } else { "no" }.to_owned(),
                revision.note.clone(),
            ]
        })
        .collect();
    output::table(
        ["REVISION", "SAVED", "BY", "BYTES", "IN FORCE", "NOTE"],
        &rows,
    )
}

pub(super) async fn roll_back(
    session: &Session,
    revision: u64,
    if_revision: Option<u64>,
) -> anyhow::Result<()> {
    let request = api::RollBackPolicy {
        revision,
        if_revision,
    };
    let answer = session.client.post("/policy/rollback", &request).await;
    saved(session, &with_findings(session, answer)?)
}
