//! A coordinator whose key is known: the pin is the whole trust, no authority is asked.

use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use std::sync::{Arc, Mutex, PoisonError};
use weir_protocol::Pin;
use x509_parser::parse_x509_certificate;

/// The pin of the last server that was refused for having another one.
#[derive(Clone, Debug, Default)]
pub struct OtherPin(Arc<Mutex<Option<Pin>>>);

impl OtherPin {
    /// Takes it out.
    #[must_use]
    pub fn take(&self) -> Option<Pin> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, pin: Pin) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(pin);
    }
}

#[derive(Debug)]
struct PinVerifier {
    pin: Pin,
    other: OtherPin,
    provider: Arc<CryptoProvider>,
}

/// A TLS configuration that accepts the server with this pin and no other.
///
/// # Errors
/// [`Error`] when the protocol versions do not fit the provider, which they do.
pub fn pinned(pin: Pin) -> Result<(ClientConfig, OtherPin), Error> {
    let provider = Arc::new(ring::default_provider());
    let other = OtherPin::default();
    let verifier = PinVerifier {
        pin,
        other: other.clone(),
        provider: Arc::clone(&provider),
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok((config, other))
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let (_, certificate) = parse_x509_certificate(end_entity)
            .map_err(|_| Error::InvalidCertificate(rustls::CertificateError::BadEncoding))?;
        let pin = Pin::of_public_key_info(certificate.public_key().raw);
        if pin == self.pin {
            Ok(ServerCertVerified::assertion())
        } else {
            self.other.put(pin);
            Err(Error::InvalidCertificate(
                rustls::CertificateError::ApplicationVerificationFailure,
            ))
        }
    }

    // The handshake signatures prove that the server holds the pinned key's private half.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}
