//! Checks that the documents say what is: links lead somewhere, guarantees name tests that exist,
//! and every command shown is one that the programs know.

mod markdown;

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cargo::{root, target_directory};
use crate::say;
use crate::stages::{Tally, TestsFailed};
use markdown::{Document, Link};

/// The document in which every section must name the tests that prove it.
const GUARANTEES: &str = "docs/guarantees.md";

/// Checks all documents. The programs must be built.
pub(crate) fn run() -> Result<Tally> {
    let mut documents = BTreeMap::new();
    find(root(), &mut documents)?;
    let mut wrong = Vec::new();
    let mut passed = 0;
    for (path, document) in &documents {
        for link in &document.links {
            match broken(path, link, &documents) {
                None => passed += 1,
                Some(reason) => wrong.push(format!("{}: {reason}", path.display())),
            }
        }
    }
    for (path, command) in commands(&documents) {
        match unknown(&command)? {
            None => passed += 1,
            Some(reason) => wrong.push(format!("{}: `{command}`: {reason}", path.display())),
        }
    }
    let unproven = documents
        .get(&root().join(GUARANTEES))
        .with_context(|| format!("there is no {GUARANTEES}"))?
        .sections_without_test();
    wrong.extend(
        unproven
            .iter()
            .map(|section| format!("{GUARANTEES}: no test is named under \"{section}\"")),
    );
    for reason in &wrong {
        say::error(reason);
    }
    let tally = Tally {
        passed,
        failed: u64::try_from(wrong.len()).unwrap_or(u64::MAX),
    };
    if tally.failed > 0 {
        return Err(TestsFailed(tally).into());
    }
    say::line(&format!(
        "{} documents, {passed} links and commands in them are right",
        documents.len()
    ));
    Ok(tally)
}

/// All documents of the workspace, but not those of what is built or downloaded.
fn find(directory: &Path, documents: &mut BTreeMap<PathBuf, Document>) -> Result<()> {
    let context = || format!("cannot read {}", directory.display());
    for entry in fs::read_dir(directory).with_context(context)? {
        let path = entry.with_context(context)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if !name.starts_with('.') && !matches!(&*name, "target" | "dist") {
                find(&path, documents)?;
            }
        } else if name.ends_with(".md") {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            documents.insert(path, Document::read(&text));
        }
    }
    Ok(())
}

/// Why a link is wrong.
fn broken(
    document: &Path,
    link: &Link,
    documents: &BTreeMap<PathBuf, Document>,
) -> Option<String> {
    let (target, anchor) = link.target.split_once('#').unwrap_or((&link.target, ""));
    let path = if target.is_empty() {
        document.to_owned()
    } else {
        clean(&document.parent()?.join(target))
    };
    if !path.exists() {
        return Some(format!("the link to {target} leads nowhere"));
    }
    if !anchor.is_empty()
        && let Some(other) = documents.get(&path)
        && !other.headings.contains(anchor)
    {
        return Some(format!("{target} has no heading #{anchor}"));
    }
    let name = link.code()?;
    if path.extension().is_none_or(|extension| extension != "rs") {
        return None;
    }
    let source = fs::read_to_string(&path).unwrap_or_default();
    let found = if document.ends_with(GUARANTEES) {
        markdown::is_test(&source, name)
    } else {
        source.contains(name)
    };
    (!found).then(|| format!("{target} has no {name}"))
}

/// The path without `.` and `..`.
fn clean(path: &Path) -> PathBuf {
    use std::path::Component;

    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => {
                clean.push(component);
            }
        }
    }
    clean
}

/// Every command shown, once, with a document that shows it.
fn commands(documents: &BTreeMap<PathBuf, Document>) -> Vec<(&Path, String)> {
    let mut seen = BTreeSet::new();
    documents
        .iter()
        .flat_map(|(path, document)| {
            let path = path.as_path();
            document.commands.iter().map(move |one| (path, one.clone()))
        })
        .filter(|(_, command)| seen.insert(command.clone()))
        .collect()
}

/// Why one of our programs does not know a command: asked for its help, it must know the words,
/// and the help must name the flags.
fn unknown(command: &str) -> Result<Option<String>> {
    let words = markdown::words(command);
    let mut rest = words.iter().map(String::as_str);
    let program = match rest.next() {
        Some(name @ ("agent" | "coordinator")) => target_directory()?.join("debug").join(name),
        Some("cargo") if rest.next() == Some("xtask") => {
            env::current_exe().context("cannot tell our own program")?
        }
        Some(_) | None => return Ok(None),
    };
    let mut words = Vec::new();
    let mut flags = Vec::new();
    for word in rest.take_while(|word| *word != "--") {
        match word.strip_prefix("--") {
            Some(flag) => flags.push(format!("--{}", flag.split('=').next().unwrap_or(flag))),
            None => words.push(word),
        }
    }
    let output = Command::new(&program)
        .args(&words)
        .arg("--help")
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Ok(Some(said.lines().next().unwrap_or_default().to_owned()));
    }
    let help = String::from_utf8_lossy(&output.stdout);
    let known: BTreeSet<_> = help
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
        .collect();
    Ok(flags
        .into_iter()
        .find(|flag| !known.contains(flag.as_str()))
        .map(|flag| format!("its help does not know {flag}")))
}
