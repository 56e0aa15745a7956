//! `coordinator audit`.

use super::{Session, output};
use crate::{
    api::{AuditEntry, AuditReport, Page},
    store::AuditHead,
};
use anyhow::bail;
use clap::Subcommand;
use serde_json::Value;

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  \
    coordinator audit list\n  \
    coordinator audit list --before 200 --limit 50 --json\n  \
    coordinator audit verify\n\n\
    verify prints the number and hash of the newest entry. Keep it elsewhere, and give it back \
    later with --head: then even a log that was written anew as a whole is found out.")]
pub(super) enum Audit {
    /// List who changed what, from where, the newest first
    List {
        /// Only entries before the one with this number
        #[arg(long, value_name = "NUMBER")]
        before: Option<u64>,
        /// At most so many entries
        #[arg(long, value_name = "NUMBER", default_value_t = 50,
              value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Check that no entry was changed, removed or put in
    Verify {
        /// What an earlier `verify` printed, or the log says at each change
        #[arg(long, value_name = "NUMBER:HASH")]
        head: Option<AuditHead>,
    },
}

impl Audit {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::List { before, limit } => list(session, before, limit).await,
            Self::Verify { head } => verify(session, head).await,
        }
    }
}

async fn list(session: &Session, before: Option<u64>, limit: u32) -> anyhow::Result<()> {
    let mut path = format!("/audit?limit={limit}");
    if let Some(before) = before {
        path.push_str(&format!("&before={before}"));
    }
    let page: Page<AuditEntry> = session.client.get(&path).await?;
    let entries = page.items;
    if session.json {
        return output::json(&entries);
    }
    if entries.is_empty() {
        return output::line("nothing was changed yet");
    }
    let side = |value: &Option<Value>| value.as_ref().map_or("-".to_owned(), Value::to_string);
    for entry in &entries {
        output::line(&format!(
            "{}  {}  {}  {}\n    by {}, from {}\n    before {}\n    after  {}",
            entry.id,
            output::time(entry.at),
            entry.action,
            entry.subject,
            entry.actor,
            entry.origin,
            side(&entry.before),
            side(&entry.after),
        ))?;
    }
    Ok(())
}

async fn verify(session: &Session, head: Option<AuditHead>) -> anyhow::Result<()> {
    let path = match head {
        Some(head) => format!("/audit/verify?head={head}"),
        None => "/audit/verify".to_owned(),
    };
    let report: AuditReport = session.client.get(&path).await?;
    if session.json {
        output::json(&report)?;
    } else if report.flaws.is_empty() {
        output::line(&format!(
            "{} {}, each as it was written\nhead {}",
            report.entries,
            if report.entries == 1 {
                "entry"
            } else {
                "entries"
            },
            report.head.as_deref().unwrap_or("-")
        ))?;
    }
    if !report.flaws.is_empty() {
        bail!(
            "the audit log is not what was written: {}",
            report.flaws.join("; ")
        );
    }
    Ok(())
}
