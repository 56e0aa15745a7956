//! What lets a machine in: a good auth key, a WireGuard key of its own, tags it may carry.

use crate::{
    refusal::Refusal,
    snapshot,
    store::{AuthKeyRow, NodeRow, Tx},
};
use std::collections::BTreeSet;
use weir_overlay::{MachinePublicKey, NodePublicKey, Tag, UserId};
use weir_policy::{Policy, User};
use weir_protocol::{AuthKey, ErrorCode};

/// Two machines with one WireGuard key would take turns at receiving each other's packets.
pub(super) async fn check_node_key(
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

pub(super) fn check_auth_key(
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

/// An auth key lets a machine in again only as what it is: the same user's, or with the same tags.
pub(super) fn check_same_owner(
    policy: &Policy,
    node: &NodeRow,
    key: &AuthKeyRow,
) -> Result<(), Refusal> {
    let user = owner(key.user, key.user_name.as_ref());
    let is_same = if node.tags.is_empty() {
        node.user.is_some() && node.user == key.user && key.tags.is_empty()
    } else {
        let mut tags = node.tags.iter();
        tags.all(|tag| key.tags.contains(tag) || policy.may_take_tag(tag, user.as_ref(), &key.tags))
    };
    if is_same {
        return Ok(());
    }
    let list = |tags: &BTreeSet<Tag>| {
        let tags: Vec<_> = tags.iter().map(ToString::to_string).collect();
        tags.join(",")
    };
    let (is, gives) = (
        node.user_name.clone().unwrap_or_else(|| list(&node.tags)),
        key.user_name.clone().unwrap_or_else(|| list(&key.tags)),
    );
    Err(Refusal::new(
        ErrorCode::Conflict,
        format!(
            "this machine is {} of {is}, and the auth key is for {gives}: use one for {is}, or \
             leave the network first (agent logout)",
            node.name
        ),
    ))
}

/// As what a machine is let in: said by an auth key, or by an admin.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// Who owns it; none when it carries tags.
    pub user: Option<UserId>,
    /// That user's name.
    pub user_name: Option<String>,
    /// Its tags.
    pub tags: BTreeSet<Tag>,
    /// Whether it is forgotten once it stays away.
    pub ephemeral: bool,
    /// For how many seconds its key is good; none for ever.
    pub node_life: Option<i64>,
}

impl From<&AuthKeyRow> for Terms {
    fn from(key: &AuthKeyRow) -> Self {
        Self {
            user: key.user,
            user_name: key.user_name.clone(),
            tags: key.tags.clone(),
            ephemeral: key.ephemeral,
            node_life: key.node_life,
        }
    }
}

/// Tags that are given are taken; others may be asked for as far as `tagOwners` lets them.
pub(super) fn tags_of_new_node(
    policy: &Policy,
    terms: &Terms,
    asked: &BTreeSet<Tag>,
) -> Result<BTreeSet<Tag>, Refusal> {
    let user = owner(terms.user, terms.user_name.as_ref());
    for tag in asked.difference(&terms.tags) {
        if !policy.may_take_tag(tag, user.as_ref(), &terms.tags) {
            return Err(tag_not_allowed(tag, user.as_ref()));
        }
    }
    Ok(terms.tags.union(asked).cloned().collect())
}

/// A node that asks for no tags keeps what it has; asking for fewer never turns a tagged node back
/// into a user's, which would change who it acts for.
pub(super) fn tags_of_known_node(
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

fn owner(id: Option<UserId>, name: Option<&String>) -> Option<User> {
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
             with a key made by coordinator keys create --tags {tag}, or be approved with --tag {tag}"
        ),
    )
}
