//! What must hold for any bytes whatever. Each function panics where something does not.
//!
//! The fuzzer calls them with what it makes up, `cargo test` with the files of `corpus/` and with
//! mutations of these.

use std::collections::BTreeSet;
use weir_overlay::{AddressRange, NodeId, UserId, parse_prefix, parse_prefix_list};
use weir_policy::{
    CompiledPolicy, Diagnostic, Directory, Policy, PolicyNode, Posture, Severity, User,
    compile as compile_policy, diff, render,
};
use weir_protocol::{AuthKey, Pin, SignedHeaders, content_digest, verify};

/// A policy is read or refused with findings that lie within the text and can be drawn.
pub(crate) fn parse_bytes(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match Policy::parse_bytes(bytes) {
        Ok(policy) => {
            findings(policy.own_warnings(), &text);
            is_its_own_text(&policy);
        }
        Err(found) => {
            let is_refused = found.iter().any(|one| one.severity == Severity::Error);
            assert!(is_refused, "a refusal has an error");
            findings(&found, &text);
        }
    }
}

/// A policy compiles, answers for every node, and its canonical text answers the same.
pub(crate) fn compile(bytes: &[u8]) {
    let Ok(policy) = Policy::parse_bytes(bytes) else {
        return;
    };
    let directory = directory();
    let text = String::from_utf8_lossy(bytes);
    findings(&policy.warnings(&directory), &text);
    let verdict = policy.verify(&directory);
    if let Err(found) = &verdict {
        findings(found, &text);
    }
    let again = is_its_own_text(&policy);
    let (one, two) = (
        compile_policy(&policy, &directory),
        compile_policy(&again, &directory),
    );
    for (node, place) in &directory.nodes {
        let filter = |compiled: &CompiledPolicy| {
            let mut filter = compiled.filter(*node);
            // Where it is written is all that differs.
            filter.iter_mut().for_each(|grant| grant.origin.clear());
            filter
        };
        assert_eq!(filter(&one), filter(&two), "the filter of {node}");
        assert_eq!(one.rows(*node), two.rows(*node), "the rows of {node}");
        let peers = one.peers(*node);
        assert_eq!(peers, two.peers(*node), "the peers of {node}");
        let mutual = |peer: &NodeId| one.peers(*peer).contains(node);
        assert!(peers.iter().all(mutual), "the peers of {node}");
        let is_without_ipv4 = one.is_without_ipv4(*node);
        assert_eq!(is_without_ipv4, two.is_without_ipv4(*node), "{node}");
        for route in directory.nodes.values().flat_map(|n| &n.approved_routes) {
            let (a, b) = (one.ways_into(*node, route), two.ways_into(*node, route));
            assert_eq!(a, b, "the ways of {node} into {route}");
            let owner = directory
                .users
                .iter()
                .find(|user| Some(user.id) == place.user);
            let (a, b) = (&policy, &again);
            let approves = a.approves(route, place, owner);
            assert_eq!(approves, b.approves(route, place, owner), "{node}, {route}");
        }
    }
    let difference = diff(&one, &two);
    assert!(difference.gains.is_empty() && difference.losses.is_empty());
    // Domains that only rules without a source name are not in the canonical text.
    assert!(verdict.is_err() || again.verify(&directory).is_ok());
}

/// Prefixes, lists of them and ranges are read or refused, and read the same again as they print.
pub(crate) fn prefixes(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    if let Ok(prefix) = parse_prefix(text) {
        assert_eq!(parse_prefix(&prefix.to_string()).ok(), Some(prefix));
    }
    if let Ok(prefixes) = parse_prefix_list(text) {
        let list: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
        assert_eq!(parse_prefix_list(&list.join(" ")).ok(), Some(prefixes));
    }
    for line in text.lines() {
        if let Ok(range) = line.parse::<AddressRange>() {
            assert_eq!(range.to_string().parse().ok(), Some(range));
        }
    }
}

/// Auth keys are read or refused, and what was not signed is never a signed request. The lines are
/// the three headers, then the body; each is tried as a key too.
pub(crate) fn credentials(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for line in text.lines() {
        if let Ok(key) = line.parse::<AuthKey>() {
            assert_eq!(key.reveal(), line.trim());
            assert!(!format!("{key:?}").contains(line));
        }
        if let Ok(pin) = line.parse::<Pin>() {
            assert_eq!(pin.to_string(), line.trim());
        }
    }
    let mut lines = text.splitn(4, '\n').map(str::to_owned);
    let mut line = || lines.next().unwrap_or_default();
    let (signature_input, signature, digest, body) = (line(), line(), line(), line());
    for content_digest in [digest, content_digest(body.as_bytes())] {
        let headers = SignedHeaders {
            content_digest,
            signature_input: signature_input.clone(),
            signature: signature.clone(),
        };
        let seen = verify(&headers, "POST", "/agent/v1/map", body.as_bytes(), 0);
        assert!(seen.is_err(), "nobody signed this");
    }
}

fn findings(found: &[Diagnostic], text: &str) {
    for one in found {
        let span = &one.span;
        assert!(span.start <= span.end && span.end <= text.len(), "{one:?}");
        assert!(text.get(span.clone()).is_some(), "{one:?}");
        assert!(one.line > 0 && one.column > 0 && !one.message.is_empty());
    }
    // Drawing a thousand findings takes long and shows nothing that some of them do not.
    let drawn = render(found.get(..8).unwrap_or(found), text, "policy.hujson");
    assert_eq!(drawn.is_empty(), found.is_empty());
}

/// The policy that the canonical text is read as.
fn is_its_own_text(policy: &Policy) -> Policy {
    let text = policy.to_hujson();
    let again = match Policy::parse(&text) {
        Ok(again) => again,
        Err(found) => panic!("{}", render(&found, &text, "canonical")),
    };
    assert_eq!(again.to_hujson(), text, "the text of the text");
    assert_eq!(again.tests(), policy.tests());
    again
}

/// Two users, a server, a relay and an exit.
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
            tags: tags.iter().filter_map(|tag| tag.parse().ok()).collect(),
            addresses: addresses.iter().filter_map(|a| a.parse().ok()).collect(),
            approved_routes: routes.iter().filter_map(|r| parse_prefix(r).ok()).collect(),
            posture: Posture {
                os: Some("linux".to_owned()),
                os_version: Some("6.12.1".to_owned()),
                weir_version: Some("0.1.0".to_owned()),
            },
        };
        (NodeId(id), node)
    };
    Directory {
        users: vec![user(1, "alice"), user(2, "bob")],
        nodes: [
            node(1, Some(1), &[], &[]),
            node(2, Some(1), &[], &[]),
            node(3, Some(2), &[], &[]),
            node(4, None, &["tag:server"], &[]),
            node(
                5,
                None,
                &["tag:relay"],
                &["10.20.0.0/24", "8.8.8.8", "fd00::/64"],
            ),
            node(6, None, &["tag:exit", "tag:relay"], &["0.0.0.0/0", "::/0"]),
        ]
        .into(),
        domains: BTreeSet::from(["example.com".to_owned()]),
        ..Directory::default()
    }
}
