//! Who may join the network, and as what.
//!
//! Checking the auth key, using it up and creating the node are one transaction: two machines
//! cannot both join with a one-off key, and a join that fails leaves the key as it was.

use crate::{
    addresses::{free_name, lowest_free},
    refusal::Refusal,
    snapshot,
    store::{Actor, AuditEntry, AuthKeyRow, NewNode, NodeRow, Store, Tx},
};
use ipnet::IpNet;
use serde_json::json;
use std::{collections::BTreeSet, net::IpAddr};
use weir_overlay::{MachinePublicKey, NodeId, NodePublicKey, Tag, refuse_route};
use weir_policy::{Policy, User};
use weir_protocol::{
    AuthKey, ErrorCode, HostInfo, RegisterRequest, RegisterResponse, ReportRequest,
};

/// The most routes that one node may advertise: enough for any published list of a service's
/// prefixes, few enough that one node cannot swamp the maps of all.
const MAX_ROUTES: usize = 1024;
/// The most host addresses that are looked at.
const MAX_HOST_ADDRESSES: usize = 1024;
/// The longest text that a host may tell of itself, in bytes. A host name has 253 at most (RFC
/// 1035, section 2.3.4).
const MAX_TEXT: usize = 256;

/// How many failures of one report are kept.
const MAX_FAILURES: usize = 100;

/// What is known of a request besides its content.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender {
    /// Who signed it.
    pub machine: MachinePublicKey,
    /// Where it came from.
    pub address: IpAddr,
    /// When, in seconds since 1970.
    pub now: i64,
}

/// Lets a machine in, or renews what is known of one that is in already.
///
/// # Errors
/// [`Refusal`]; then nothing was changed and no auth key was used up.
pub(crate) async fn register(
    store: &Store,
    policy: &Policy,
    request: RegisterRequest,
    sender: Sender,
) -> Result<RegisterResponse, Refusal> {
    check_host(&request.host)?;
    let mut tx = store.write().await?;
    let known = tx.node_by_machine(&sender.machine).await?;
    check_node_key(&mut tx, &request.node_key, &sender.machine).await?;
    let response = match known {
        Some(node) => renew(&mut tx, policy, node, request, sender).await?,
        None => enrol(&mut tx, policy, request, sender).await?,
    };
    tx.commit().await?;
    Ok(response)
}

/// Takes over what an enrolled machine tells of its host. Says whether anything changed.
///
/// # Errors
/// [`Refusal`]; then nothing was changed.
pub(crate) async fn update(store: &Store, host: HostInfo, sender: Sender) -> Result<bool, Refusal> {
    check_host(&host)?;
    let mut tx = store.write().await?;
    let node = tx
        .node_by_machine(&sender.machine)
        .await?
        .ok_or_else(not_enrolled)?;
    let changed = store_host(&mut tx, &node, &host, sender).await?;
    tx.commit().await?;
    Ok(changed)
}

/// What a machine hears that is not, or no longer, in the network.
#[must_use]
pub(crate) fn not_enrolled() -> Refusal {
    Refusal::new(
        ErrorCode::NotEnrolled,
        "this machine is not enrolled here: get an auth key from an admin (coordinator keys \
         create) and join with agent up --auth-key KEY",
    )
}

async fn enrol(
    tx: &mut Tx,
    policy: &Policy,
    request: RegisterRequest,
    sender: Sender,
) -> Result<RegisterResponse, Refusal> {
    let text = request.auth_key.as_deref().ok_or_else(not_enrolled)?;
    let presented: AuthKey = text.parse().map_err(|error: weir_protocol::AuthKeyError| {
        Refusal::new(ErrorCode::UnknownAuthKey, error.to_string())
    })?;
    let key = check_auth_key(tx.auth_key(presented.id()).await?, &presented, sender.now)?;
    let tags = tags_of_new_node(policy, &key, &request.tags)?;
    let user = if tags.is_empty() { key.user } else { None };
    let nodes = tx.nodes().await?;
    let taken = nodes.iter().map(|node| node.ipv4).collect();
    let taken_v6 = nodes.iter().map(|node| node.ipv6).collect();
    let names = nodes.into_iter().map(|node| node.name).collect();
    let (ipv4, ipv6) = lowest_free(&taken, &taken_v6).ok_or_else(|| {
        Refusal::new(
            ErrorCode::Conflict,
            "all overlay addresses are taken: delete nodes that are gone (coordinator nodes list)",
        )
    })?;
    let node = NewNode {
        machine_key: sender.machine,
        node_key: request.node_key,
        name: free_name(&request.host.hostname, &names),
        user,
        tags,
        ephemeral: key.ephemeral,
        ipv4,
        ipv6,
        host: request.host,
        observed_address: sender.address,
        created_at: sender.now,
    };
    let id = tx.insert_node(&node).await?;
    tx.set_advertised(id, &node.host.advertised_routes).await?;
    tx.count_auth_key_use(&key.id).await?;
    let after = json!({
        "name": node.name, "user": key.user_name, "tags": node.tags,
        "addresses": [node.ipv4.to_string(), node.ipv6.to_string()],
        "node_key": node.node_key, "ephemeral": node.ephemeral,
        "advertised": node.host.advertised_routes,
    });
    let entry = AuditEntry {
        at: sender.now,
        actor: &Actor::AuthKey(key.id),
        action: "nodes.enrol",
        subject: format!("node {id} ({})", node.name),
    };
    tx.record(entry, None::<&()>, Some(&after)).await?;
    tracing::info!(node = %id, name = %node.name, "enrolled a machine");
    Ok(RegisterResponse {
        node_id: id,
        name: node.name,
        addresses: [IpAddr::V4(node.ipv4), IpAddr::V6(node.ipv6)].into(),
        enrolled: true,
    })
}

