//! The direction of the rooms: pure below adapters below binaries.
//!
//! Every package of the workspace names its kind in `[package.metadata.room]`. An edge between
//! two of our packages is allowed or wrong by their kinds alone, so a wrong one cannot be argued
//! into the code by an exception.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{cargo, say};

/// What a room is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pure,
    Adapter,
    Binary,
    TestSupport,
    Tool,
    Tests,
}

impl Kind {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "pure" => Self::Pure,
            "adapter" => Self::Adapter,
            "binary" => Self::Binary,
            "test-support" => Self::TestSupport,
            "tool" => Self::Tool,
            "tests" => Self::Tests,
            _ => return None,
        })
    }

    /// Whether a package of this kind may be built with one of kind `other`.
    fn may_use(self, other: Self) -> bool {
        match self {
            Self::Pure | Self::Adapter | Self::TestSupport | Self::Tool => other == Self::Pure,
            Self::Binary => matches!(other, Self::Pure | Self::Adapter),
            Self::Tests => true,
        }
    }

    /// Whether the tests of a package of this kind may use one of kind `other`. They may use
    /// more than the package itself, but what is a program is used by running it.
    fn may_test_with(self, other: Self) -> bool {
        self.may_use(other) || matches!(other, Self::Pure | Self::Adapter | Self::TestSupport)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Pure => "pure",
            Self::Adapter => "adapter",
            Self::Binary => "binary",
            Self::TestSupport => "test-support",
            Self::Tool => "tool",
            Self::Tests => "tests",
        })
    }
}

/// What a pure room never names: runtimes, the network, the kernel.
const IMPURE: &[&str] = &[
    "axum",
    "boringtun",
    "hyper",
    "libc",
    "mio",
    "netlink-packet-route",
    "netlink-sys",
    "nix",
    "reqwest",
    "rtnetlink",
    "socket2",
    "sqlx",
    "tempfile",
    "tokio",
    "tokio-rustls",
    "tokio-stream",
    "wireguard-control",
];

/// A package of the workspace, with what it names.
#[derive(Debug)]
struct Room {
    kind: Kind,
    uses: BTreeSet<String>,
    tests_with: BTreeSet<String>,
}

type Graph = BTreeMap<String, Room>;

/// Checks the workspace and prints its graph.
pub(crate) fn run() -> Result<()> {
    let graph = read(&cargo::metadata()?)?;
    for (name, room) in &graph {
        let ours: Vec<_> = room
            .uses
            .iter()
            .filter(|used| graph.contains_key(*used))
            .map(String::as_str)
            .collect();
        say::line(&format!("{:12}  {name} -> {}", room.kind, ours.join(", ")));
    }
    let wrong = wrong_edges(&graph);
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("wrong direction:\n  {}", wrong.join("\n  "))
}

fn wrong_edges(graph: &Graph) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, room) in graph {
        let kind = room.kind;
        for used in &room.uses {
            match graph.get(used) {
                Some(other) if !kind.may_use(other.kind) => wrong.push(format!(
                    "{name} ({kind}) depends on {used} ({}): {}",
                    other.kind,
                    advice(kind)
                )),
                None if kind == Kind::Pure && IMPURE.contains(&used.as_str()) => {
                    wrong.push(format!(
                        "{name} (pure) depends on {used}: a pure room never names a runtime, the \
                         network, the file system or the kernel; move that code to an adapter"
                    ));
                }
                Some(_) | None => {}
            }
        }
        for used in &room.tests_with {
            if let Some(other) = graph.get(used)
                && !kind.may_test_with(other.kind)
            {
                wrong.push(format!(
                    "the tests of {name} depend on {used} ({}): only end-to-end tests do that",
                    other.kind
                ));
            }
        }
    }
    wrong
}

fn advice(kind: Kind) -> &'static str {
    match kind {
        Kind::Pure => "pure rooms know only pure rooms",
        Kind::Adapter => "adapters know pure rooms, and not each other; let a binary connect them",
        Kind::Binary => "binaries know adapters and pure rooms",
        Kind::TestSupport | Kind::Tool => "it may know pure rooms only",
        Kind::Tests => "end-to-end tests may know everything",
    }
}

