//! Checks that the documents say what is: links lead somewhere, guarantees name tests that exist,
//! every command shown is one that the programs know, every policy shown is valid, and every error
//! explained is one that a program prints.

mod markdown;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::cargo::{root, target_directory};
use crate::say;
use crate::stages::{Tally, TestsFailed};
use markdown::{Document, Link};

/// The document in which every section must name the tests that prove it.
const GUARANTEES: &str = "docs/guarantees.md";
/// The document in which a heading that is code is a part of a sentence that a program prints.
const TROUBLES: &str = "docs/troubleshooting.md";

/// Checks all documents. The programs must be built.
pub(crate) fn run() -> Result<Tally> {
    let programs = target_directory()?.join("debug");
    let mut documents = BTreeMap::new();
    find(root(), &mut documents)?;
    let mut wrong = Vec::new();
    let mut passed = 0;
    for (path, document) in &documents {
        for link in &document.links {
            match broken(path, link, &documents) {
                None => passed += 1,
                Some(reason) => wrong.push(format!("{}: {reason}", shown(path))),
            }
        }
    }
    for (path, command) in commands(&documents) {
        match unknown(&command, &programs)? {
            None => passed += 1,
            Some(reason) => wrong.push(format!("{}: `{command}`: {reason}", shown(path))),
        }
    }
    for (path, document) in &documents {
        for policy in &document.policies {
            match invalid(policy, &programs)? {
                None => passed += 1,
                Some(reason) => wrong.push(format!("{}: {reason}", shown(path))),
            }
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
    let sentences = sentences(&root().join("agent"))? + &sentences(&root().join("crates"))?;
    let troubles = documents
        .get(&root().join(TROUBLES))
        .with_context(|| format!("there is no {TROUBLES}"))?;
    for trouble in &troubles.code_headings {
        if sentences.contains(trouble.as_str()) {
            passed += 1;
        } else {
            wrong.push(format!("{TROUBLES}: no program says {trouble:?}"));
        }
    }
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
        "{} documents, {passed} links, commands, policies and sentences in them are right",
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
fn broken(document: &Path, link: &Link, documents: &BTreeMap<PathBuf, Document>) -> Option<String> {
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

/// A path as people name it: from the workspace on.
fn shown(path: &Path) -> std::path::Display<'_> {
    path.strip_prefix(root()).unwrap_or(path).display()
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

/// The source below a directory, with sentences that go over several lines put together.
fn sentences(directory: &Path) -> Result<String> {
    let context = || format!("cannot read {}", directory.display());
    let mut text = String::new();
    for entry in fs::read_dir(directory).with_context(context)? {
        let path = entry.with_context(context)?.path();
        if path.is_dir() {
            // Our own sentences are about documents.
            if !path.ends_with("crates/xtask") {
                text.push_str(&sentences(&path)?);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            text.push_str(&markdown::joined(&source));
        }
    }
    Ok(text)
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

/// Why one of our programs does not understand a command. Asked for its help at the end of it, it
/// only looks whether it knows the words and flags before.
fn unknown(command: &str, programs: &Path) -> Result<Option<String>> {
    let words = markdown::words(command);
    let mut rest = words.iter().map(String::as_str);
    let program = match rest.next() {
        Some(name @ ("agent" | "coordinator")) => programs.join(name),
        // Not the running program's file: a build of all targets may have replaced that.
        Some("cargo") if rest.next() == Some("xtask") => programs.join("xtask"),
        Some(_) | None => return Ok(None),
    };
    let output = Command::new(&program)
        .args(rest.take_while(|word| *word != "--"))
        .arg("--help")
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let reason = said.lines().next().unwrap_or_default().to_owned();
    Ok((!output.status.success()).then_some(reason))
}

/// Why the coordinator would refuse a policy.
fn invalid(policy: &str, programs: &Path) -> Result<Option<String>> {
    let program = programs.join("coordinator");
    let mut child = Command::new(&program)
        .args(["policy", "check", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let mut input = child.stdin.take().context("it has no standard input")?;
    input
        .write_all(policy.as_bytes())
        .context("it does not take a policy")?;
    drop(input);
    let output = child.wait_with_output().context("cannot wait for it")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((!output.status.success()).then_some(said))
}
