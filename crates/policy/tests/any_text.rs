//! Whatever is read as a policy, nothing panics.

use proptest::prelude::*;
use weir_policy::{Directory, Policy, Severity, compile, render};

/// Pieces of policies, so that random texts get past the first character.
fn fragment() -> impl Strategy<Value = String> {
    let pieces = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\n",
        "/*",
        "*/",
        "//",
        "null",
        "1",
        "-",
        "\\u00",
        "\"acls\"",
        "\"groups\"",
        "\"hosts\"",
        "\"tagOwners\"",
        "\"src\"",
        "\"dst\"",
        "\"action\"",
        "\"accept\"",
        "\"proto\"",
        "\"grants\"",
        "\"via\"",
        "\"ip\"",
        "\"ipsets\"",
        "\"postures\"",
        "\"tests\"",
        "\"derpMap\"",
        "\"autogroup:self\"",
        "true",
        "\"group:a\"",
        "\"tag:a\"",
        "\"*\"",
        "\"*:*\"",
        "\"a@b\"",
        "\"[::1]:22\"",
        "\"10.0.0.0/8:1-2\"",
        "\u{e9}",
        "\u{feff}",
        "\r",
        "\u{1f600}",
    ];
    proptest::collection::vec(proptest::sample::select(pieces.to_vec()), 0..40)
        .prop_map(|pieces| pieces.concat())
}

/// A policy of the right shape whose texts may be anything.
fn shaped() -> impl Strategy<Value = String> {
    let text = prop_oneof![
        "[a-z*@:./0-9\\[\\]-]{0,12}",
        ".{0,8}",
        Just("tag:a:22".to_owned()),
        Just("group:a".to_owned()),
    ];
    proptest::collection::vec(text, 24).prop_map(|texts| {
        serde_json::json!({
            "groups": {"group:a": [texts[0]]},
            "tagOwners": {"tag:a": [texts[1]]},
            "hosts": {texts[2].clone(): texts[3]},
            "ipsets": {"ipset:a": [texts[8], "ipset:b"], "ipset:b": [texts[9], "remove ipset:a"]},
            "postures": {"posture:a": [texts[10], "node:os == 'linux'"]},
            "autoApprovers": {"routes": {texts[11].clone(): [texts[12]]}, "exitNode": [texts[12]]},
            "acls": [{"action": "accept", "src": [texts[4], texts[5]], "dst": [texts[6], "*:*"], "proto": texts[7]}],
            "grants": [
                {"src": [texts[13]], "dst": [texts[14]], "ip": [texts[15]], "via": [texts[16]]},
                {"src": ["*"], "dst": [texts[14]], "app": {texts[17].clone(): []}, "srcPosture": [texts[10]]},
            ],
            "tests": [{"src": texts[18], "accept": [texts[19]], "proto": texts[7]}],
            "ssh": [{"action": "check", "src": [texts[20]], "dst": [texts[21]], "users": [texts[22]], "checkPeriod": texts[23]}],
            "sshTests": [{"src": texts[20], "dst": [texts[21]], "accept": [texts[22]]}],
            "nodeAttrs": [{"target": [texts[5]], "attr": [texts[22]], "ipPool": [texts[3]]}],
            "weir": {"denyRules": texts[0].is_empty()},
        })
        .to_string()
    })
}

fn survives(bytes: &[u8]) {
    match Policy::parse_bytes(bytes) {
        Ok(policy) => {
            let directory = Directory::default();
            let _ = policy.warnings(&directory);
            let _ = policy.verify(&directory);
            let _ = compile(&policy, &directory);
        }
        Err(found) => {
            assert!(found.iter().any(|one| one.severity == Severity::Error));
            let text = String::from_utf8_lossy(bytes);
            assert!(!render(&found, &text, "policy.hujson").is_empty());
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        survives(&bytes);
    }

    #[test]
    fn no_text_makes_it_panic(text in fragment()) {
        survives(text.as_bytes());
    }

    #[test]
    fn no_names_make_it_panic(text in shaped()) {
        survives(text.as_bytes());
    }
}
