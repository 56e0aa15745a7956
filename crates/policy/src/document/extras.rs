//! The sections beside the rules: approvers, tests, SSH, node attributes.

use super::NOT_ENFORCED;
use super::reader::{array, fields, fields_or_older, lists, text, texts};
use crate::{
    diagnostics::{Findings, Span},
    syntax::{Spanned, Text, Value},
};

/// `autoApprovers` as it was written.
#[derive(Clone, Debug, Default)]
pub(crate) struct AutoApprovers {
    /// By prefix, who may approve routes within it.
    pub(crate) routes: Vec<(Text, Vec<Text>)>,
    pub(crate) exit_node: Vec<Text>,
}

/// An entry of `tests` as it was written.
#[derive(Clone, Debug)]
pub(crate) struct Test {
    pub(crate) span: Span,
    pub(crate) source: Option<Text>,
    pub(crate) accept: Vec<Text>,
    pub(crate) deny: Vec<Text>,
    pub(crate) protocol: Option<Text>,
    pub(crate) posture: Vec<(Text, Text)>,
}

/// An entry of `ssh` as it was written.
#[derive(Clone, Debug)]
pub(crate) struct Ssh {
    pub(crate) span: Span,
    pub(crate) action: Option<Text>,
    pub(crate) sources: Vec<Text>,
    pub(crate) destinations: Vec<Text>,
    pub(crate) users: Vec<Text>,
    pub(crate) check_period: Option<Text>,
    pub(crate) accept_env: Vec<Text>,
    pub(crate) postures: Vec<Text>,
}

/// An entry of `sshTests` as it was written.
#[derive(Clone, Debug)]
pub(crate) struct SshTest {
    pub(crate) span: Span,
    pub(crate) source: Option<Text>,
    pub(crate) destinations: Vec<Text>,
    pub(crate) accept: Vec<Text>,
    pub(crate) deny: Vec<Text>,
    pub(crate) check: Vec<Text>,
}

/// An entry of `nodeAttrs` as it was written.
#[derive(Clone, Debug)]
pub(crate) struct NodeAttributes {
    pub(crate) targets: Vec<Text>,
    pub(crate) attributes: Vec<Text>,
    pub(crate) pools: Vec<Text>,
}

pub(super) fn auto_approvers(value: Spanned<Value>, findings: &mut Findings<'_>) -> AutoApprovers {
    const FIELDS: [&str; 3] = ["exitNode", "routes", "services"];
    let mut approvers = AutoApprovers::default();
    let what = "autoApprovers";
    fields(value, what, &FIELDS, findings, |key, value, findings| {
        let what = format!("{what}.{key}");
        match key {
            "routes" => approvers.routes = lists(value, &what, findings),
            "exitNode" => approvers.exit_node = texts(value, &what, findings),
            "services" => {
                let message = format!("{what:?}: {NOT_ENFORCED}");
                findings.warn(&value.span, message, None);
                drop(lists(value, &what, findings));
            }
            _ => return false,
        }
        true
    });
    approvers
}

pub(super) fn tests(value: Spanned<Value>, findings: &mut Findings<'_>) -> Vec<Test> {
    const FIELDS: [&str; 6] = ["accept", "allow", "deny", "proto", "src", "srcPostureAttrs"];
    const OLDER: [(&str, &str); 1] = [("user", "src")];
    let entries = array(value, "tests", findings).into_iter().enumerate();
    let test = |(index, entry): (usize, Spanned<Value>)| {
        let what = format!("tests[{index}]");
        let mut test = Test {
            span: entry.span.clone(),
            source: None,
            accept: Vec::new(),
            deny: Vec::new(),
            protocol: None,
            posture: Vec::new(),
        };
        let take = |key: &str, value, findings: &mut Findings<'_>| {
            let what = format!("{what}.{key}");
            match key {
                "src" => test.source = text(value, &what, findings),
                "proto" => test.protocol = text(value, &what, findings),
                "accept" | "allow" => {
                    test.accept.extend(texts(value, &what, findings));
                }
                "deny" => test.deny = texts(value, &what, findings),
                "srcPostureAttrs" => {
                    let attributes = super::reader::object(value, &what, findings);
                    for property in attributes.unwrap_or_default() {
                        let what = format!("{what}[{:?}]", property.key.value);
                        if let Some(is) = text(property.value, &what, findings) {
                            test.posture.push((property.key, is));
                        }
                    }
                }
                _ => return false,
            }
            true
        };
        fields_or_older(entry, &what, &FIELDS, &OLDER, findings, take);
        test
    };
    entries.map(test).collect()
}

