//! The story, end to end: one piece of code that the tests run and the demonstration plays.
//!
//! * [`Agent`] and [`Coordinator`] drive the two programs in a node of the lab exactly as a person
//!   would: they write `/etc/weir/agent.toml`, start the daemons and type commands.
//! * [`story`] is the network and its nine steps. Each step makes [`story::Check`]s (what was
//!   expected, what was observed) and tells them to a [`story::Narrator`].
//! * [`Transcript`] keeps every command that was typed, for the report of a check that failed.
//!
//! `tests/story.rs` runs the story once on the current kernel, `weir-demo` tells it to a person,
//! `tests/bad_input.rs` holds what must be refused, `tests/comeback.rs` what must survive a crash
//! and a reboot.

#![forbid(unsafe_code)]

mod agent;
mod coordinator;
mod finding;
mod machine;
mod outpost;
mod status;
pub mod story;
mod transcript;

pub use agent::{Agent, USERSPACE_WIREGUARD};
pub use coordinator::{AuthKey, Coordinator};
pub use finding::{Finding, Remedy};
pub use machine::Machine;
pub use outpost::{Outpost, one_sentence};
pub use status::{Approval, Author, Backend, Peer, Repair, Status, Wireguard};
pub use transcript::Transcript;
