//! How the coordinator says no, before it becomes an HTTP answer.

use crate::store::StoreError;
use weir_policy::{Diagnostic, render};
use weir_protocol::{ErrorCode, ProblemDetails};

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// The request cannot be granted. The sender can do something about it.
    #[error("{detail}")]
    Denied {
        /// For programs.
        code: ErrorCode,
        /// One sentence for people, with what to do.
        detail: String,
    },
    /// A policy text is not valid, or does not hold what its own tests promise.
    #[error("{detail}")]
    BadPolicy {
        /// One sentence for people.
        detail: &'static str,
        /// What is wrong.
        findings: Vec<Diagnostic>,
        /// The places in the text, drawn for a terminal.
        drawn: String,
    },
    /// The store failed.
    #[error("the coordinator could not use its database")]
    Store(#[from] StoreError),
    /// The kernel gave no random numbers.
    #[error("the coordinator got no random numbers from the kernel")]
    Random(#[from] getrandom::Error),
}

impl Refusal {
    /// A refusal with its reason.
    pub(crate) fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self::Denied {
            code,
            detail: detail.into(),
        }
    }

    /// A refusal of a policy, with the places in its text. `source` is what the text is called.
    pub(crate) fn policy(
        detail: &'static str,
        findings: Vec<Diagnostic>,
        text: &str,
        source: &str,
    ) -> Self {
        Self::BadPolicy {
            drawn: render(&findings, text, source),
            detail,
            findings,
        }
    }

    /// The answer to send. The inside of a failure of our own stays in the log.
    #[must_use]
    pub(crate) fn problem(&self) -> ProblemDetails {
        let (code, detail) = match self {
            Self::Denied { code, detail } => (*code, detail.clone()),
            Self::BadPolicy { .. } => (ErrorCode::BadPolicy, self.to_string()),
            Self::Store(error) if error.is_unavailable() => (
                ErrorCode::Unavailable,
                "the coordinator's database does not answer, so this may not have been done: look, \
                 and try again once it is back (the network goes on as it is)"
                    .to_owned(),
            ),
            Self::Store(_) | Self::Random(_) => (
                ErrorCode::Internal,
                format!("{self}: its log says why (journalctl -u weir-coordinator)"),
            ),
        };
        ProblemDetails {
            code,
            status: status(code),
            detail,
        }
    }
}

/// The HTTP status (RFC 9110, section 15) that goes with a code.
const fn status(code: ErrorCode) -> u16 {
    match code {
        ErrorCode::BadRequest | ErrorCode::Unknown => 400,
        ErrorCode::BadSignature | ErrorCode::ClockSkew => 401,
        ErrorCode::UnknownAuthKey
        | ErrorCode::UsedAuthKey
        | ErrorCode::ExpiredAuthKey
        | ErrorCode::NotEnrolled
        | ErrorCode::TagNotAllowed => 403,
        ErrorCode::NotFound => 404,
        ErrorCode::Conflict => 409,
        ErrorCode::BadRoute | ErrorCode::BadPolicy => 422,
        ErrorCode::Internal => 500,
        ErrorCode::Unavailable => 503,
    }
}
