//! The fuzz targets, over the files of `fuzz/corpus` and mutations of them: what a stable toolchain
//! can do without a fuzzer. The mutations are the same in every run.

#![expect(
    clippy::unwrap_used,
    reason = "a test's own helpers fail like the test does"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "the corpus is files; the room itself reads none"
)]
#![expect(clippy::print_stdout, reason = "says which bytes failed")]

#[path = "../fuzz/targets.rs"]
mod targets;

use std::{fs, path::Path};

/// Mutations of each file.
const MUTATIONS: u64 = 60;

/// Numbers that look random and are the same in every run (SplitMix64).
struct Numbers(u64);

impl Numbers {
    /// The next one below a bound above zero.
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % u64::try_from(bound).unwrap()).unwrap()
    }
}

/// What is pasted into files: what the language gives a meaning.
const TOKENS: [&str; 24] = [
    "\"",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "*",
    "/",
    "-",
    "@",
    "\\",
    "//",
    "/*",
    "\\u0000",
    "\u{e9}",
    "\u{1f600}",
    "null",
    "tag:",
    "group:",
    "autogroup:self",
    "0.0.0.0/0",
    "[::1]",
    "\"deny\"",
];

fn mutated(bytes: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut mutated = bytes.to_vec();
    for _ in 0..=numbers.below(3) {
        let at = numbers.below(mutated.len() + 1);
        let end = at + numbers.below(mutated.len() - at + 1);
        match numbers.below(6) {
            0 if at < mutated.len() => mutated[at] ^= 1 << numbers.below(8),
            1 => mutated.truncate(at),
            2 => drop(mutated.drain(at..end)),
            3 => {
                let piece = mutated[at..end].to_vec();
                drop(mutated.splice(at..at, piece));
            }
            4 => {
                let piece = mutated[at..end].to_vec();
                let to = numbers.below(mutated.len() + 1);
                drop(mutated.splice(to..to, piece));
            }
            _ => {
                let token = TOKENS[numbers.below(TOKENS.len())];
                drop(mutated.splice(at..at, token.bytes()));
            }
        }
    }
    mutated
}

/// Says which bytes it was when a target panics.
struct Tried<'a>(&'a str, &'a [u8]);

impl Drop for Tried<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}: b\"{}\"", self.0, self.1.escape_ascii());
        }
    }
}

fn replay(folders: &[&str], target: fn(&[u8])) {
    for folder in folders {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        let entries = fs::read_dir(corpus.join(folder)).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        assert!(!paths.is_empty(), "{folder} has files");
        for path in paths {
            let bytes = fs::read(&path).unwrap();
            let name = path.display().to_string();
            let mut numbers = Numbers(1);
            let mutations = (0..MUTATIONS).map(|_| mutated(&bytes, &mut numbers));
            for tried in std::iter::once(bytes.clone()).chain(mutations) {
                let _tried = Tried(&name, &tried);
                target(&tried);
            }
        }
    }
}

#[test]
fn any_bytes_are_a_policy_or_refused_with_findings() {
    replay(&["parse_bytes", "compile"], targets::parse_bytes);
}

#[test]
fn any_policy_compiles_and_is_its_own_canonical_text() {
    replay(&["compile", "parse_bytes"], targets::compile);
}

#[test]
fn any_text_is_prefixes_or_refused() {
    replay(&["prefixes"], targets::prefixes);
}

#[test]
fn any_text_is_credentials_or_refused_and_never_signed() {
    replay(&["credentials"], targets::credentials);
}
