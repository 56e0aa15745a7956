//! Auth keys: the secret that lets a machine in, and the pin that lets it know the coordinator.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};
use std::{fmt, str::FromStr};
use weir_overlay::KeyId;

/// Why a text is not an auth key or a pin.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AuthKeyError {
    /// It has another shape.
    #[error(
        "this is not an auth key: one looks like weir-key-ID-SECRET-PIN; \
         `coordinator keys create` makes one"
    )]
    Shape,
    /// The pin is not a SHA-256 value.
    #[error("the pin is not 32 bytes in base64")]
    Pin,
}

/// The SHA-256 of the coordinator's public key (the certificate's `SubjectPublicKeyInfo`, as in
/// RFC 7469, section 2.4). An agent that holds it accepts that key and no other, so a self-made
/// certificate is as safe as a public one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin([u8; 32]);

impl Pin {
    /// The pin of a DER-encoded `SubjectPublicKeyInfo`.
    #[must_use]
    pub fn of_public_key_info(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Pin {
    type Err = AuthKeyError;
    fn from_str(text: &str) -> Result<Self, AuthKeyError> {
        URL_SAFE_NO_PAD
            .decode(text.trim())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or(AuthKeyError::Pin)
    }
}

impl Serialize for Pin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// An auth key: `weir-key-ID-SECRET-PIN`. The id is public, the secret is stored by the
/// coordinator only as a hash, the pin names the coordinator's key. Prints without its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthKey {
    id: KeyId,
    secret: String,
    pin: Pin,
}

impl AuthKey {
    /// Puts a key together. `id` and `secret` are of letters and digits only (callers draw them
    /// so); 16 random bytes in hexadecimal make a good secret.
    #[must_use]
    pub const fn new(id: KeyId, secret: String, pin: Pin) -> Self {
        Self { id, secret, pin }
    }

    /// Names the key in lists and logs.
    #[must_use]
    pub const fn id(&self) -> &KeyId {
        &self.id
    }

    /// The coordinator's pin.
    #[must_use]
    pub const fn pin(&self) -> Pin {
        self.pin
    }

    /// The whole text, secret included: to be shown once to the admin, and sent once.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("weir-key-{}-{}-{}", self.id, self.secret, self.pin)
    }

    /// What the coordinator keeps to recognise the secret: its SHA-256, in hexadecimal. The secret
    /// has 128 random bits, so a slow hash would add nothing.
    #[must_use]
    pub fn secret_hash(&self) -> String {
        Sha256::digest(self.secret.as_bytes())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

impl fmt::Debug for AuthKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "weir-key-{}-[redacted]", self.id)
    }
}

impl FromStr for AuthKey {
    type Err = AuthKeyError;
    fn from_str(text: &str) -> Result<Self, AuthKeyError> {
        // The pin may itself hold dashes: it is base64 for URLs.
        let mut parts = text
            .trim()
            .strip_prefix("weir-key-")
            .ok_or(AuthKeyError::Shape)?
            .splitn(3, '-');
        let (Some(id), Some(secret), Some(pin)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(AuthKeyError::Shape);
        };
        let plain =
            |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric());
        if !plain(id) || !plain(secret) {
            return Err(AuthKeyError::Shape);
        }
        Ok(Self {
            id: KeyId(id.to_owned()),
            secret: secret.to_owned(),
            pin: pin.parse()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_and_hides_its_secret() {
        let pin = Pin::of_public_key_info(b"a public key");
        let key = AuthKey::new(KeyId("k1".into()), "5ec2e7".into(), pin);
        assert_eq!(key.reveal().parse::<AuthKey>(), Ok(key.clone()));
        assert!(!format!("{key:?}").contains("5ec2e7"));
        assert_eq!(key.secret_hash().len(), 64);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "weir-key-",
            "weir-key-a-b",
            "weir-key-a-b-c",
            "tskey-auth-x",
        ] {
            assert!(text.parse::<AuthKey>().is_err(), "{text}");
        }
    }
}
