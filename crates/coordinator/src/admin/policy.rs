//! The policy: read, set, tried, and set back.

use super::{Expected, Versioned, now, page::Wanted, publish, time, versions};
use crate::{
    Coordinator, api, clock,
    refusal::Refusal,
    snapshot,
    store::{Actor, AuditEntry, PolicyRow, StoreError, Tx},
};
use serde_json::json;
use std::{cmp::Reverse, sync::Arc};
use weir_netmap::NetworkState;
use weir_policy::{Diagnostic, Policy, render};
use weir_protocol::ErrorCode;

/// What a policy is called when its sender does not say.
const DEFAULT_SOURCE: &str = "policy.hujson";
/// The longest note, in characters: it is a line of a table.
const MAX_NOTE: usize = 200;
/// How many revisions the history shows. Older ones can still be read by their numbers.
const HISTORY: u32 = 1000;

/// Which kind of change a policy is saved for.
struct Change<'a> {
    text: &'a str,
    /// What the text is called in diagnostics.
    source: &'a str,
    if_revision: Option<u64>,
    expected: &'a Expected,
    note: &'a str,
    /// For the audit log.
    action: &'static str,
}

/// The newest stored policy, or the one with this revision.
///
/// # Errors
/// [`Refusal`], when there is none.
pub(crate) async fn get_policy(
    coordinator: &Coordinator,
    revision: Option<u64>,
) -> Result<Versioned<api::Policy>, Refusal> {
    let mut tx = coordinator.store.read().await?;
    let found = stored(&mut tx, revision).await?;
    let in_force = coordinator.engine.policy().status.revision == Some(found.revision);
    Ok(Versioned {
        version: versions::of_policy(found.revision),
        of: api::Policy {
            revision: found.revision,
            text: found.text,
            saved: time("time", found.saved_at)?,
            saved_by: found.saved_by,
            note: found.note,
            in_force,
        },
    })
}

/// A stored policy: the newest, or the one with this revision.
pub(super) async fn stored(tx: &mut Tx, revision: Option<u64>) -> Result<PolicyRow, Refusal> {
    let newest = newest(tx).await?.ok_or_else(|| {
        Refusal::new(
            ErrorCode::NotFound,
            "no policy is set, so nothing is allowed: write one and save it with coordinator \
             policy set FILE",
        )
    })?;
    let Some(revision) = revision.filter(|revision| *revision != newest.revision) else {
        return Ok(newest);
    };
    tx.policy(revision).await?.ok_or_else(|| {
        Refusal::new(
            ErrorCode::NotFound,
            format!(
                "there is no policy revision {revision}; {} is the newest: see coordinator policy \
                 history",
                newest.revision
            ),
        )
    })
}

async fn newest(tx: &mut Tx) -> Result<Option<PolicyRow>, StoreError> {
    Ok(tx.newest_policies(1).await?.pop())
}

/// All policies that were saved, the newest first.
///
/// # Errors
/// [`Refusal`].
pub(crate) async fn policy_history(
    coordinator: &Coordinator,
    page: &api::PageQuery,
) -> Result<api::Page<api::PolicyRevision>, Refusal> {
    let wanted = Wanted::new("policies", page)?;
    let mut tx = coordinator.store.read().await?;
    let in_force = coordinator.engine.policy().status.revision;
    let rows = tx.policy_history(HISTORY).await?;
    let page = wanted.of(rows, |row| Reverse(row.revision));
    page.try_map(|row| {
        Ok(api::PolicyRevision {
            revision: row.revision,
            saved: time("time", row.saved_at)?,
            saved_by: row.saved_by,
            bytes: row.bytes,
            note: row.note,
            in_force: in_force == Some(row.revision),
        })
    })
}

/// Says whether a policy could be set, and changes nothing.
///
/// # Errors
/// [`Refusal::BadPolicy`], when it could not.
pub(crate) async fn test_policy(
    coordinator: &Coordinator,
    request: api::TestPolicy,
) -> Result<api::PolicyTested, Refusal> {
    let source = request.source.as_deref().unwrap_or(DEFAULT_SOURCE);
    let policy = parse(&request.text, source, "the policy is not valid")?;
    let state = snapshot::read(&mut coordinator.store.read().await?, clock::now()).await?;
    weir_netmap::verify(&state, &policy).map_err(|findings| {
        let detail = "the policy does not pass its own tests in this network";
        Refusal::policy(detail, findings, &request.text, source)
    })?;
    Ok(api::PolicyTested {
        tests: policy.tests(),
        nodes: state.nodes.len(),
        warnings: render(&warnings(&policy, &state), &request.text, source),
    })
}

