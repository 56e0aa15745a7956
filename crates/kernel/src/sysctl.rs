//! Kernel settings under `/proc/sys`.

use std::{fs, io, path::PathBuf};
use weir_kernel_plan::{KernelError, SysctlKey};

use crate::error::{failed, io_failed};

/// Where a setting lives; keys that would leave `/proc/sys` are refused.
fn path(operation: &str, key: &SysctlKey) -> Result<PathBuf, KernelError> {
    let plain = !key.0.is_empty()
        && key
            .0
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..");
    if plain {
        Ok(PathBuf::from("/proc/sys").join(&key.0))
    } else {
        Err(failed(
            operation,
            "that is not the name of a kernel setting: use slashes, as in net/ipv4/ip_forward",
        ))
    }
}

/// The value of a setting; `None` when this kernel does not have it.
pub(crate) fn read(key: &SysctlKey) -> Result<Option<String>, KernelError> {
    let operation = format!("read the setting {key}");
    match fs::read_to_string(path(&operation, key)?) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_failed(operation, &error)),
    }
}

/// Sets a setting.
pub(crate) fn write(key: &SysctlKey, value: &str) -> Result<(), KernelError> {
    let operation = format!("set {key} to {value}");
    // Not `fs::write`, which would ask for the file to be made.
    fs::OpenOptions::new()
        .write(true)
        .open(path(&operation, key)?)
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
        .map_err(|error| unwritable(&operation, &error))
}

/// Why a setting cannot be set, when it cannot: opens it for writing and writes nothing.
pub(crate) fn refuses_writing(key: &SysctlKey) -> Result<Option<String>, KernelError> {
    let operation = format!("open the setting {key} for writing");
    let opened = fs::OpenOptions::new()
        .write(true)
        .open(path(&operation, key)?);
    Ok(opened
        .err()
        .map(|error| unwritable(&operation, &error).reason))
}

fn unwritable(operation: &str, error: &io::Error) -> KernelError {
    let failed = io_failed(operation, error);
    let advice = match error.raw_os_error() {
        Some(libc::EROFS) => {
            "; /proc/sys is mounted read-only, as in an unprivileged container: set it on the host"
        }
        Some(libc::ENOENT) => "; this kernel does not have it",
        _ => "",
    };
    KernelError {
        reason: format!("{}{advice}", failed.reason),
        ..failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_below_proc_sys() {
        for bad in ["", "../self/mem", "net/../../etc", "/etc/passwd", "net//x"] {
            let key = SysctlKey(bad.to_owned());
            assert!(read(&key).is_err(), "{bad}");
            assert!(write(&key, "1").is_err(), "{bad}");
        }
    }

    #[test]
    fn a_setting_is_read_and_a_missing_one_is_none() {
        assert!(read(&SysctlKey::ipv4_forwarding()).unwrap().is_some());
        let missing = SysctlKey("net/ipv4/no_such_setting".to_owned());
        assert_eq!(read(&missing).unwrap(), None);
        let refused = write(&missing, "1").unwrap_err();
        assert_eq!(refused.errno, Some(libc::ENOENT));
    }
}
