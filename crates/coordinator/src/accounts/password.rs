//! Passwords: what is accepted as one, and how they are kept.

use crate::clock::{hexadecimal, random};
use argon2::{
    Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version,
    password_hash,
};
use std::fmt;

/// The least of a password that is the only proof, in characters (NIST SP 800-63B-4, section
/// 3.1.1.2).
const MIN_CHARACTERS: usize = 15;
/// The most, in bytes: a sentence fits, and nobody has megabytes hashed.
const MAX_BYTES: usize = 256;
/// The salt, in bytes (RFC 9106, section 3.1).
const SALT_BYTES: usize = 16;

/// Memory in KiB, passes and lanes of argon2id: the first that the OWASP Password Storage Cheat
/// Sheet names for it, 19 MiB. The second choice of RFC 9106, section 4, takes 64 MiB; a
/// coordinator runs beside others in little memory, and guessing is slowed down by counting, too.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Why a password is not accepted as one, or could not be hashed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PasswordError {
    /// Too short or too long.
    #[error("a password has at least {MIN_CHARACTERS} characters and at most {MAX_BYTES} bytes")]
    Length,
    /// The kernel gave no random numbers.
    #[error("the kernel gave no random numbers")]
    Random(#[from] getrandom::Error),
    /// The hash function refused.
    #[error("cannot hash a password")]
    Hash(#[source] password_hash::Error),
    /// What is stored is no hash of a password, or one of another function.
    #[error("the stored hash of a password cannot be read")]
    Stored(#[source] password_hash::Error),
}

/// A password in clear. Prints as nothing.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Password(String);

impl Password {
    /// A new password, checked for its length.
    ///
    /// # Errors
    /// [`PasswordError::Length`].
    pub(crate) fn new(text: &str) -> Result<Self, PasswordError> {
        if text.chars().count() < MIN_CHARACTERS || text.len() > MAX_BYTES {
            return Err(PasswordError::Length);
        }
        Ok(Self(text.to_owned()))
    }

    /// What somebody says their password is. Too long a one is cut, and so is wrong.
    pub(crate) fn presented(text: &str) -> Self {
        Self(text.chars().take(MAX_BYTES + 1).collect())
    }

    /// A random one of 128 bits.
    ///
    /// # Errors
    /// [`PasswordError::Random`].
    pub(crate) fn generate() -> Result<Self, PasswordError> {
        let digits = hexadecimal(&random::<16>()?);
        let groups: Vec<_> = digits
            .as_bytes()
            .chunks(8)
            .map(String::from_utf8_lossy)
            .collect();
        Ok(Self(groups.join("-")))
    }

    /// The password, to be shown once.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password([redacted])")
    }
}

fn argon2() -> Result<Argon2<'static>, PasswordError> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None)
        .map_err(|error| PasswordError::Hash(error.into()))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// Hashes a password with a new salt, as text with all that is needed to check one against it (the
/// PHC string format: `$argon2id$v=19$...`).
///
/// # Errors
/// [`PasswordError`].
pub(super) fn hash(password: &Password) -> Result<String, PasswordError> {
    let salt = random::<SALT_BYTES>()?;
    let hash = argon2()?.hash_password_with_salt(password.0.as_bytes(), &salt);
    hash.map(|hash| hash.to_string())
        .map_err(PasswordError::Hash)
}

/// Whether a password is the one of this hash. Takes the same time wherever they differ.
///
/// # Errors
/// [`PasswordError::Stored`], when the hash is none.
pub(super) fn verify(password: &Password, hash: &str) -> Result<bool, PasswordError> {
    let hash = PasswordHash::new(hash).map_err(|error| PasswordError::Stored(error.into()))?;
    // Memory and passes are those of the hash.
    match argon2()?.verify_password(password.0.as_bytes(), &hash) {
        Ok(()) => Ok(true),
        Err(password_hash::Error::PasswordInvalid) => Ok(false),
        Err(error) => Err(PasswordError::Stored(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_known_again_by_its_hash() {
        let password = Password::new("correct horse battery").unwrap();
        let stored = hash(&password).unwrap();
        assert!(
            stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{stored}"
        );
        assert!(verify(&password, &stored).unwrap());
        let other = Password::presented("correct horse batterz");
        assert!(!verify(&other, &stored).unwrap());
        assert_ne!(
            stored,
            hash(&password).unwrap(),
            "the salt is new each time"
        );
        let damaged = verify(&password, "x");
        assert!(matches!(damaged, Err(PasswordError::Stored(_))));
    }

    #[test]
    fn short_and_endless_passwords_are_refused() {
        for bad in ["", "short", &"x".repeat(14), &"x".repeat(257)] {
            assert!(Password::new(bad).is_err(), "{bad}");
        }
        assert!(Password::new(&"\u{e9}".repeat(15)).is_ok());
        let endless = Password::presented(&"x".repeat(1 << 20));
        assert!(endless.reveal().len() <= 4 * (MAX_BYTES + 1));
    }

    #[test]
    fn what_is_generated_is_accepted_and_never_printed() {
        let made = Password::generate().unwrap();
        assert!(Password::new(made.reveal()).is_ok());
        assert_ne!(made, Password::generate().unwrap());
        assert!(!format!("{made:?}").contains(made.reveal()));
    }
}
