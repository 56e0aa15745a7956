//! What the kernel should look like, what it looks like, and the steps from one to the other.
//!
//! Pure. The way through this room:
//!
//! 1. [`DesiredState`] is what a network map and the agent's settings ask of this host
//!    (`desired.rs` builds it).
//! 2. [`ObservedState`] is what an adapter read from the kernel, of our own things only.
//! 3. `plan(desired, observed)` gives ordered [`Step`]s. Steps that take access away come first,
//!    steps that give it come last. Equal states give no steps.
//! 4. An adapter behind the port [`Kernel`] carries each step out, without choices of its own.
//!
//! What is ours is fixed in `constants.rs`: everything else on the host is left as it was.

#![forbid(unsafe_code)]

mod constants;
mod desired;
mod drift;
pub mod firewall;
mod plan;
mod ports;
mod preflight;
mod routes;
mod state;
mod step;

pub use constants::*;
pub use desired::{NodeSettings, desired_state, relay_sysctls, scope};
pub use drift::{Area, Author, Change, area, found};
pub use plan::{plan, plan_teardown};
pub use ports::{Counter, HostFacts, Kernel, KernelError, LinkFact, NAT_PORTS, PortFact, PortUse};
pub use preflight::{Effects, PreflightRequest, Refusal, Refusals, WireguardChoice, preflight};
use routes::{NodeRoutes, node_routes};
pub use state::{
    DesiredDevice, DesiredLink, DesiredPeer, DesiredState, IpFamily, LinkKind, LinkMtu,
    ObservedDevice, ObservedLink, ObservedPeer, ObservedState, PolicyRule, Route, RouteTarget,
    Scope, SysctlKey, WireguardBackend,
};
pub use step::{PeerUpdate, Step};