fn read(metadata: &Value) -> Result<Graph> {
    let packages = metadata["packages"]
        .as_array()
        .context("cargo names no packages")?;
    let mut graph = Graph::new();
    for package in packages {
        let name = package["name"].as_str().context("a package has no name")?;
        let kind = package["metadata"]["room"]["kind"].as_str().with_context(|| {
            format!("{name} names no kind; add [package.metadata.room] with a kind to its Cargo.toml")
        })?;
        let kind = Kind::parse(kind).with_context(|| {
            format!(
                "{name} is of unknown kind {kind:?}; the kinds are pure, adapter, binary, \
                 test-support, tool and tests"
            )
        })?;
        let mut room = Room {
            kind,
            uses: BTreeSet::new(),
            tests_with: BTreeSet::new(),
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let used = dependency["name"]
                .as_str()
                .context("a dependency has no name")?
                .to_owned();
            if dependency["kind"] == "dev" {
                room.tests_with.insert(used);
            } else {
                room.uses.insert(used);
            }
        }
        graph.insert(name.to_owned(), room);
    }
    Ok(graph)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Packages as `name kind`, edges as `from to`, test edges as `from to`.
    fn wrong(
        packages: &[(&str, &str)],
        uses: &[(&str, &str)],
        tests: &[(&str, &str)],
    ) -> Vec<String> {
        let edges = |name: &str| {
            let normal = uses.iter().map(|edge| (edge, Value::Null));
            let dev = tests.iter().map(|edge| (edge, json!("dev")));
            normal
                .chain(dev)
                .filter(|((from, _), _)| *from == name)
                .map(|((_, to), kind)| json!({"name": to, "kind": kind}))
                .collect::<Vec<_>>()
        };
        let packages: Vec<_> = packages
            .iter()
            .map(|(name, kind)| {
                json!({
                    "name": name,
                    "metadata": {"room": {"kind": kind}},
                    "dependencies": edges(name),
                })
            })
            .collect();
        wrong_edges(&read(&json!({ "packages": packages })).unwrap())
    }

    const HOUSE: &[(&str, &str)] = &[
        ("words", "pure"),
        ("plan", "pure"),
        ("kernel", "adapter"),
        ("loop", "adapter"),
        ("agent", "binary"),
        ("server", "binary"),
        ("lab", "test-support"),
        ("xtask", "tool"),
        ("story", "tests"),
    ];

    #[test]
    fn the_intended_house_stands() {
        let uses = [
            ("plan", "words"),
            ("plan", "serde"),
            ("kernel", "plan"),
            ("kernel", "tokio"),
            ("loop", "plan"),
            ("agent", "kernel"),
            ("agent", "loop"),
            ("agent", "words"),
            ("lab", "plan"),
            ("story", "agent"),
            ("story", "lab"),
        ];
        let tests = [
            ("loop", "lab"),
            ("plan", "tempfile"),
            ("kernel", "lab"),
            ("lab", "kernel"),
        ];
        assert_eq!(wrong(HOUSE, &uses, &tests), [""; 0]);
    }

    #[test]
    fn every_wrong_edge_is_named() {
        for (from, to) in [
            ("plan", "kernel"),
            ("plan", "lab"),
            ("kernel", "loop"),
            ("kernel", "agent"),
            ("agent", "server"),
            ("agent", "lab"),
            ("agent", "xtask"),
            ("lab", "kernel"),
            ("lab", "story"),
            ("xtask", "kernel"),
        ] {
            let found = wrong(HOUSE, &[(from, to)], &[]);
            assert_eq!(found.len(), 1, "{from} -> {to}: {found:?}");
            assert!(
                found[0].starts_with(from) && found[0].contains(to),
                "{found:?}"
            );
        }
    }

    #[test]
    fn a_pure_room_names_nothing_impure() {
        for crate_name in [
            "tokio",
            "reqwest",
            "sqlx",
            "axum",
            "nix",
            "libc",
            "rtnetlink",
        ] {
            assert_eq!(
                wrong(HOUSE, &[("plan", crate_name)], &[]).len(),
                1,
                "{crate_name}"
            );
            assert_eq!(
                wrong(HOUSE, &[("kernel", crate_name)], &[]).len(),
                0,
                "{crate_name}"
            );
        }
    }

    #[test]
    fn tests_do_not_link_programs() {
        assert_eq!(wrong(HOUSE, &[], &[("kernel", "agent")]).len(), 1);
        assert_eq!(wrong(HOUSE, &[], &[("agent", "server")]).len(), 1);
    }

    #[test]
    fn a_package_without_a_known_kind_is_refused() {
        let nameless = json!({"packages": [{"name": "new", "dependencies": []}]});
        assert!(
            read(&nameless)
                .unwrap_err()
                .to_string()
                .contains("new names no kind")
        );
        let unknown = json!({"packages": [
            {"name": "new", "metadata": {"room": {"kind": "attic"}}, "dependencies": []}
        ]});
        assert!(read(&unknown).unwrap_err().to_string().contains("attic"));
    }
}
