//! Answers of another control plane to the same policies, through the command: what
//! `coordinator policy compile` prints is compared by `../shared/policy/check.py`, beside the
//! workspace. Without it there is nothing to compare, and the test says so.

use std::{path::Path, process::Command};

#[test]
fn captured_answers_are_those_of_the_command() {
    let check = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/policy/check.py");
    let has_python = Command::new("python3").arg("--version").output().is_ok();
    if !check.exists() || !has_python {
        println!("no captured answers beside the workspace, or no Python: nothing is compared");
        return;
    }
    let compared = Command::new("python3")
        .arg(&check)
        .arg(env!("CARGO_BIN_EXE_coordinator"))
        .arg("--verbose")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&compared.stdout);
    let errors = String::from_utf8_lossy(&compared.stderr);
    let verdict = said.lines().last().unwrap_or_default();
    println!("{verdict}");
    let passed = verdict.strip_suffix(" passed, 0 failed");
    let passed = passed.and_then(|number| number.parse::<u32>().ok());
    assert!(passed.is_some_and(|number| number > 0), "{said}{errors}");
}
