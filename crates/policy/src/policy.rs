//! A policy whose names are resolved, before it meets a network.

use crate::{
    diagnostics::{Diagnostic, Findings, Lines, first_of_each},
    directory::{Directory, PolicyNode, Posture, User},
    document,
    index::Index,
    posture::Assertion,
    resolve,
    selector::{Identity, Source, TagOwner, Target, UserSelector},
    suggest::Suggestions,
    syntax,
};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use weir_overlay::{AddressSet, GrantId, Tag};
use weir_protocol::{IpProtocol, PortRange};

/// The longest policy text, in bytes. Generous: ten thousand rules fit.
const MAX_TEXT: usize = 4 << 20;

/// A valid policy: what it says is settled, whom it concerns depends on the network.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    pub(crate) is_set: bool,
    pub(crate) groups: BTreeMap<String, BTreeSet<UserSelector>>,
    pub(crate) tag_owners: BTreeMap<Tag, Vec<TagOwner>>,
    /// What `hosts` and `ipsets` name, the latter with their `ipset:`. Rules hold the addresses;
    /// this is for people who ask by name.
    pub(crate) named: BTreeMap<String, AddressSet>,
    /// In the order in which they count: grants, then ACLs.
    pub(crate) rules: Vec<Rule>,
    pub(crate) approvers: Approvers,
    pub(crate) postures: BTreeMap<String, Vec<Assertion>>,
    /// Nodes that are to have no IPv4 address.
    pub(crate) without_ipv4: Vec<Source>,
    pub(crate) tests: Vec<Expectation>,
    pub(crate) ssh: Vec<SshRule>,
    pub(crate) ssh_tests: Vec<SshExpectation>,
    /// Each e-mail domain that the policy names, with the finding for when it is not the
    /// network's own.
    pub(crate) domains: Vec<(String, Diagnostic)>,
    pub(crate) warnings: Vec<Diagnostic>,
    /// Each user that the policy names, with the finding for when there is no such user.
    pub(crate) users: BTreeMap<UserSelector, Diagnostic>,
}

/// What a rule does with the traffic it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Allows it.
    Accept,
    /// Takes it from what later rules allow.
    Deny,
    /// Says something to an application. Only makes the nodes each other's peers.
    Capability,
}

/// One rule: an entry of `acls` or `grants`, as far as one destination selector of it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) id: GrantId,
    /// Where the policy says so: `acls[2], line 14`.
    pub(crate) origin: String,
    pub(crate) sources: Vec<Source>,
    pub(crate) target: Target,
    /// As they were written; they may overlap.
    pub(crate) ports: Vec<PortRange>,
    /// Never empty, but for capabilities.
    pub(crate) protocols: BTreeSet<IpProtocol>,
    pub(crate) effect: Effect,
    /// Only through nodes with one of these tags.
    pub(crate) via: Option<BTreeSet<Tag>>,
    /// One of these must be met by the device that sends. Empty asks for nothing.
    pub(crate) postures: Vec<String>,
    /// The names of the capabilities; empty where the effect is another.
    pub(crate) capabilities: Vec<String>,
}

/// `autoApprovers`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Approvers {
    pub(crate) routes: Vec<(IpNet, Vec<TagOwner>)>,
    pub(crate) exits: Vec<TagOwner>,
}

/// An entry of `tests`.
#[derive(Clone, Debug)]
pub(crate) struct Expectation {
    /// To be reported when the test as a whole fails.
    pub(crate) finding: Diagnostic,
    /// Why it fails whatever the rules are.
    pub(crate) problem: Option<String>,
    pub(crate) source: Option<Source>,
    /// The source as it was written.
    pub(crate) source_text: String,
    pub(crate) protocol: Option<IpProtocol>,
    /// What the device in the test reports.
    pub(crate) posture: Posture,
    pub(crate) probes: Vec<Probe>,
}

/// One destination of a test.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub(crate) finding: Diagnostic,
    pub(crate) text: String,
    /// Whether it must be allowed, or must not.
    pub(crate) accept: bool,
    pub(crate) target: Target,
    pub(crate) port: u16,
}

/// An entry of `ssh`.
#[derive(Clone, Debug)]
pub(crate) struct SshRule {
    pub(crate) is_check: bool,
    pub(crate) sources: Vec<Identity>,
    pub(crate) targets: Vec<SshTarget>,
    /// Login names, as they were written.
    pub(crate) users: Vec<String>,
}

/// Where a login leads.
#[derive(Clone, Debug)]
pub(crate) enum SshTarget {
    Identity(Identity),
    OwnDevices,
    /// In tests only.
    Literal(AddressSet),
}

/// An entry of `sshTests`.
#[derive(Clone, Debug)]
pub(crate) struct SshExpectation {
    pub(crate) finding: Diagnostic,
    pub(crate) problem: Option<String>,
    pub(crate) source: Option<Source>,
    pub(crate) targets: Vec<SshTarget>,
    pub(crate) accept: Vec<String>,
    pub(crate) deny: Vec<String>,
    pub(crate) check: Vec<String>,
}

