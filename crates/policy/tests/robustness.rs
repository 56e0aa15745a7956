//! Whatever a file holds, an answer comes soon, and it is no panic.

#![expect(
    clippy::unwrap_used,
    reason = "a test's own helpers fail like the test does"
)]

use proptest::prelude::*;
use std::{fmt::Write as _, net::IpAddr};
use weir_overlay::{NodeId, UserId};
use weir_policy::{
    CompiledPolicy, Directory, Packet, Policy, PolicyNode, Severity, User, compile, diff, render,
};
use weir_protocol::IpProtocol;

/// A policy with a bit of everything.
const EVERYTHING: &str = r#"{
    // names
    "groups": {"group:staff": ["alice@example.com", "bob@"], "group:none": []},
    "tagOwners": {"tag:relay": ["group:staff"], "tag:exit": ["tag:relay"]},
    "hosts": {"bank": "8.8.8.8", "office": "10.20.0.0/24", "lab": "fd00:1::/64"},
    "ipsets": {"ipset:a": ["office", "remove 10.20.0.0-10.20.0.9"], "ipset:b": ["add ipset:a", "lab"]},
    "postures": {"posture:new": ["node:os == 'linux'", "node:osVersion >= '6.1'"]},
    "acls": [
        {"action": "accept", "src": ["group:staff", "10.20.0.0/24"], "dst": ["bank:443,8000-8080", "[fd00:1::1]:*"]},
        {"action": "accept", "src": ["*"], "dst": ["autogroup:self:22", "tag:relay:*"], "proto": "tcp"},
        {"action": "deny", "src": ["bob@"], "dst": ["ipset:b:80"]},
        {"action": "accept", "src": ["user:*@example.com"], "dst": ["ipset:b:80"], "srcPosture": ["posture:new"]},
    ],
    "grants": [
        {"src": ["autogroup:member"], "dst": ["autogroup:internet"], "ip": ["*"], "via": ["tag:exit"]},
        {"src": ["tag:relay"], "dst": ["office"], "ip": ["udp:53", "47:*"], "app": {"example.com/cap": [{"a": 1e9}]}},
    ],
    "autoApprovers": {"routes": {"10.0.0.0/8": ["tag:relay"]}, "exitNode": ["tag:exit"]},
    "tests": [{"src": "alice@example.com", "accept": ["bank:443"], "deny": ["bank:22"], "proto": "tcp"}],
    "ssh": [{"action": "check", "checkPeriod": "1h", "src": ["group:staff"], "dst": ["autogroup:self"], "users": ["localpart:*@example.com"]}],
    "sshTests": [{"src": "alice@example.com", "dst": ["alice@example.com"], "accept": ["alice"]}],
    "nodeAttrs": [{"target": ["tag:exit"], "attr": ["disable-ipv4"]}],
    "weir": {"denyRules": true},
}"#;

