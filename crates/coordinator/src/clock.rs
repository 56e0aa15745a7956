//! The one place where this crate reads the clock and draws random numbers.

use nix::time::{ClockId, clock_gettime};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now, in seconds since 1970.
#[must_use]
pub(crate) fn now() -> i64 {
    #[cfg(test)]
    if let Some(clocks) = pretended::clocks() {
        return clocks.wall;
    }
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or(0)
}

/// How far wall clock and running time may drift apart between two looks, in seconds. Clocks are
/// disciplined by far less; more is a jump.
const JUMP_SECONDS: i64 = 60;

/// What both clocks of the host say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// The wall clock, in seconds since 1970.
    wall: i64,
    /// How long the host has been running, asleep or awake. It never jumps.
    running: Duration,
}

/// Reads both clocks.
#[must_use]
pub(crate) fn reading() -> Reading {
    #[cfg(test)]
    if let Some(clocks) = pretended::clocks() {
        return Reading {
            wall: clocks.wall,
            running: clocks.running,
        };
    }
    let running = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
    Reading {
        wall: now(),
        running,
    }
}

/// The time by which keys of nodes expire. It follows the wall clock, but not where that jumps: a
/// clock that is set wrong for a moment must not cut off a whole network. It goes on as if there
/// had been no jump until the wall clock is back, or the coordinator is started again.
#[derive(Debug)]
pub(crate) struct SteadyClock {
    last: Reading,
    jumped: bool,
}

impl SteadyClock {
    /// Starts with what the wall clock says.
    #[must_use]
    pub(crate) const fn new(first: Reading) -> Self {
        Self {
            last: first,
            jumped: false,
        }
    }

    /// The time, in seconds since 1970. To be asked every few seconds.
    pub(crate) fn now(&mut self, reading: Reading) -> i64 {
        let passed = reading.running.saturating_sub(self.last.running);
        let passed = i64::try_from(passed.as_secs()).unwrap_or(i64::MAX);
        let expected = self.last.wall.saturating_add(passed);
        let ahead = reading.wall.saturating_sub(expected);
        let jumped = ahead.saturating_abs() > JUMP_SECONDS;
        if !jumped {
            self.last = reading;
        }
        if jumped != self.jumped {
            self.jumped = jumped;
            if jumped {
                tracing::error!(
                    seconds = ahead,
                    "the clock of this host jumped: keys of nodes expire as if it had not, until \
                     it is back or the coordinator is started again"
                );
            } else {
                tracing::info!("the clock of this host is back");
            }
        }
        if jumped { expected } else { reading.wall }
    }
}

/// Random bytes of the kernel's generator, fit for keys.
///
/// # Errors
/// What the kernel says when it has none, which is practically never.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// Bytes as lower-case hexadecimal digits.
#[must_use]
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Clocks that show what a test says, to its own thread.
#[cfg(test)]
pub(crate) mod pretended {
    use std::{cell::Cell, time::Duration};

    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Clocks {
        /// The host's, in seconds since 1970.
        pub(crate) wall: i64,
        /// How long the host has been running.
        pub(crate) running: Duration,
        /// The database's, in seconds since 1970.
        pub(crate) database: i64,
    }

    thread_local! {
        static CLOCKS: Cell<Option<Clocks>> = const { Cell::new(None) };
    }

    pub(crate) fn set(clocks: Clocks) {
        CLOCKS.set(Some(clocks));
    }

    pub(crate) fn clocks() -> Option<Clocks> {
        CLOCKS.get()
    }

    pub(crate) fn of_the_database() -> Option<i64> {
        clocks().map(|clocks| clocks.database)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(wall: i64, running: u64) -> Reading {
        Reading {
            wall,
            running: Duration::from_secs(running),
        }
    }

    #[test]
    fn a_clock_that_jumps_is_not_followed_until_it_is_back() {
        const YEAR: i64 = 365 * 24 * 3600;
        for jump in [YEAR, -YEAR, 61, -61] {
            let mut clock = SteadyClock::new(at(1_000, 5));
            assert_eq!(clock.now(at(1_010, 15)), 1_010);
            assert_eq!(clock.now(at(1_020 + jump, 25)), 1_020, "{jump}");
            assert_eq!(clock.now(at(1_030 + jump, 35)), 1_030, "{jump}");
            assert_eq!(clock.now(at(1_041, 45)), 1_041, "{jump}");
        }
    }

    #[test]
    fn a_clock_that_is_disciplined_and_a_host_that_slept_are_followed() {
        let mut clock = SteadyClock::new(at(1_000, 5));
        // Each look is a little ahead; together they are far ahead.
        for step in 1..=100 {
            let passed = u64::try_from(step).unwrap() * 5;
            assert_eq!(
                clock.now(at(1_000 + step * 6, 5 + passed)),
                1_000 + step * 6
            );
        }
        // A night asleep: both clocks say so.
        assert_eq!(clock.now(at(1_600 + 30_000, 505 + 30_000)), 31_600);
    }
}
