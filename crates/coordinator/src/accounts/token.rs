//! The secrets of the admin API: tokens, and the code with which the first admin is made.

use crate::clock::{hexadecimal, random};
use sha2::{Digest, Sha256};
use std::{fmt, str::FromStr};
use weir_overlay::KeyId;

/// How a token begins: what scanners for leaked secrets look for.
const TOKEN_PREFIX: &str = "weir_admin_";
/// How a setup code begins.
const SETUP_PREFIX: &str = "weir_setup_";
/// The length of an id, in hexadecimal digits.
const ID_DIGITS: usize = 8;
/// The length of a secret, in hexadecimal digits: 128 bits.
const SECRET_DIGITS: usize = 32;

/// A text that is no such secret. Not quoted: it may be one that somebody mistyped.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("this is no token: one looks like {TOKEN_PREFIX}ID_SECRET")]
pub(crate) struct TokenError;

fn is_hexadecimal(text: &str, digits: usize) -> bool {
    text.len() == digits
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The SHA-256 of a secret. It has 128 random bits, so a slow hash would add nothing.
fn sha256(secret: &str) -> String {
    hexadecimal(&Sha256::digest(secret.as_bytes()))
}

/// An admin token, `weir_admin_ID_SECRET`: the id is public. Prints without its secret.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct AdminToken {
    id: KeyId,
    secret: String,
}

impl AdminToken {
    /// A new one.
    ///
    /// # Errors
    /// What the kernel says when it has no random numbers.
    pub(crate) fn generate() -> Result<Self, getrandom::Error> {
        Ok(Self {
            id: KeyId(hexadecimal(&random::<{ ID_DIGITS / 2 }>()?)),
            secret: hexadecimal(&random::<{ SECRET_DIGITS / 2 }>()?),
        })
    }

    /// Names it in lists and logs.
    pub(crate) const fn id(&self) -> &KeyId {
        &self.id
    }

    /// The whole text, to be shown once.
    pub(crate) fn reveal(&self) -> String {
        format!("{TOKEN_PREFIX}{}_{}", self.id, self.secret)
    }

    /// What is kept of the secret.
    pub(crate) fn secret_hash(&self) -> String {
        sha256(&self.secret)
    }

    /// Whether this is the one of which that hash is kept. How long it takes tells about the hash
    /// only, which is of no use for finding a secret.
    pub(crate) fn matches(&self, secret_hash: &str) -> bool {
        self.secret_hash() == secret_hash
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{TOKEN_PREFIX}{}_[redacted]", self.id)
    }
}

impl FromStr for AdminToken {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, TokenError> {
        let rest = text.strip_prefix(TOKEN_PREFIX).ok_or(TokenError)?;
        let (id, secret) = rest.split_once('_').ok_or(TokenError)?;
        if !is_hexadecimal(id, ID_DIGITS) || !is_hexadecimal(secret, SECRET_DIGITS) {
            return Err(TokenError);
        }
        Ok(Self {
            id: KeyId(id.to_owned()),
            secret: secret.to_owned(),
        })
    }
}

/// What `serve` shows when there is no admin: whoever has it makes the first one. Prints as
/// nothing.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SetupCode(String);

impl SetupCode {
    /// A new one.
    ///
    /// # Errors
    /// What the kernel says when it has no random numbers.
    pub(crate) fn generate() -> Result<Self, getrandom::Error> {
        let secret = hexadecimal(&random::<{ SECRET_DIGITS / 2 }>()?);
        Ok(Self(format!("{SETUP_PREFIX}{secret}")))
    }

    /// What somebody says it is.
    pub(crate) const fn presented(text: String) -> Self {
        Self(text)
    }

    /// The code, to be shown once.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    pub(crate) fn hash(&self) -> String {
        sha256(&self.0)
    }
}

impl fmt::Debug for SetupCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SETUP_PREFIX}[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_again_by_its_hash() {
        let token = AdminToken::generate().unwrap();
        let read: AdminToken = token.reveal().parse().unwrap();
        assert_eq!(read, token);
        assert!(read.matches(&token.secret_hash()));
        assert!(
            !AdminToken::generate()
                .unwrap()
                .matches(&token.secret_hash())
        );
        assert!(!format!("{token:?}").contains(&token.secret));
    }

    #[test]
    fn what_is_no_token_is_not_read_as_one() {
        let good = AdminToken::generate().unwrap().reveal();
        for bad in [
            "",
            "weir_admin_",
            "weir_admin_1_2",
            &good[1..],
            &good[..good.len() - 1],
            &format!("{good}0"),
            &good.to_uppercase(),
        ] {
            assert_eq!(bad.parse::<AdminToken>(), Err(TokenError), "{bad}");
        }
    }

    #[test]
    fn a_setup_code_is_not_printed() {
        let code = SetupCode::generate().unwrap();
        assert!(code.reveal().starts_with("weir_setup_"));
        assert_eq!(
            code.hash(),
            SetupCode::presented(code.reveal().to_owned()).hash()
        );
        assert!(!format!("{code:?}").contains(code.reveal()));
    }
}
