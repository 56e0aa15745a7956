//! `coordinator users`.

use super::{Session, client::segment, output};
use crate::api::{CreateUser, CreatedUser, GrantAdmin, User};
use anyhow::Context;
use clap::Subcommand;
use std::io;

#[derive(Debug, Subcommand)]
#[command(
    after_help = "Users own machines, and policies name them. An admin is a user who can also \
    log in to the admin API over the network, with a password. On this host, whoever may open the \
    admin socket needs none.\n\nExamples:\n  \
    coordinator users list\n  \
    coordinator users create alice@example.com\n  \
    coordinator users create carol --admin\n  \
    coordinator users grant-admin alice@example.com\n  \
    coordinator users delete alice@example.com"
)]
pub(super) enum Users {
    /// List the users, how many nodes each owns, and who is an admin
    List,
    /// Create a user
    Create {
        /// Letters, digits and . _ - + with at most one @: alice or alice@example.com
        name: String,
        /// Make the user an admin, with a password that is shown once
        #[arg(long)]
        admin: bool,
        /// Take the admin's password from standard input instead of making one: one line of 15
        /// characters or more
        #[arg(long, requires = "admin")]
        password_stdin: bool,
    },
    /// Make a user an admin, or give an admin a new password
    ///
    /// Who is logged in with an old password is logged out.
    GrantAdmin {
        /// The user's name
        name: String,
        /// Take the password from standard input instead of making one: one line of 15 characters
        /// or more
        #[arg(long)]
        password_stdin: bool,
    },
    /// Make an admin a user like any other, and log them out
    RevokeAdmin {
        /// The user's name
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
            Self::Create {
                name,
                admin,
                password_stdin,
            } => {
                let request = CreateUser {
                    name,
                    admin,
                    password: password(password_stdin)?,
                };
                let created: CreatedUser = session.client.post("/users", &request).await?;
                let name = &created.user.name;
                let text = format!(
                    "created user {name}; a key for a machine: coordinator keys create --user {name}"
                );
                with_password(session, &created, &text)
            }
            Self::GrantAdmin {
                name,
                password_stdin,
            } => {
                let request = GrantAdmin {
                    password: password(password_stdin)?,
                };
                let path = format!("/users/{}/admin", segment(&name));
                let granted: CreatedUser = session.client.put(&path, &request).await?;
                let text = format!("{} is an admin", granted.user.name);
                with_password(session, &granted, &text)
            }
            Self::RevokeAdmin { name } => {
                let path = format!("/users/{}/admin", segment(&name));
                let user: User = session.client.delete(&path).await?;
                let text = format!("{} is no admin any more", user.name);
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

/// A password is not taken from the command line, which everybody on the host can read.
fn password(from_stdin: bool) -> anyhow::Result<Option<String>> {
    if !from_stdin {
        return Ok(None);
    }
    let mut line = String::new();
    io::stdin()
        .read_line(&mut line)
        .context("cannot read a password from standard input")?;
    Ok(Some(line.trim_end_matches(['\r', '\n']).to_owned()))
}

fn with_password(session: &Session, created: &CreatedUser, text: &str) -> anyhow::Result<()> {
    if session.json {
        return output::json(created);
    }
    output::line(text)?;
    let Some(password) = &created.password else {
        return Ok(());
    };
    output::note("\nThe password, which is not shown again:\n")?;
    output::line(password)
}

async fn list(session: &Session) -> anyhow::Result<()> {
    let users: Vec<User> = session.client.list("/users").await?;
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
                if user.admin { "yes" } else { "-" }.to_owned(),
                output::time(user.created),
            ]
        })
        .collect();
    output::table(["ID", "NAME", "NODES", "ADMIN", "CREATED"], &rows)
}

fn done(session: &Session, user: &User, text: &str) -> anyhow::Result<()> {
    if session.json {
        return output::json(user);
    }
    output::line(text)
}
