//! The coordinator: who is in the network, which routes are approved, which policy is in force.
//!
//! The way of a change through this crate, in the order to read the files in:
//!
//! 1. `server`: the sockets. Agents come over TLS (`server/agent_api`, each request signed, see
//!    `server/signed`), admins over a unix socket (`server/admin_api`). Handlers only carry words.
//! 2. `enrolment` and `admin`: what may be done, and by whom. Each change is one transaction with
//!    its own line in the audit log.
//! 3. `store`: SQLite or PostgreSQL, and the only place with SQL.
//! 4. `engine`: one task follows the changes: it reads what was changed, changes the live network
//!    of `weir-netmap` by it, and wakes those whom that concerns.
//! 5. `server/stream`: each agent's stream has its map made, and sends what changed.
//!
//! Where several coordinators share a PostgreSQL database, `cluster` tells the engine of the others'
//! changes and agrees with them on who is connected and who leads.
//!
//! `cli` is the command line, of which `serve` starts a [`server::Server`]; the other verbs talk to
//! its admin socket in the words of [`api`].

pub mod accounts;
pub mod api;
pub mod cli;
pub mod server;
pub mod store;

mod addresses;
mod admin;
mod clock;
mod cluster;
mod coordinator;
mod engine;
mod enrolment;
mod group_commit;
mod metrics;
mod presence;
mod refusal;
mod replay;
mod snapshot;

pub use coordinator::Identity;

use coordinator::Coordinator;
