//! `coordinator status` and `coordinator version`.

use super::{Session, output};
use crate::api::Status;
use serde_json::json;

pub(super) async fn show(session: &Session) -> anyhow::Result<()> {
    let status: Status = session.client.get("/status").await?;
    if session.json {
        return output::json(&status);
    }
    let policy = match status.policy.revision {
        Some(revision) => format!("revision {revision}"),
        None => "none set, so nothing is allowed (coordinator policy set FILE)".to_owned(),
    };
    output::line(&format!(
        "version       {}\n\
         running since {}\n\
         agents use    {}\n\
         listening on  {}\n\
         pin           {}\n\
         nodes         {} enrolled, {} connected\n\
         routes        {} awaiting approval\n\
         generation    {}\n\
         policy        {policy}",
        status.version,
        output::time(status.started),
        status.url,
        status.listen,
        status.pin,
        status.nodes,
        status.online,
        status.routes_awaiting_approval,
        status.generation,
    ))?;
    for revision in status.policy.bad_revisions {
        output::line(&format!(
            "warning: the stored policy revision {revision} is not valid and not in force: save a \
             valid one with coordinator policy set FILE"
        ))?;
    }
    for warning in status.policy.warnings {
        output::line(&format!("policy warning: {warning}"))?;
    }
    Ok(())
}

pub(super) fn version(session: &Session) -> anyhow::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    if session.json {
        return output::json(&json!({ "version": version }));
    }
    output::line(&format!("coordinator {version}"))
}
