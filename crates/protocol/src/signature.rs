//! Signed requests: HTTP Message Signatures (RFC 9421) over method, path and body digest.
//!
//! The signature covers `@method`, `@path` and `content-digest` (RFC 9530, SHA-256) and carries
//! `created`, `nonce`, `keyid` (the machine's public key) and `alg="ed25519"`. Bodies are always
//! covered through their digest; requests without one digest the empty body. Whether a nonce was
//! seen before is the coordinator's to remember.

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};
use weir_overlay::{KeyError, MachinePrivateKey, MachinePublicKey, Signature};

/// The oldest signature that is accepted, and the furthest ahead a clock may be, in seconds.
pub const MAX_AGE_SECONDS: i64 = 60;

const COMPONENTS: &str = r#"("@method" "@path" "content-digest")"#;
const LABEL: &str = "weir";

/// The three headers that make a request a signed one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedHeaders {
    /// The value of `content-digest`.
    pub content_digest: String,
    /// The value of `signature-input`.
    pub signature_input: String,
    /// The value of `signature`.
    pub signature: String,
}

/// What a good signature says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Who signed.
    pub machine: MachinePublicKey,
    /// When, in seconds since 1970.
    pub created: i64,
    /// A text that this machine uses once.
    pub nonce: String,
}

/// Why a request is not a signed one.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// A header does not have the form that this version uses.
    #[error("the header {0} is malformed")]
    Malformed(&'static str),
    /// The body is not the one that was signed.
    #[error("the body does not fit its content-digest")]
    Digest,
    /// Too old, or from the future: somebody's clock is wrong, or the request was held back.
    #[error(
        "the clock of this machine is {} the coordinator's (or the request was held up on its way); \
         at most {MAX_AGE_SECONDS} seconds are accepted: set the clock that is wrong (timedatectl \
         set-ntp true)",
        skew(*age)
    )]
    Age {
        /// Seconds between signing and now; negative when the signer's clock is ahead.
        age: i64,
    },
    /// The signature is wrong.
    #[error("the signature is wrong")]
    Key(#[source] KeyError),
}

/// By how much a clock is wrong, and in which direction: `5 minutes behind`.
fn skew(age: i64) -> String {
    let seconds = age.unsigned_abs();
    let (number, unit) = match seconds {
        0..120 => (seconds, "seconds"),
        120..7_200 => (seconds / 60, "minutes"),
        7_200..172_800 => (seconds / 3_600, "hours"),
        _ => (seconds / 86_400, "days"),
    };
    let direction = if age > 0 { "behind" } else { "ahead of" };
    format!("{number} {unit} {direction}")
}

/// The value of `content-digest` for a body.
#[must_use]
pub fn content_digest(body: &[u8]) -> String {
    format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(body)))
}

