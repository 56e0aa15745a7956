//! Answers of another control plane to the same policies: filters, peers, allowed IPs, refusals.
//!
//! The cases are data beside the workspace, `../shared/policy/cases`; without them there is nothing
//! to compare, and the test says so.

#![expect(
    clippy::unwrap_used,
    reason = "a test's own helpers fail like the test does"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "the cases are files; the room itself reads none"
)]

use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};
use weir_netmap::{CompileError, NetworkFile, compile_file};
use weir_overlay::{AddressRange, AddressSet};
use weir_policy::Policy;

/// Addresses in it were rewritten after the capture.
const NO_NODES: [&str; 1] = ["policytest-allpass-grants-only-tag-src-ipv6-literal-dst"];
/// Captured in the middle of an approval.
const NO_ALLOWED_IPS: [&str; 1] = ["acl-k03"];
/// A domain in it was rewritten after the capture.
const NO_MESSAGE: [&str; 1] = ["ssh-e1"];

/// Protocols, destination and ports; a destination `*` stays apart from all addresses.
type Key = (Vec<u64>, Option<AddressSet>, u64, u64);

fn addresses(text: &str) -> AddressSet {
    match text {
        "*" => AddressSet::everything(),
        _ => [text.parse::<AddressRange>().unwrap()]
            .into_iter()
            .collect(),
    }
}

fn texts(value: &Value) -> Vec<String> {
    let items = value.as_array().into_iter().flatten();
    items
        .map(|item| item.as_str().unwrap().to_owned())
        .collect()
}

