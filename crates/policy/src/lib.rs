//! The policy language: from the text an administrator saves to the rules each node enforces.
//!
//! The way of a policy, which is also the order to read the files in:
//!
//! 1. `syntax`: text to tree. HuJSON, which is JSON with comments and trailing commas. Every
//!    value keeps its place in the text.
//! 2. `document`: tree to document. Which sections and fields there are; what is not known is
//!    refused, because leaving a restriction out would allow too much.
//! 3. `resolve`: document to [`Policy`]. Every name is looked up, every selector understood
//!    (`selector` lists them), every rule given an id that survives edits elsewhere (`grant_id`).
//! 4. `compile`: [`Policy`] and [`Directory`] (who is in the network now, arranged by `index` and
//!    `holders`) to [`CompiledPolicy`]: tables of where rules start and lead, each once, and the nodes
//!    in them. `live` changes these in place when one node changes ([`LivePolicy`]).
//! 5. `reduce`: [`CompiledPolicy`] to what one node is told: [`CompiledPolicy::filter`] is its
//!    packet filter, [`CompiledPolicy::peers`] whom it may talk to or hear from,
//!    [`CompiledPolicy::ways_into`] through whom it may use a route. `rows` shows the same filter as
//!    the policy wrote it; `changed` names the nodes whom an edit of the policy concerns.
//! 6. Beside this way: `verify` answers the author's own tests, `explain` says which rule allows a
//!    packet or comes closest, `diff` who gains and loses what between two policies; `rendering`
//!    writes a policy as its canonical text ([`Policy::to_hujson`]); `node_selector` lets what is
//!    chosen beside a policy name the same people and tags.
//!
//! `weir-netmap` goes on from there: policy saved → compiled → **network map per node → delta**.
//!
//! What no rule allows is denied, and without a policy ([`Policy::empty`]) nothing is allowed. A
//! rule only ever allows, but for the entries that deny, an extension that a file must ask for
//! with `"weir": {"denyRules": true}`: they take from what later rules allow. Problems are [`Diagnostic`]s with line, column and advice, all of them at
//! once; [`render`] draws them with the text underlined.
//!
//! ```
//! use weir_policy::{Policy, render};
//!
//! let text = r#"{
//!     "groups": {"group:finance": ["alice@example.com"]},
//!     // The bank's API admits our relay only.
//!     "acls": [{"action": "accept", "src": ["group:finanse"], "dst": ["8.8.8.8:443"]}],
//! }"#;
//! let problems = Policy::parse(text).unwrap_err();
//! assert_eq!(
//!     problems[0].to_string(),
//!     "line 4, column 43: src=group not found: \"group:finanse\" (did you mean \"group:finance\"?)"
//! );
//! assert!(render(&problems, text, "policy.hujson").contains("4 |"));
//! ```
//!
//! Pure: no files, no network, no clock; the same policy and directory give the same answers.

#![forbid(unsafe_code)]

mod changed;
mod compile;
mod diagnostics;
mod diff;
mod directory;
mod document;
mod duration;
mod explain;
mod grant_id;
mod holders;
mod index;
mod live;
mod node_selector;
mod policy;
mod ports;

mod posture;
mod prefixes;
mod reduce;
mod rendering;
mod resolve;
mod rows;
mod selector;
mod suggest;
mod syntax;
mod verify;

pub use changed::changed_nodes;
pub use compile::{CompiledPolicy, compile};
pub use diagnostics::{Diagnostic, Severity, render};
pub use diff::{Change, PolicyDiff, diff};
pub use directory::{Directory, PolicyNode, Posture, User};
pub use explain::{Allowance, Closest, Explanation, Miss, Packet};
pub use live::{LivePolicy, Replacement};
pub use node_selector::{NodeSelector, NodeSelectorError, UnknownSelector};
pub use policy::Policy;
pub use reduce::Ways;
pub use rows::{Addresses, Row, RowDestination};
