//! Compiles again when a migration is added: the `migrate!` macro only tracks those it has seen.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
