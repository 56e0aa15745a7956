//! What a machine tells of its host: checked, and stored when it changed.

use super::Sender;
use crate::{
    refusal::Refusal,
    store::{Actor, AuditEntry, NodeRow, RouteRow, Tx},
};
use ipnet::IpNet;
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};
use weir_overlay::{overlay_prefixes, refuse_route};
use weir_protocol::{ErrorCode, HostInfo};

/// The most routes that one node may advertise: enough for any published list of a service's
/// prefixes, few enough that one node cannot swamp the maps of all.
const MAX_ROUTES: usize = 1024;
/// The most host addresses that are looked at.
const MAX_HOST_ADDRESSES: usize = 1024;
/// The longest text that a host may tell of itself, in bytes. A host name has 253 at most (RFC
/// 1035, section 2.3.4).
const MAX_TEXT: usize = 256;

/// Nothing of what a host tells of itself is trusted: the agent checks the same, but a request
/// needs no agent.
pub(super) fn check_host(host: &HostInfo) -> Result<(), Refusal> {
    let bad = |detail: String| Err(Refusal::new(ErrorCode::BadRequest, detail));
    for (what, text) in [
        ("host name", &host.hostname),
        ("version", &host.version),
        ("operating system", &host.os),
    ] {
        if text.len() > MAX_TEXT || text.chars().any(char::is_control) {
            return bad(format!(
                "the {what} of this machine is longer than {MAX_TEXT} bytes or holds control \
                 characters: set a shorter one with agent set --hostname"
            ));
        }
    }
    if host.listen_port == 0 {
        return bad("WireGuard's port cannot be 0: set one with agent set --listen-port".into());
    }
    if let Some(endpoint) = host
        .endpoint
        .filter(|endpoint| !may_lead_to_a_host(*endpoint))
    {
        return bad(format!(
            "{endpoint} is nobody's way in: set an address and a port with agent set --endpoint \
             that other hosts can reach"
        ));
    }
    if host.addresses.len() > MAX_HOST_ADDRESSES {
        return bad(format!(
            "the request lists {} host addresses; at most {MAX_HOST_ADDRESSES} are accepted",
            host.addresses.len()
        ));
    }
    if host.advertised_routes.len() > MAX_ROUTES {
        return Err(Refusal::new(
            ErrorCode::BadRoute,
            format!(
                "{} routes are advertised; at most {MAX_ROUTES} are accepted: advertise fewer, \
                 larger prefixes",
                host.advertised_routes.len()
            ),
        ));
    }
    for prefix in &host.advertised_routes {
        let problem = if prefix.trunc() == *prefix {
            refuse_route(prefix).err().map(|error| error.to_string())
        } else {
            Some(format!(
                "{prefix} has host bits set; the prefix is {}",
                prefix.trunc()
            ))
        };
        if let Some(detail) = problem {
            return Err(Refusal::new(ErrorCode::BadRoute, detail));
        }
    }
    Ok(())
}

/// Whether packets to this endpoint could reach one host from another. Whose it is, only the key
/// of who answers there can tell.
fn may_lead_to_a_host(endpoint: SocketAddr) -> bool {
    let address = endpoint.ip().to_canonical();
    let is_local = match address {
        IpAddr::V4(address) => address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let is_overlay = overlay_prefixes()
        .iter()
        .any(|overlay| overlay.contains(&address));
    endpoint.port() != 0
        && !is_local
        && !is_overlay
        && !address.is_unspecified()
        && !address.is_loopback()
        && !address.is_multicast()
}

fn advertised(routes: &[RouteRow]) -> BTreeSet<IpNet> {
    let advertised = routes.iter().filter(|route| route.advertised);
    advertised.map(|route| route.prefix).collect()
}

/// Whether a host tells nothing that is not stored.
pub(super) fn is_known(
    node: &NodeRow,
    routes: &[RouteRow],
    host: &HostInfo,
    sender: Sender,
) -> bool {
    let known = HostInfo {
        advertised_routes: advertised(routes),
        ..node.host.clone()
    };
    known == *host && node.observed_address == Some(sender.address)
}

/// Stores host and routes when they differ from what is known. A node follows its host name until
/// an admin names it.
pub(super) async fn store_host(
    tx: &mut Tx,
    node: &NodeRow,
    host: &HostInfo,
    sender: Sender,
) -> Result<bool, Refusal> {
    let routes = tx.routes_of(node.id).await?;
    if is_known(node, &routes, host, sender) {
        return Ok(false);
    }
    let advertised = advertised(&routes);
    let routes_changed = advertised != host.advertised_routes;
    let name = if node.named_by_admin || host.hostname == node.host.hostname {
        node.name.clone()
    } else {
        tx.free_name(&host.hostname, Some(&node.name)).await?
    };
    tx.update_node_host(node.id, &name, host, sender.address)
        .await?;
    if routes_changed {
        tx.set_advertised(node.id, &host.advertised_routes).await?;
        let actor = Actor::Node {
            id: node.id,
            name: node.name.clone(),
            address: sender.address,
        };
        let entry = AuditEntry {
            at: sender.now,
            actor: &actor,
            action: "routes.advertise",
            subject: actor.to_string(),
        };
        tx.record(entry, Some(&advertised), Some(&host.advertised_routes))
            .await?;
        tracing::info!(node = %node.id, name = %name, routes = ?host.advertised_routes, "advertised routes changed");
    }
    Ok(true)
}