fn relation(
    rows: impl IntoIterator<Item = (Value, Vec<String>, String, u64, u64)>,
) -> BTreeMap<Key, AddressSet> {
    let mut relation: BTreeMap<Key, AddressSet> = BTreeMap::new();
    for (protocols, sources, to, first, last) in rows {
        let mut numbers: Vec<u64> = protocols
            .as_array()
            .map(|all| all.iter().filter_map(Value::as_u64).collect())
            .unwrap_or_default();
        if numbers.is_empty() {
            numbers = vec![1, 6, 17, 58];
        }
        numbers.sort_unstable();
        let to = (to != "*").then(|| addresses(&to));
        let from = relation.entry((numbers, to, first, last)).or_default();
        for source in sources {
            *from = from.union(&addresses(&source));
        }
    }
    relation.retain(|_, sources| !sources.is_empty());
    relation
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn expected(capture: &Value) -> BTreeMap<Key, AddressSet> {
    relation(list(&capture["packet_filter_rules"]).flat_map(|rule| {
        list(&rule["DstPorts"]).map(|to| {
            let ports = &to["Ports"];
            (
                rule["IPProto"].clone(),
                texts(&rule["SrcIPs"]),
                to["IP"].as_str().unwrap().to_owned(),
                ports["First"].as_u64().unwrap(),
                ports["Last"].as_u64().unwrap(),
            )
        })
    }))
}

fn actual(node: &Value) -> BTreeMap<Key, AddressSet> {
    relation(list(&node["filter"]).flat_map(|row| {
        list(&row["destinations"]).map(|to| {
            (
                row["protocols"].clone(),
                texts(&row["sources"]),
                to["addresses"].as_str().unwrap().to_owned(),
                to["first_port"].as_u64().unwrap(),
                to["last_port"].as_u64().unwrap(),
            )
        })
    }))
}

fn peers(node: &Value, among: &serde_json::Map<String, Value>) -> BTreeMap<String, AddressesOf> {
    let peers = node["peers"].as_object().into_iter().flatten();
    peers
        .filter(|(name, _)| among.contains_key(*name))
        .map(|(name, peer)| {
            (
                name.clone(),
                texts(&peer["allowed_ips"]).into_iter().collect(),
            )
        })
        .collect()
}
type AddressesOf = BTreeSet<String>;

fn network(case: &Value) -> NetworkFile {
    let nodes = case["nodes"].as_object().unwrap().iter();
    let nodes: Vec<Value> = nodes
        .map(|(name, node)| {
            json!({
                "name": name, "user": node["user"], "tags": node["tags"],
                "ipv4": node["ipv4"], "ipv6": node["ipv6"],
                "advertised_routes": node["routable_ips"], "approved_routes": [],
                "created": node["created"],
            })
        })
        .collect();
    let network = json!({"domain": "example.com", "users": case["users"], "nodes": nodes});
    serde_json::from_value(network).unwrap()
}

/// What is wrong with the canonical text of an accepted policy: it must be the same policy.
fn judge_text(case: &Value) -> Vec<String> {
    let written = case["policy"].as_str().unwrap();
    let Ok(policy) = Policy::parse(written) else {
        return Vec::new();
    };
    let text = policy.to_hujson();
    match Policy::parse(&text) {
        Ok(again) if again.to_hujson() == text => {}
        Ok(again) => return vec![format!("{text} becomes {}", again.to_hujson())],
        Err(found) => return vec![format!("{found:?} in {text}")],
    }
    let answer = |policy: &str| match compile_file(policy.as_bytes(), &network(case)) {
        Ok(compiled) => serde_json::to_value(&compiled.nodes).unwrap(),
        Err(error) => json!(format!("{error:?}")),
    };
    let is_accepted = compile_file(written.as_bytes(), &network(case)).is_ok();
    let differs = is_accepted && answer(written) != answer(&text);
    differs
        .then(|| format!("{text} says something else than {written}"))
        .into_iter()
        .collect()
}

/// What is wrong with the answer to a case.
fn judge(case: &Value) -> Vec<String> {
    let id = case["id"].as_str().unwrap();
    let policy = case["policy"].as_str().unwrap().as_bytes();
    let code = case["api_response_code"].as_u64().unwrap();
    let error = case["api_error"].as_str().unwrap_or_default();
    let compiled = match compile_file(policy, &network(case)) {
        Ok(_) if code != 200 => return vec![format!("should be refused: {error}")],
        Ok(compiled) => serde_json::to_value(compiled).unwrap(),
        Err(CompileError::Refused(refused)) if code != 200 => {
            let message = &refused.errors[0].message;
            let same = message == error || code != 400 || NO_MESSAGE.contains(&id);
            return (!same)
                .then(|| format!("message {message:?}, should be {error:?}"))
                .into_iter()
                .collect();
        }
        Err(wrong) => return vec![format!("should be accepted: {wrong:?}")],
    };
    if NO_NODES.contains(&id) {
        return Vec::new();
    }
    let captures = case["captures"].as_object().unwrap();
    let mut wrong = Vec::new();
    for (name, capture) in captures {
        let node = &compiled["nodes"][name];
        let (got, want) = (actual(node), expected(capture));
        if got != want {
            let only = |a: &BTreeMap<Key, AddressSet>, b: &BTreeMap<Key, AddressSet>| {
                let rows = a.iter().filter(|(key, from)| b.get(key) != Some(*from));
                format!("{:?}", rows.collect::<Vec<_>>())
            };
            let (more, less) = (only(&got, &want), only(&want, &got));
            wrong.push(format!("{name}: filter has {more}, lacks {less}"));
        }
        let (got, want) = (peers(node, captures), peers(capture, captures));
        if !got.keys().eq(want.keys()) {
            wrong.push(format!(
                "{name}: peers {:?}, should be {:?}",
                got.keys(),
                want.keys()
            ));
        } else if got != want && !NO_ALLOWED_IPS.contains(&id) {
            wrong.push(format!("{name}: allowed IPs {got:?}, should be {want:?}"));
        }
    }
    wrong
}

fn cases(root: &Path) -> Vec<PathBuf> {
    let entries = |path: &Path| {
        let entries = fs::read_dir(path).into_iter().flatten();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    };
    entries(root)
        .iter()
        .flat_map(|family| entries(family))
        .collect()
}

#[test]
fn captured_answers_are_ours() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/policy/cases");
    let cases = cases(&root);
    let mut failed = 0;
    for path in &cases {
        let case = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let mut wrong = judge(&case);
        wrong.extend(judge_text(&case));
        if let Some(first) = wrong.first() {
            failed += 1;
            println!("{}: {first} ({} in all)", case["id"], wrong.len());
        }
    }
    if cases.is_empty() {
        println!("no captured answers beside the workspace: nothing is compared");
    } else {
        println!(
            "{} of {} captured answers are ours",
            cases.len() - failed,
            cases.len()
        );
    }
    assert_eq!(failed, 0);
}
