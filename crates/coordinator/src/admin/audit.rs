//! The audit log.

use super::{page::Wanted, time};
use crate::{
    Coordinator, api,
    refusal::Refusal,
    store::{AuditHead, AuditRow},
};
use serde_json::Value;
use std::cmp::Reverse;

/// Entries of the audit log, the newest first.
///
/// # Errors
/// [`Refusal`].
pub(crate) async fn list_audit(
    coordinator: &Coordinator,
    query: api::AuditQuery,
) -> Result<api::Page<api::AuditEntry>, Refusal> {
    let page = api::PageQuery {
        cursor: query.cursor,
        limit: query.limit,
    };
    let wanted: Wanted<Reverse<u64>> = Wanted::new("audit", &page)?;
    let behind = wanted.after.map(|Reverse(id)| id);
    let before = behind.into_iter().chain(query.before).min();
    let mut tx = coordinator.store.read().await?;
    let rows = tx.audit(before, wanted.limit.saturating_add(1)).await?;
    wanted.cut(rows, |row| Reverse(row.id)).try_map(describe)
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
