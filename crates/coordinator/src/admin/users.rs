//! Users.

use super::{find_user, now, page::Wanted, publish, time};
use crate::{
    Coordinator,
    accounts::{Caller, Scope},
    api,
    refusal::Refusal,
    store::{Actor, AuditEntry, Tx, UserRow},
};
use serde_json::json;
use weir_protocol::ErrorCode;

/// The longest user name: an e-mail address has 254 characters at most (RFC 5321, section 4.5.3.1).
const MAX_NAME: usize = 254;

pub(super) fn describe(user: UserRow) -> Result<api::User, Refusal> {
    Ok(api::User {
        id: user.id,
        name: user.name,
        created: time("time", user.created_at)?,
        nodes: user.nodes,
        admin: user.admin,
    })
}

/// All users, by name.
///
/// # Errors
/// [`Refusal`].
pub(crate) async fn list_users(
    coordinator: &Coordinator,
    page: &api::PageQuery,
) -> Result<api::Page<api::User>, Refusal> {
    let wanted = Wanted::new("users", page)?;
    let users = coordinator.store.read().await?.users().await?;
    let page = wanted.of(users, |user| user.name.to_ascii_lowercase());
    page.try_map(describe)
}

/// Creates a user, as a part of a change.
///
/// # Errors
/// [`Refusal`], when the name cannot be used or is taken.
pub(super) async fn insert(tx: &mut Tx, actor: &Actor, name: &str) -> Result<UserRow, Refusal> {
    check_name(name)?;
    if tx.user(name).await?.is_some() {
        return Err(Refusal::new(
            ErrorCode::Conflict,
            format!("there is a user {name} already"),
        ));
    }
    tx.insert_user(name, now()).await?;
    let created = find_user(tx, name).await?;
    let entry = AuditEntry {
        at: now(),
        actor,
        action: "users.create",
        subject: subject(&created),
    };
    tx.record(entry, None::<&()>, Some(&json!({ "name": name })))
        .await?;
    Ok(created)
}

pub(super) fn subject(user: &UserRow) -> String {
    format!("user {} ({})", user.id, user.name)
}

/// Deletes a user who owns no nodes, with its auth keys. Only who may do everything deletes an
/// admin.
///
/// # Errors
/// [`Refusal`], also when the user owns nodes.
pub(crate) async fn delete_user(
    coordinator: &Coordinator,
    caller: &Caller,
    name: &str,
) -> Result<api::User, Refusal> {
    let mut tx = coordinator.store.write().await?;
    let user = find_user(&mut tx, name).await?;
    if user.admin && !caller.scopes.allow(Scope::All) {
        return Err(Refusal::MissingScope { scope: Scope::All });
    }
    let owned: Vec<_> = tx
        .nodes()
        .await?
        .into_iter()
        .filter(|node| node.user == Some(user.id))
        .map(|node| node.name.to_string())
        .collect();
    if !owned.is_empty() {
        return Err(Refusal::new(
            ErrorCode::Conflict,
            format!(
                "{name} owns {}: delete them first with coordinator nodes delete NODE",
                owned.join(", ")
            ),
        ));
    }
    tx.delete_user(user.id).await?;
    let entry = AuditEntry {
        at: now(),
        actor: &caller.actor,
        action: "users.delete",
        subject: subject(&user),
    };
    tx.record(entry, Some(&json!({ "name": name })), None::<&()>)
        .await?;
    tx.commit().await?;
    publish(coordinator).await;
    describe(user)
}

/// Policies tell users from other names by their shape, so a user must not look like a tag, a
/// group or an address.
fn check_name(name: &str) -> Result<(), Refusal> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-+@".contains(c);
    let fine = (1..=MAX_NAME).contains(&name.len())
        && name.chars().all(allowed)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.matches('@').count() <= 1
        && !name.ends_with('@')
        && name.parse::<std::net::IpAddr>().is_err();
    if fine {
        return Ok(());
    }
    Err(Refusal::new(
        ErrorCode::BadRequest,
        format!(
            "\"{name}\" is not a user name: use letters, digits and . _ - +, such as alice or \
             alice@example.com"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::check_name;

    #[test]
    fn names_that_policies_could_misread_are_refused() {
        for good in ["alice", "alice@example.com", "a.b-c_d+e"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in [
            "", "@", "alice@", "a@b@c", "tag:x", "a b", "8.8.8.8", "*", "-x",
        ] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
