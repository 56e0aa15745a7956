//! What must hold of requests that are to be done once, whichever database remembers them.

use crate::{
    postgres,
    stores::{Opened, on_both, open},
};
use weir_coordinator::store::{Actor, AuditEntry, Claim, Store, StoreError};

on_both!(
    a_change_and_its_claim_come_and_go_together,
    a_claim_is_good_for_one_change,
    claims_are_forgotten_after_a_day,
);

const NOW: i64 = 1_900_000_000;
const DAY: i64 = 86_400;

fn claim(id: &str, request: &str, at: i64) -> Claim {
    Claim {
        id: id.to_owned(),
        caller: "somebody".to_owned(),
        request: request.to_owned(),
        at,
    }
}

/// Creates a user with two entries in the audit log, as a request with this claim.
async fn create(store: &Store, name: &str, claim: &Claim, commit: bool) -> Result<(), StoreError> {
    let work = async {
        let mut tx = store.write().await?;
        tx.insert_user(name, claim.at).await?;
        for action in ["users.create", "users.grant-admin"] {
            let entry = AuditEntry {
                at: claim.at,
                actor: &Actor::Coordinator,
                action,
                subject: name.to_owned(),
            };
            tx.record(entry, None::<&()>, None::<&()>).await?;
        }
        match commit {
            true => tx.commit().await,
            false => Ok(()),
        }
    };
    claim.clone().during(work).await
}

async fn users(store: &Store) -> Vec<String> {
    let users = store.read().await.unwrap().users().await.unwrap();
    users.into_iter().map(|user| user.name).collect()
}

async fn a_change_and_its_claim_come_and_go_together(at: Opened) {
    let once = claim("key", "request", NOW);
    create(&at.store, "alice", &once, false).await.unwrap();
    let mut tx = at.store.read().await.unwrap();
    assert_eq!(tx.claimed(&once).await.unwrap(), None);
    drop(tx);
    assert_eq!(users(&at.store).await, [""; 0]);
    create(&at.store, "alice", &once, true).await.unwrap();
    let again = open(&at.database).await;
    let mut tx = again.read().await.unwrap();
    let done = tx.claimed(&once).await.unwrap().unwrap();
    assert_eq!((done.request.as_str(), done.audit), ("request", 1));
    assert_eq!(done.answer, None);
    assert_eq!(tx.claims_of_caller(&once).await.unwrap(), 1);
}

async fn a_claim_is_good_for_one_change(at: Opened) {
    let once = claim("key", "request", NOW);
    create(&at.store, "alice", &once, true).await.unwrap();
    let again = create(&at.store, "bob", &once, true).await;
    assert!(matches!(again, Err(StoreError::Repeated)), "{again:?}");
    assert_eq!(users(&at.store).await, ["alice"]);
    let report = at.store.read().await.unwrap().verify_audit(None).await;
    assert_eq!(report.unwrap().entries, 2, "what was undone is in no log");
    // An answer is kept for this request and for no other with its key.
    let mut tx = at.store.write().await.unwrap();
    let other = claim("key", "another request", NOW);
    tx.answered(&other, "other").await.unwrap();
    assert_eq!(tx.claimed(&once).await.unwrap().unwrap().answer, None);
    tx.answered(&once, "done").await.unwrap();
    let done = tx.claimed(&once).await.unwrap().unwrap();
    assert_eq!(done.answer.as_deref(), Some("done"));
}

async fn claims_are_forgotten_after_a_day(at: Opened) {
    create(&at.store, "alice", &claim("key", "request", NOW), true)
        .await
        .unwrap();
    let later = claim("key", "request", NOW + DAY);
    let mut tx = at.store.read().await.unwrap();
    assert_eq!(tx.claimed(&later).await.unwrap(), None);
    assert_eq!(tx.claims_of_caller(&later).await.unwrap(), 0);
    drop(tx);
    create(&at.store, "bob", &later, true).await.unwrap();
    assert_eq!(users(&at.store).await, ["alice", "bob"]);
}
