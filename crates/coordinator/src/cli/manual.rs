//! The manual pages, one for each command, from the definition of the command line.

use anyhow::{Context, Result};
use clap::Command;
use clap_mangen::Man;
use std::{fs, path::Path};

/// Writes the pages into a directory: `coordinator.8`, `coordinator-serve.8` and so on.
pub(super) fn write(command: Command, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let mut command = without_help(command);
    command.build();
    pages(command, directory)
        .with_context(|| format!("cannot write manual pages to {}", directory.display()))
}

/// The pages are the help: commands that only print it are left out.
fn without_help(command: Command) -> Command {
    command
        .disable_help_subcommand(true)
        .mut_subcommands(without_help)
}

fn pages(command: Command, directory: &Path) -> std::io::Result<()> {
    for subcommand in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        pages(subcommand.clone(), directory)?;
    }
    let page = Man::new(command)
        .section("8")
        .source(concat!("Weir ", env!("CARGO_PKG_VERSION")))
        .manual("Weir");
    page.generate_to(directory).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_in_the_right_section() {
        let directory = tempfile::tempdir().unwrap();
        write(super::super::command(), directory.path()).unwrap();
        for name in [
            "coordinator",
            "coordinator-serve",
            "coordinator-routes-approve",
        ] {
            let page = fs::read_to_string(directory.path().join(format!("{name}.8"))).unwrap();
            assert!(page.contains(&format!(".TH {name} 8")), "{page}");
        }
        for name in ["coordinator-manual", "coordinator-help"] {
            assert!(!directory.path().join(format!("{name}.8")).exists());
        }
    }
}
