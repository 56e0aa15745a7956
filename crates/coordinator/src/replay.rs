//! Signed requests are accepted once.
//!
//! Nonces are remembered until their signature is too old to be accepted anyway. Those of enrolled
//! machines are also in the database, so that a restart forgets none of them. Strangers (machines
//! that are not enrolled) have a memory of their own: whoever fills it up locks out no node.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};
use weir_overlay::MachinePublicKey;
use weir_protocol::{MAX_AGE_SECONDS, Signed};

/// How many signatures of enrolled machines are remembered: 10,000 machines at 25 requests each
/// in the two minutes that a signature can live, who come back more than once and report.
const MAX_KNOWN: usize = 250_000;
/// How many of those one machine may have: 16 requests a second, so that no enrolled machine alone,
/// whoever has taken it over, fills the memory of all.
const MAX_OF_ONE: usize = 2_000;
/// How many signatures of strangers are remembered.
const MAX_STRANGERS: usize = 10_000;

/// Why a request is not accepted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ReplayError {
    /// The same signature was accepted before.
    #[error("this request was received before; a new one must be signed anew")]
    Replayed,
    /// Too many requests of one machine.
    #[error("this machine sends too many requests: try again in two minutes")]
    TooMany,
    /// Too many requests to remember.
    #[error("the coordinator is receiving too many requests: try again in two minutes")]
    Full,
}

/// Who signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signer {
    /// An enrolled machine.
    Known,
    /// Any other.
    Stranger,
}

type Seen = BTreeMap<(MachinePublicKey, String), i64>;

/// The signatures that were accepted lately.
#[derive(Debug, Default)]
pub(crate) struct ReplayCache {
    seen: Mutex<[Seen; 2]>,
}

/// Until when a signature must be remembered.
#[must_use]
pub(crate) const fn forget_at(signed: &Signed) -> i64 {
    // It is accepted up to and including this age.
    signed.created + MAX_AGE_SECONDS + 1
}

impl ReplayCache {
    /// A memory that starts with what was accepted before a restart.
    #[must_use]
    pub(crate) fn new(accepted: Vec<(MachinePublicKey, String, i64)>) -> Self {
        let known = accepted
            .into_iter()
            .map(|(machine, nonce, forget_at)| ((machine, nonce), forget_at))
            .collect();
        Self {
            seen: Mutex::new([known, Seen::new()]),
        }
    }

