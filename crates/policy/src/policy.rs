//! A policy whose names are resolved, before it meets a network.

use crate::{
    diagnostics::{Diagnostic, Findings, Lines},
    directory::{Directory, User},
    document,
    index::Index,
    resolve,
    selector::{Source, TagOwner, Target, UserSelector},
    suggest::did_you_mean,
    syntax,
};
use std::collections::{BTreeMap, BTreeSet};
use weir_overlay::{GrantId, Tag};
use weir_protocol::{IpProtocol, PortRange};

/// The longest policy text, in bytes. Generous: ten thousand rules fit.
const MAX_TEXT: usize = 4 << 20;

/// A valid policy: what it says is settled, whom it concerns depends on the network.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    pub(crate) is_set: bool,
    pub(crate) groups: BTreeMap<String, BTreeSet<UserSelector>>,
    pub(crate) tag_owners: BTreeMap<Tag, Vec<TagOwner>>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) warnings: Vec<Diagnostic>,
    /// Each user that the policy names, with the finding for when there is no such user.
    pub(crate) users: BTreeMap<UserSelector, Diagnostic>,
}

/// One rule: an entry of `acls`, as far as one destination selector of it goes.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) id: GrantId,
    /// Where the policy says so: `acls[2], line 14`.
    pub(crate) origin: String,
    pub(crate) sources: Vec<Source>,
    pub(crate) target: Target,
    pub(crate) ports: Vec<PortRange>,
    /// Never empty.
    pub(crate) protocols: BTreeSet<IpProtocol>,
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
        let index = Index::of(directory);
        let strangers = self
            .users
            .iter()
            .filter(|(selector, _)| index.users(selector).next().is_none())
            .map(|(selector, finding)| Diagnostic {
                help: did_you_mean(selector.as_str(), known.iter().copied()),
                ..finding.clone()
            });
        let mut warnings: Vec<_> = self.warnings.iter().cloned().chain(strangers).collect();
        warnings.sort_by_key(|warning| warning.span.start);
        warnings
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
        })
    }

    pub(crate) fn is_member(&self, group: &str, user: &User) -> bool {
        self.groups
            .get(group)
            .is_some_and(|members| members.iter().any(|member| member.matches(user)))
    }
}
