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
    /// The routes that it advertises and an admin approved, default routes included.
    pub approved_routes: BTreeSet<IpNet>,
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
}

impl Default for Directory {
    fn default() -> Self {
        Self {
            users: Vec::new(),
            nodes: BTreeMap::new(),
            wildcard: overlay_prefixes().into_iter().collect(),
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