pub(super) fn ssh(value: Spanned<Value>, findings: &mut Findings<'_>) -> Vec<Ssh> {
    const FIELDS: [&str; 9] = [
        "acceptEnv",
        "action",
        "checkPeriod",
        "dst",
        "enforceRecorder",
        "recorder",
        "src",
        "srcPosture",
        "users",
    ];
    let entries = array(value, "ssh", findings).into_iter().enumerate();
    let rule = |(index, entry): (usize, Spanned<Value>)| {
        let what = format!("ssh[{index}]");
        let mut rule = Ssh {
            span: entry.span.clone(),
            action: None,
            sources: Vec::new(),
            destinations: Vec::new(),
            users: Vec::new(),
            check_period: None,
            accept_env: Vec::new(),
            postures: Vec::new(),
        };
        fields(entry, &what, &FIELDS, findings, |key, value, findings| {
            let what = format!("{what}.{key}");
            match key {
                "action" => rule.action = text(value, &what, findings),
                "checkPeriod" => rule.check_period = text(value, &what, findings),
                "src" => rule.sources = texts(value, &what, findings),
                "dst" => rule.destinations = texts(value, &what, findings),
                "users" => rule.users = texts(value, &what, findings),
                "acceptEnv" => rule.accept_env = texts(value, &what, findings),
                "srcPosture" => rule.postures = texts(value, &what, findings),
                // Where sessions are recorded: nothing that Weir could check.
                "recorder" => drop(texts(value, &what, findings)),
                "enforceRecorder" => {
                    super::reader::boolean(&value, &what, findings);
                }
                _ => return false,
            }
            true
        });
        rule
    };
    entries.map(rule).collect()
}

pub(super) fn ssh_tests(value: Spanned<Value>, findings: &mut Findings<'_>) -> Vec<SshTest> {
    const FIELDS: [&str; 5] = ["accept", "check", "deny", "dst", "src"];
    let entries = array(value, "sshTests", findings).into_iter().enumerate();
    let test = |(index, entry): (usize, Spanned<Value>)| {
        let what = format!("sshTests[{index}]");
        let mut test = SshTest {
            span: entry.span.clone(),
            source: None,
            destinations: Vec::new(),
            accept: Vec::new(),
            deny: Vec::new(),
            check: Vec::new(),
        };
        fields(entry, &what, &FIELDS, findings, |key, value, findings| {
            let what = format!("{what}.{key}");
            match key {
                "src" => test.source = text(value, &what, findings),
                "dst" => test.destinations = texts(value, &what, findings),
                "accept" => test.accept = texts(value, &what, findings),
                "deny" => test.deny = texts(value, &what, findings),
                "check" => test.check = texts(value, &what, findings),
                _ => return false,
            }
            true
        });
        test
    };
    entries.map(test).collect()
}

pub(super) fn node_attributes(
    value: Spanned<Value>,
    findings: &mut Findings<'_>,
) -> Vec<NodeAttributes> {
    const FIELDS: [&str; 4] = ["app", "attr", "ipPool", "target"];
    let entries = array(value, "nodeAttrs", findings).into_iter().enumerate();
    let entry = |(index, entry): (usize, Spanned<Value>)| {
        let what = format!("nodeAttrs[{index}]");
        let mut attributes = NodeAttributes {
            targets: Vec::new(),
            attributes: Vec::new(),
            pools: Vec::new(),
        };
        fields(entry, &what, &FIELDS, findings, |key, value, findings| {
            let what = format!("{what}.{key}");
            match key {
                "target" => attributes.targets = texts(value, &what, findings),
                "attr" => attributes.attributes = texts(value, &what, findings),
                "ipPool" => attributes.pools = texts(value, &what, findings),
                // Settings of applications: theirs to understand.
                "app" => drop(super::reader::object(value, &what, findings)),
                _ => return false,
            }
            true
        });
        attributes
    };
    entries.map(entry).collect()
}
