//! How the coordinator says no, before it becomes an HTTP answer.

use crate::store::StoreError;
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
    /// A policy text is not valid; nothing was changed.
    #[error("the policy is not valid, and nothing was changed")]
    BadPolicy {
        /// The places in the text, drawn for a terminal.
        diagnostics: String,
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

    /// The answer to send. The inside of a failure of our own stays in the log.
    #[must_use]
    pub(crate) fn problem(&self) -> ProblemDetails {
        let (code, detail) = match self {
            Self::Denied { code, detail } => (*code, detail.clone()),
            Self::BadPolicy { .. } => (ErrorCode::BadPolicy, self.to_string()),
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
    }
}
