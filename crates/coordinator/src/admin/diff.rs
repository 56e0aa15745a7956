//! Who gains and who loses what when one policy takes the place of another.

use super::policy::{parse, stored};
use crate::{Coordinator, api, clock, refusal::Refusal, snapshot, store::Tx};
use ipnet::IpNet;
use std::collections::BTreeSet;
use weir_netmap::{Network, NetworkState};
use weir_overlay::NodeId;
use weir_policy::{Change, Policy, diff};

/// Compares two policies in the network as it is.
///
/// # Errors
/// [`Refusal`], when one of them does not exist or is not valid.
pub(crate) async fn diff_policies(
    coordinator: &Coordinator,
    request: api::DiffPolicies,
) -> Result<api::PolicyDiff, Refusal> {
    let mut tx = coordinator.store.read().await?;
    let old = policy(coordinator, &mut tx, request.old).await?;
    let new = policy(coordinator, &mut tx, request.new).await?;
    let state = snapshot::read(&mut tx, clock::now()).await?;
    drop(tx);
    let (before, after) = (Network::new(&state, &old), Network::new(&state, &new));
    let changes = diff(before.policy(), after.policy());
    let (routes_before, routes_after) = (routes(&state, &before), routes(&state, &after));
    Ok(api::PolicyDiff {
        gains: described(&state, changes.gains),
        losses: described(&state, changes.losses),
        routes_gained: only(&state, &routes_after, &routes_before),
        routes_lost: only(&state, &routes_before, &routes_after),
    })
}

async fn policy(
    coordinator: &Coordinator,
    tx: &mut Tx,
    which: api::PolicyRef,
) -> Result<Policy, Refusal> {
    match which {
        api::PolicyRef::Current => Ok(Policy::clone(&coordinator.engine.policy().policy)),
        api::PolicyRef::Revision(0) => Ok(Policy::empty()),
        api::PolicyRef::Revision(revision) => {
            let text = stored(tx, Some(revision)).await?.text;
            let source = format!("revision {revision}");
            parse(&text, &source, "this revision is not a valid policy")
        }
        api::PolicyRef::Text { text, source } => parse(&text, &source, "the policy is not valid"),
    }
}

/// The routes in force, each with its node.
fn routes(state: &NetworkState, network: &Network<'_>) -> BTreeSet<(NodeId, IpNet)> {
    let nodes = state.nodes.keys();
    nodes
        .flat_map(|id| network.approved_routes(*id).map(|route| (*id, route)))
        .collect()
}

/// Those of `these` that are not among `those`.
fn only(
    state: &NetworkState,
    these: &BTreeSet<(NodeId, IpNet)>,
    those: &BTreeSet<(NodeId, IpNet)>,
) -> Vec<api::RouteChange> {
    these
        .difference(those)
        .filter_map(|(id, prefix)| {
            Some(api::RouteChange {
                node: state.nodes.get(id)?.name.clone(),
                prefix: *prefix,
            })
        })
        .collect()
}

fn described(state: &NetworkState, changes: Vec<Change>) -> Vec<api::AccessChange> {
    let described = |change: Change| {
        let at = state.nodes.get(&change.at)?;
        let name = |id| Some(state.nodes.get(id)?.name.clone());
        Some(api::AccessChange {
            is_node: change.destinations.ranges().iter().all(|range| {
                range
                    .single()
                    .is_some_and(|address| at.addresses.contains(&address))
            }),
            at: at.name.clone(),
            nodes: change.nodes.iter().filter_map(name).collect(),
            sources: change.sources,
            destinations: change.destinations,
            protocols: change.protocols,
            ports: change.ports,
            origin: change.origin,
        })
    };
    changes.into_iter().filter_map(described).collect()
}
