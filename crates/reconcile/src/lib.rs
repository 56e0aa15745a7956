//! The ledger on disk and the loop that makes the kernel what the ledger says.
//!
//! The way through this room:
//!
//! 1. [`Ledger`] takes a network map, refuses one that is older than what it holds, and has it on
//!    disk before anybody acts on it. After a crash or a reboot the agent starts from there.
//! 2. [`Reconciler`] is told a [`Goal`]. It wakes on a new goal, on a hint from the kernel or on a
//!    timer, looks at the kernel once, plans, carries the steps out in order, and looks again.
//!    What failed is reported by item and tried again; what somebody else changed is put back.
//! 3. [`SavedHost`] remembers the host's own settings before the first change, until `down` has
//!    put them back.
//!
//! Nothing here knows Linux: the kernel is whatever stands behind [`weir_kernel_plan::Kernel`].

#![forbid(unsafe_code)]

mod backoff;
mod chain;
mod directory;
mod ledger;
mod pass;
mod reconciler;
mod saved_host;
mod status;

pub use backoff::Backoff;
pub use chain::chain;
pub use directory::{DirectoryError, StateDirectory};
pub use ledger::{Ledger, LedgerError, LedgerOpened};
pub use reconciler::{Goal, Reconciler, ReconcilerHandle, Target, Timing};
pub use saved_host::SavedHost;
pub use status::{Counters, Repair, Status};
