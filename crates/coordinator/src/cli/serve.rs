//! `coordinator serve`.

use super::{
    config::{Config, DEFAULT_STATE_DIR},
    output,
};
use crate::server::{Server, Settings};
use anyhow::Context;
use clap::Args;
use sd_notify::NotifyState;
use serde_json::json;
use std::{
    io::{self, IsTerminal},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8443);

/// What is logged when nobody says otherwise. The database's own messages are for programmers.
const DEFAULT_LOG: &str = "info,sqlx=warn";

#[derive(Debug, Args)]
#[command(
    after_help = "Needs no configuration: makes its database, key and certificate at the first \
        start.\n\nExamples:\n  \
        coordinator serve\n  \
        coordinator serve --url https://weir.example.com:8443\n  \
        coordinator serve --state-dir /tmp/weir --socket /tmp/weir.sock --listen 127.0.0.1:8443"
)]
pub(super) struct Serve {
    /// Where key, certificate and, unless --database names another, the database are kept [default: /var/lib/weir/coordinator]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where everything is stored: a PostgreSQL database, as postgres://USER@HOST/NAME
    /// [default: SQLite, in the state directory]
    ///
    /// A password belongs in the settings file, the environment (PGPASSWORD) or ~/.pgpass, and not
    /// on the command line. Several coordinators may use one database.
    #[arg(
        long,
        value_name = "URL",
        env = "WEIR_DATABASE",
        hide_env_values = true
    )]
    database: Option<String>,
    /// The address and port that agents connect to [default: 0.0.0.0:8443]
    ///
    /// [::]:8443 serves IPv6 and IPv4.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// How agents reach it, as printed by `keys create` [default: https://, this host's name and
    /// the port]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Serve metrics and health without TLS and without a token at this address and port too, such
    /// as 127.0.0.1:9464 [default: nowhere]
    ///
    /// They are always at /metrics, /healthz and /readyz of the port for agents; /metrics takes a
    /// token with the scope metrics:read there.
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics_listen: Option<SocketAddr>,
    /// What to log: error, warn, info, debug, trace, or a filter such as info,hyper=debug
    /// [default: info]
    ///
    /// Logs go to standard error. The environment variable RUST_LOG wins.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

impl Serve {
    pub(super) async fn run(
        self,
        config: Config,
        socket: PathBuf,
        json: bool,
    ) -> anyhow::Result<()> {
        start_log(self.log_level.or(config.log_level))?;
        let url = self.url.or(config.url);
        if let Some(url) = &url {
            check_url(url)?;
        }
        let settings = Settings {
            state_dir: self
                .state_dir
                .or(config.state_dir)
                .unwrap_or_else(|| DEFAULT_STATE_DIR.into()),
            database: self
                .database
                .or(config.database)
                .map(|text| text.parse())
                .transpose()?,
            listen: self.listen.or(config.listen).unwrap_or(DEFAULT_LISTEN),
            url: url.map(|url| url.trim_end_matches('/').to_owned()),
            socket,
            metrics_listen: self.metrics_listen.or(config.metrics_listen),
        };
        // Before anything is announced: a stop that comes right then must not be lost.
        let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
        let server = Server::start(settings.clone()).await?;
        announce(&server, &settings, json)?;
        notify(NotifyState::Ready);
        tokio::select! {
            _ = terminate.recv() => tracing::info!("stopping: SIGTERM"),
            _ = interrupt.recv() => tracing::info!("stopping: SIGINT"),
        }
        notify(NotifyState::Stopping);
        server.stop().await;
        tracing::info!("stopped");
        Ok(())
    }
}

/// Tells systemd; without it, nobody listens and nothing happens.
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot tell systemd about the state of the service");
    }
}

fn check_url(url: &str) -> anyhow::Result<()> {
    let host = url
        .parse::<http::Uri>()
        .ok()
        .filter(|url| url.scheme_str() == Some("https"))
        .and_then(|url| url.host().map(str::to_owned));
    host.map(|_| ())
        .with_context(|| format!("{url} is not a URL for agents: write it as https://HOST:PORT"))
}

fn start_log(level: Option<String>) -> anyhow::Result<()> {
    let filter = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(filter) => filter,
        Err(_) => level.unwrap_or_else(|| DEFAULT_LOG.to_owned()),
    };
    let filter = EnvFilter::try_new(&filter).with_context(|| {
        format!("\"{filter}\" is not a log level: use error, warn, info, debug or trace")
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    Ok(())
}

fn announce(server: &Server, settings: &Settings, json: bool) -> anyhow::Result<()> {
    let identity = server.identity();
    if json {
        return output::json(&json!({
            "version": env!("CARGO_PKG_VERSION"),
            "url": identity.url,
            "listen": identity.listen,
            "pin": identity.pin,
            "state_dir": settings.state_dir,
            "socket": settings.socket,
            "metrics_listen": server.metrics_listen(),
            "setup_code": server.setup_code(),
        }));
    }
    let setup = server.setup_code().map_or_else(String::new, |code| {
        format!(
            "\n\nNobody can use the admin API over the network yet. Make the first admin on this \
             host, with\n\n  \
             coordinator users create NAME --admin\n\n\
             or from elsewhere, within a day, with this code, which works once:\n\n  {code}"
        )
    });
    output::line(&format!(
        "Weir coordinator {version} is running.\n\n  \
         agents connect to  {url}\n  \
         listening on       {listen}\n  \
         pin of its key     {pin}\n  \
         state              {state}\n  \
         admin socket       {socket}\n\n\
         To let a first machine in, run on this host:\n\n  \
         coordinator users create NAME\n  \
         coordinator keys create --user NAME\n\n\
         and, on that machine, the command that it prints.{setup}",
        version = env!("CARGO_PKG_VERSION"),
        url = identity.url,
        listen = identity.listen,
        pin = identity.pin,
        state = settings.state_dir.display(),
        socket = settings.socket.display(),
    ))
}

#[cfg(test)]
mod tests {
    use super::check_url;

    #[test]
    fn agents_are_only_sent_to_https() {
        assert!(check_url("https://weir.example.com:8443").is_ok());
        assert!(check_url("https://[2001:db8::1]:8443/").is_ok());
        for bad in [
            "http://weir.example.com",
            "weir.example.com",
            "https://",
            "",
        ] {
            assert!(check_url(bad).is_err(), "{bad}");
        }
    }
}
