//! What must hold of accepted signatures, whichever database remembers them.

use crate::{
    postgres,
    stores::{NOW, Opened, change, on_both, open},
};
use weir_overlay::MachinePrivateKey;

on_both!(
    a_signature_is_remembered_once,
    a_signature_that_was_forgotten_is_not_new_when_the_clock_is_set_back,
);

async fn a_signature_is_remembered_once(at: Opened) {
    let store = at.store;
    let machine = MachinePrivateKey::from_bytes([1; 32]).public();
    let new = change!(store, |tx|
        tx.remember_signature(&machine, "a", NOW + 1);
        tx.remember_signature(&machine, "a", NOW + 9);
        tx.remember_signature(&machine, "b", NOW + 9)
    );
    assert_eq!(new, (true, false, true));
    change!(store, |tx| tx.forget_signatures(NOW + 1));
    let mut tx = store.read().await.unwrap();
    let left = tx.accepted_signatures(NOW).await.unwrap();
    assert_eq!(left, [(machine, "b".to_owned(), NOW + 9)]);
}

async fn a_signature_that_was_forgotten_is_not_new_when_the_clock_is_set_back(at: Opened) {
    let store = at.store;
    let machine = MachinePrivateKey::from_bytes([1; 32]).public();
    assert!(change!(store, |tx| tx.remember_signature(&machine, "a", NOW)));
    // A clock that is a year ahead for a moment: nothing that was accepted is as young as that.
    const YEAR: i64 = 365 * 24 * 3600;
    change!(store, |tx| tx.forget_signatures(NOW + YEAR));
    let again = change!(store, |tx|
        tx.remember_signature(&machine, "a", NOW);
        tx.remember_signature(&machine, "of the same second", NOW);
        tx.remember_signature(&machine, "younger", NOW + 1)
    );
    assert_eq!(again, (false, false, true));
    // What was forgotten before stays so.
    change!(store, |tx| tx.forget_signatures(NOW - 1));
    assert!(!change!(store, |tx| tx.remember_signature(&machine, "a", NOW)));
}
