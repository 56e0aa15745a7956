//! What a host shows, to what is wrong on it and how to mend it.
//!
//! Pure: facts come in, [`Checks`] go out, each with what was seen and, where it is not as it
//! should be, the command that mends it. Nothing here changes anything, and nothing is guessed:
//! what cannot be known is [`Outcome::Unknown`].
//!
//! - `explain/`: why a connection passes, or where it stops;
//! - `doctor/`: whether a host is fit to take part;
//! - `firewall/`: what other programs' firewalls do to our packets;
//! - `trace.rs`: what the kernel tells of a packet that it followed;
//! - `grants.rs`: which grant of the policy lets a packet in.

#![forbid(unsafe_code)]

pub mod doctor;
pub mod explain;
pub mod firewall;
pub mod grants;
mod question;
mod report;
mod route;
mod trace;

pub use firewall::{IptablesSave, NftListing, OtherFirewalls, Programs};
pub use question::{QuestionError, Target};
pub use report::{Check, Checks, Outcome, Place, Remedy};
pub use route::{RouteAnswer, RouteOut, RuleSeen};
pub use trace::{Hop, TRACE_TABLE, TracedPacket, judge_trace, read_trace};