/// A machine that is in already needs no key, and one that it brings is not used up.
async fn renew(
    tx: &mut Tx,
    policy: &Policy,
    node: NodeRow,
    request: RegisterRequest,
    sender: Sender,
) -> Result<RegisterResponse, Refusal> {
    let mut node = node;
    let actor = Actor::Node {
        id: node.id,
        name: node.name.clone(),
    };
    let entry = |action| AuditEntry {
        at: sender.now,
        actor: &actor,
        action,
        subject: actor.to_string(),
    };
    let new_tags = tags_of_known_node(policy, &node, &request.tags)?;
    if new_tags != node.tags {
        tx.set_node_tags(node.id, &new_tags).await?;
        tx.set_node_user(node.id, None).await?;
        tx.record(entry("nodes.tag"), Some(&node.tags), Some(&new_tags))
            .await?;
    }
    if request.node_key != node.node_key {
        tx.set_node_key(node.id, &request.node_key).await?;
        let (before, after) = (Some(&node.node_key), Some(&request.node_key));
        tx.record(entry("nodes.key"), before, after).await?;
    }
    store_host(tx, &node, &request.host, sender).await?;
    tx.set_node_seen(node.id, Some(sender.address), sender.now)
        .await?;
    if let Some(renamed) = tx.node_by_machine(&sender.machine).await? {
        node = renamed;
    }
    Ok(RegisterResponse {
        node_id: node.id,
        name: node.name,
        addresses: [IpAddr::V4(node.ipv4), IpAddr::V6(node.ipv6)].into(),
        enrolled: false,
    })
}

