//! `coordinator policy`.

use super::{Session, output, policy_compile};
use crate::api;
use anyhow::{Context, bail};
use clap::Subcommand;
use std::{
    io::Read,
    path::{Path, PathBuf},
};
use weir_policy::render;

#[derive(Debug, Subcommand)]
#[command(
    after_help = "The policy is HuJSON: JSON with comments and trailing commas.\n\nExamples:\n  \
    coordinator policy get > policy.hujson\n  \
    coordinator policy check policy.hujson\n  \
    coordinator policy set policy.hujson\n  \
    coordinator policy set --if-revision 3 - < policy.hujson"
)]
pub(super) enum Policy {
    /// Print the newest policy as it was saved
    Get,
    /// Check a policy file without saving it; needs no running coordinator
    Check {
        /// The file; - for standard input
        file: PathBuf,
    },
    /// Show what a policy means in a network that a file describes; needs no running coordinator
    Compile {
        /// The policy file
        #[arg(long, value_name = "FILE")]
        policy: PathBuf,
        /// The network: JSON with domain, users and nodes
        #[arg(long, value_name = "FILE")]
        network: PathBuf,
    },
    /// Save a policy; it is in force at once, also for connections that are open
    Set {
        /// The file; - for standard input
        file: PathBuf,
        /// Refuse unless this revision is the newest; 0 for none yet
        #[arg(long, value_name = "REVISION")]
        if_revision: Option<u64>,
    },
}

impl Policy {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::Get => get(session).await,
            Self::Check { file } => check(session, &file),
            Self::Compile { policy, network } => policy_compile::run(session, &policy, &network),
            Self::Set { file, if_revision } => set(session, &file, if_revision).await,
        }
    }
}

async fn get(session: &Session) -> anyhow::Result<()> {
    let policy: api::Policy = session.client.get("/policy").await?;
    if session.json {
        return output::json(&policy);
    }
    let end = if policy.text.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    output::verbatim(&format!("{}{end}", policy.text))?;
    if !policy.in_force {
        output::note(&format!(
            "warning: revision {} is not valid and not in force: save a valid policy with \
             coordinator policy set FILE",
            policy.revision
        ))?;
    }
    Ok(())
}

fn check(session: &Session, file: &Path) -> anyhow::Result<()> {
    let (text, name) = read(file)?;
    match weir_policy::Policy::parse(&text) {
        Ok(_) if session.json => output::json(&serde_json::json!({ "valid": true })),
        Ok(_) => output::line(&format!("{name}: valid")),
        Err(problems) if session.json => {
            output::json(&serde_json::json!({ "valid": false, "diagnostics": problems }))?;
            bail!("{name} is not valid")
        }
        Err(problems) => bail!("{name} is not valid\n\n{}", render(&problems, &text, &name)),
    }
}

async fn set(session: &Session, file: &Path, if_revision: Option<u64>) -> anyhow::Result<()> {
    let (text, name) = read(file)?;
    let request = api::SetPolicy {
        text,
        source: Some(name),
        if_revision,
    };
    let done: api::SetPolicyDone = session.client.put("/policy", &request).await?;
    if session.json {
        return output::json(&done);
    }
    if !done.warnings.is_empty() {
        output::note(&format!("{}\n", done.warnings))?;
    }
    if done.changed {
        output::line(&format!("policy revision {} is in force", done.revision))
    } else {
        output::line(&format!(
            "nothing changed: this is already policy revision {}",
            done.revision
        ))
    }
}

/// The text, and what to call it.
fn read(file: &Path) -> anyhow::Result<(String, String)> {
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("cannot read a policy from standard input")?;
        return Ok((text, "standard input".to_owned()));
    }
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the policy {}", file.display()))?;
    Ok((text, file.display().to_string()))
}