/// Saves a policy. When this returns, the maps of all nodes follow it.
///
/// # Errors
/// [`Refusal`]: a text that is not valid or fails its own tests changes nothing, and neither does
/// one that was made from another revision than the newest.
pub(crate) async fn set_policy(
    coordinator: &Coordinator,
    actor: &Actor,
    request: api::SetPolicy,
    expected: &Expected,
) -> Result<Versioned<api::SetPolicyDone>, Refusal> {
    let note = request.note.trim();
    if note.chars().count() > MAX_NOTE || note.chars().any(char::is_control) {
        let detail = format!("a note is one line of at most {MAX_NOTE} characters");
        return Err(Refusal::new(ErrorCode::BadRequest, detail));
    }
    let change = Change {
        text: &request.text,
        source: request.source.as_deref().unwrap_or(DEFAULT_SOURCE),
        if_revision: request.if_revision,
        expected,
        note,
        action: "policy.set",
    };
    let done = save(coordinator, actor, change).await?;
    Ok(Versioned {
        version: versions::of_policy(done.revision),
        of: done,
    })
}

/// Saves the text of an older revision as the newest: it must be valid and pass its tests in the
/// network as it is today.
///
/// # Errors
/// [`Refusal`], and nothing is changed.
pub(crate) async fn roll_back_policy(
    coordinator: &Coordinator,
    actor: &Actor,
    request: api::RollBackPolicy,
) -> Result<api::SetPolicyDone, Refusal> {
    let revision = request.revision;
    // Dropped before the change begins: a reader sees the database as it was at its beginning.
    let old = stored(&mut coordinator.store.read().await?, Some(revision)).await?;
    let change = Change {
        text: &old.text,
        source: &format!("revision {revision}"),
        if_revision: request.if_revision,
        expected: &Expected::Any,
        note: &format!("back to revision {revision}"),
        action: "policy.rollback",
    };
    save(coordinator, actor, change).await
}

async fn save(
    coordinator: &Coordinator,
    actor: &Actor,
    change: Change<'_>,
) -> Result<api::SetPolicyDone, Refusal> {
    let Change { text, source, .. } = change;
    let not_valid = "the policy is not valid, and nothing was changed";
    let policy = parse(text, source, not_valid)?;
    let mut tx = coordinator.store.write().await?;
    let before = newest(&mut tx).await?;
    check_revision(before.as_ref(), change.if_revision)?;
    let version = before.as_ref().map(|row| versions::of_policy(row.revision));
    change.expected.check(version.as_deref())?;
    // Nobody else changes the network while this change has its turn.
    let revision = tx.revision().await?;
    let tried = coordinator.engine.ask_at(revision, |network| {
        let tested = network.verify(&policy);
        tested.map(|()| policy.warnings(network.directory()))
    });
    let tried = match tried {
        Some(tried) => tried,
        None => {
            let state = snapshot::read(&mut tx, clock::now()).await?;
            let tested = weir_netmap::verify(&state, &policy);
            tested.map(|()| warnings(&policy, &state))
        }
    };
    let warnings = tried.map_err(|findings| {
        let detail = "the policy does not pass its own tests, and nothing was changed";
        Refusal::policy(detail, findings, text, source)
    })?;
    let warnings = render(&warnings, text, source);
    let unchanged = before.as_ref().filter(|before| before.text == text);
    if let Some(same) = unchanged {
        return Ok(api::SetPolicyDone {
            revision: same.revision,
            changed: false,
            warnings,
        });
    }
    let revision = tx
        .insert_policy(text, &actor.to_string(), change.note, now())
        .await?;
    let entry = AuditEntry {
        at: now(),
        actor,
        action: change.action,
        subject: format!("policy revision {revision}"),
    };
    let was = before.map(|row| json!({ "revision": row.revision, "text": row.text }));
    let is = json!({ "revision": revision, "text": text, "note": change.note });
    tx.record(entry, was.as_ref(), Some(&is)).await?;
    coordinator.engine.offer_policy(text, Arc::new(policy));
    tx.commit().await?;
    publish(coordinator).await;
    Ok(api::SetPolicyDone {
        revision,
        changed: true,
        warnings,
    })
}

/// Reads a policy; `detail` is said when it is not valid.
pub(super) fn parse(text: &str, source: &str, detail: &'static str) -> Result<Policy, Refusal> {
    Policy::parse(text).map_err(|findings| Refusal::policy(detail, findings, text, source))
}

fn warnings(policy: &Policy, state: &NetworkState) -> Vec<Diagnostic> {
    policy.warnings(&state.directory())
}

fn check_revision(newest: Option<&PolicyRow>, expected: Option<u64>) -> Result<(), Refusal> {
    let newest = newest.map_or(0, |row| row.revision);
    match expected {
        Some(expected) if expected != newest => Err(Refusal::new(
            ErrorCode::Conflict,
            format!(
                "the policy changed meanwhile: revision {newest} is the newest, not {expected}; \
                 look at it with coordinator policy get and make your change again"
            ),
        )),
        Some(_) | None => Ok(()),
    }
}
