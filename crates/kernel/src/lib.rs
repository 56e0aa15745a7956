//! The only room that talks to Linux.
//!
//! [`LinuxKernel`] implements the port [`weir_kernel_plan::Kernel`]: it observes what is Weir's in
//! the kernel and carries out single steps, without choices of its own. The way through this room:
//!
//! - `linux.rs` hands each step to the part that knows that piece of the kernel;
//! - `netlink.rs` is the one rtnetlink session; `links.rs`, `addresses.rs`, `routes.rs`,
//!   `rules.rs` and `path.rs` speak over it;
//! - `wireguard.rs` reads and changes WireGuard devices, the kernel's and the userspace one alike;
//! - `firewall.rs` runs `nft`, `conntrack.rs` forgets connections,
//!   `port_use.rs` counts theirs, `sysctl.rs` reads and writes
//!   kernel settings;
//! - `look/` reads what a diagnosis needs: ways, rules, other programs' firewalls;
//! - `changes.rs` waits for the kernel to say that something changed, `watch.rs` looks again at
//!   WireGuard, of which the kernel says nothing;
//! - `host.rs` learns what `up` must know of a host before it changes anything;
//! - `userspace/` is the WireGuard device for kernels that have none, in a process of its own.
//!
//! Every wait has a deadline, errors keep the kernel's number and nft's own words, and no key ever
//! reaches one. Everything happens in the network namespace of the calling thread.

mod addresses;
mod changes;
mod conntrack;
mod error;
mod firewall;
mod host;
mod links;
mod linux;
mod look;
mod netlink;
mod nftables;
mod path;
mod port_use;
mod routes;
mod rules;
mod sysctl;
pub mod userspace;
mod watch;
mod wireguard;

pub use linux::{KernelOptions, LinuxKernel};
pub use look::{ExamineRequest, LookRequest, TraceRequest};
