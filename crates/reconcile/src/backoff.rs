//! How long to wait before trying again.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// Growing waits with jitter and a cap: each is drawn between half and the whole of a ceiling that
/// doubles up to the cap. The jitter keeps a thousand agents from coming back in the same instant.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    ceiling: Duration,
}

impl Backoff {
    /// Waits that start at most at `first` and never pass `cap`.
    #[must_use]
    pub const fn new(first: Duration, cap: Duration) -> Self {
        Self {
            first,
            cap,
            ceiling: first,
        }
    }

    /// It worked: the next failure waits shortly again.
    pub const fn reset(&mut self) {
        self.ceiling = self.first;
    }

    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        // The standard library's hasher keys are random per instance: enough to spread retries.
        let random = RandomState::new().hash_one(self.ceiling);
        self.wait_for(random)
    }

    fn wait_for(&mut self, random: u64) -> Duration {
        let ceiling = self.ceiling.min(self.cap);
        self.ceiling = ceiling.saturating_mul(2).min(self.cap);
        let half = ceiling / 2;
        let spread = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX);
        half + Duration::from_nanos(random % spread.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn waits_grow_and_stay_under_the_cap(randoms in prop::collection::vec(any::<u64>(), 1..40)) {
            let cap = Duration::from_secs(30);
            let mut backoff = Backoff::new(Duration::from_millis(250), cap);
            let mut ceiling = Duration::from_millis(250);
            for random in randoms {
                let wait = backoff.wait_for(random);
                prop_assert!(wait >= ceiling / 2 && wait <= ceiling);
                ceiling = (ceiling * 2).min(cap);
            }
            backoff.reset();
            prop_assert!(backoff.next_wait() <= Duration::from_millis(250));
        }
    }
}
