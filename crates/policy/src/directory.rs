//! Who is in the network: what a policy's selectors are resolved against.

use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use weir_overlay::{AddressSet, NodeId, Tag, UserId, overlay_prefixes};

/// A user of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The id.
    pub id: UserId,
    /// The name. A policy names a user `alice` as `alice@`; a user whose name is an e-mail
    /// address by just that.
    pub name: String,
    /// The e-mail address, by which policies name the user too.
    pub email: Option<String>,
}

/// A node as the policy sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyNode {
    /// The user who owns it. Without effect on a tagged node: tags replace the user.
    pub user: Option<UserId>,
    /// Its tags.
    pub tags: BTreeSet<Tag>,
    /// Its overlay addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// The routes that it advertises and that are approved, default routes included.
    pub approved_routes: BTreeSet<IpNet>,
    /// What its agent tells of the host, for rules that ask for it.
    pub posture: Posture,
}

/// What an agent tells of its host, as far as `postures` ask. What is not told meets no condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Posture {
    /// The operating system, as `node:os` compares it: `linux`.
    pub os: Option<String>,
    /// Its version, such as the kernel's: `node:osVersion`.
    pub os_version: Option<String>,
    /// The agent's version: `node:weirVersion`, and `node:tsVersion` in files that were written
    /// for others.
    pub weir_version: Option<String>,
}

/// All users and nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// The users.
    pub users: Vec<User>,
    /// The nodes.
    pub nodes: BTreeMap<NodeId, PolicyNode>,
    /// What `*` means as a source, before approved subnet routes are added. The overlay, unless
    /// the network has other addresses.
    pub wildcard: AddressSet,
    /// The e-mail domains that belong to the network, which `user:*@DOMAIN` may name. Those of the
    /// users' own addresses when empty.
    pub domains: BTreeSet<String>,
}

impl Directory {
    /// Whether an e-mail domain belongs to the network.
    pub(crate) fn has_domain(&self, domain: &str) -> bool {
        if self.domains.is_empty() {
            let emails = self.users.iter().filter_map(|user| user.email.as_deref());
            emails
                .filter_map(|email| email.rsplit_once('@'))
                .any(|(_, of)| of.eq_ignore_ascii_case(domain))
        } else {
            self.domains
                .iter()
                .any(|of| of.eq_ignore_ascii_case(domain))
        }
    }
}

impl Default for Directory {
    fn default() -> Self {
        Self {
            users: Vec::new(),
            nodes: BTreeMap::new(),
            wildcard: overlay_prefixes().into_iter().collect(),
            domains: BTreeSet::new(),
        }
    }
}

impl PolicyNode {
    /// The approved routes that are not default routes.
    pub(crate) fn subnets(&self) -> impl Iterator<Item = IpNet> {
        let routes = self.approved_routes.iter().copied();
        routes.filter(|route| route.prefix_len() > 0)
    }

    /// The approved default routes.
    pub(crate) fn exits(&self) -> impl Iterator<Item = IpNet> {
        let routes = self.approved_routes.iter().copied();
        routes.filter(|route| route.prefix_len() == 0)
    }
}
