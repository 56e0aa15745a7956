//! What can go wrong between agent and coordinator, in sentences for people.

use std::{error::Error, time::Duration};
use weir_protocol::{ErrorCode, Pin, ProblemDetails};

/// Why the coordinator did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// No connection came about, or it broke.
    #[error("cannot reach the coordinator at {url}: {reason}")]
    Unreachable {
        /// Where it should be.
        url: String,
        /// What happened, and what to look at.
        reason: String,
    },
    /// It did not answer in time.
    #[error(
        "the coordinator at {url} did not answer within {} s: is it overloaded, or does a firewall drop the packets?",
        deadline.as_secs()
    )]
    Deadline {
        /// Where it is.
        url: String,
        /// How long it had.
        deadline: Duration,
    },
    /// It stops, and said so.
    #[error("the coordinator is restarting; connecting again in {} ms", .0.as_millis())]
    Closing(Duration),
    /// Somebody else answered.
    #[error(
        "the coordinator at {url} is not the one that is meant: its key is {seen}, the auth key or --pin says {wanted}; check the URL, and who answers there"
    )]
    WrongPin {
        /// Where it should be.
        url: String,
        /// The pin of who answered.
        seen: Pin,
        /// The pin that was expected.
        wanted: Pin,
    },
    /// Its certificate is a self-made one, and nothing says that it is the right one.
    #[error(
        "the certificate of the coordinator at {url} is none that this host trusts ({reason}): pass --pin PIN, which `coordinator status` shows on the coordinator's host, or --auth-key KEY, which holds it"
    )]
    Untrusted {
        /// Where it is.
        url: String,
        /// What is wrong with the certificate.
        reason: String,
    },
    /// The coordinator said no, in its own words.
    #[error("{0}")]
    Refused(ProblemDetails),
    /// What answers there is no coordinator of ours.
    #[error("what answers at {url} is not a Weir coordinator: {reason}")]
    NotACoordinator {
        /// Where.
        url: String,
        /// What it did.
        reason: String,
    },
    /// The client itself could not be made.
    #[error("cannot prepare TLS: {0}")]
    Setup(String),
}

impl ClientError {
    /// Whether the coordinator does not know this machine, or not any more.
    pub(crate) const fn is_not_enrolled(&self) -> bool {
        matches!(
            self,
            Self::Refused(problem)
                if matches!(problem.code, ErrorCode::NotEnrolled | ErrorCode::MachineRevoked)
        )
    }

    /// Whether the coordinator knows nothing of this machine.
    pub(crate) const fn is_unknown(&self) -> bool {
        matches!(self, Self::Refused(problem) if matches!(problem.code, ErrorCode::NotEnrolled))
    }

    /// Whether an auth key is what it takes: the machine is not known, or its node's key expired.
    pub(crate) const fn needs_auth_key(&self) -> bool {
        matches!(
            self,
            Self::Refused(problem)
                if matches!(problem.code, ErrorCode::NotEnrolled | ErrorCode::NodeKeyExpired)
        )
    }

    /// Whether another coordinator of the network may do what this one did not.
    pub(crate) const fn another_may_do(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Deadline { .. }
            | Self::Closing(_)
            | Self::WrongPin { .. }
            | Self::Untrusted { .. }
            | Self::NotACoordinator { .. } => true,
            Self::Refused(problem) => matches!(problem.code, ErrorCode::Unavailable),
            Self::Setup(_) => false,
        }
    }
}

/// What is wrong with the certificate of who answered, where that is why a connection failed.
pub(crate) fn untrusted(error: &reqwest::Error) -> Option<String> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(rustls::Error::InvalidCertificate(reason)) = within(cause) {
            return Some(reason.to_string());
        }
        source = cause.source();
    }
    None
}

/// The error of TLS that errors of connections are wrapped around, which they do not name as their
/// source.
fn within<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(found) = error.downcast_ref() {
        return Some(found);
    }
    let inner = error.downcast_ref::<std::io::Error>()?.get_ref()?;
    within(inner)
}

/// The reason of a failed connection in words, with what to look at.
pub(crate) fn why_unreachable(error: &reqwest::Error) -> String {
    let mut deepest = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        deepest = cause.to_string();
        if let Some(error) = cause.downcast_ref::<std::io::Error>()
            && let Some(reason) = explain(error.kind())
        {
            return reason.to_owned();
        }
        source = cause.source();
    }
    if deepest.contains("lookup") || deepest.contains("Name or service") {
        return format!("its name is not known ({deepest}); check the URL and the host's DNS");
    }
    deepest
}

fn explain(kind: std::io::ErrorKind) -> Option<&'static str> {
    use std::io::ErrorKind as Kind;
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the kinds are many and grow; the others speak for themselves"
    )]
    match kind {
        Kind::ConnectionRefused => {
            Some("connection refused; is it running, and is the port the right one?")
        }
        Kind::NetworkUnreachable | Kind::HostUnreachable => {
            Some("there is no route to it; check this host's network (`ip route`)")
        }
        Kind::TimedOut => Some("no answer; does a firewall drop the packets?"),
        Kind::ConnectionReset
        | Kind::ConnectionAborted
        | Kind::BrokenPipe
        | Kind::UnexpectedEof => Some("the connection broke"),
        _ => None,
    }
}
