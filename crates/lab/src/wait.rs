//! Deadlines, and waiting for something to become true.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// How much slower than this machine the emulated virtual machine may be before a deadline is
/// held against a program (measured: debug builds run 10 to 15 times slower there).
const EMULATION_FACTOR: u32 = 10;

/// How long to sleep between two looks, if a look is quick.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// After a slow look the sleep is as long as the look was, up to this: where each look starts a
/// program, and more so in emulation, what is waited for needs the processor, too.
const LONGEST_POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Whether this is the emulated virtual machine (`WEIR_VM=1`), where everything is slow: a test
/// that repeats itself does so less often there.
#[must_use]
pub fn is_emulated() -> bool {
    std::env::var_os("WEIR_VM").is_some()
}

/// Stretches a deadline where everything is slow ([`is_emulated`]).
///
/// Use it for "must happen at all"; a promise such as "within a second" takes the plain duration
/// on the host and says what holds in emulation.
#[must_use]
pub fn patient(deadline: Duration) -> Duration {
    if is_emulated() {
        deadline * EMULATION_FACTOR
    } else {
        deadline
    }
}

/// Waits until `look` says true; `what` completes the sentence "waited N s for …".
///
/// The deadline is used as given: wrap it in [`patient`] where emulation should have more time.
///
/// # Errors
/// The deadline passed, or `look` failed.
pub fn wait_until(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let started = Instant::now();
    wait_for(what, deadline, || Ok(look()?.then_some(())))?;
    Ok(started.elapsed())
}

/// Waits until `look` finds something, and returns it.
///
/// # Errors
/// The deadline passed, or `look` failed.
pub fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        let looked = Instant::now();
        if let Some(found) = look().with_context(|| format!("while waiting for {what}"))? {
            return Ok(found);
        }
        if started.elapsed() >= deadline {
            bail!(
                "waited {:.1} s for {what}, in vain",
                started.elapsed().as_secs_f64()
            );
        }
        thread::sleep(looked.elapsed().clamp(POLL_INTERVAL, LONGEST_POLL_INTERVAL));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_what_was_found() {
        let mut looks = 0;
        let found = wait_for("the third look", Duration::from_secs(5), || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(found.unwrap(), 3);
    }

    #[test]
    fn a_wait_in_vain_says_what_for() {
        let error = wait_until("rain", Duration::from_millis(30), || Ok(false)).unwrap_err();
        assert!(error.to_string().contains("for rain"), "{error}");
    }
}
