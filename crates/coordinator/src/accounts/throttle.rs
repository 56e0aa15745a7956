//! Slowing down who guesses passwords.

use std::hash::{BuildHasher, RandomState};

/// How many counters there are. Names share them by chance: whoever tries a million names takes no
/// more memory than one who tries one.
const COUNTERS: usize = 4096;
/// How many wrong passwords cost nothing.
const FREE: u32 = 5;
/// The longest wait, in seconds.
const LONGEST: i64 = 300;
/// After how many seconds without an attempt all is forgotten.
const FORGET: i64 = 900;

#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    failures: u32,
    last: i64,
}

impl Counter {
    fn wait(self) -> i64 {
        match self.failures.checked_sub(FREE) {
            Some(more) => 1_i64
                .checked_shl(more.min(16))
                .unwrap_or(LONGEST)
                .min(LONGEST),
            None => 0,
        }
    }
}

/// Counts wrong passwords by account name, whether there is such an account or not.
#[derive(Debug)]
pub(super) struct Throttle {
    counters: Vec<Counter>,
    hasher: RandomState,
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            counters: vec![Counter::default(); COUNTERS],
            hasher: RandomState::new(),
        }
    }
}

impl Throttle {
    fn place(&self, name: &str) -> usize {
        let hash = self.hasher.hash_one(name.to_lowercase());
        usize::try_from(hash % COUNTERS as u64).unwrap_or(0)
    }

    /// Counts an attempt as a failure until it is said to have [`succeeded`](Self::succeeded).
    ///
    /// # Errors
    /// After how many seconds the next attempt may be made, from 1.
    pub(super) fn begin(&mut self, name: &str, now: i64) -> Result<(), u64> {
        let place = self.place(name);
        let Some(counter) = self.counters.get_mut(place) else {
            return Ok(());
        };
        // A clock that was set back must not lock anybody out for longer.
        counter.last = counter.last.min(now);
        if now - counter.last >= FORGET {
            *counter = Counter::default();
        }
        let left = counter.last + counter.wait() - now;
        if counter.failures >= FREE && left > 0 {
            return Err(left.unsigned_abs());
        }
        counter.failures = counter.failures.saturating_add(1);
        counter.last = now;
        Ok(())
    }

    /// Forgets what was counted: the password was right.
    pub(super) fn succeeded(&mut self, name: &str) {
        let place = self.place(name);
        if let Some(counter) = self.counters.get_mut(place) {
            *counter = Counter::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_900_000_000;

    fn failed(times: u32) -> Throttle {
        let mut throttle = Throttle::default();
        for number in 0..times {
            let at = NOW + i64::from(number) * LONGEST;
            assert_eq!(throttle.begin("alice", at), Ok(()));
        }
        throttle
    }

    #[test]
    fn each_wrong_password_after_the_first_few_costs_more_time() {
        let mut throttle = Throttle::default();
        for _ in 0..FREE {
            assert_eq!(throttle.begin("alice", NOW), Ok(()));
        }
        assert_eq!(
            throttle.begin("Alice", NOW),
            Err(1),
            "the case is of no account"
        );
        assert_eq!(throttle.begin("alice", NOW + 1), Ok(()));
        assert_eq!(throttle.begin("alice", NOW + 1), Err(2));
        assert_eq!(
            throttle.begin("alice", NOW + 2),
            Err(1),
            "asking does not add to it"
        );
    }

    #[test]
    fn a_wait_has_an_end() {
        let mut throttle = failed(40);
        let last = NOW + 39 * LONGEST;
        assert_eq!(throttle.begin("alice", last), Err(LONGEST.unsigned_abs()));
        assert_eq!(throttle.begin("alice", last + FORGET), Ok(()));
        assert_eq!(throttle.begin("alice", last + FORGET), Ok(()));
    }

    #[test]
    fn a_right_password_clears_it() {
        let mut throttle = failed(FREE);
        throttle.succeeded("alice");
        for _ in 0..FREE {
            assert_eq!(throttle.begin("alice", NOW), Ok(()));
        }
    }

    #[test]
    fn a_clock_that_was_set_back_locks_nobody_out_for_longer() {
        let mut throttle = failed(FREE);
        let wait = throttle.begin("alice", NOW - 86_400);
        assert_eq!(wait, Err(1));
    }
}
