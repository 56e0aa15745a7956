//! From "these rows were changed" to changes of the network.

use super::policy::{self, Offered, PolicyInForce};
use crate::{
    snapshot,
    store::{Changes, StoreError, Tx},
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use weir_netmap::{LiveNetwork, NetworkChange, NetworkState, Node};
use weir_overlay::NodeId;

/// What rows say that were read again.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// Nodes, each as it is or `None` when it was deleted.
    nodes: BTreeMap<NodeId, Option<Node>>,
    state: Option<NetworkState>,
    /// The policy in force, if it was looked for.
    pub(super) policy: Option<PolicyInForce>,
    /// The stored primaries, if all was read.
    pub(super) primaries: Option<BTreeMap<IpNet, NodeId>>,
}

impl Read {
    /// Reads what was changed, as it is `now`.
    pub(super) async fn of(
        changes: &Changes,
        in_force: &PolicyInForce,
        offered: &Offered,
        tx: &mut Tx,
        now: i64,
    ) -> Result<Self, StoreError> {
        let mut read = Self::default();
        if changes.everything || changes.users {
            let state = snapshot::read(tx, now).await?;
            read.primaries = Some(state.primaries.clone());
            read.state = Some(state);
        } else {
            for id in &changes.nodes {
                let node = match tx.node(*id).await? {
                    Some(row) => {
                        let routes = tx.routes_of(*id).await?;
                        let egress = tx.route_egress_of(*id).await?;
                        Some(snapshot::node(row, &routes, &egress, now))
                    }
                    None => None,
                };
                read.nodes.insert(*id, node);
            }
        }
        if changes.everything || changes.policy {
            read.policy = Some(policy::newest_valid(tx, in_force, offered).await?);
        }
        Ok(read)
    }

    /// The nodes that it is about.
    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeId> {
        let all = self.state.iter().flat_map(|state| state.nodes.keys());
        self.nodes.keys().chain(all).copied()
    }

    /// What that changes of the network. `absent` are those of the nodes and of all `relays` that
    /// cannot be expected to carry traffic. Empty when all is as it was.
    pub(super) fn changes(
        self,
        network: &LiveNetwork,
        relays: &BTreeSet<NodeId>,
        absent: &BTreeSet<NodeId>,
    ) -> Vec<NetworkChange> {
        let known = network.state();
        let mut changes = Vec::new();
        let mut nodes = self.nodes;
        if let Some(state) = self.state {
            if state.users != known.users {
                changes.push(NetworkChange::Users(state.users));
            }
            nodes = known.nodes.keys().map(|id| (*id, None)).collect();
            nodes.extend(state.nodes.into_iter().map(|(id, node)| (id, Some(node))));
        }
        // Those whose health alone changed.
        for node in relays.iter().filter_map(|id| known.nodes.get(id)) {
            if node.healthy == absent.contains(&node.id) {
                nodes.entry(node.id).or_insert_with(|| Some(node.clone()));
            }
        }
        for (id, node) in nodes {
            match node {
                Some(mut node) => {
                    node.healthy = !(is_relay(&node) && absent.contains(&id));
                    if known.nodes.get(&id) != Some(&node) {
                        changes.push(NetworkChange::Node(Box::new(node)));
                    }
                }
                None if known.nodes.contains_key(&id) => changes.push(NetworkChange::Left(id)),
                None => {}
            }
        }
        if let Some(policy) = self.policy
            && !Arc::ptr_eq(&policy.policy, network.policy())
        {
            changes.push(NetworkChange::Policy(policy.policy));
        }
        changes
    }
}

/// Whether making these changes takes so long that nobody should wait for it.
pub(super) fn take_long(changes: &[NetworkChange]) -> bool {
    const MANY: usize = 64;
    let compiles = |change: &NetworkChange| match change {
        NetworkChange::Users(_) | NetworkChange::Policy(_) => true,
        NetworkChange::Node(_) | NetworkChange::Left(_) => false,
    };
    changes.len() > MANY || changes.iter().any(compiles)
}

/// Whether a node advertises routes: of such a one, somebody cares whether it is there.
pub(super) fn is_relay(node: &Node) -> bool {
    !node.host.advertised_routes.is_empty()
}
