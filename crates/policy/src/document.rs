//! Tree to document: which sections and fields there are, and what kind of value each holds.
//!
//! Nothing is ignored. A section or field that is not known could be one that restricts access,
//! so leaving it out would allow more than its author wrote: it is refused.

mod extras;
mod reader;
mod relays;
mod rules;

pub(crate) use extras::{AutoApprovers, NodeAttributes, Ssh, SshTest, Test};
pub(crate) use rules::{Acl, Grant};

use crate::{
    diagnostics::{Findings, Span},
    syntax::{Property, Spanned, Text, Value},
};
use reader::{
    boolean, fields, known_as, lists, object, respell, start, text, texts, written_twice,
};
use std::collections::BTreeSet;

/// A policy file as it was written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Document {
    pub(crate) groups: Vec<(Text, Vec<Text>)>,
    pub(crate) tag_owners: Vec<(Text, Vec<Text>)>,
    pub(crate) hosts: Vec<(Text, Text)>,
    pub(crate) ip_sets: Vec<(Text, Vec<Text>)>,
    pub(crate) postures: Vec<(Text, Vec<Text>)>,
    pub(crate) default_posture: Vec<Text>,
    /// `None` when the section is missing, which means something else than an empty one.
    pub(crate) grants: Option<Vec<Grant>>,
    /// `None` when the section is missing.
    pub(crate) acls: Option<Vec<Acl>>,
    pub(crate) auto_approvers: AutoApprovers,
    pub(crate) tests: Vec<Test>,
    pub(crate) ssh: Vec<Ssh>,
    pub(crate) ssh_tests: Vec<SshTest>,
    pub(crate) node_attributes: Vec<NodeAttributes>,
    /// `disableIPv4`: no node has an IPv4 address.
    pub(crate) disable_ipv4: bool,
    /// `weir.denyRules`: the author asked for entries that deny.
    pub(crate) deny_rules: bool,
    /// Where the policy starts.
    pub(crate) start: Span,
}

const SECTIONS: [&str; 19] = [
    "acls",
    "attrConfig",
    "autoApprovers",
    "defaultSrcPosture",
    "derpMap",
    "disableIPv4",
    "grants",
    "groups",
    "hosts",
    "ipsets",
    "nodeAttrs",
    "OneCGNATRoute",
    "postures",
    "randomizeClientPort",
    "ssh",
    "sshTests",
    "tagOwners",
    "tests",
    "weir",
];

/// The sections that are read and checked, and have no effect.
const NO_EFFECT: [&str; 5] = [
    "attrConfig",
    "derpMap",
    "OneCGNATRoute",
    "randomizeClientPort",
    "ssh",
];

/// Said of what is read and checked, and has no effect.
pub(crate) const NOT_ENFORCED: &str = "not enforced by Weir";

/// Sorts the tree into a document.
pub(crate) fn read(tree: Spanned<Value>, findings: &mut Findings<'_>) -> Document {
    let mut document = Document {
        start: start(&tree.span),
        ..Document::default()
    };
    let mut seen = BTreeSet::new();
    for Property { key, value } in object(tree, "the policy", findings).unwrap_or_default() {
        let Some(name) = known_as(&key.value, &SECTIONS, &[]) else {
            let help = findings
                .suggestions
                .did_you_mean(&key.value, SECTIONS)
                .or_else(|| {
                    let all = SECTIONS.join(", ");
                    Some(format!("the sections are {all}"))
                });
            findings.error(&key.span, format!("unknown section {:?}", key.value), help);
            continue;
        };
        respell(&key, name, findings);
        if !seen.insert(name) && name != key.value {
            written_twice(&key, name, findings);
        }
        if value.value == Value::Null {
            empty(&key, name, findings);
            continue;
        }
        document.section(name, value, findings);
        if NO_EFFECT.contains(&name) {
            findings.warn(&key.span, format!("{:?}: {NOT_ENFORCED}", key.value), None);
        }
    }
    document
}

/// A section that is null is one that is not there. Without rules that would allow everything, so
/// it must be said in so many words.
fn empty(key: &Text, name: &str, findings: &mut Findings<'_>) {
    if ["acls", "grants"].contains(&name) {
        let message = format!("{name} must be a list, not null");
        let help = "write [] for no entries, or leave the section out".to_owned();
        findings.error(&key.span, message, Some(help));
    }
}

impl Document {
    /// Reads one of [`SECTIONS`].
    fn section(&mut self, name: &str, value: Spanned<Value>, findings: &mut Findings<'_>) {
        match name {
            "groups" => self.groups = lists(value, name, findings),
            "tagOwners" => self.tag_owners = lists(value, name, findings),
            "ipsets" => self.ip_sets = lists(value, name, findings),
            "postures" => self.postures = lists(value, name, findings),
            "defaultSrcPosture" => self.default_posture = texts(value, name, findings),
            "hosts" => {
                for Property { key, value } in object(value, name, findings).unwrap_or_default() {
                    let what = format!("hosts[{:?}]", key.value);
                    if let Some(address) = text(value, &what, findings) {
                        self.hosts.push((key, address));
                    }
                }
            }
            "acls" => self.acls = Some(rules::acls(value, findings)),
            "grants" => self.grants = Some(rules::grants(value, findings)),
            "autoApprovers" => self.auto_approvers = extras::auto_approvers(value, findings),
            "tests" => self.tests = extras::tests(value, findings),
            "ssh" => self.ssh = extras::ssh(value, findings),
            "sshTests" => self.ssh_tests = extras::ssh_tests(value, findings),
            "nodeAttrs" => self.node_attributes = extras::node_attributes(value, findings),
            "derpMap" => relays::check(value, findings),
            "attrConfig" => drop(object(value, name, findings)),
            "disableIPv4" => self.disable_ipv4 = boolean(&value, name, findings),
            "randomizeClientPort" => {
                boolean(&value, name, findings);
            }
            // A truth value, or the name of a platform.
            "OneCGNATRoute" if matches!(value.value, Value::Boolean(_)) => {}
            "OneCGNATRoute" => drop(text(value, name, findings)),
            "weir" => {
                fields(
                    value,
                    name,
                    &["denyRules"],
                    findings,
                    |key, value, findings| {
                        let is_known = key == "denyRules";
                        if is_known {
                            self.deny_rules = boolean(&value, "weir.denyRules", findings);
                        }
                        is_known
                    },
                );
            }
            _ => {}
        }
    }
}
