//! All that xtask prints.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is the output module"
)]

/// A line of information.
pub(crate) fn line(text: &str) {
    println!("{text}");
}

/// The heading of a stage.
pub(crate) fn heading(text: &str) {
    println!("\n==> {text}");
}

/// Why the command ends with a failure.
pub(crate) fn error(text: &str) {
    eprintln!("error: {text}");
}
