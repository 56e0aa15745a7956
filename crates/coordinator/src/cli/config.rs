//! The settings file. Each key has a flag of the same name, and the flag wins.

use anyhow::Context;
use serde::Deserialize;
use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

pub(super) const DEFAULT_FILE: &str = "/etc/weir/coordinator.toml";
pub(super) const DEFAULT_SOCKET: &str = "/run/weir/coordinator.sock";
pub(super) const DEFAULT_STATE_DIR: &str = "/var/lib/weir/coordinator";

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Config {
    pub(super) state_dir: Option<PathBuf>,
    pub(super) database: Option<String>,
    pub(super) listen: Option<SocketAddr>,
    pub(super) url: Option<String>,
    pub(super) socket: Option<PathBuf>,
    pub(super) log_level: Option<String>,
    pub(super) metrics_listen: Option<SocketAddr>,
}

impl Config {
    /// Reads the file that was named, or the default one when there is one.
    pub(super) fn load(named: Option<&Path>) -> anyhow::Result<Self> {
        let path = named.unwrap_or_else(|| Path::new(DEFAULT_FILE));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            // Verbs of people who may not read it can do without.
            Err(error) if named.is_none() && error.kind() == io::ErrorKind::PermissionDenied => {
                return Ok(Self::default());
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot read the settings file {}", path.display()));
            }
        };
        toml::from_str(&text)
            .with_context(|| format!("the settings file {} is not valid", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::Config;

    #[test]
    fn the_packaged_file_can_be_uncommented() {
        let packaged = include_str!("../../../../packaging/coordinator/coordinator.toml");
        let uncommented: String = packaged
            .lines()
            .filter_map(|line| line.strip_prefix('#'))
            .filter(|line| !line.starts_with(' '))
            .map(|line| format!("{line}\n"))
            .collect();
        let config: Config = toml::from_str(&uncommented).unwrap();
        assert!(config.url.is_some() && config.listen.is_some() && config.log_level.is_some());
    }
}
