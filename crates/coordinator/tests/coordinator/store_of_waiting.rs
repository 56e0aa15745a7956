//! What must hold of waiting machines, whichever database remembers them.

use crate::{
    postgres,
    stores::{NOW, Opened, change, node, on_both, open},
};
use weir_coordinator::store::WaitingRow;

on_both!(
    a_machine_waits_once_and_not_for_ever,
    those_that_wait_are_counted_by_where_they_are,
);

fn waiting(number: u8, code: &str) -> WaitingRow {
    let node = node(number, None);
    WaitingRow {
        machine_key: node.machine_key,
        code: code.to_owned(),
        node_key: node.node_key,
        tags: node.tags,
        host: node.host,
        address: node.observed_address,
        source: "203.0.113.1".to_owned(),
        asked_at: NOW,
        expires_at: NOW + 60,
        denied_at: None,
    }
}

async fn a_machine_waits_once_and_not_for_ever(at: Opened) {
    let Opened {
        store,
        database,
        _directory,
    } = at;
    change!(store, |tx| tx.insert_waiting(&waiting(1, "first")));
    change!(store, |tx| tx.insert_waiting(&waiting(1, "second")));
    change!(store, |tx| tx.insert_waiting(&waiting(2, "other")));
    store.close().await;
    let store = open(&database).await;
    let (one, other) = (waiting(1, "second"), waiting(2, "other"));
    let mut tx = store.read().await.unwrap();
    assert_eq!(
        tx.waiting(NOW).await.unwrap(),
        [other.clone(), one.clone()],
        "by time and code"
    );
    assert_eq!(tx.waiting_under("first", NOW).await.unwrap(), None);
    let found = tx.waiting_under("second", NOW + 59).await.unwrap();
    assert_eq!(found.as_ref(), Some(&one));
    let key = one.machine_key;
    assert_eq!(tx.waiting_of(&key, NOW).await.unwrap(), Some(one));
    assert_eq!(tx.waiting_of(&key, NOW + 60).await.unwrap(), None);
    assert_eq!(tx.waiting_under("second", NOW + 60).await.unwrap(), None);
    assert_eq!(tx.waiting(NOW + 60).await.unwrap(), []);
    drop(tx);
    change!(store, |tx| tx.deny_waiting(&key, NOW + 1, NOW + 90));
    let mut tx = store.read().await.unwrap();
    let denied = tx.waiting_of(&key, NOW + 60).await.unwrap().unwrap();
    assert_eq!(denied.denied_at, Some(NOW + 1));
    assert_eq!(tx.waiting_under("second", NOW + 2).await.unwrap(), None);
    assert_eq!(
        tx.waiting(NOW + 2).await.unwrap(),
        std::slice::from_ref(&other)
    );
    drop(tx);
    change!(store, |tx| tx.prune_waiting(NOW + 60));
    change!(store, |tx| tx.forget_waiting(&key));
    let mut tx = store.read().await.unwrap();
    // Asked about a time when they had not expired: they are gone all the same.
    assert_eq!(tx.waiting(NOW).await.unwrap(), []);
    assert_eq!(tx.waiting_of(&key, NOW).await.unwrap(), None);
}

async fn those_that_wait_are_counted_by_where_they_are(at: Opened) {
    let store = at.store;
    for (number, source) in [(1, "203.0.113.1"), (2, "203.0.113.1"), (3, "2001:db8::/64")] {
        let row = WaitingRow {
            source: source.to_owned(),
            ..waiting(number, &format!("code-{number}"))
        };
        change!(store, |tx| tx.insert_waiting(&row));
    }
    let denied = waiting(2, "").machine_key;
    change!(store, |tx| tx.deny_waiting(&denied, NOW, NOW + 60));
    let mut tx = store.read().await.unwrap();
    let count = tx.count_waiting("203.0.113.1", NOW).await.unwrap();
    assert_eq!(count, (3, 2), "who was denied counts, too");
    let count = tx.count_waiting("192.0.2.1", NOW).await.unwrap();
    assert_eq!(count, (3, 0));
    let count = tx.count_waiting("203.0.113.1", NOW + 60).await.unwrap();
    assert_eq!(count, (0, 0));
}
