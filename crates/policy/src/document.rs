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
    suggest::did_you_mean,
    syntax::{Property, Spanned, Text, Value},
};
use reader::{boolean, fields, lists, object, start, text, texts};

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

const SECTIONS: [&str; 18] = [
    "acls",
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

/// Said of what is read and checked, and has no effect.
pub(crate) const NOT_ENFORCED: &str = "not enforced by Weir";

/// Sorts the tree into a document.
pub(crate) fn read(tree: Spanned<Value>, findings: &mut Findings<'_>) -> Document {
    let mut document = Document {
        start: start(&tree.span),
        ..Document::default()
    };
    for Property { key, value } in object(tree, "the policy", findings).unwrap_or_default() {
        let is_known = document.section(&key.value, value, findings);
        if !is_known {
            let help = did_you_mean(&key.value, SECTIONS);
            findings.error(&key.span, format!("unknown section {:?}", key.value), help);
        }
        if ["derpMap", "OneCGNATRoute", "randomizeClientPort", "ssh"].contains(&key.value.as_str())
        {
            findings.warn(&key.span, format!("{:?}: {NOT_ENFORCED}", key.value), None);
        }
    }
    document
}

impl Document {
    /// Reads a section. `false` when there is none of this name.
    fn section(&mut self, name: &str, value: Spanned<Value>, findings: &mut Findings<'_>) -> bool {
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
            _ => return false,
        }
        true
    }
}