impl Policy {
    /// The policy of a network where nobody has set one: nothing is granted.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// Reads a policy.
    ///
    /// # Errors
    /// All that is wrong with it, in the order of the text, warnings among the errors.
    pub fn parse(text: &str) -> Result<Self, Vec<Diagnostic>> {
        let lines = Lines::new(text);
        let mut findings = Findings::new(&lines);
        if text.len() > MAX_TEXT {
            findings.error(
                &(0..0),
                format!(
                    "the policy has {} bytes; at most {MAX_TEXT} are read",
                    text.len()
                ),
                None,
            );
            return findings.finish().map(|_| Self::default());
        }
        let mut policy = Self::default();
        if let Some(tree) = syntax::parse(text, &mut findings) {
            let document = document::read(tree, &mut findings);
            policy = resolve::resolve(document, &lines, &mut findings);
        }
        policy.warnings = findings.finish()?;
        Ok(policy)
    }

    /// Reads a policy from a file's bytes.
    ///
    /// # Errors
    /// Those of [`Self::parse`], and one for bytes that are not UTF-8.
    pub fn parse_bytes(bytes: &[u8]) -> Result<Self, Vec<Diagnostic>> {
        match str::from_utf8(bytes) {
            Ok(text) => Self::parse(text),
            Err(error) => {
                let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
                let text = String::from_utf8_lossy(valid);
                let lines = Lines::new(&text);
                let mut findings = Findings::new(&lines);
                findings.error(
                    &(text.len()..text.len()),
                    "the policy is not UTF-8 text from here on",
                    Some("save the file as UTF-8".to_owned()),
                );
                findings.finish().map(|_| Self::default())
            }
        }
    }

    /// Whether somebody set this policy; [`Self::empty`] is the one that nobody did.
    #[must_use]
    pub const fn is_set(&self) -> bool {
        self.is_set
    }

    /// What is valid but probably not meant: rules that can never allow anything, users that the
    /// network does not have.
    #[must_use]
    pub fn warnings(&self, directory: &Directory) -> Vec<Diagnostic> {
        let known: BTreeSet<&str> = directory
            .users
            .iter()
            .flat_map(|user| [Some(user.name.as_str()), user.email.as_deref()])
            .flatten()
            .collect();
        let index = Index::of_users(&directory.users);
        let suggestions = Suggestions::default();
        let strangers = self
            .users
            .iter()
            .filter(|(selector, _)| index.users(selector).next().is_none())
            .map(|(selector, finding)| Diagnostic {
                help: suggestions.did_you_mean(selector.as_str(), known.iter().copied()),
                ..finding.clone()
            });
        let mut warnings: Vec<_> = self.warnings.iter().cloned().chain(strangers).collect();
        warnings.sort_by_key(|warning| warning.span.start);
        first_of_each(warnings)
    }

    /// Those of [`Self::warnings`] that hold in every network.
    #[must_use]
    pub fn own_warnings(&self) -> &[Diagnostic] {
        &self.warnings
    }

    /// How many entries `tests` and `sshTests` have: what [`Self::verify`] evaluates.
    #[must_use]
    pub const fn tests(&self) -> usize {
        self.tests.len() + self.ssh_tests.len()
    }

    /// Whether the policy lets a node take a tag: `user` owns the node, if anyone does, and `held`
    /// are the tags it has already. A tag that no `tagOwners` entry names is nobody's to give.
    #[must_use]
    pub fn may_take_tag(&self, tag: &Tag, user: Option<&User>, held: &BTreeSet<Tag>) -> bool {
        let owners = self
            .tag_owners
            .get(tag)
            .map(Vec::as_slice)
            .unwrap_or_default();
        owners.iter().any(|owner| match owner {
            TagOwner::User(selector) => user.is_some_and(|user| selector.matches(user)),
            TagOwner::Group(name) => user.is_some_and(|user| self.is_member(name, user)),
            TagOwner::Member => user.is_some(),
            TagOwner::Tag(tag) => held.contains(tag),
            TagOwner::Nobody => false,
        })
    }

    /// Whether `autoApprovers` approve a route of a node, so that no admin need decide. A subnet
    /// route must lie within a prefix that the policy lists, and be advertised by someone it names
    /// there; a default route needs the approval of `exitNode`.
    #[must_use]
    pub fn approves(&self, route: &IpNet, node: &PolicyNode, owner: Option<&User>) -> bool {
        let owner = owner.filter(|_| node.tags.is_empty());
        let selects = |approver: &TagOwner| match approver {
            TagOwner::User(selector) => owner.is_some_and(|user| selector.matches(user)),
            TagOwner::Group(name) => owner.is_some_and(|user| self.is_member(name, user)),
            TagOwner::Member => owner.is_some(),
            TagOwner::Tag(tag) => node.tags.contains(tag),
            TagOwner::Nobody => false,
        };
        if route.prefix_len() == 0 {
            return self.approvers.exits.iter().any(selects);
        }
        let mut routes = self.approvers.routes.iter();
        routes.any(|(prefix, who)| prefix.contains(route) && who.iter().any(selects))
    }

    /// The addresses that `hosts` gives a name, or that the set `ipset:NAME` has.
    #[must_use]
    pub fn addresses_of(&self, name: &str) -> Option<&AddressSet> {
        let host = name.strip_prefix("host:").unwrap_or(name);
        self.named.get(host)
    }

    /// Whether a user is among the members of a group; nobody is of one that the policy does not
    /// have.
    #[must_use]
    pub fn is_member(&self, group: &str, user: &User) -> bool {
        self.groups
            .get(group)
            .is_some_and(|members| members.iter().any(|member| member.matches(user)))
    }
}
