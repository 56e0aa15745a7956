//! Whether `sshTests` hold.

use super::failed;
use crate::{
    compile::Compiler,
    diagnostics::Diagnostic,
    directory::{Directory, PolicyNode},
    policy::{Policy, SshExpectation, SshRule, SshTarget},
    selector::{Identity, Source},
};
use std::collections::{BTreeMap, BTreeSet};
use weir_overlay::{NodeId, UserId};

/// The tests of logins that fail.
pub(super) fn failures(policy: &Policy, directory: &Directory) -> Vec<Diagnostic> {
    if policy.ssh_tests.is_empty() {
        return Vec::new();
    }
    let mut compiler = Compiler::new(policy, directory);
    let emails = directory.users.iter().filter_map(|user| {
        let email = user.email.as_deref()?;
        Some((user.id, email.to_ascii_lowercase()))
    });
    let emails = emails.collect();
    let rules = policy.ssh.iter().map(|rule| Login {
        rule,
        sources: nodes_of(&mut compiler, &rule.sources),
        own_devices: rule
            .targets
            .iter()
            .any(|target| matches!(target, SshTarget::OwnDevices)),
        targets: nodes_of(&mut compiler, &identities(&rule.targets)),
    });
    let rules: Vec<_> = rules.collect();
    let logins = Logins {
        directory,
        emails,
        rules,
    };
    let tests = policy.ssh_tests.iter();
    tests
        .filter_map(|test| {
            let why = logins.failure(test, &mut compiler)?;
            Some(failed(&test.finding, &why))
        })
        .collect()
}

fn identities(targets: &[SshTarget]) -> Vec<Identity> {
    let identity = |target: &SshTarget| match target {
        SshTarget::Identity(identity) => Some(identity.clone()),
        SshTarget::OwnDevices | SshTarget::Literal(_) => None,
    };
    targets.iter().filter_map(identity).collect()
}

fn nodes_of(compiler: &mut Compiler<'_>, identities: &[Identity]) -> BTreeSet<NodeId> {
    let mut nodes = BTreeSet::new();
    for identity in identities {
        let addresses = compiler.identity(identity);
        nodes.extend(compiler.index.holders.owners(&addresses));
    }
    nodes
}

/// A rule and the nodes that it is about.
struct Login<'a> {
    rule: &'a SshRule,
    sources: BTreeSet<NodeId>,
    own_devices: bool,
    targets: BTreeSet<NodeId>,
}

struct Logins<'a> {
    directory: &'a Directory,
    /// In lower case.
    emails: BTreeMap<UserId, String>,
    rules: Vec<Login<'a>>,
}

impl Logins<'_> {
    fn failure(&self, test: &SshExpectation, compiler: &mut Compiler<'_>) -> Option<String> {
        if let Some(problem) = &test.problem {
            return Some(problem.clone());
        }
        let sources = self.sources(test.source.as_ref()?, compiler);
        if sources.is_empty() {
            return Some("no node is meant by this src".to_owned());
        }
        for target in &test.targets {
            for source in &sources {
                let targets = self.targets(target, *source, compiler);
                if targets.is_empty() {
                    return Some("no node is meant by a dst".to_owned());
                }
                for target in targets {
                    if let Some(why) = self.pair(test, *source, target) {
                        return Some(why);
                    }
                }
            }
        }
        None
    }

    fn pair(&self, test: &SshExpectation, source: NodeId, target: NodeId) -> Option<String> {
        for user in &test.accept {
            if self.action(source, target, user).is_none() {
                return Some(format!("{user:?} must be accepted, but no rule does so"));
            }
        }
        for user in &test.check {
            if self.action(source, target, user) != Some(true) {
                return Some(format!("{user:?} must be checked, but no rule does so"));
            }
        }
        for user in &test.deny {
            if self.action(source, target, user).is_some() {
                return Some(format!("{user:?} must be denied, but a rule lets it in"));
            }
        }
        None
    }

    /// Whether a login is let in; `Some(true)` when a rule checks it, which comes first.
    fn action(&self, source: NodeId, target: NodeId, user: &str) -> Option<bool> {
        let rules = self.rules.iter();
        rules
            .filter(|login| {
                login.sources.contains(&source)
                    && (login.targets.contains(&target)
                        || (login.own_devices && self.is_own_device(source, target)))
                    && self.may_be(login.rule, source, user)
            })
            .map(|login| login.rule.is_check)
            .max()
    }

    /// Whether the rule lets the source be this user.
    fn may_be(&self, rule: &SshRule, source: NodeId, user: &str) -> bool {
        rule.users.iter().any(|listed| {
            if listed == "autogroup:nonroot" {
                return user != "root";
            }
            let Some(domain) = listed.strip_prefix("localpart:*@") else {
                return listed == user;
            };
            let email = self
                .owner(source)
                .and_then(|owner| self.emails.get(&owner)?.rsplit_once('@'));
            email.is_some_and(|(local, of)| local == user && of.eq_ignore_ascii_case(domain))
        })
    }

    fn node(&self, id: NodeId) -> Option<&PolicyNode> {
        self.directory.nodes.get(&id)
    }

    /// The user of an untagged node.
    fn owner(&self, id: NodeId) -> Option<UserId> {
        let node = self.node(id)?;
        node.user.filter(|_| node.tags.is_empty())
    }

    fn is_own_device(&self, source: NodeId, target: NodeId) -> bool {
        self.owner(source).is_some() && self.owner(source) == self.owner(target)
    }

    fn sources(&self, source: &Source, compiler: &mut Compiler<'_>) -> BTreeSet<NodeId> {
        if *source == Source::Any {
            return self.directory.nodes.keys().copied().collect();
        }
        let addresses = compiler.sources(std::slice::from_ref(source));
        compiler.index.holders.owners(&addresses).collect()
    }

    fn targets(
        &self,
        target: &SshTarget,
        source: NodeId,
        compiler: &mut Compiler<'_>,
    ) -> Vec<NodeId> {
        let addresses = match target {
            SshTarget::OwnDevices => {
                let nodes = self.directory.nodes.keys().copied();
                return nodes
                    .filter(|target| self.is_own_device(source, *target))
                    .collect();
            }
            SshTarget::Identity(identity) => compiler.identity(identity),
            SshTarget::Literal(addresses) => addresses.clone(),
        };
        let owners: BTreeSet<_> = compiler.index.holders.owners(&addresses).collect();
        owners.into_iter().collect()
    }
}
