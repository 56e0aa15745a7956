//! TLS to a coordinator: by the pin of its key alone, or by a certificate that the host trusts.

#![forbid(unsafe_code)]

mod pinned;

pub use pinned::{OtherPin, pinned};

use rustls::{ClientConfig, Error, crypto::ring};
use rustls_platform_verifier::BuilderVerifierExt;
use std::sync::Arc;

/// A TLS configuration that accepts servers whose certificate this host trusts.
///
/// # Errors
/// [`Error`] when the host's certificates cannot be read, or there are none.
pub fn trusted() -> Result<ClientConfig, Error> {
    Ok(
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_platform_verifier()?
            .with_no_client_auth(),
    )
}
