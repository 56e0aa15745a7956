//! How the words of other crates look in JSON, for the description of the API. The tests hold real
//! answers against it.

// Never made: only their shapes are used.
#![expect(
    dead_code,
    reason = "these types only describe what others serialise to"
)]

use schemars::JsonSchema;

/// One thing that could not be done to the kernel.
#[derive(JsonSchema)]
#[schemars(rename = "ItemFailure")]
pub(super) struct ItemFailure {
    /// What was to be done.
    item: String,
    /// Why it could not.
    reason: String,
}

/// A range of ports, both ends included.
#[derive(JsonSchema)]
#[schemars(rename = "PortRange")]
pub(super) struct PortRange {
    /// The lowest port.
    first: u16,
    /// The highest port.
    last: u16,
}

/// What has become of an advertised route.
#[derive(JsonSchema)]
#[schemars(rename = "RouteState", rename_all = "kebab-case")]
pub(super) enum RouteState {
    /// Advertised; no admin has approved it. It changes nothing anywhere.
    AwaitingApproval,
    /// Approved, and this node is the primary: traffic goes this way.
    Serving,
    /// Approved; another relay is primary.
    Standby,
    /// An admin said no.
    Rejected,
}

/// What went wrong.
#[derive(JsonSchema)]
pub(super) struct ProblemDetails {
    /// For programs.
    code: String,
    /// The HTTP status.
    status: u16,
    /// One sentence for people, with what to do.
    detail: String,
}
