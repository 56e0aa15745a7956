//! A userspace WireGuard device, and nothing else: `weir-userspace-wireguard INTERFACE`.

use std::{error::Error, process::ExitCode};
use weir_kernel::userspace::run_userspace_device;

fn run() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(interface), None) = (arguments.next(), arguments.next()) else {
        return Err("usage: weir-userspace-wireguard INTERFACE".into());
    };
    run_userspace_device(&interface.parse()?)?;
    Ok(())
}

#[expect(clippy::print_stderr, reason = "a program says why it failed")]
fn main() -> ExitCode {
    let Err(error) = run() else {
        return ExitCode::SUCCESS;
    };
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    eprintln!("{text}");
    ExitCode::FAILURE
}
