//! What must hold of stored accounts and tokens, whichever database is behind them.

use crate::{
    postgres,
    stores::{Opened, on_both, open},
};
use weir_coordinator::store::{NewAdminToken, Store};
use weir_overlay::{KeyId, UserId};

on_both!(
    an_account_belongs_to_a_user_and_goes_with_it,
    another_password_ends_what_was_logged_in,
    tokens_come_back_as_they_were_stored,
    a_setup_code_is_good_until_its_time_or_the_first_admin,
);

const NOW: i64 = 1_900_000_000;

fn token(id: &str, account: Option<UserId>) -> NewAdminToken {
    NewAdminToken {
        id: KeyId(id.to_owned()),
        secret_hash: "5ec2e7".to_owned(),
        name: "backups".to_owned(),
        scopes: "nodes:read policy:write".parse().unwrap(),
        account,
        created_by: "local admin uid 0".to_owned(),
        created_at: NOW,
        expires_at: NOW + 60,
    }
}

/// An admin and the tokens of two log-ins, and one of nobody.
async fn admin(store: &Store) -> UserId {
    let mut tx = store.write().await.unwrap();
    let user = tx.insert_user("Alice", NOW).await.unwrap();
    tx.set_account(user, "a hash", NOW).await.unwrap();
    for (id, account) in [("1", Some(user)), ("2", Some(user)), ("3", None)] {
        tx.insert_admin_token(&token(id, account)).await.unwrap();
    }
    tx.commit().await.unwrap();
    user
}

async fn tokens(store: &Store) -> Vec<String> {
    let tokens = store.read().await.unwrap().admin_tokens().await.unwrap();
    tokens.into_iter().map(|token| token.id.0).collect()
}

async fn an_account_belongs_to_a_user_and_goes_with_it(at: Opened) {
    let user = admin(&at.store).await;
    let mut tx = at.store.read().await.unwrap();
    let found = tx.account("aLICE").await.unwrap().unwrap();
    assert_eq!((found.user, found.name.as_str()), (user, "Alice"));
    assert_eq!(found.password_hash, "a hash");
    assert!(tx.users().await.unwrap()[0].admin);
    assert_eq!(tx.account("bob").await.unwrap(), None);
    drop(tx);
    let mut tx = at.store.write().await.unwrap();
    tx.delete_user(user).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = at.store.read().await.unwrap();
    assert!(!tx.has_accounts().await.unwrap());
    drop(tx);
    assert_eq!(tokens(&at.store).await, ["3"]);
}

async fn another_password_ends_what_was_logged_in(at: Opened) {
    let user = admin(&at.store).await;
    let mut tx = at.store.write().await.unwrap();
    tx.set_account(user, "another hash", NOW).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(tokens(&at.store).await, ["3"]);
    let mut tx = at.store.write().await.unwrap();
    let found = tx.account("alice").await.unwrap().unwrap();
    assert_eq!(found.password_hash, "another hash");
    tx.delete_account(user).await.unwrap();
    assert_eq!(tx.account("alice").await.unwrap(), None);
    let users = tx.users().await.unwrap();
    assert_eq!((users.len(), users[0].admin), (1, false));
}

async fn tokens_come_back_as_they_were_stored(at: Opened) {
    admin(&at.store).await;
    let mut tx = at.store.write().await.unwrap();
    let (id, later) = (KeyId("2".to_owned()), NOW + 7);
    tx.use_admin_token(&id, later).await.unwrap();
    tx.revoke_admin_token(&id, later).await.unwrap();
    tx.revoke_admin_token(&id, later + 1).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = at.store.read().await.unwrap();
    let found = tx.admin_token(&id).await.unwrap().unwrap();
    let asked = token("2", None);
    assert_eq!((&found.name, &found.scopes), (&asked.name, &asked.scopes));
    assert_eq!(found.account.as_deref(), Some("Alice"));
    assert_eq!(found.secret_hash, asked.secret_hash);
    assert_eq!(found.created_by, asked.created_by);
    assert_eq!((found.created_at, found.expires_at), (NOW, NOW + 60));
    assert_eq!(found.last_used_at, Some(later));
    assert_eq!(found.revoked_at, Some(later), "the first time counts");
    let other = tx.admin_token(&KeyId("3".to_owned())).await.unwrap();
    let other = other.unwrap();
    assert_eq!((other.account, other.last_used_at), (None, None));
    drop(tx);
    let mut tx = at.store.write().await.unwrap();
    tx.forget_admin_tokens(NOW + 60).await.unwrap();
    assert_eq!(tx.admin_tokens().await.unwrap().len(), 3);
    tx.forget_admin_tokens(NOW + 61).await.unwrap();
    assert_eq!(tx.admin_tokens().await.unwrap(), []);
}

async fn a_setup_code_is_good_until_its_time_or_the_first_admin(at: Opened) {
    let mut tx = at.store.write().await.unwrap();
    tx.set_setup_code("first", NOW + 60).await.unwrap();
    tx.set_setup_code("second", NOW + 60).await.unwrap();
    assert!(!tx.is_setup_code("first", NOW).await.unwrap());
    assert!(tx.is_setup_code("second", NOW + 59).await.unwrap());
    assert!(!tx.is_setup_code("second", NOW + 60).await.unwrap());
    tx.commit().await.unwrap();
    admin(&at.store).await;
    // What was written is there when it is opened again.
    let again = open(&at.database).await;
    let mut tx = again.read().await.unwrap();
    assert!(!tx.is_setup_code("second", NOW).await.unwrap());
    assert!(tx.has_accounts().await.unwrap());
}
