//! Compiles again when a migration is added: the `migrate!` macro only tracks those it has seen.

#[expect(
    clippy::print_stdout,
    reason = "a build script speaks to cargo on standard output"
)]
fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
