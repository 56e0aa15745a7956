//! What the reconciler says of itself.

use serde::{Deserialize, Serialize};
use std::{collections::VecDeque, sync::Arc};
use weir_kernel_plan::{Author, ObservedState};
use weir_overlay::Generation;
use weir_protocol::ItemFailure;

/// Counts since the reconciler started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Passes over the kernel.
    pub passes: u64,
    /// Steps carried out.
    pub steps: u64,
    /// Steps that failed.
    pub failed_steps: u64,
    /// Passes that put back what somebody else had changed.
    pub repairs: u64,
}

/// What somebody else changed, and that it was put back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Repair {
    /// When it was found, in seconds since 1970.
    pub at: u64,
    /// What was found, a sentence each; the first [`Repair::THINGS`] of them.
    pub found: Vec<String>,
    /// How many more there were.
    pub more: usize,
    /// The processes that the kernel named with changes to these parts of it. Empty when it named
    /// none.
    pub by: Vec<Author>,
    /// Seconds from the first hint, or where there was none from the look that found it, until it
    /// was put back.
    pub seconds: f64,
}

impl Repair {
    /// How many sentences are kept of one repair.
    pub const THINGS: usize = 8;
    /// How many repairs are kept; the oldest go first.
    pub const KEPT: usize = 16;
    /// How many authors are kept of one repair.
    pub const AUTHORS: usize = 4;
}

/// How things stand after a pass.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The number of the goal that the pass worked on; 0 before the first one.
    pub goal: u64,
    /// The map that the kernel conforms to; `None` when it conforms to none.
    pub applied: Option<Generation>,
    /// What could not be done, by item. Empty when the goal is reached.
    pub failures: Vec<ItemFailure>,
    /// The kernel as last seen.
    pub observed: Option<Arc<ObservedState>>,
    /// The steps that were carried out for this goal, in words.
    pub steps: Vec<String>,
    /// What was put back, the newest last: at most [`Repair::KEPT`].
    pub repairs: VecDeque<Repair>,
    /// Counts.
    pub counters: Counters,
}
