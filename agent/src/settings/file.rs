//! `agent.toml`: a key for each setting, and three more for `up`.

use serde::Deserialize;
use std::time::Duration;

use super::{Change, NAMES};
use crate::secret::SecretText;
use weir_protocol::Pin;

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileSettings {
    /// The settings.
    pub(crate) change: Change,
    /// `auth-key`: the key, or `file:PATH`.
    pub(crate) auth_key: Option<SecretText>,
    /// `pin`: the coordinator's.
    pub(crate) pin: Option<Pin>,
    /// `timeout`, in seconds.
    pub(crate) timeout: Option<Duration>,
}

const MORE_NAMES: [&str; 3] = ["auth-key", "pin", "timeout"];

/// Reads the file's text. Keys may be written with `-` or `_`.
///
/// # Errors
/// One sentence: where it is no TOML, which key is unknown and what it is nearest to, which value
/// is wrong.
pub(crate) fn parse_file(text: &str) -> Result<FileSettings, String> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| {
            text[..span.start.min(text.len())].matches('\n').count() + 1
        });
        format!("line {line}: {}", error.message())
    })?;
    let mut settings = FileSettings::default();
    for (key, value) in table {
        let name = key.replace('_', "-");
        let wrong = |error: toml::de::Error| format!("{name}: {}", error.message());
        match name.as_str() {
            "auth-key" => {
                settings.auth_key = Some(
                    String::deserialize(value)
                        .map_err(wrong)
                        .map(SecretText::new)?,
                );
            }
            "pin" => settings.pin = Some(Pin::deserialize(value).map_err(wrong)?),
            "timeout" => {
                let seconds = u64::deserialize(value).map_err(wrong)?;
                settings.timeout = Some(Duration::from_secs(seconds));
            }
            known if NAMES.contains(&known) => {
                let mut one = toml::Table::new();
                one.insert(name.clone(), value);
                let change: Change = one.try_into().map_err(wrong)?;
                settings.change = change.or(&settings.change);
            }
            unknown => return Err(unknown_key(unknown)),
        }
    }
    Ok(settings)
}

fn unknown_key(key: &str) -> String {
    let nearest = NAMES
        .iter()
        .chain(&MORE_NAMES)
        .min_by_key(|name| distance(key, name))
        .filter(|name| distance(key, name) <= name.len() / 2);
    match nearest {
        Some(name) => format!("there is no setting \"{key}\"; did you mean \"{name}\"?"),
        None => format!("there is no setting \"{key}\"; `agent up --help` lists them"),
    }
}

/// How many letters must be added, removed or replaced to make one text of the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_writing_keys_and_lists() {
        let settings = parse_file(
            "coordinator = \"https://c.example:8443\"\n\
             advertise_routes = [\"8.8.8.8\", \"10.20.0.0/24\"]\n\
             egress-ip = \"203.0.113.7\"\n\
             accept-routes = false\n\
             listen_port = 4000\n\
             wireguard = \"userspace\"\n\
             auth_key = \"file:/etc/weir/auth.key\"\n\
             timeout = 5\n",
        )
        .unwrap();
        let change = settings.change;
        assert_eq!(
            change.advertise_routes.unwrap().to_string(),
            "8.8.8.8/32,10.20.0.0/24"
        );
        assert_eq!(
            (change.accept_routes, change.listen_port),
            (Some(false), Some(4000))
        );
        assert_eq!(settings.timeout, Some(Duration::from_secs(5)));
        assert_eq!(parse_file("").unwrap(), FileSettings::default());
    }

    #[test]
    fn mistakes_are_one_sentence_each() {
        for (text, sentence) in [
            (
                "advertise-route = \"8.8.8.8\"",
                "there is no setting \"advertise-route\"; did you mean \"advertise-routes\"?",
            ),
            (
                "colour = 1",
                "there is no setting \"colour\"; `agent up --help` lists them",
            ),
            (
                "advertise-routes = \"10.20.0.5/24\"",
                "advertise-routes: 10.20.0.5/24 has host bits set; the prefix is 10.20.0.0/24",
            ),
            ("timeout = 1\naccept-routes = yes", "line 2: "),
        ] {
            let error = parse_file(text).unwrap_err();
            assert!(error.starts_with(sentence), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn the_packaged_file_names_every_setting_and_sets_none() {
        let packaged = include_str!("../../../packaging/agent/agent.toml");
        assert_eq!(parse_file(packaged).unwrap(), FileSettings::default());
        let uncommented: String = packaged
            .lines()
            .filter_map(|line| line.strip_prefix('#'))
            .filter(|line| !line.starts_with(' '))
            .map(|line| format!("{line}\n"))
            .collect();
        let settings = parse_file(&uncommented).unwrap();
        let named: Vec<_> = settings
            .change
            .mentioned()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(named, NAMES);
        assert!(settings.auth_key.is_some() && settings.timeout.is_some());
        assert!(settings.pin.is_some());
    }
}
