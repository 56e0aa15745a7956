//! What a command makes of the saved settings, and the guard against losing one by accident.

use super::{Change, Settings};
use crate::shell;

/// Which of the commands that carry settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SettingCommand {
    /// `up`: the flags are all the settings there are.
    Up {
        /// Whether the rest may go back to its default.
        reset: bool,
    },
    /// `set`: the flags change what they name.
    Set,
}

/// `up` would take settings back that are in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeftOut {
    /// The names of what is left out.
    pub(crate) names: Vec<&'static str>,
    /// The full command, ready for a shell.
    pub(crate) command: String,
}

/// The explicit settings after a command: `saved` are those before it, `given` the command's own,
/// `below` what holds where nothing explicit is said (file and defaults).
///
/// The coordinator is no preference but whom the host belongs to: leaving it out keeps it.
///
/// # Errors
/// [`LeftOut`] when `up` leaves out a setting in force without `--reset`.
pub(crate) fn explicit_after(
    command: SettingCommand,
    saved: &Change,
    given: &Change,
    below: &Settings,
) -> Result<Change, LeftOut> {
    let reset = match command {
        SettingCommand::Set => return Ok(given.clone().or(saved)),
        SettingCommand::Up { reset } => reset,
    };
    let kept = Change {
        coordinator: saved.coordinator.clone(),
        ..Change::default()
    };
    if reset {
        return Ok(given.clone().or(&kept));
    }
    if given.is_empty() {
        return Ok(saved.clone());
    }
    let given = given.clone().or(&kept);
    let left_out = saved.left_out_by(&given, below);
    if left_out.is_empty() {
        return Ok(given);
    }
    Err(LeftOut {
        names: left_out
            .mentioned()
            .into_iter()
            .map(|(name, _)| name)
            .collect(),
        command: full_command("up", &given.or(&left_out)),
    })
}

/// The command line that says all of a change: `agent up --accept-routes=false ...`.
pub(crate) fn full_command(verb: &str, change: &Change) -> String {
    let mut command = format!("agent {verb}");
    for (name, value) in change.mentioned() {
        command.push_str(" --");
        command.push_str(name);
        if value != "true" {
            command.push('=');
            command.push_str(&shell::quoted(&value));
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        change: Change,
    }

    fn change(line: &str) -> Change {
        Line::try_parse_from(std::iter::once("agent").chain(line.split_whitespace()))
            .unwrap_or_else(|error| panic!("{error}"))
            .change
    }

    const UP: SettingCommand = SettingCommand::Up { reset: false };

    #[test]
    fn up_that_leaves_out_a_setting_in_force_is_refused_with_the_full_command() {
        let saved = change(
            "--coordinator https://c.example --advertise-routes 8.8.8.8 --accept-routes=false \
             --exit-node it's",
        );
        let given = change("--advertise-routes=8.8.4.4 --snat-subnet-routes");
        let error = explicit_after(UP, &saved, &given, &Settings::default()).unwrap_err();
        assert_eq!(error.names, ["accept-routes", "exit-node"]);
        assert_eq!(
            error.command,
            "agent up --coordinator=https://c.example --advertise-routes=8.8.4.4/32 \
             --accept-routes=false --exit-node='it'\\''s' --snat-subnet-routes"
        );
    }

    #[test]
    fn what_is_accepted_and_what_comes_of_it() {
        let defaults = Settings::default();
        for (saved, command, given, after) in [
            // The first time, and bare.
            (
                "",
                UP,
                "--advertise-routes 8.8.8.8",
                Some("--advertise-routes 8.8.8.8"),
            ),
            (
                "--advertise-routes 8.8.8.8",
                UP,
                "",
                Some("--advertise-routes 8.8.8.8"),
            ),
            // What is said at its default may be left out.
            (
                "--accept-routes",
                UP,
                "--listen-port 5",
                Some("--listen-port 5"),
            ),
            ("--listen-port 5", UP, "--accept-routes", None),
            (
                "--listen-port 5",
                UP,
                "--listen-port 6",
                Some("--listen-port 6"),
            ),
            // Whom the host belongs to is kept.
            (
                "--coordinator https://a.example",
                UP,
                "--listen-port 6",
                Some("--coordinator https://a.example --listen-port 6"),
            ),
            (
                "--coordinator https://a.example --listen-port 5",
                SettingCommand::Up { reset: true },
                "",
                Some("--coordinator https://a.example"),
            ),
            (
                "--listen-port 5",
                SettingCommand::Up { reset: true },
                "--accept-routes",
                Some("--accept-routes"),
            ),
            // `set` changes what it names.
            (
                "--listen-port 5 --exit-node a",
                SettingCommand::Set,
                "--exit-node=",
                Some("--listen-port 5 --exit-node="),
            ),
        ] {
            let result = explicit_after(command, &change(saved), &change(given), &defaults);
            assert_eq!(result.ok(), after.map(change), "{saved} then {given}");
        }
    }

    #[test]
    fn a_setting_from_the_file_need_not_be_repeated() {
        let below = Settings::default().with(&change("--listen-port 5"));
        let saved = change("--listen-port 5");
        assert!(explicit_after(UP, &saved, &change("--accept-routes"), &below).is_ok());
    }

    #[test]
    fn the_full_command_reads_back() {
        let all = change("--advertise-exit-node --advertise-tags a,b --egress-ip 203.0.113.7");
        let line = full_command("up", &all);
        assert_eq!(change(line.strip_prefix("agent up").unwrap()), all);
    }
}
