//! Machine keys (Ed25519, sign requests) and node keys (X25519, WireGuard).
//!
//! Private keys are wiped when dropped and print as `[redacted]`.

use base64::{Engine, engine::general_purpose::STANDARD};
use ed25519_dalek::Signer;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Why a text is not a key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    /// Not base64, or not 32 (keys) or 64 (signatures) bytes of it.
    #[error("a {kind} is {length} bytes in base64")]
    Encoding {
        /// What was expected.
        kind: &'static str,
        /// How many bytes it has.
        length: usize,
    },
    /// 32 bytes that are no point on the curve.
    #[error("this {kind} is not a point on the curve")]
    NotOnCurve {
        /// What was expected.
        kind: &'static str,
    },
    /// The signature was not made by this key over these bytes.
    #[error("the signature does not fit the key and the signed text")]
    BadSignature,
}

fn decode<const N: usize>(kind: &'static str, text: &str) -> Result<[u8; N], KeyError> {
    STANDARD
        .decode(text.trim())
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(KeyError::Encoding { kind, length: N })
}

macro_rules! public_bytes {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $length:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $length]);

        impl $name {
            /// The key in these bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $length]) -> Self {
                Self(bytes)
            }

            /// The raw bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $length] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&STANDARD.encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = KeyError;
            fn from_str(text: &str) -> Result<Self, KeyError> {
                decode($kind, text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

public_bytes!(
    /// The public half of a node's WireGuard key: what peers know it by.
    NodePublicKey,
    "node public key",
    32
);
public_bytes!(
    /// The public half of a machine key: what the coordinator knows an agent by.
    MachinePublicKey,
    "machine public key",
    32
);
public_bytes!(
    /// An Ed25519 signature.
    Signature,
    "signature",
    64
);

impl MachinePublicKey {
    /// Checks that this machine signed `message`. Keys of a small order fit signatures that nobody
    /// made, so they sign nothing.
    ///
    /// # Errors
    /// [`KeyError::NotOnCurve`] and [`KeyError::BadSignature`].
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), KeyError> {
        let key =
            ed25519_dalek::VerifyingKey::from_bytes(&self.0).map_err(|_| KeyError::NotOnCurve {
                kind: "machine public key",
            })?;
        key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(&signature.0))
            .map_err(|_| KeyError::BadSignature)
    }
}

macro_rules! private_key {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
        pub struct $name([u8; 32]);

        impl $name {
            /// A key from 32 bytes of a cryptographic random source.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The key in the base64 text that [`Self::reveal`] gave.
            ///
            /// # Errors
            /// [`KeyError::Encoding`].
            pub fn parse(text: &str) -> Result<Self, KeyError> {
                decode($kind, text).map(Self)
            }

            /// The secret bytes: for the kernel only.
            #[must_use]
            pub const fn expose_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The secret as base64: for the key file only.
            #[must_use]
            pub fn reveal(&self) -> String {
                STANDARD.encode(self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("[redacted]")
            }
        }
    };
}

private_key!(
    /// The private half of a node's WireGuard key. Never leaves the host.
    NodePrivateKey,
    "node private key"
);
private_key!(
    /// The private half of a machine key. Never leaves the host.
    MachinePrivateKey,
    "machine private key"
);

impl NodePrivateKey {
    /// The public half.
    #[must_use]
    pub fn public(&self) -> NodePublicKey {
        let secret = x25519_dalek::StaticSecret::from(self.0);
        NodePublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }
}

impl MachinePrivateKey {
    /// The public half.
    #[must_use]
    pub fn public(&self) -> MachinePublicKey {
        MachinePublicKey(
            ed25519_dalek::SigningKey::from_bytes(&self.0)
                .verifying_key()
                .to_bytes(),
        )
    }

    /// Signs `message`.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(
            ed25519_dalek::SigningKey::from_bytes(&self.0)
                .sign(message)
                .to_bytes(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_key_never_prints() {
        let key = NodePrivateKey::from_bytes([7; 32]);
        assert_eq!(format!("{key:?}"), "[redacted]");
    }

    #[test]
    fn the_public_key_is_the_one_rfc_7748_gives() {
        // RFC 7748, section 6.1: Alice's pair.
        let private = [
            0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1, 0x72, 0x51, 0xb2,
            0x66, 0x45, 0xdf, 0x4c, 0x2f, 0x87, 0xeb, 0xc0, 0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5,
            0x1d, 0xb9, 0x2c, 0x2a,
        ];
        let public = NodePrivateKey::from_bytes(private).public();
        assert_eq!(
            public.to_string(),
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
        );
        assert_eq!(public.to_string().parse::<NodePublicKey>(), Ok(public));
    }

    #[test]
    fn a_signature_fits_only_its_text_and_key() {
        let key = MachinePrivateKey::from_bytes([1; 32]);
        let signature = key.sign(b"text");
        assert_eq!(key.public().verify(b"text", &signature), Ok(()));
        assert_eq!(
            key.public().verify(b"next", &signature),
            Err(KeyError::BadSignature)
        );
        let other = MachinePrivateKey::from_bytes([2; 32]).public();
        assert!(other.verify(b"text", &signature).is_err());
    }

    #[test]
    fn a_key_of_small_order_signs_nothing() {
        let (key, signature) = (MachinePublicKey([0; 32]), Signature([0; 64]));
        for text in [b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"h"] {
            assert_eq!(key.verify(text, &signature), Err(KeyError::BadSignature));
        }
    }
}
