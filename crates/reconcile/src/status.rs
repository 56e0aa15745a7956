//! What the reconciler says of itself.

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use weir_kernel_plan::ObservedState;
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
    /// Counts.
    pub counters: Counters,
}
