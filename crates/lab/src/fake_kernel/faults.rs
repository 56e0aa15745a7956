//! Failures to come.

use nix::errno::Errno;

/// What a look at the kernel is called, where steps have their texts.
pub(super) const OBSERVATION: &str = "\u{0}observation";

#[derive(Debug, Default)]
pub(super) struct Faults {
    waiting: Vec<Fault>,
}

#[derive(Debug)]
struct Fault {
    text: String,
    errno: Errno,
    times: usize,
}

impl Faults {
    pub(super) fn add(&mut self, text: &str, errno: Errno, times: usize) {
        self.waiting.push(Fault {
            text: text.to_owned(),
            errno,
            times,
        });
    }

    /// The error with which `operation` fails this time, if it does. An empty text means every
    /// step, but no look.
    pub(super) fn strike(&mut self, operation: &str) -> Option<Errno> {
        let fault = self.waiting.iter_mut().find(|fault| {
            let every_step = fault.text.is_empty() && operation != OBSERVATION;
            fault.times > 0
                && (every_step || (!fault.text.is_empty() && operation.contains(&fault.text)))
        })?;
        fault.times -= 1;
        Some(fault.errno)
    }
}
