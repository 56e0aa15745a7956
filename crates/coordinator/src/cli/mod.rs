//! The command line: `serve`, and the verbs that talk to a running coordinator.

mod audit;
mod backup;
mod client;
mod config;
mod connection;
mod keys;
mod manual;
mod nodes;
mod output;
mod policy;
mod policy_compile;
mod route_egress;
mod routes;
mod serve;
mod status;
mod tokens;
mod users;

use crate::server::admin_api::openapi_document;
use anyhow::{Context, bail};
use clap::{Args, CommandFactory, Parser, Subcommand};
use client::Client;
use config::Config;
use connection::{Server, ServerUrl, Target, read_token};
use std::{path::PathBuf, process::ExitCode};
use weir_protocol::Pin;

/// Runs the private network: enrols machines, approves routes, hands out policy
///
/// `coordinator serve` is the server. All other commands talk to the running server: over its
/// admin socket, as root or as a member of the group that owns the socket, or from elsewhere with
/// --server and a token.
#[derive(Debug, Parser)]
#[command(
    name = "coordinator",
    version,
    max_term_width = 100,
    after_help = "Examples:\n  \
        coordinator serve\n  \
        coordinator users create alice\n  \
        coordinator keys create --user alice\n  \
        coordinator routes approve relay 8.8.8.8,8.8.4.4\n  \
        coordinator policy set policy.hujson\n  \
        coordinator --server https://weir.example.com:8443 --token-file token nodes list"
)]
struct Arguments {
    /// The admin socket [default: /run/weir/coordinator.sock]
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "WEIR_COORDINATOR_SOCKET"
    )]
    socket: Option<PathBuf>,
    #[command(flatten)]
    elsewhere: Elsewhere,
    /// The settings file [default: /etc/weir/coordinator.toml, if it exists]
    ///
    /// TOML with the keys state-dir, database, listen, url, socket, metrics-listen and log-level.
    /// Flags win.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON for programs instead of text for people
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

/// A coordinator that is not on this host.
#[derive(Debug, Args)]
struct Elsewhere {
    /// Talk to the coordinator at this URL (https://HOST:PORT) instead of the admin socket
    #[arg(long, global = true, value_name = "URL", env = "WEIR_SERVER")]
    server: Option<ServerUrl>,
    /// With --server: the file with the token, which says what may be done
    #[arg(long, global = true, value_name = "FILE", env = "WEIR_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// With --server: the pin of its key, as `coordinator status` shows it on its host; without
    /// it, its certificate must be one that this host trusts
    #[arg(
        long,
        global = true,
        value_name = "PIN",
        env = "WEIR_SERVER_PIN",
        allow_hyphen_values = true
    )]
    server_pin: Option<Pin>,
}

impl Elsewhere {
    fn server(self) -> anyhow::Result<Option<Server>> {
        let Some(url) = self.server else {
            return Ok(None);
        };
        let file = self.token_file.context(
            "--server needs --token-file: `coordinator tokens create` makes a token on its host",
        )?;
        Ok(Some(Server {
            url,
            pin: self.server_pin,
            token: read_token(&file)?,
        }))
    }
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the server
    Serve(serve::Serve),
    /// List, create and delete users, and choose the admins among them
    #[command(subcommand)]
    Users(users::Users),
    /// List, make and revoke tokens, with which programs use the admin API
    #[command(subcommand)]
    Tokens(tokens::Tokens),
    /// List, create and revoke auth keys, with which machines join
    #[command(subcommand)]
    Keys(keys::Keys),
    /// List, show, let in, rename, tag, expire, revoke and delete nodes
    #[command(subcommand)]
    Nodes(nodes::Nodes),
    /// List, approve and reject the routes that nodes advertise
    #[command(subcommand)]
    Routes(routes::Routes),
    /// Show, check and change the policy
    #[command(subcommand)]
    Policy(policy::Policy),
    /// List who changed what, and check that the record is whole
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Write everything the coordinator knows to a file, while it runs
    Backup(backup::Backup),
    /// Replace everything the coordinator knows by a backup, while it runs
    Restore(backup::Restore),
    /// Show how the running coordinator is doing
    Status,
    /// Print the version of this program
    Version,
    /// Print the description of the admin API, as in docs/openapi.json
    #[command(hide = true)]
    Openapi,
    /// Write the manual pages, as the package has them
    #[command(hide = true)]
    Manual {
        /// Where to
        directory: PathBuf,
    },
}

/// What the verbs need.
#[derive(Debug)]
struct Session {
    client: Client,
    json: bool,
}

/// The command, for manual pages and shell completions.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let config = Config::load(arguments.config.as_deref())?;
    let socket = arguments
        .socket
        .or_else(|| config.socket.clone())
        .unwrap_or_else(|| PathBuf::from(config::DEFAULT_SOCKET));
    let runtime = tokio::runtime::Runtime::new().context("cannot start the async runtime")?;
    let target = match (arguments.elsewhere.server()?, &arguments.verb) {
        (Some(server), Verb::Serve(_)) => {
            bail!(
                "`coordinator serve` runs here: it takes no --server ({})",
                server.url
            )
        }
        (Some(server), _) => Target::Server(Box::new(server)),
        (None, _) => Target::Socket(socket.clone()),
    };
    let context = Session {
        client: Client::new(target),
        json: arguments.json,
    };
    runtime.block_on(async {
        match arguments.verb {
            Verb::Serve(serve) => serve.run(config, socket, context.json).await,
            Verb::Users(verb) => verb.run(&context).await,
            Verb::Tokens(verb) => verb.run(&context).await,
            Verb::Keys(verb) => verb.run(&context).await,
            Verb::Nodes(verb) => verb.run(&context).await,
            Verb::Routes(verb) => verb.run(&context).await,
            Verb::Policy(verb) => verb.run(&context).await,
            Verb::Audit(verb) => verb.run(&context).await,
            Verb::Backup(backup) => backup.run(&context).await,
            Verb::Restore(restore) => restore.run(&context).await,
            Verb::Status => status::show(&context).await,
            Verb::Version => status::version(&context),
            Verb::Openapi => output::json(&openapi_document()),
            Verb::Manual { directory } => manual::write(command(), &directory),
        }
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }

    #[test]
    fn a_pin_may_begin_with_a_hyphen() {
        let pin = format!("-{}", "A".repeat(42));
        let line = ["coordinator", "status", "--server-pin", &pin];
        let arguments = super::Arguments::try_parse_from(line).unwrap();
        let parsed = arguments.elsewhere.server_pin.unwrap();
        assert_eq!(parsed.to_string(), pin);
    }
}
