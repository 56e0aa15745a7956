//! The policy.

use super::{now, publish, time};
use crate::{
    Coordinator, api,
    refusal::Refusal,
    snapshot,
    store::{Actor, AuditEntry, PolicyRow},
};
use serde_json::json;
use weir_policy::{Policy, render};
use weir_protocol::ErrorCode;

/// What a policy is called when its sender does not say.
const DEFAULT_SOURCE: &str = "policy.hujson";

/// The newest stored policy.
///
/// # Errors
/// [`Refusal`], when none was ever set.
pub(crate) async fn get_policy(coordinator: &Coordinator) -> Result<api::Policy, Refusal> {
    let mut tx = coordinator.store.read().await?;
    let newest = tx.newest_policies(1).await?.pop().ok_or_else(|| {
        Refusal::new(
            ErrorCode::NotFound,
            "no policy is set, so nothing is allowed: write one and save it with coordinator \
             policy set FILE",
        )
    })?;
    let in_force = coordinator.engine.policy().status.revision == Some(newest.revision);
    Ok(api::Policy {
        revision: newest.revision,
        text: newest.text,
        saved: time("time", newest.saved_at)?,
        saved_by: newest.saved_by,
        in_force,
    })
}

/// Saves a policy. When this returns, the maps of all nodes follow it.
///
/// # Errors
/// [`Refusal`]: a text that is not valid changes nothing, and neither does one that was made from
/// another revision than the newest.
pub(crate) async fn set_policy(
    coordinator: &Coordinator,
    actor: &Actor,
    request: api::SetPolicy,
) -> Result<api::SetPolicyDone, Refusal> {
    let source = request.source.as_deref().unwrap_or(DEFAULT_SOURCE);
    let policy = Policy::parse(&request.text).map_err(|diagnostics| Refusal::BadPolicy {
        diagnostics: render(&diagnostics, &request.text, source),
    })?;
    let mut tx = coordinator.store.write().await?;
    let before = tx.newest_policies(1).await?.pop();
    check_revision(before.as_ref(), request.if_revision)?;
    let state = snapshot::read(&mut tx).await?;
    weir_netmap::verify(&state, &policy).map_err(|diagnostics| Refusal::BadPolicy {
        diagnostics: render(&diagnostics, &request.text, source),
    })?;
    let directory = state.directory();
    let warnings = render(&policy.warnings(&directory), &request.text, source);
    let unchanged = before.as_ref().filter(|before| before.text == request.text);
    if let Some(same) = unchanged {
        return Ok(api::SetPolicyDone {
            revision: same.revision,
            changed: false,
            warnings,
        });
    }
    let revision = tx
        .insert_policy(&request.text, &actor.to_string(), now())
        .await?;
    let entry = AuditEntry {
        at: now(),
        actor,
        action: "policy.set",
        subject: format!("policy revision {revision}"),
    };
    let was = before.map(|row| json!({ "revision": row.revision, "text": row.text }));
    let is = json!({ "revision": revision, "text": request.text });
    tx.record(entry, was.as_ref(), Some(&is)).await?;
    tx.commit().await?;
    publish(coordinator).await;
    Ok(api::SetPolicyDone {
        revision,
        changed: true,
        warnings,
    })
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
