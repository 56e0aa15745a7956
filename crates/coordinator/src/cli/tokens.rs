//! `coordinator tokens`.

use super::{Session, client::segment, keys::seconds, output};
use crate::{
    accounts::Scope,
    api::{CreateToken, CreatedToken, Token, TokenState},
};
use clap::Subcommand;

#[derive(Debug, Subcommand)]
#[command(after_help = SCOPES)]
pub(super) enum Tokens {
    /// List the tokens, without their secrets, and when each was last used
    List,
    /// Make a token for the admin API; it is shown once
    Create {
        /// What it is for, in a few words
        #[arg(long, value_name = "TEXT")]
        name: String,
        /// What it may be used for, separated by commas; what is not named is denied
        #[arg(long, value_name = "SCOPE", value_delimiter = ',', required = true)]
        scope: Vec<Scope>,
        /// How long it can be used: a number and s, m, h or d, at most 366d
        #[arg(long, value_name = "TIME", default_value = "30d", value_parser = seconds)]
        expires: u64,
    },
    /// Revoke a token: its next request is refused
    Revoke {
        /// The token's id, as listed
        id: String,
    },
}

const SCOPES: &str = "The scopes are status:read, users:read, users:write, keys:read, keys:write, \
    nodes:read, nodes:write, routes:read, routes:write, policy:read, policy:write, audit:read, \
    tokens:read, tokens:write, metrics:read, and * for everything, which admins, backups and \
    restoring take. To write is not to read.\n\nExamples:\n  \
    coordinator tokens create --name dashboard --scope status:read,nodes:read,routes:read\n  \
    coordinator tokens create --name gitops --scope policy:read,policy:write --expires 90d\n  \
    coordinator tokens list\n  \
    coordinator tokens revoke 3f9a11c2";

impl Tokens {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::List => list(session).await,
            Self::Create {
                name,
                scope,
                expires,
            } => {
                let request = CreateToken {
                    name,
                    scopes: scope.into_iter().collect(),
                    expires_in_seconds: expires,
                };
                let created: CreatedToken = session.client.post("/tokens", &request).await?;
                if session.json {
                    return output::json(&created);
                }
                output::line(&created.token)?;
                output::note(&format!(
                    "\nToken {} ({}): can be used until {}. It is not shown again.",
                    created.details.id,
                    created.details.name,
                    output::time(created.details.expires),
                ))
            }
            Self::Revoke { id } => {
                let path = format!("/tokens/{}", segment(&id));
                let token: Token = session.client.delete(&path).await?;
                if session.json {
                    return output::json(&token);
                }
                output::line(&format!("revoked token {} ({})", token.id, token.name))
            }
        }
    }
}

async fn list(session: &Session) -> anyhow::Result<()> {
    let tokens: Vec<Token> = session.client.list("/tokens").await?;
    if session.json {
        return output::json(&tokens);
    }
    if tokens.is_empty() {
        return output::line("no tokens yet: coordinator tokens create --name TEXT --scope SCOPE");
    }
    let rows: Vec<_> = tokens
        .iter()
        .map(|token| {
            let state = match token.state {
                TokenState::Usable => "usable",
                TokenState::Expired => "expired",
                TokenState::Revoked => "revoked",
            };
            [
                token.id.to_string(),
                token.name.clone(),
                state.to_owned(),
                token.scopes.to_string(),
                token.created_by.clone(),
                token.last_used.map_or("never".to_owned(), output::time),
                output::time(token.expires),
            ]
        })
        .collect();
    let headings = [
        "ID",
        "NAME",
        "STATE",
        "SCOPES",
        "MADE BY",
        "LAST USED",
        "EXPIRES",
    ];
    output::table(headings, &rows)
}

#[cfg(test)]
mod tests {
    use super::SCOPES;
    use crate::accounts::Scope;

    #[test]
    fn the_help_names_every_scope() {
        for scope in Scope::EACH {
            assert!(SCOPES.contains(scope.as_str()), "{scope}");
        }
    }
}
