//! The `coordinator` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    weir_coordinator::cli::main()
}
