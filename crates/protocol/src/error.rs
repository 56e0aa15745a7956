//! How the coordinator says no: `application/problem+json` (RFC 9457).

use serde::{Deserialize, Serialize};
use std::fmt;

/// What went wrong, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The request is not what it should be.
    BadRequest,
    /// The signature is missing, wrong, too old, or was used before.
    BadSignature,
    /// The agent's clock is too far from the coordinator's.
    ClockSkew,
    /// No such auth key.
    UnknownAuthKey,
    /// The one-off auth key was used already.
    UsedAuthKey,
    /// The auth key is past its time.
    ExpiredAuthKey,
    /// The machine is not enrolled and brought no auth key.
    NotEnrolled,
    /// The node's own key has expired; it must be let in again.
    NodeKeyExpired,
    /// The machine's key was revoked. It is never let in again.
    MachineRevoked,
    /// The auth key does not allow a tag that was asked for.
    TagNotAllowed,
    /// A route that may not be advertised.
    BadRoute,
    /// Who asks does not say who they are, or it is not true.
    Unauthenticated,
    /// Who asks is known and may not do this.
    Forbidden,
    /// There is no such thing.
    NotFound,
    /// The path does not take such requests.
    MethodNotAllowed,
    /// Something like it exists, or it changed meanwhile.
    Conflict,
    /// What was to be changed is not what the sender takes it to be.
    PreconditionFailed,
    /// The request is too long.
    TooLarge,
    /// The request is not in a format that is taken here.
    UnsupportedMediaType,
    /// The policy is not valid.
    BadPolicy,
    /// The key that tells repeated requests from new ones was used for another request.
    KeyReused,
    /// Too much was asked in too short a time.
    TooManyRequests,
    /// The coordinator's own fault.
    Internal,
    /// The coordinator cannot do it at the moment; the same request may be sent again.
    Unavailable,
    /// The disk or the database is full.
    StorageFull,
    /// A code that this version does not know.
    #[serde(other)]
    Unknown,
}

/// An error answer. `detail` is one sentence for a person, with what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemDetails {
    /// For programs.
    pub code: ErrorCode,
    /// The HTTP status.
    pub status: u16,
    /// For people.
    pub detail: String,
}

impl fmt::Display for ProblemDetails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for ProblemDetails {}
