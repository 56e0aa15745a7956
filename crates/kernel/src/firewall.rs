//! Loads, lists and removes our nftables table with `nft`.
//!
//! `nft` is run here and not by the `nftables` crate, which drops nft's own error text and waits
//! for ever. Only our own table is ever listed: another program's may hold what cannot be parsed.
//! What the reconciler has to know of the table is read without `nft`, by the module `nftables`.

use nix::sys::memfd::{MFdFlags, memfd_create};
use std::{
    fs::File,
    io::{Seek, Write},
    path::Path,
    process::Stdio,
    time::Duration,
};
use tokio::{process::Command, sync::Mutex, time};
use weir_kernel_plan::{KernelError, NFT_TABLE, firewall::ObservedFirewall};

use crate::{
    error::{failed, io_failed, timed_out},
    nftables::{self, Known},
};

/// How long a short call may take, in seconds.
pub(crate) const SECONDS: u64 = 10;
/// How long a ruleset or a listing may take, in seconds. 100,000 set elements take nft 1.0.6 one
/// on a machine of today; a small or emulated one is many times slower. The first ruleset after a
/// boot takes longer than later ones, however small: the kernel loads a module for each kind of
/// expression in it, and begins the transaction anew after each.
pub(crate) const RULESET_SECONDS: u64 = 60;
/// The most of nft's error text that is kept, in bytes: it repeats its input.
const ERROR_BYTES: usize = 1000;

/// Runs `nft` with `input` as its standard input; gives its standard output.
pub(crate) async fn run(
    nft: &Path,
    operation: &str,
    arguments: &[&str],
    input: Stdio,
    seconds: u64,
) -> Result<Vec<u8>, KernelError> {
    let child = Command::new(nft)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| not_started(operation, nft, &error))?;
    let Ok(ended) = time::timeout(Duration::from_secs(seconds), child.wait_with_output()).await
    else {
        return Err(timed_out(operation, seconds));
    };
    let output = ended.map_err(|error| io_failed(operation, &error))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let mut end = said.trim_end().len().min(ERROR_BYTES);
    while !said.is_char_boundary(end) {
        end -= 1;
    }
    let missing = said.contains("No such file or directory");
    Err(KernelError {
        errno: missing.then_some(libc::ENOENT),
        ..failed(operation, format!("nft says: {}", &said[..end]))
    })
}

fn not_started(operation: &str, nft: &Path, error: &std::io::Error) -> KernelError {
    let reason = if error.kind() == std::io::ErrorKind::NotFound {
        format!(
            "the program {} is not there: apt install nftables",
            nft.display()
        )
    } else {
        format!("cannot start {}: {error}", nft.display())
    };
    KernelError {
        errno: error.raw_os_error(),
        ..failed(operation, reason)
    }
}

/// The version that `nft --version` prints.
pub(crate) async fn version(nft: &Path) -> Result<String, KernelError> {
    let printed = run(nft, "run nft", &["--version"], Stdio::null(), SECONDS).await?;
    let printed = String::from_utf8_lossy(&printed);
    Ok(printed
        .split_whitespace()
        .find_map(|word| word.strip_prefix('v'))
        .unwrap_or(printed.trim())
        .to_owned())
}

/// What is known of the table between two looks; brought up to date by every load.
pub(crate) type Watched = Mutex<Option<Known>>;

/// Loads a libnftables JSON document in one transaction: the whole table, or a difference to it.
pub(crate) async fn load(
    nft: &Path,
    watched: &Watched,
    ruleset: &str,
    whole: bool,
) -> Result<(), KernelError> {
    let operation = "load the firewall table";
    let mut known = watched.lock().await;
    let before = nftables::generation().await?;
    let input = in_memory(ruleset).map_err(|error| io_failed(operation, &error))?;
    // `-f -` would open /dev/stdin, which a bare root file system does not have.
    let arguments = ["-j", "-f", "/proc/self/fd/0"];
    let loaded = run(nft, operation, &arguments, input.into(), RULESET_SECONDS).await;
    *known = match (&loaded, nftables::generation().await) {
        (Ok(_), Ok(after)) => Known::after_load(*known, whole, before, after),
        // Nothing was changed by us, or it is not known.
        (Err(_), Ok(after)) if after == before => *known,
        (Ok(_) | Err(_), Ok(_) | Err(_)) => None,
    };
    loaded.map(|_| ())
}

/// Our table as it is; `None` when it is not there. An `nft` that cannot be run is an error here
/// too: nothing could be mended.
pub(crate) async fn observe(
    nft: &Path,
    watched: &Watched,
) -> Result<Option<ObservedFirewall>, KernelError> {
    let mut known = watched.lock().await;
    if known.is_none() {
        version(nft).await?;
    }
    let parts = nftables::read(&mut known).await?;
    Ok(parts.map(ObservedFirewall::from_parts))
}

/// A file in memory with this content. Unlike a pipe it takes all of it before nft reads.
fn in_memory(text: &str) -> std::io::Result<File> {
    let mut file = File::from(memfd_create(c"weir-ruleset", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

/// Removes our table; one that is not there is removed already.
pub(crate) async fn delete(nft: &Path) -> Result<(), KernelError> {
    let arguments = ["delete", "table", "inet", NFT_TABLE];
    match run(
        nft,
        "remove the firewall table",
        &arguments,
        Stdio::null(),
        SECONDS,
    )
    .await
    {
        Err(error) if is_missing_table(&error) => Ok(()),
        other => other.map(|_| ()),
    }
}

/// What `nft list table inet weir` prints, or `nft -j`; `None` when the table is not there.
pub(crate) async fn listing(nft: &Path, json: bool) -> Result<Option<String>, KernelError> {
    let operation = "list the firewall table";
    let all = ["-j", "list", "table", "inet", NFT_TABLE];
    let arguments = if json { &all[..] } else { &all[1..] };
    match run(nft, operation, arguments, Stdio::null(), RULESET_SECONDS).await {
        Ok(printed) => Ok(Some(String::from_utf8_lossy(&printed).into_owned())),
        Err(error) if is_missing_table(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether nft ran and did not find the table, as opposed to nft itself not being there.
fn is_missing_table(error: &KernelError) -> bool {
    error.errno == Some(libc::ENOENT) && error.reason.starts_with("nft says: ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_nft_says_what_to_install() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let nft = Path::new("/nonexistent/nft");
        let error = runtime.block_on(version(nft)).unwrap_err();
        assert!(
            error.to_string().contains("apt install nftables"),
            "{error}"
        );
        let error = runtime.block_on(listing(nft, false)).unwrap_err();
        assert!(
            error.to_string().contains("apt install nftables"),
            "{error}"
        );
    }
}
