//! Tree to document: which sections and fields there are, and what kind of value each holds.
//!
//! Nothing is ignored. A section or field that this version does not know could be one that
//! restricts access, so leaving it out would allow more than its author wrote: it is refused.

use crate::{
    diagnostics::{Findings, Span},
    suggest::did_you_mean,
    syntax::{Property, Spanned, Text, Value},
};

/// A policy file as it was written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Document {
    pub(crate) groups: Vec<(Text, Vec<Text>)>,
    pub(crate) tag_owners: Vec<(Text, Vec<Text>)>,
    pub(crate) hosts: Vec<(Text, Text)>,
    pub(crate) acls: Vec<Acl>,
}

/// An entry of `acls` as it was written.
#[derive(Clone, Debug)]
pub(crate) struct Acl {
    /// Its place in the list, from 0.
    pub(crate) index: usize,
    pub(crate) span: Span,
    pub(crate) action: Option<Text>,
    pub(crate) sources: Vec<Text>,
    pub(crate) destinations: Vec<Text>,
    pub(crate) protocol: Option<Text>,
}

const SECTIONS: [&str; 4] = ["acls", "groups", "hosts", "tagOwners"];

/// Sections of the language that this version does not have.
const OTHER_SECTIONS: [&str; 15] = [
    "autoApprovers",
    "defaultSrcPosture",
    "derpMap",
    "disableIPv4",
    "extraDNSRecords",
    "grants",
    "ipsets",
    "nodeAttrs",
    "OneCGNATRoute",
    "postures",
    "randomizeClientPort",
    "splitDNS",
    "ssh",
    "sshTests",
    "tests",
];

const ACL_FIELDS: [&str; 4] = ["action", "dst", "proto", "src"];
/// What people write for ACL fields, from older policies or other languages.
const OTHER_ACL_FIELDS: [(&str, &str); 7] = [
    ("destination", "write \"dst\""),
    ("destinations", "write \"dst\""),
    ("ports", "write \"dst\""),
    ("source", "write \"src\""),
    ("sources", "write \"src\""),
    ("users", "write \"src\""),
    (
        "srcPosture",
        "device postures are not supported by this version",
    ),
];

/// Sorts the tree into a document.
pub(crate) fn read(tree: Spanned<Value>, findings: &mut Findings<'_>) -> Document {
    let mut document = Document::default();
    let span = tree.span.clone();
    let Some(sections) = object(tree, "the policy", findings) else {
        return document;
    };
    let mut has_acls = false;
    let mut has_unknown = false;
    for Property { key, value } in sections {
        match key.value.as_str() {
            "groups" => document.groups = lists(value, "groups", findings),
            "tagOwners" => document.tag_owners = lists(value, "tagOwners", findings),
            "hosts" => {
                for Property { key, value } in object(value, "hosts", findings).unwrap_or_default()
                {
                    let what = format!("hosts[{:?}]", key.value);
                    if let Some(address) = text(value, &what, findings) {
                        document.hosts.push((key, address));
                    }
                }
            }
            "acls" => {
                has_acls = true;
                document.acls = array(value, "acls", findings)
                    .into_iter()
                    .enumerate()
                    .filter_map(|(index, entry)| acl(index, entry, findings))
                    .collect();
            }
            name if OTHER_SECTIONS.contains(&name) => {
                has_unknown = true;
                findings.error(
                    &key.span,
                    format!("{name:?} is not supported by this version"),
                    Some(format!("supported are {}", SECTIONS.join(", "))),
                );
            }
            name => {
                has_unknown = true;
                let help = did_you_mean(name, SECTIONS.into_iter().chain(OTHER_SECTIONS));
                findings.error(&key.span, format!("unknown section {name:?}"), help);
            }
        }
    }
    // A file without rules means "allow everything" to some readers and "allow nothing" to others.
    if !has_acls && !has_unknown {
        findings.error(
            &(span.start..span.start.saturating_add(1).min(span.end)),
            "the policy has no \"acls\", so it does not say what is allowed",
            Some(
                "\"acls\": [] allows nothing; {\"action\": \"accept\", \"src\": [\"*\"], \
                 \"dst\": [\"*:*\"]} as its entry allows everything"
                    .to_owned(),
            ),
        );
    }
    document
}

fn acl(index: usize, entry: Spanned<Value>, findings: &mut Findings<'_>) -> Option<Acl> {
    let span = entry.span.clone();
    let mut acl = Acl {
        index,
        span: span.clone(),
        action: None,
        sources: Vec::new(),
        destinations: Vec::new(),
        protocol: None,
    };
    let (mut has_src, mut has_dst) = (false, false);
    for Property { key, value } in object(entry, &format!("acls[{index}]"), findings)? {
        let what = format!("acls[{index}].{}", key.value);
        match key.value.as_str() {
            "action" => acl.action = text(value, &what, findings),
            "proto" => acl.protocol = text(value, &what, findings),
            "src" => {
                has_src = true;
                acl.sources = texts(value, &what, findings);
            }
            "dst" => {
                has_dst = true;
                acl.destinations = texts(value, &what, findings);
            }
            name => {
                let help = OTHER_ACL_FIELDS
                    .iter()
                    .find(|(other, _)| *other == name)
                    .map(|(_, help)| (*help).to_owned())
                    .or_else(|| did_you_mean(name, ACL_FIELDS));
                findings.error(
                    &key.span,
                    format!("unknown field {name:?} in acls[{index}]"),
                    help,
                );
            }
        }
    }
    for (there, name) in [(has_src, "src"), (has_dst, "dst")] {
        if !there {
            let help = format!("\"{name}\": [] makes an entry that allows nothing");
            findings.error(&span, format!("acls[{index}] has no {name:?}"), Some(help));
        }
    }
    Some(acl)
}

fn lists(value: Spanned<Value>, what: &str, findings: &mut Findings<'_>) -> Vec<(Text, Vec<Text>)> {
    object(value, what, findings)
        .unwrap_or_default()
        .into_iter()
        .map(|Property { key, value }| {
            let items = texts(value, &format!("{what}[{:?}]", key.value), findings);
            (key, items)
        })
        .collect()
}

fn texts(value: Spanned<Value>, what: &str, findings: &mut Findings<'_>) -> Vec<Text> {
    array(value, what, findings)
        .into_iter()
        .enumerate()
        .filter_map(|(index, item)| text(item, &format!("{what}[{index}]"), findings))
        .collect()
}

fn array(value: Spanned<Value>, what: &str, findings: &mut Findings<'_>) -> Vec<Spanned<Value>> {
    if let Value::Array(items) = value.value {
        return items;
    }
    wrong_kind(&value, what, "a list", findings);
    Vec::new()
}

fn object(value: Spanned<Value>, what: &str, findings: &mut Findings<'_>) -> Option<Vec<Property>> {
    if let Value::Object(properties) = value.value {
        return Some(properties);
    }
    wrong_kind(&value, what, "an object", findings);
    None
}

/// A text without the white space around it, which selectors, actions and names ignore.
fn text(value: Spanned<Value>, what: &str, findings: &mut Findings<'_>) -> Option<Text> {
    if let Value::Text(text) = value.value {
        return Some(Spanned {
            value: text.trim().to_owned(),
            span: value.span,
        });
    }
    wrong_kind(&value, what, "a text", findings);
    None
}

fn wrong_kind(value: &Spanned<Value>, what: &str, expected: &str, findings: &mut Findings<'_>) {
    let kind = value.value.kind();
    findings.error(
        &value.span,
        format!("{what} must be {expected}, not {kind}"),
        None,
    );
}
