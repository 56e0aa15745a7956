//! Kernel errors: what was to be done, the kernel's words, and what to do about it.

use nix::errno::Errno;
use std::io;
use weir_kernel_plan::KernelError;

/// An error without a number.
pub(crate) fn failed(operation: impl Into<String>, reason: impl Into<String>) -> KernelError {
    KernelError {
        operation: operation.into(),
        reason: reason.into(),
        errno: None,
    }
}

/// The error that the kernel answered with.
pub(crate) fn kernel_said(operation: impl Into<String>, errno: i32) -> KernelError {
    let errno = errno.abs();
    let advice = match errno {
        libc::EPERM | libc::EACCES => "; run as root, or give the service CAP_NET_ADMIN",
        libc::ENODEV => "; the interface is not there",
        _ => "",
    };
    KernelError {
        operation: operation.into(),
        reason: format!("{} (errno {errno}){advice}", Errno::from_raw(errno).desc()),
        errno: Some(errno),
    }
}

/// An input or output error. Only its number or kind is kept: the text of an error that a library
/// made up may quote what it was given.
pub(crate) fn io_failed(operation: impl Into<String>, error: &io::Error) -> KernelError {
    match error.raw_os_error() {
        Some(errno) => kernel_said(operation, errno),
        None => failed(operation, error.kind().to_string()),
    }
}

/// No answer in time.
pub(crate) fn timed_out(operation: impl Into<String>, seconds: u64) -> KernelError {
    KernelError {
        operation: operation.into(),
        reason: format!("no answer within {seconds} s"),
        errno: Some(libc::ETIMEDOUT),
    }
}

/// Takes the errors that mean "already so" for success.
pub(crate) fn accept(
    result: Result<(), KernelError>,
    already_so: &[i32],
) -> Result<(), KernelError> {
    match result {
        Err(error) if error.errno.is_some_and(|errno| already_so.contains(&errno)) => Ok(()),
        other => other,
    }
}