    fn lock(&self) -> MutexGuard<'_, [Seen; 2]> {
        // A panic elsewhere leaves the maps whole: every change of them is one call.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts a signature once.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub(crate) fn accept(
        &self,
        signed: &Signed,
        signer: Signer,
        now: i64,
    ) -> Result<(), ReplayError> {
        let mut seen = self.lock();
        let key = (signed.machine, signed.nonce.clone());
        // A stranger may have been enrolled in between.
        if seen.iter().any(|seen| seen.contains_key(&key)) {
            return Err(ReplayError::Replayed);
        }
        let [known, strangers] = &mut *seen;
        let (memory, limit) = match signer {
            Signer::Known => (known, MAX_KNOWN),
            Signer::Stranger => (strangers, MAX_STRANGERS),
        };
        let of_this_machine = memory
            .range((signed.machine, String::new())..)
            .take_while(|((machine, _), _)| *machine == signed.machine)
            .filter(|(_, forget_at)| **forget_at > now);
        if of_this_machine.count() >= MAX_OF_ONE {
            return Err(ReplayError::TooMany);
        }
        if memory.len() >= limit {
            memory.retain(|_, forget_at| *forget_at > now);
        }
        if memory.len() >= limit {
            return Err(ReplayError::Full);
        }
        memory.insert(key, forget_at(signed));
        Ok(())
    }

    /// A machine is a stranger no more: its signatures leave room to others who join, as far as there
    /// is room among those of the enrolled.
    pub(crate) fn enrolled(&self, machine: MachinePublicKey) {
        let [known, strangers] = &mut *self.lock();
        let nonces = strangers.range((machine, String::new())..);
        let nonces = nonces.take_while(|((of, _), _)| *of == machine);
        let room = MAX_KNOWN.saturating_sub(known.len());
        let keys: Vec<_> = nonces.take(room).map(|(key, _)| key.clone()).collect();
        for key in keys {
            if let Some((key, forget_at)) = strangers.remove_entry(&key) {
                known.insert(key, forget_at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_overlay::MachinePrivateKey;

    fn signed(nonce: &str, created: i64) -> Signed {
        Signed {
            machine: MachinePrivateKey::from_bytes([1; 32]).public(),
            created,
            nonce: nonce.to_owned(),
        }
    }

    #[test]
    fn a_signature_is_accepted_once_as_long_as_it_lives() {
        let cache = ReplayCache::default();
        let request = signed("a", 100);
        assert_eq!(cache.accept(&request, Signer::Stranger, 100), Ok(()));
        for signer in [Signer::Stranger, Signer::Known] {
            let again = cache.accept(&request, signer, 100 + MAX_AGE_SECONDS);
            assert_eq!(again, Err(ReplayError::Replayed));
        }
        assert_eq!(cache.accept(&signed("b", 100), Signer::Known, 100), Ok(()));
    }

    #[test]
    fn a_restart_forgets_nothing() {
        let request = signed("a", 100);
        let cache = ReplayCache::new(vec![(
            request.machine,
            request.nonce.clone(),
            forget_at(&request),
        )]);
        let again = cache.accept(&request, Signer::Known, 101);
        assert_eq!(again, Err(ReplayError::Replayed));
    }

    fn signed_by(machine: u8, nonce: &str, created: i64) -> Signed {
        Signed {
            machine: MachinePrivateKey::from_bytes([machine; 32]).public(),
            ..signed(nonce, created)
        }
    }

    #[test]
    fn one_node_cannot_lock_the_others_out() {
        let cache = ReplayCache::default();
        for number in 0..MAX_OF_ONE {
            let request = signed(&number.to_string(), 100);
            assert_eq!(cache.accept(&request, Signer::Known, 100), Ok(()));
        }
        let more = cache.accept(&signed("more", 100), Signer::Known, 100);
        assert_eq!(more, Err(ReplayError::TooMany));
        let other = signed_by(2, "more", 100);
        assert_eq!(cache.accept(&other, Signer::Known, 100), Ok(()));
        // Two minutes later it may send again.
        let later = cache.accept(&signed("later", 300), Signer::Known, 300);
        assert_eq!(later, Ok(()));
    }

    #[test]
    fn strangers_cannot_lock_nodes_out() {
        let cache = ReplayCache::default();
        for number in 0..MAX_STRANGERS {
            let machine = u8::try_from(number % 8 + 1).unwrap();
            let stranger = signed_by(machine, &number.to_string(), 100);
            assert_eq!(cache.accept(&stranger, Signer::Stranger, 100), Ok(()));
        }
        let one_more = signed("more", 100);
        assert_eq!(
            cache.accept(&one_more, Signer::Stranger, 100),
            Err(ReplayError::Full)
        );
        assert_eq!(cache.accept(&one_more, Signer::Known, 100), Ok(()));
        // Two minutes later there is room again.
        assert_eq!(
            cache.accept(&signed("later", 300), Signer::Stranger, 300),
            Ok(())
        );
    }

    #[test]
    fn whoever_is_let_in_leaves_room_to_others_who_join() {
        let cache = ReplayCache::default();
        let mut requests = (0..=MAX_STRANGERS).map(|number| {
            let mut key = [0; 32];
            key[8..16].copy_from_slice(&number.to_le_bytes());
            let machine = MachinePrivateKey::from_bytes(key).public();
            Signed {
                machine,
                ..signed("a", 100)
            }
        });
        let first = requests.next().unwrap();
        assert_eq!(cache.accept(&first, Signer::Stranger, 100), Ok(()));
        cache.enrolled(first.machine);
        for request in requests {
            assert_eq!(cache.accept(&request, Signer::Stranger, 100), Ok(()));
        }
        let other = signed("b", 100);
        let refused = cache.accept(&other, Signer::Stranger, 100);
        assert_eq!(refused, Err(ReplayError::Full));
        for signer in [Signer::Known, Signer::Stranger] {
            let again = cache.accept(&first, signer, 100);
            assert_eq!(again, Err(ReplayError::Replayed));
        }
    }

    #[test]
    fn whoever_is_let_in_fills_no_memory_further_than_it_goes() {
        let another = signed_by(9, "", 100).machine;
        let of_another = |number: usize| (another, number.to_string(), 400);
        let cache = ReplayCache::new((0..MAX_KNOWN).map(of_another).collect());
        let request = signed("a", 100);
        assert_eq!(cache.accept(&request, Signer::Stranger, 100), Ok(()));
        cache.enrolled(request.machine);
        assert_eq!(cache.lock()[0].len(), MAX_KNOWN);
        let again = cache.accept(&request, Signer::Known, 100);
        assert_eq!(again, Err(ReplayError::Replayed));
    }
}
