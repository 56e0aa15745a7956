//! Document to policy: every name is looked up, every selector understood.
//!
//! `names` reads what the policy itself defines (groups, tags, hosts), `selectors` looks such names
//! up, `acl` makes rules of entries. Messages about what the language itself refuses are worded as
//! administrators of such networks know them, to the letter; what to do about it is in the help
//! beside them.

mod acl;
mod names;
mod selectors;

use crate::{
    diagnostics::{Findings, Lines},
    document::Document,
    grant_id::GrantIds,
    policy::Policy,
};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

struct Resolver<'r, 'f, 'l> {
    policy: Policy,
    hosts: BTreeMap<String, IpNet>,
    /// All names that `hosts` has, also those whose address is wrong: one finding is enough.
    host_names: BTreeSet<String>,
    ids: GrantIds,
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
        ids: GrantIds::default(),
        lines,
        findings,
    };
    resolver.groups(document.groups);
    resolver.tag_owners(document.tag_owners);
    resolver.hosts(document.hosts);
    for acl in document.acls {
        resolver.acl(acl);
    }
    resolver.policy
}
