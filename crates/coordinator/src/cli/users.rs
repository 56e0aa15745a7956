//! `coordinator users`.

use super::{Session, client::segment, output};
use crate::api::{CreateUser, User};
use clap::Subcommand;

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  \
    coordinator users list\n  \
    coordinator users create alice@example.com\n  \
    coordinator users delete alice@example.com")]
pub(super) enum Users {
    /// List the users and how many nodes each owns
    List,
    /// Create a user
    Create {
        /// Letters, digits and . _ - + with at most one @: alice or alice@example.com
        name: String,
    },
    /// Delete a user who owns no nodes, with its auth keys
    Delete {
        /// The user's name
        name: String,
    },
}

impl Users {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::List => list(session).await,
            Self::Create { name } => {
                let request = CreateUser { name };
                let user: User = session.client.post("/users", &request).await?;
                let text = format!(
                    "created user {name}; a key for a machine: coordinator keys create --user {name}",
                    name = user.name
                );
                done(session, &user, &text)
            }
            Self::Delete { name } => {
                let path = format!("/users/{}", segment(&name));
                let user: User = session.client.delete(&path).await?;
                done(session, &user, &format!("deleted user {}", user.name))
            }
        }
    }
}

async fn list(session: &Session) -> anyhow::Result<()> {
    let users: Vec<User> = session.client.get("/users").await?;
    if session.json {
        return output::json(&users);
    }
    if users.is_empty() {
        return output::line("no users yet: coordinator users create NAME");
    }
    let rows: Vec<_> = users
        .iter()
        .map(|user| {
            [
                user.id.to_string(),
                user.name.clone(),
                user.nodes.to_string(),
                output::time(user.created),
            ]
        })
        .collect();
    output::table(["ID", "NAME", "NODES", "CREATED"], &rows)
}

fn done(session: &Session, user: &User, text: &str) -> anyhow::Result<()> {
    if session.json {
        return output::json(user);
    }
    output::line(text)
}
