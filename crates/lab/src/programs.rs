//! Where the programs under test are.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

/// The directory that holds the built programs: `WEIR_BIN_DIR`, or the build profile's directory
/// of the running executable (test executables live one level deeper, in `deps`).
///
/// # Errors
/// The path of the running executable cannot be read.
pub fn program_directory() -> Result<PathBuf> {
    if let Some(directory) = std::env::var_os("WEIR_BIN_DIR") {
        return Ok(PathBuf::from(directory));
    }
    let executable = std::env::current_exe()
        .context("cannot find the path of this executable; set WEIR_BIN_DIR")?;
    let mut directory = executable
        .parent()
        .context("this executable has no directory")?;
    if directory.ends_with("deps") || directory.ends_with("examples") {
        directory = directory
            .parent()
            .context("the target directory has no parent")?;
    }
    Ok(directory.to_owned())
}

/// The path of one built program, such as `agent`.
///
/// # Errors
/// It has not been built.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = program_directory()?.join(name);
    if !path.is_file() {
        bail!(
            "{} is not built; run `cargo build --workspace` first",
            path.display()
        );
    }
    Ok(path)
}
