//! Document to policy: every name is looked up, every selector understood.
//!
//! `names` reads what the policy itself defines (groups, tags, hosts), `sets` and `postures` the
//! sets of addresses and the conditions on devices, `selectors` looks such names up. `acl` and
//! `grant` make rules of entries, by what `rules` has for both; `approvers`, `attributes`, `ssh`
//! and `tests` read the other sections. Messages about what the language itself refuses are worded
//! as administrators of such networks know them, to the letter; what to do about it is in the help
//! beside them.

mod acl;
mod approvers;
mod attributes;
mod grant;
mod names;
mod postures;
mod rules;
mod selectors;
mod sets;
mod ssh;
mod ssh_tests;
mod tests;

use crate::{
    diagnostics::{Findings, Lines},
    document::Document,
    grant_id::GrantIds,
    policy::{Effect, Policy},
    selector::{Source, Target},
};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use weir_overlay::AddressSet;
use weir_protocol::{IpProtocol, PortRange};

struct Resolver<'r, 'f, 'l> {
    policy: Policy,
    hosts: BTreeMap<String, IpNet>,
    /// All names that `hosts` has, also those whose address is wrong: one finding is enough.
    host_names: BTreeSet<String>,
    /// Tags that `tagOwners` names in a wrong way.
    wrong_tags: BTreeSet<String>,
    ip_sets: BTreeMap<String, AddressSet>,
    default_postures: Vec<String>,
    /// Whether entries may deny.
    deny_rules: bool,
    ids: GrantIds,
    /// How many sources and ports the rules have together.
    parts: usize,
    /// How many ranges were looked at to make the sets.
    set_work: usize,
    lines: &'r Lines<'l>,
    findings: &'f mut Findings<'l>,
}

/// Looks up every name of a document.
pub(crate) fn resolve<'l>(
    document: Document,
    lines: &Lines<'l>,
    findings: &mut Findings<'l>,
) -> Policy {
    let mut resolver = Resolver {
        policy: Policy {
            is_set: true,
            ..Policy::default()
        },
        hosts: BTreeMap::new(),
        host_names: BTreeSet::new(),
        wrong_tags: BTreeSet::new(),
        ip_sets: BTreeMap::new(),
        default_postures: Vec::new(),
        deny_rules: document.deny_rules,
        ids: GrantIds::default(),
        parts: 0,
        set_work: 0,
        lines,
        findings,
    };
    resolver.groups(document.groups);
    resolver.tag_owners(document.tag_owners);
    resolver.hosts(document.hosts);
    resolver.ip_sets(document.ip_sets);
    resolver.define_postures(document.postures, &document.default_posture);
    if document.grants.is_none() && document.acls.is_none() {
        resolver.allow_everything(&document.start);
    }
    for grant in document.grants.unwrap_or_default() {
        resolver.grant(grant);
    }
    for acl in document.acls.unwrap_or_default() {
        resolver.acl(acl);
    }
    resolver.auto_approvers(document.auto_approvers);
    resolver.node_attributes(document.node_attributes, document.disable_ipv4);
    resolver.ssh(document.ssh);
    resolver.tests(document.tests);
    resolver.ssh_tests(document.ssh_tests);
    let hosts = resolver.hosts.into_iter();
    let hosts = hosts.map(|(name, prefix)| (name, AddressSet::from_iter([prefix])));
    resolver.policy.named = hosts.chain(resolver.ip_sets).collect();
    resolver.policy
}

impl Resolver<'_, '_, '_> {
    /// What a policy without rules means in this language.
    fn allow_everything(&mut self, start: &crate::diagnostics::Span) {
        self.findings.warn(
            start,
            "the policy has neither \"acls\" nor \"grants\", so everything is allowed",
            Some("\"acls\": [] allows nothing".to_owned()),
        );
        let entry = rules::Entry {
            span: start.clone(),
            origin: format!(
                "no acls and no grants, line {}",
                self.lines.line(start.start)
            ),
            sources: vec![Source::Any],
            via: None,
            postures: Vec::new(),
            capabilities: Vec::new(),
        };
        let (ports, protocols) = (vec![PortRange::ALL], IpProtocol::defaults().into());
        self.rule(&entry, Effect::Accept, Target::Any, ports, protocols);
    }
}
