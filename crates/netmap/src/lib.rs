//! From the network's state and its policy to what each node is told, and to what changed.
//!
//! This is the middle of a change's way: policy saved → compiled → **network map per node →
//! delta** → ledger → plan → kernel transaction. The files in order:
//!
//! 1. `state`: [`NetworkState`] is what the coordinator's store holds: users, nodes, the routes
//!    they advertise and what an admin decided on each.
//! 2. `approval`: which advertised routes are in force, by an admin's decision or the policy's
//!    `autoApprovers`; `routes`: of several relays that serve one prefix, which one is used by whom.
//! 3. `network`: [`Network`] joins the state with the compiled policy (`weir-policy`);
//!    [`Network::map`] makes the [`NetworkMap`](weir_protocol::NetworkMap) of one node: itself, its
//!    peers, the routes through them, its packet filter. A node is told nothing it need not know:
//!    who is not its peer does not occur in its map.
//!    `egress`: with which of a relay's addresses whose traffic leaves.
//!    `live`: [`LiveNetwork`] follows one change after another, and names those whose maps differ.
//! 4. `delta`: [`delta`] is what changed between two maps of one node, [`apply`] is what the agent
//!    does with it. Equal maps have no delta, whatever their generation, so that a change is sent
//!    only to those whom it touches. `history`: [`MapHistory`] finds the difference without the
//!    older map, from a few bytes for each peer.
//! 5. `check`: [`check_map`] finds what must never be in a map. Agents ask it before they accept
//!    one; the tests here ask it about every map they make.
//! 6. `contract`: [`compile_file`] is all of this for a network that a file describes.
//!
//! Pure: no clock (health and time of creation are given), no network, no randomness. The same
//! state gives the same map, byte for byte.

#![forbid(unsafe_code)]

mod approval;
mod check;
mod contract;
mod delta;
mod egress;
mod history;
mod live;
mod network;
mod routes;
mod state;

pub use check::{Problem, check_map};
pub use contract::{
    CompileError, Compiled, CompiledNode, CompiledPeer, FileNode, FileUser, NetworkFile, Refused,
    compile_file,
};
pub use delta::delta;
pub use history::{MapHistory, Since};
pub use live::{LiveNetwork, NetworkChange, Prepared, Touched};
pub use network::{KEY_EXPIRED_NOTICE, NO_POLICY_NOTICE, Network, verify};
pub use state::{EgressChoice, KeyLife, NetworkState, Node, RouteDecision};
pub use weir_protocol::{WrongGeneration, apply_delta as apply};