/// Stores host and routes when they differ from what is known. A node follows its host name until
/// an admin names it.
async fn store_host(
    tx: &mut Tx,
    node: &NodeRow,
    host: &HostInfo,
    sender: Sender,
) -> Result<bool, Refusal> {
    let routes = tx.routes_of(node.id).await?;
    let advertised: BTreeSet<IpNet> = routes
        .iter()
        .filter(|route| route.advertised)
        .map(|route| route.prefix)
        .collect();
    let routes_changed = advertised != host.advertised_routes;
    let known = HostInfo {
        advertised_routes: advertised.clone(),
        ..node.host.clone()
    };
    if known == *host && node.observed_address == Some(sender.address) {
        return Ok(false);
    }
    let name = if node.named_by_admin || host.hostname == node.host.hostname {
        node.name.clone()
    } else {
        let mut names: BTreeSet<_> = tx.nodes().await?.into_iter().map(|n| n.name).collect();
        names.remove(&node.name);
        free_name(&host.hostname, &names)
    };
    tx.update_node_host(node.id, &name, host, sender.address)
        .await?;
    if routes_changed {
        tx.set_advertised(node.id, &host.advertised_routes).await?;
        let actor = Actor::Node {
            id: node.id,
            name: node.name.clone(),
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

/// Two machines with one WireGuard key would take turns at receiving each other's packets.
async fn check_node_key(
    tx: &mut Tx,
    node_key: &NodePublicKey,
    machine: &MachinePublicKey,
) -> Result<(), Refusal> {
    match tx.node_by_node_key(node_key).await? {
        Some(owner) if owner.machine_key != *machine => Err(Refusal::new(
            ErrorCode::Conflict,
            format!(
                "another machine, {} (node {}), has this WireGuard key: if this machine was copied \
                 from it, delete /var/lib/weir/agent on the copy and join again",
                owner.name, owner.id
            ),
        )),
        Some(_) | None => Ok(()),
    }
}

fn check_auth_key(
    found: Option<AuthKeyRow>,
    presented: &AuthKey,
    now: i64,
) -> Result<AuthKeyRow, Refusal> {
    // Both sides are hashes: how many of their digits agree tells nothing about a secret.
    let known = found.filter(|key| key.secret_hash == presented.secret_hash());
    let Some(key) = known else {
        return Err(Refusal::new(
            ErrorCode::UnknownAuthKey,
            format!(
                "there is no auth key {} with this secret: copy the whole key again, or make a \
                 new one (coordinator keys create)",
                presented.id()
            ),
        ));
    };
    if key.revoked_at.is_some() {
        return Err(Refusal::new(
            ErrorCode::ExpiredAuthKey,
            format!(
                "the auth key {} was revoked: make a new one (coordinator keys create)",
                key.id
            ),
        ));
    }
    if now >= key.expires_at {
        return Err(Refusal::new(
            ErrorCode::ExpiredAuthKey,
            format!(
                "the auth key {} has expired: make a new one (coordinator keys create)",
                key.id
            ),
        ));
    }
    if !key.reusable && key.uses > 0 {
        return Err(Refusal::new(
            ErrorCode::UsedAuthKey,
            format!(
                "the auth key {} was used already and is a one-off: make a new one (coordinator \
                 keys create; --reusable for one that enrols several machines)",
                key.id
            ),
        ));
    }
    Ok(key)
}

/// A tagged key gives all its tags; others may be asked for as far as `tagOwners` lets them.
fn tags_of_new_node(
    policy: &Policy,
    key: &AuthKeyRow,
    asked: &BTreeSet<Tag>,
) -> Result<BTreeSet<Tag>, Refusal> {
    let user = owner(key.user, key.user_name.as_ref());
    for tag in asked.difference(&key.tags) {
        if !policy.may_take_tag(tag, user.as_ref(), &key.tags) {
            return Err(tag_not_allowed(tag, user.as_ref()));
        }
    }
    Ok(key.tags.union(asked).cloned().collect())
}

/// A node that asks for no tags keeps what it has; asking for fewer never turns a tagged node back
/// into a user's, which would change who it acts for.
fn tags_of_known_node(
    policy: &Policy,
    node: &NodeRow,
    asked: &BTreeSet<Tag>,
) -> Result<BTreeSet<Tag>, Refusal> {
    let user = owner(node.user, node.user_name.as_ref());
    for tag in asked.difference(&node.tags) {
        if !policy.may_take_tag(tag, user.as_ref(), &node.tags) {
            return Err(tag_not_allowed(tag, user.as_ref()));
        }
    }
    if asked.is_empty() {
        return Ok(node.tags.clone());
    }
    Ok(asked.clone())
}

fn owner(id: Option<weir_overlay::UserId>, name: Option<&String>) -> Option<User> {
    Some(snapshot::user(id?, name?.clone()))
}

fn tag_not_allowed(tag: &Tag, user: Option<&User>) -> Refusal {
    let who = user.map_or_else(
        || "the tags of this machine".to_owned(),
        |user| user.name.clone(),
    );
    Refusal::new(
        ErrorCode::TagNotAllowed,
        format!(
            "{who} may not give {tag}: add them to \"{tag}\" in the policy's tagOwners, or join \
             with a key made by coordinator keys create --tags {tag}"
        ),
    )
}

/// Nothing of what a host tells of itself is trusted: the agent checks the same, but a request
/// needs no agent.
fn check_host(host: &HostInfo) -> Result<(), Refusal> {
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

/// Remembers where an enrolled machine's requests come from. Says whether that changed.
///
/// # Errors
/// [`Refusal::Store`].
pub(crate) async fn seen(store: &Store, node: &NodeRow, sender: Sender) -> Result<bool, Refusal> {
    let moved = node.observed_address != Some(sender.address);
    let mut tx = store.write().await?;
    tx.set_node_seen(node.id, Some(sender.address), sender.now)
        .await?;
    tx.commit().await?;
    Ok(moved)
}

/// How a node is called in the audit log.
#[must_use]
pub(crate) fn subject(id: NodeId, name: &weir_overlay::NodeName) -> String {
    format!("node {id} ({name})")
}

/// Remembers what a node has applied and what it could not.
///
/// # Errors
/// [`Refusal::Store`].
pub(crate) async fn report(
    store: &Store,
    node: &NodeRow,
    report: &ReportRequest,
    sender: Sender,
) -> Result<(), Refusal> {
    let failures: Vec<_> = report.failures.iter().take(MAX_FAILURES).cloned().collect();
    for failure in &failures {
        tracing::info!(node = %node.id, name = %node.name, item = failure.item, reason = failure.reason, "a node could not apply a part of its map");
    }
    let mut tx = store.write().await?;
    tx.set_node_report(node.id, report.generation, &failures)
        .await?;
    tx.set_node_seen(node.id, Some(sender.address), sender.now)
        .await?;
    tx.commit().await?;
    Ok(())
}
