//! `coordinator policy`.

mod check;
mod diff;
mod explain;
mod history;

use super::{Session, client::Refused, output, policy_compile};
use crate::api;
use anyhow::Context;
use clap::Subcommand;
use serde_json::json;
use std::{
    io::Read,
    path::{Path, PathBuf},
};
use weir_protocol::IpProtocol;

#[derive(Debug, Subcommand)]
#[command(
    after_help = "The policy is HuJSON: JSON with comments and trailing commas.\n\nExamples:\n  \
    coordinator policy get > policy.hujson\n  \
    coordinator policy check policy.hujson\n  \
    coordinator policy test policy.hujson\n  \
    coordinator policy set policy.hujson\n  \
    coordinator policy set --if-revision 3 --note 'let build ask DNS' - < policy.hujson\n  \
    coordinator policy explain alice@example.com 8.8.8.8:443\n  \
    coordinator policy diff current policy.hujson\n  \
    coordinator policy history\n  \
    coordinator policy rollback 2"
)]
pub(super) enum Policy {
    /// Print the newest policy as it was saved
    Get {
        /// Print this revision instead of the newest
        #[arg(long, value_name = "REVISION")]
        revision: Option<u64>,
    },
    /// Check that a policy file is valid; needs no running coordinator
    Check {
        /// The file; - for standard input
        file: PathBuf,
    },
    /// Check a policy file and run its tests, without saving it
    Test {
        /// The file; - for standard input
        file: PathBuf,
        /// Test it in the network that this file describes instead of the running coordinator's:
        /// JSON with domain, users and nodes
        #[arg(long, value_name = "FILE")]
        network: Option<PathBuf>,
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
    ///
    /// A policy that is not valid, or that fails its own tests, changes nothing.
    Set {
        /// The file; - for standard input
        file: PathBuf,
        /// Refuse unless this revision is the newest; 0 for none yet
        #[arg(long, value_name = "REVISION")]
        if_revision: Option<u64>,
        /// Why, for the history: one line
        #[arg(long, value_name = "TEXT", default_value = "")]
        note: String,
    },
    /// Say which rule allows a connection, or why none does and which comes closest
    #[command(
        after_help = "SOURCE and DESTINATION are a node's name, an address, a user, a group, a \
        tag,\na name of the policy's hosts or ipsets, a prefix or a range.\n\n\
        Examples:\n  \
        coordinator policy explain laptop 8.8.8.8:443\n  \
        coordinator policy explain alice@example.com tag:relay:22\n  \
        coordinator policy explain group:finance bank:443\n  \
        coordinator policy explain fd77:6569:7200::3 [2001:db8::1]:53 --protocol udp\n  \
        coordinator policy explain laptop relay --protocol icmp"
    )]
    Explain {
        /// Who opens the connection
        source: String,
        /// Where to, and to which port
        #[arg(value_name = "DESTINATION:PORT")]
        destination: String,
        /// The protocol: a name or a number
        #[arg(long, default_value = "tcp")]
        protocol: IpProtocol,
    },
    /// Say who gains and who loses what when one policy takes the place of another
    #[command(
        after_help = "OLD and NEW are a file, a revision (0 for none), or the word current \
        for the policy in force.\n\n\
        Examples:\n  \
        coordinator policy diff current policy.hujson\n  \
        coordinator policy diff 3 current"
    )]
    Diff {
        /// The policy to compare with
        old: String,
        /// The policy that would take its place
        new: String,
    },
    /// List all policies that were saved: when, by whom, why
    History,
    /// Save the policy of an older revision again, as the newest revision
    ///
    /// It is checked as with set: it must pass its own tests in the network as it is today.
    Rollback {
        /// The revision to go back to
        revision: u64,
        /// Refuse unless this revision is the newest
        #[arg(long, value_name = "REVISION")]
        if_revision: Option<u64>,
    },
}

impl Policy {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::Get { revision } => get(session, revision).await,
            Self::Check { file } => check::check(session, &file),
            Self::Test { file, network } => check::test(session, &file, network.as_deref()).await,
            Self::Compile { policy, network } => policy_compile::run(session, &policy, &network),
            Self::Set {
                file,
                if_revision,
                note,
            } => set(session, &file, if_revision, note).await,
            Self::Explain {
                source,
                destination,
                protocol,
            } => explain::explain(session, source, &destination, protocol).await,
            Self::Diff { old, new } => diff::diff(session, &old, &new).await,
            Self::History => history::list(session).await,
            Self::Rollback {
                revision,
                if_revision,
            } => history::roll_back(session, revision, if_revision).await,
        }
    }
}

async fn get(session: &Session, revision: Option<u64>) -> anyhow::Result<()> {
    let path = match revision {
        Some(revision) => format!("/policy/revisions/{revision}"),
        None => "/policy".to_owned(),
    };
    let policy: api::Policy = session.client.get(&path).await?;
    if session.json {
        return output::json(&policy);
    }
    let end = if policy.text.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    output::verbatim(&format!("{}{end}", policy.text))?;
    if revision.is_none() && !policy.in_force {
        output::note(&format!(
            "warning: revision {} is not valid and not in force: save a valid policy with \
             coordinator policy set FILE",
            policy.revision
        ))?;
    }
    Ok(())
}

async fn set(
    session: &Session,
    file: &Path,
    if_revision: Option<u64>,
    note: String,
) -> anyhow::Result<()> {
    let (text, name) = read(file)?;
    let request = api::SetPolicy {
        text,
        source: Some(name),
        if_revision,
        note,
    };
    let answer = session.client.put("/policy", &request).await;
    saved(session, &with_findings(session, answer)?)
}

fn saved(session: &Session, done: &api::SetPolicyDone) -> anyhow::Result<()> {
    if session.json {
        return output::json(done);
    }
    warn(&done.warnings)?;
    if done.changed {
        output::line(&format!("policy revision {} is in force", done.revision))
    } else {
        output::line(&format!(
            "nothing changed: this is already policy revision {}",
            done.revision
        ))
    }
}

/// With `--json`, what is wrong with a policy is on standard output as well as in the error.
fn with_findings<T>(session: &Session, answer: anyhow::Result<T>) -> anyhow::Result<T> {
    if session.json
        && let Err(error) = &answer
        && let Some(Refused(problem)) = error.downcast_ref()
        && !problem.findings.is_empty()
    {
        output::json(&json!({ "valid": false, "diagnostics": problem.findings }))?;
    }
    answer
}

/// Prints drawn warnings, if there are any.
fn warn(drawn: &str) -> anyhow::Result<()> {
    if drawn.is_empty() {
        return Ok(());
    }
    output::note(&format!("{drawn}\n"))
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