fn parameters(created: i64, nonce: &str, machine: &MachinePublicKey) -> String {
    format!(r#"{COMPONENTS};created={created};nonce="{nonce}";keyid="{machine}";alg="ed25519""#)
}

fn base(method: &str, path: &str, digest: &str, parameters: &str) -> String {
    format!(
        "\"@method\": {method}\n\"@path\": {path}\n\"content-digest\": {digest}\n\
         \"@signature-params\": {parameters}"
    )
}

/// Signs a request. `now` is in seconds since 1970; `nonce` is 16 random bytes.
#[must_use]
pub fn sign(
    key: &MachinePrivateKey,
    method: &str,
    path: &str,
    body: &[u8],
    now: i64,
    nonce: [u8; 16],
) -> SignedHeaders {
    let digest = content_digest(body);
    let nonce = STANDARD.encode(nonce);
    let parameters = parameters(now, &nonce, &key.public());
    let signature = key.sign(base(method, path, &digest, &parameters).as_bytes());
    SignedHeaders {
        content_digest: digest,
        signature_input: format!("{LABEL}={parameters}"),
        signature: format!("{LABEL}=:{signature}:"),
    }
}

/// Checks a request against its headers. Remembering nonces is the caller's part.
///
/// # Errors
/// [`SignatureError`], of which only [`SignatureError::Age`] is worth telling apart.
pub fn verify(
    headers: &SignedHeaders,
    method: &str,
    path: &str,
    body: &[u8],
    now: i64,
) -> Result<Signed, SignatureError> {
    const INPUT: &str = "signature-input";
    if headers.content_digest != content_digest(body) {
        return Err(SignatureError::Digest);
    }
    let given = headers
        .signature_input
        .strip_prefix("weir=")
        .ok_or(SignatureError::Malformed(INPUT))?;
    let rest = given
        .strip_prefix(COMPONENTS)
        .ok_or(SignatureError::Malformed(INPUT))?;
    let (mut created, mut nonce, mut machine) = (None, None, None);
    for item in rest.split(';').skip(1) {
        match item.split_once('=') {
            Some(("created", value)) => created = value.parse::<i64>().ok(),
            Some(("nonce", value)) => nonce = Some(value.trim_matches('"').to_owned()),
            Some(("keyid", value)) => machine = value.trim_matches('"').parse().ok(),
            Some(_) | None => {}
        }
    }
    let (Some(created), Some(nonce), Some(machine)) = (created, nonce, machine) else {
        return Err(SignatureError::Malformed(INPUT));
    };
    // Built again from its parts: anything else in the header would be an unsigned extra.
    let parameters = parameters(created, &nonce, &machine);
    if nonce.is_empty() || nonce.len() > 64 || parameters != given {
        return Err(SignatureError::Malformed(INPUT));
    }
    let signature: Signature = headers
        .signature
        .strip_prefix("weir=:")
        .and_then(|text| text.strip_suffix(':'))
        .and_then(|text| text.parse().ok())
        .ok_or(SignatureError::Malformed("signature"))?;
    machine
        .verify(
            base(method, path, &headers.content_digest, &parameters).as_bytes(),
            &signature,
        )
        .map_err(SignatureError::Key)?;
    let age = now.saturating_sub(created);
    if age.abs() > MAX_AGE_SECONDS {
        return Err(SignatureError::Age { age });
    }
    Ok(Signed {
        machine,
        created,
        nonce,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: i64 = 1_900_000_000;

    fn signed() -> (MachinePrivateKey, SignedHeaders) {
        let key = MachinePrivateKey::from_bytes([9; 32]);
        let headers = sign(&key, "POST", "/agent/v1/map", b"{}", NOW, [3; 16]);
        (key, headers)
    }

    #[test]
    fn a_signed_request_is_recognised() {
        let (key, headers) = signed();
        let seen = verify(&headers, "POST", "/agent/v1/map", b"{}", NOW + 59).unwrap();
        assert_eq!((seen.machine, seen.created), (key.public(), NOW));
    }

    #[test]
    fn nothing_that_was_signed_may_change() {
        let (_, headers) = signed();
        assert!(verify(&headers, "PUT", "/agent/v1/map", b"{}", NOW).is_err());
        assert!(verify(&headers, "POST", "/agent/v1/update", b"{}", NOW).is_err());
        let body = verify(&headers, "POST", "/agent/v1/map", b"{ }", NOW);
        assert!(matches!(body, Err(SignatureError::Digest)));
        let mut other = headers.clone();
        other.signature_input = other.signature_input.replace("nonce=\"A", "nonce=\"B");
        assert!(verify(&other, "POST", "/agent/v1/map", b"{}", NOW).is_err());
        let mut extra = headers;
        extra.signature_input.push_str(";tag=\"x\"");
        assert!(verify(&extra, "POST", "/agent/v1/map", b"{}", NOW).is_err());
    }

    #[test]
    fn a_wrong_clock_is_named_with_its_direction() {
        for (age, words) in [
            (61, "61 seconds behind the coordinator's"),
            (-61, "61 seconds ahead of the coordinator's"),
            (400, "6 minutes behind"),
            (-7_300, "2 hours ahead of"),
            (365 * 86_400, "365 days behind"),
            (i64::MIN, "days ahead of"),
        ] {
            let said = SignatureError::Age { age }.to_string();
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn old_and_future_requests_are_refused_with_their_age() {
        let (_, headers) = signed();
        for (now, wrong) in [(NOW + 61, 61), (NOW - 61, -61)] {
            match verify(&headers, "POST", "/agent/v1/map", b"{}", now) {
                Err(SignatureError::Age { age }) => assert_eq!(age, wrong),
                other => panic!("{other:?}"),
            }
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(input in ".*", signature in ".*") {
            let headers = SignedHeaders {
                content_digest: content_digest(b""),
                signature_input: input,
                signature,
            };
            prop_assert!(verify(&headers, "POST", "/", b"", NOW).is_err());
        }
    }
}
