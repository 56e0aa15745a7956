//! The audit log.

use super::time;
use crate::{
    Coordinator, api,
    refusal::Refusal,
    store::{AuditHead, AuditRow},
};
use serde_json::Value;

/// The most entries of one answer.
const MAX_ENTRIES: u32 = 1000;

/// Entries of the audit log before the one with this number, or the newest; the newest first.
///
/// # Errors
/// [`Refusal::Store`].
pub(crate) async fn list_audit(
    coordinator: &Coordinator,
    before: Option<u64>,
    limit: u32,
) -> Result<Vec<api::AuditEntry>, Refusal> {
    let mut tx = coordinator.store.read().await?;
    let rows = tx.audit(before, limit.min(MAX_ENTRIES)).await?;
    rows.into_iter().map(describe).collect()
}

fn describe(row: AuditRow) -> Result<api::AuditEntry, Refusal> {
    // What somebody wrote over an entry must not keep the others from being seen.
    let json = |text: Option<String>| {
        text.map(|text| serde_json::from_str(&text).unwrap_or(Value::String(text)))
    };
    Ok(api::AuditEntry {
        id: row.id,
        at: time("time", row.at)?,
        actor: row.actor,
        origin: row.origin,
        action: row.action,
        subject: row.subject,
        before: json(row.before),
        after: json(row.after),
        hash: row.hash,
    })
}

/// Checks that every entry is what was written and none is missing. `known` is an entry's hash
/// that was kept elsewhere.
///
/// # Errors
/// [`Refusal::Store`].
pub(crate) async fn verify_audit(
    coordinator: &Coordinator,
    known: Option<AuditHead>,
) -> Result<api::AuditReport, Refusal> {
    let report = coordinator.store.read().await?.verify_audit(known).await?;
    Ok(api::AuditReport {
        entries: report.entries,
        head: (report.head.id > 0).then(|| report.head.to_string()),
        flaws: report.flaws.iter().map(ToString::to_string).collect(),
    })
}
