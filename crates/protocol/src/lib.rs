//! The messages between agent and coordinator, version 1.
//!
//! Pure: types, their JSON, and how a request is signed (RFC 9421) and proven whole (RFC 9530).
//! The wire is JSON over HTTP: requests and answers are one object; the map stream is one object
//! a line ([`StreamMessage`]). `docs/protocol.md` walks through it.
//!
//! Compatibility: a field that a reader does not know is ignored, a field that an old writer does
//! not send has a default; anything else is a new version in the path.

#![forbid(unsafe_code)]

mod approval;
mod auth_key;
mod delta;
mod enrolment;
mod error;
mod ip_protocol;
mod map;
mod signature;

pub use approval::{ApprovalAnswer, ApprovalRequest, machine_fingerprint};
pub use auth_key::{AuthKey, AuthKeyError, Pin};
pub use delta::{WrongGeneration, apply_delta};
pub use enrolment::{
    DownRequest, DownResponse, HostInfo, ItemFailure, LeaveRequest, RegisterRequest,
    RegisterResponse, ReportRequest, UpdateRequest,
};
pub use error::{ErrorCode, ProblemDetails};
pub use ip_protocol::{IpProtocol, UnknownProtocol};
pub use map::{
    Destination, Grant, KeyStatus, MapDelta, MapDigest, MapRequest, NetworkMap, Peer, PortRange,
    RouteEgress, RouteState, RouteStatus, SelfNode, StreamMessage,
};
pub use signature::{
    MAX_AGE_SECONDS, SignatureError, Signed, SignedHeaders, content_digest, sign, verify,
};

/// The path that all version 1 requests start with.
pub const PATH_PREFIX: &str = "/agent/v1";
/// `POST`: [`RegisterRequest`] to [`RegisterResponse`].
pub const REGISTER_PATH: &str = "/agent/v1/register";
/// `POST`: [`ApprovalRequest`] to [`ApprovalAnswer`].
pub const APPROVAL_PATH: &str = "/agent/v1/approval";
/// `POST`: [`MapRequest`] to lines of [`StreamMessage`], without end.
pub const MAP_PATH: &str = "/agent/v1/map";
/// `POST`: [`UpdateRequest`] to an empty answer.
pub const UPDATE_PATH: &str = "/agent/v1/update";
/// `POST`: [`ReportRequest`] to an empty answer.
pub const REPORT_PATH: &str = "/agent/v1/report";
/// `POST`: [`LeaveRequest`] to an empty answer.
pub const LEAVE_PATH: &str = "/agent/v1/leave";
/// `POST`: [`DownRequest`] to [`DownResponse`].
pub const DOWN_PATH: &str = "/agent/v1/down";
/// How often the coordinator sends [`StreamMessage::Heartbeat`] when it has nothing else to say,
/// in seconds. An agent that hears nothing for three of them reconnects.
pub const HEARTBEAT_SECONDS: u64 = 20;
