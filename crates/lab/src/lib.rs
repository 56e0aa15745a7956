//! The lab: small networks on one machine, for tests and for the demonstration.
//!
//! A [`Lab`] owns [`Node`]s. A node is a process that does nothing but hold a network, a mount
//! and a UTS namespace open: programs run *in* the node with [`Node::run`] and [`Node::spawn`],
//! have its interfaces, its `/etc/weir`, `/var/lib/weir` and `/run`, and its host name, and cannot
//! reach anything outside the lab. [`Lab::connect`] lays a cable between two nodes,
//! [`Internet`] is a whole little internet for the story that the end-to-end tests tell.
//!
//! Rules of the house, kept here so that no test has to remember them:
//!
//! * every command and every wait has a deadline ([`patient`] stretches it in the emulated
//!   virtual machine);
//! * what a node started dies with the lab, even when the test is killed: a node's holder sees
//!   the end of its standard input, kills what is left in its namespaces and leaves;
//! * a line of level ERROR in the log of a spawned program fails the test ([`Lab::finish`], and
//!   the drop of the lab) unless the test said that it expects it;
//! * nothing of the host is written to: the node's own mounts hide what programs would change.
//!
//! For what no network can show, such as a step that fails halfway, there is a [`FakeKernel`].
//!
//! [`HostSnapshot`] answers "is the host as it was?", [`Ping`] "was a packet lost?".
//!
//! Everything here needs root. Where the kernel has WireGuard is asked by
//! [`Lab::kernel_has_wireguard`]; `cargo xtask vm` runs the same tests where it does.

#![forbid(unsafe_code)]

mod command;
mod fake_kernel;
pub mod hold;
mod internet;
mod lab;
mod links;
mod logs;
mod node;
mod ping;
mod programs;
pub mod serve;
mod snapshot;
mod wait;

pub use command::{NodeCommand, Output, Spawned};
pub use fake_kernel::{Direction, FakeKernel, ForwardedPacket, Judged};
pub use internet::{Internet, addresses};
pub use lab::Lab;
pub use logs::error_lines;
pub use node::Node;
pub use ping::{Ping, PingReport};
pub use programs::{program, program_directory};
pub use snapshot::{HostSnapshot, TOUCHED_SYSCTLS};
pub use wait::{is_emulated, patient, wait_for, wait_until};
