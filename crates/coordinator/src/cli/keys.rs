//! `coordinator keys`.

use super::{Session, client::segment, output};
use crate::api::{CreateKey, CreatedKey, Key, KeyState, NodeLife};
use clap::{ArgGroup, Args, Subcommand};
use weir_overlay::Tag;

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  \
    coordinator keys create --user alice\n  \
    coordinator keys create --tags tag:relay --expires 1h\n  \
    coordinator keys create --tags tag:build --reusable --ephemeral --expires 30d\n  \
    coordinator keys revoke 3f9a11c2")]
pub(super) enum Keys {
    /// List the auth keys, without their secrets
    List,
    /// Make an auth key; it is shown once
    Create(Create),
    /// Revoke an auth key: it lets nobody in any more; who is in stays
    Revoke {
        /// The key's id, as listed
        id: String,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    coordinator keys create --user alice\n  \
    coordinator keys create --tags tag:relay --expires 1h\n  \
    coordinator keys create --tags tag:build --reusable --ephemeral --expires 30d")]
#[command(group = ArgGroup::new("for").required(true).args(["user", "tags"]))]
#[group(skip)]
pub(super) struct Create {
    /// The user who will own the machine
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Tags that the machine will carry instead of belonging to a user, separated by commas
    #[arg(long, value_name = "TAG", value_delimiter = ',')]
    tags: Vec<Tag>,
    /// Let several machines in; otherwise the key works once
    #[arg(long)]
    reusable: bool,
    /// Forget the machines that join with it once they stay away for half an hour
    #[arg(long)]
    ephemeral: bool,
    /// How long the key can be used: a number and s, m, h or d, at most 366d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = seconds)]
    expires: u64,
    /// How long the keys of the nodes are good that join with it: a number and s, m, h or d, or
    /// `never` [default: 180d for a user's, never for those with tags]
    #[arg(long, value_name = "TIME|never", value_parser = node_life)]
    node_expiry: Option<NodeLife>,
}

/// Reads a time, or `never`.
pub(super) fn node_life(text: &str) -> Result<NodeLife, String> {
    match text {
        "never" => Ok(NodeLife::Unlimited),
        _ => seconds(text).map(NodeLife::Seconds),
    }
}

/// Reads `90s`, `30m`, `24h`, `7d`.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("\"{text}\" is not a time such as 30m, 24h or 7d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let scale = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return Err(wrong()),
    };
    text.strip_suffix(unit)
        .and_then(|number| number.parse::<u64>().ok())
        .and_then(|number| number.checked_mul(scale))
        .filter(|seconds| *seconds > 0)
        .ok_or_else(wrong)
}

impl Keys {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::List => list(session).await,
            Self::Create(create) => create.run(session).await,
            Self::Revoke { id } => {
                let path = format!("/keys/{}", segment(&id));
                let key: Key = session.client.delete(&path).await?;
                if session.json {
                    return output::json(&key);
                }
                output::line(&format!("revoked auth key {}", key.id))
            }
        }
    }
}

impl Create {
    async fn run(self, session: &Session) -> anyhow::Result<()> {
        let request = CreateKey {
            user: self.user,
            tags: self.tags.into_iter().collect(),
            reusable: self.reusable,
            ephemeral: self.ephemeral,
            expires_in_seconds: self.expires,
            node_life: self.node_expiry.unwrap_or_default(),
        };
        let created: CreatedKey = session.client.post("/keys", &request).await?;
        if session.json {
            return output::json(&created);
        }
        let details = &created.details;
        let owner = match &details.user {
            Some(user) => format!("for {user}"),
            None => format!("with {}", output::list(&details.tags)),
        };
        let uses = if details.reusable {
            "any number of times"
        } else {
            "once"
        };
        output::line(&created.key)?;
        output::note(&format!(
            "\nAuth key {id} {owner}: can be used {uses} until {expires}. It is not shown again.\n\
             On the machine that is to join:\n\n  {command}",
            id = details.id,
            expires = output::time(details.expires),
            command = created.command,
        ))
    }
}

async fn list(session: &Session) -> anyhow::Result<()> {
    let keys: Vec<Key> = session.client.list("/keys").await?;
    if session.json {
        return output::json(&keys);
    }
    if keys.is_empty() {
        return output::line("no auth keys yet: coordinator keys create --user NAME");
    }
    let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let rows: Vec<_> = keys
        .iter()
        .map(|key| {
            let state = match key.state {
                KeyState::Usable => "usable",
                KeyState::Used => "used",
                KeyState::Expired => "expired",
                KeyState::Revoked => "revoked",
            };
            [
                key.id.to_string(),
                state.to_owned(),
                key.user.clone().unwrap_or_else(|| output::list(&key.tags)),
                yes_no(key.reusable),
                yes_no(key.ephemeral),
                key.uses.to_string(),
                output::time(key.expires),
            ]
        })
        .collect();
    let headings = [
        "ID",
        "STATE",
        "FOR",
        "REUSABLE",
        "EPHEMERAL",
        "USES",
        "EXPIRES",
    ];
    output::table(headings, &rows)
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn times_are_read() {
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("24h"), Ok(86_400));
        assert_eq!(seconds("7d"), Ok(604_800));
        for bad in [
            "",
            "24",
            "h",
            "0h",
            "-1h",
            "1w",
            "99999999999999999999d",
            "1\u{e4}",
        ] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
