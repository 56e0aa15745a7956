//! How the coordinator says no, before it becomes an HTTP answer.

use crate::{
    accounts::{PasswordError, Scope},
    store::StoreError,
};
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
    /// Who asks did not say who they are, or it is not true.
    #[error("{detail}")]
    Unauthenticated {
        /// One sentence for people, with what to do.
        detail: String,
    },
    /// Who asks may do other things.
    #[error(
        "this needs a token with the scope {scope}: an admin makes one with coordinator tokens \
         create --scope {scope}"
    )]
    MissingScope {
        /// What is missing.
        scope: Scope,
    },
    /// Too much was asked for.
    #[error("{detail}")]
    TooMany {
        /// One sentence for people.
        detail: String,
        /// After how many seconds it is worth trying again.
        retry_after: u64,
    },
    /// A password could not be hashed.
    #[error("the coordinator could not handle a password")]
    Password(#[source] PasswordError),
    /// The store failed.
    #[error("the coordinator could not use its database")]
    Store(#[from] StoreError),
    /// The kernel gave no random numbers.
    #[error("the coordinator got no random numbers from the kernel")]
    Random(#[from] getrandom::Error),
}

impl From<PasswordError> for Refusal {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Length => Self::new(ErrorCode::BadRequest, error.to_string()),
            PasswordError::Random(_) | PasswordError::Hash(_) | PasswordError::Stored(_) => {
                Self::Password(error)
            }
        }
    }
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
            Self::Unauthenticated { .. } => (ErrorCode::Unauthenticated, self.to_string()),
            Self::MissingScope { .. } => (ErrorCode::Forbidden, self.to_string()),
            Self::TooMany { .. } => (ErrorCode::TooManyRequests, self.to_string()),
            Self::Store(StoreError::Repeated) => (
                ErrorCode::Conflict,
                "the same request was done at the same time: look at what it made".to_owned(),
            ),
            Self::Store(error) if error.is_full() => (
                ErrorCode::StorageFull,
                "the coordinator's disk is full, so nothing was changed: make room (df -h shows \
                 where), and try again (the network goes on as it is)"
                    .to_owned(),
            ),
            Self::Store(error) if error.is_unavailable() => (
                ErrorCode::Unavailable,
                "the coordinator's database does not answer, so this may not have been done: look, \
                 and try again once it is back (the network goes on as it is)"
                    .to_owned(),
            ),
            Self::Store(_) | Self::Random(_) | Self::Password(_) => (
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
        ErrorCode::BadSignature | ErrorCode::ClockSkew | ErrorCode::Unauthenticated => 401,
        ErrorCode::UnknownAuthKey
        | ErrorCode::UsedAuthKey
        | ErrorCode::ExpiredAuthKey
        | ErrorCode::NotEnrolled
        | ErrorCode::NodeKeyExpired
        | ErrorCode::MachineRevoked
        | ErrorCode::TagNotAllowed
        | ErrorCode::Forbidden => 403,
        ErrorCode::NotFound => 404,
        ErrorCode::MethodNotAllowed => 405,
        ErrorCode::Conflict => 409,
        ErrorCode::PreconditionFailed => 412,
        ErrorCode::TooLarge => 413,
        ErrorCode::UnsupportedMediaType => 415,
        ErrorCode::BadRoute | ErrorCode::BadPolicy | ErrorCode::KeyReused => 422,
        ErrorCode::TooManyRequests => 429,
        ErrorCode::Internal => 500,
        ErrorCode::Unavailable => 503,
        ErrorCode::StorageFull => 507,
    }
}
