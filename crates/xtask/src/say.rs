//! All that xtask prints.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is the output module"
)]

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether standard output belongs to what a program printed.
static ASIDE: AtomicBool = AtomicBool::new(false);

/// From now on information goes to standard error: standard output is for what a program printed,
/// which another one may read.
pub(crate) fn aside() {
    ASIDE.store(true, Ordering::Relaxed);
}

/// A line of information.
pub(crate) fn line(text: &str) {
    if ASIDE.load(Ordering::Relaxed) {
        eprintln!("{text}");
    } else {
        println!("{text}");
    }
}

/// What a program printed, as it is.
pub(crate) fn text(text: &str) {
    print!("{text}");
}

/// The heading of a stage.
pub(crate) fn heading(text: &str) {
    println!("\n==> {text}");
}

/// Why the command ends with a failure.
pub(crate) fn error(text: &str) {
    eprintln!("error: {text}");
}