fn directory() -> Directory {
    let user = |id, name: &str| User {
        id: UserId(id),
        name: name.to_owned(),
        email: Some(format!("{name}@example.com")),
    };
    let node = |id: u64, user: Option<u64>, tags: &[&str], routes: &[&str]| {
        let addresses = [format!("100.64.0.{id}"), format!("fd77:6569:7200::{id}")];
        let node = PolicyNode {
            user: user.map(UserId),
            tags: tags.iter().map(|tag| tag.parse().unwrap()).collect(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            approved_routes: routes.iter().map(|route| route.parse().unwrap()).collect(),
            ..PolicyNode::default()
        };
        (NodeId(id), node)
    };
    Directory {
        users: vec![user(1, "alice"), user(2, "bob")],
        nodes: [
            node(1, Some(1), &[], &[]),
            node(2, Some(1), &[], &[]),
            node(3, Some(2), &[], &[]),
            node(
                4,
                None,
                &["tag:relay"],
                &["8.8.8.8/32", "10.20.0.0/24", "fd00:1::/64"],
            ),
            node(5, None, &["tag:exit"], &["0.0.0.0/0", "::/0"]),
        ]
        .into(),
        ..Directory::default()
    }
}

/// Goes the whole way that a policy goes.
fn survives(bytes: &[u8], before: &CompiledPolicy) {
    let directory = directory();
    let text = String::from_utf8_lossy(bytes);
    match Policy::parse_bytes(bytes) {
        Ok(policy) => {
            let warnings = policy.warnings(&directory);
            let _ = render(&warnings, &text, "policy.hujson");
            if let Err(found) = policy.verify(&directory) {
                assert!(!render(&found, &text, "policy.hujson").is_empty());
            }
            let compiled = compile(&policy, &directory);
            for node in directory.nodes.keys() {
                let _ = compiled.filter(*node);
                let _ = compiled.rows(*node);
                let _ = compiled.peers(*node);
            }
            let _ = diff(before, &compiled);
            for destination in ["8.8.8.8", "100.64.0.4", "fd00:1::1", "192.0.2.1"] {
                let destination: IpAddr = destination.parse().unwrap();
                let source = match destination {
                    IpAddr::V4(_) => "100.64.0.1",
                    IpAddr::V6(_) => "fd77:6569:7200::1",
                };
                for protocol in [IpProtocol::TCP, IpProtocol::ICMP, IpProtocol(47)] {
                    let _ = compiled.explain(&Packet {
                        source: source.parse().unwrap(),
                        destination,
                        port: 443,
                        protocol,
                    });
                }
            }
            let canonical = policy.to_hujson();
            let again = Policy::parse(&canonical)
                .unwrap_or_else(|found| panic!("{}", render(&found, &canonical, "")));
            assert_eq!(again.to_hujson(), canonical);
        }
        Err(found) => {
            assert!(found.iter().any(|one| one.severity == Severity::Error));
            assert!(found.len() <= 202, "{}", found.len());
            assert!(!render(&found, &text, "policy.hujson").is_empty());
        }
    }
}

/// What may be put into a file by mistake.
const PIECES: [&str; 24] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    "\"",
    ":",
    "//",
    "/*",
    "*/",
    "\\ud800",
    "\\u0000",
    "\u{feff}",
    "\0",
    "null",
    "-1",
    "1e999999",
    "\"*\"",
    "\"tag:relay\"",
    "[]",
    "{}",
    "\u{1f600}",
    "true",
    " ",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn edits_of_a_policy_do_not_make_it_panic(
        edits in proptest::collection::vec(
            (any::<proptest::sample::Index>(), 0usize..40, proptest::sample::select(PIECES.to_vec())),
            1..4,
        ),
        byte in proptest::option::of((any::<proptest::sample::Index>(), any::<u8>())),
    ) {
        let mut bytes = EVERYTHING.as_bytes().to_vec();
        for (at, length, piece) in edits {
            let start = at.index(bytes.len());
            let end = bytes.len().min(start + length);
            bytes.splice(start..end, piece.bytes());
        }
        if let Some((at, byte)) = byte {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        survives(&bytes, &CompiledPolicy::default());
    }

    /// One text of the policy takes the place of another: everything parses, nothing fits.
    #[test]
    fn values_in_other_places_do_not_make_it_panic(
        from in any::<proptest::sample::Index>(),
        to in any::<proptest::sample::Index>(),
    ) {
        let quotes: Vec<usize> = EVERYTHING.match_indices('"').map(|(at, _)| at).collect();
        let text = |index: proptest::sample::Index| {
            let first = index.index(quotes.len() / 2) * 2;
            quotes[first]..quotes[first + 1] + 1
        };
        let mut changed = EVERYTHING.to_owned();
        changed.replace_range(text(to), &EVERYTHING[text(from)]);
        let whole = compile(&Policy::parse(EVERYTHING).unwrap(), &directory());
        survives(changed.as_bytes(), &whole);
    }
}

#[test]
fn the_policy_itself_is_good() {
    let policy = Policy::parse(EVERYTHING).unwrap();
    policy.verify(&directory()).unwrap();
    survives(EVERYTHING.as_bytes(), &CompiledPolicy::default());
}

/// `make` for each number, with a comma between two.
fn many(number: usize, make: impl Fn(usize) -> String) -> String {
    let mut text = String::new();
    for at in 0..number {
        write!(text, "{},", make(at)).unwrap();
    }
    text
}

/// Files that would take for ever if something in them were compared each with each.
#[test]
fn large_files_are_answered_soon() {
    let entry = |src: &str, dst: &str| {
        format!(r#"{{"acls": [{{"action": "accept", "src": [{src}], "dst": [{dst}]}}]}}"#)
    };
    let quoted = |number, what: &'static str| many(number, move |at| format!("\"{what}{at}\""));
    let ports = |number| {
        many(number, |at| {
            format!("\"10.0.{}.{}:22\"", at / 256, at % 256)
        })
    };
    let sets = |number, operand: fn(usize) -> String| {
        let sets = many(number, |at| format!("\"ipset:{at:06}\": [{}]", operand(at)));
        format!("{{\"acls\": [], \"ipsets\": {{{sets}}}}}")
    };
    for (what, text) in [
        ("brackets", "[".repeat(10_000)),
        ("braces", "{\"a\":".repeat(10_000)),
        ("comments", "/*".repeat(500_000)),
        ("five megabytes", " ".repeat(5 << 20)),
        (
            "a long number",
            format!("{{\"acls\": {}}}", "9".repeat(1_000_000)),
        ),
        (
            "a long text",
            format!("{{\"{}\": 1}}", "x".repeat(1_000_000)),
        ),
        (
            "one key",
            format!("{{{}}}", many(30_000, |_| "\"acls\": []".to_owned())),
        ),
        (
            "unknown sections",
            format!("{{{}}}", many(30_000, |at| format!("\"acl{at}\": 1"))),
        ),
        (
            "entries of a wrong kind",
            format!("{{\"acls\": [{}]}}", many(30_000, |at| at.to_string())),
        ),
        (
            "unknown groups",
            entry(&quoted(20_000, "group:b"), "\"*:*\"").replacen(
                '{',
                &format!(
                    "{{\"groups\": {{{}}},",
                    many(20_000, |at| format!("\"group:a{at}\": []"))
                ),
                1,
            ),
        ),
        ("users", entry(&quoted(20_000, "user@"), "\"*:*\"")),
        ("destinations", entry("\"*\"", &ports(20_000))),
        (
            "one destination",
            entry(
                "\"*\"",
                &many(20_000, |at| format!("\"8.8.8.8:{}\"", at + 1)),
            ),
        ),
        (
            "sources and destinations",
            entry(&quoted(20_000, "user@"), &ports(20_000)),
        ),
        (
            "own devices",
            entry(
                &quoted(30_000, "a@b"),
                &"\"autogroup:self:22\",".repeat(30_000),
            ),
        ),
        (
            "nested sets",
            sets(30_000, |at| format!("\"ipset:{:06}\"", at + 1)),
        ),
        (
            "sets in a circle",
            sets(30_000, |at| format!("\"ipset:{:06}\"", (at + 1) % 30_000)),
        ),
        (
            "a set by turns",
            sets(1, |_| {
                many(30_000, |at| {
                    format!(
                        "\"10.{}.{}.1\", \"remove 11.{0}.{1}.1\"",
                        at / 256,
                        at % 256
                    )
                })
            }),
        ),
        (
            "sets of one set",
            sets(20_000, |at| match at {
                0 => many(20_000, |at| format!("\"10.{}.{}.1\"", at / 256, at % 256)),
                _ => "\"ipset:000000\", \"remove 10.0.0.1\"".to_owned(),
            }),
        ),
        (
            "attributes",
            format!(
                r#"{{"acls": [], "nodeAttrs": [{{"target": [{}], "attr": [{}]}}]}}"#,
                quoted(10_000, "a@b"),
                "\"disable-ipv4\",".repeat(10_000),
            ),
        ),
        (
            "failing tests",
            format!(
                r#"{{"acls": [], "tests": [{}]}}"#,
                many(20_000, |_| r#"{"src": "alice@", "accept": ["bob@:22"]}"#
                    .to_owned())
            ),
        ),
    ] {
        let directory = directory();
        match Policy::parse(&text) {
            Ok(policy) => {
                assert!(policy.warnings(&directory).len() <= 101, "{what}");
                let failed = policy.verify(&directory).err().unwrap_or_default();
                assert!(failed.len() <= 101, "{what}");
                let _ = render(&failed, &text, what);
                let _ = compile(&policy, &directory);
            }
            Err(found) => {
                assert!(found.len() <= 202, "{what}: {}", found.len());
                assert!(!render(&found, &text, what).is_empty());
            }
        }
    }
}
