//! Where an auth key comes from: the text itself, or a file.

use anyhow::{Context, Result};
use weir_protocol::AuthKey;

use crate::secret::SecretText;

/// Reads `KEY` or `file:PATH`.
///
/// # Errors
/// The file that cannot be read, or that the text is no auth key. Never the key.
pub(crate) fn read_auth_key(given: &SecretText) -> Result<AuthKey> {
    let text = match given.expose().strip_prefix("file:") {
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the auth key from {path}"))?,
        None => given.expose().to_owned(),
    };
    Ok(text.trim().parse()?)
}
