//! The coordinator's own certificate: made once, kept, recognised by its pin.

use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use std::{
    fmt, fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use weir_protocol::Pin;
use x509_parser::parse_x509_certificate;

/// The private key, in the state directory.
const KEY_FILE: &str = "tls-key.pem";
/// The certificate, in the state directory. A chain is served whole; the first is ours.
const CERTIFICATE_FILE: &str = "tls-cert.pem";

/// Certificate and key, ready to serve.
pub(super) struct TlsIdentity {
    /// What agents know the key by.
    pub pin: Pin,
    config: Arc<ServerConfig>,
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIdentity")
            .field("pin", &self.pin)
            .finish_non_exhaustive()
    }
}

/// Why there is no certificate to serve.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate with the key in {path}")]
    Make {
        /// The key's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// A file does not hold what it should.
    #[error(
        "{path} does not hold a PEM {expected}: put the right file back (with another key, agents \
         would no longer recognise this coordinator)"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
    },
    /// Certificate and key do not belong together, or cannot be used.
    #[error("the certificate and the key in {directory} cannot be used together")]
    Unusable {
        /// The state directory.
        directory: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

impl TlsIdentity {
    /// Reads certificate and key from the state directory; makes what is missing. `names` are the
    /// host names and addresses of a certificate that is made.
    ///
    /// # Errors
    /// [`TlsError`].
    pub(super) fn load_or_make(directory: &Path, names: &[String]) -> Result<Self, TlsError> {
        let key_path = directory.join(KEY_FILE);
        let certificate_path = directory.join(CERTIFICATE_FILE);
        let key_pem = match read(&key_path)? {
            Some(pem) => pem,
            None => make_key(&key_path)?,
        };
        let certificate_pem = match read(&certificate_path)? {
            Some(pem) => pem,
            None => make_certificate(&key_path, &key_pem, &certificate_path, names)?,
        };
        let damaged = |path: &Path, expected| TlsError::Damaged {
            path: path.to_owned(),
            expected,
        };
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(certificate_pem.as_bytes())
                .collect::<Result<_, _>>()
                .map_err(|_| damaged(&certificate_path, "certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|_| damaged(&key_path, "private key"))?;
        let pin = chain
            .first()
            .and_then(|own| parse_x509_certificate(own).ok())
            .map(|(_, own)| Pin::of_public_key_info(own.public_key().raw))
            .ok_or_else(|| damaged(&certificate_path, "certificate"))?;
        let unusable = |source| TlsError::Unusable {
            directory: directory.to_owned(),
            source,
        };
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(unusable)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            pin,
            config: Arc::new(config),
        })
    }

    /// What the TLS acceptor needs.
    #[must_use]
    pub(super) fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }
}

fn read(path: &Path) -> Result<Option<String>, TlsError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TlsError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Writes a file that is either whole or not there.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), TlsError> {
    let fresh = path.with_extension("pem.new");
    let write = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    write().map_err(|source| TlsError::Write {
        path: path.to_owned(),
        source,
    })
}

fn make_key(path: &Path) -> Result<String, TlsError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|source| TlsError::Make {
        path: path.to_owned(),
        source,
    })?;
    let pem = key.serialize_pem();
    write(path, &pem, 0o600)?;
    Ok(pem)
}

fn make_certificate(
    key_path: &Path,
    key_pem: &str,
    path: &Path,
    names: &[String],
) -> Result<String, TlsError> {
    let make = || {
        let key = KeyPair::from_pem(key_pem)?;
        let mut params = CertificateParams::new(names)?;
        params
            .distinguished_name
            .push(DnType::CommonName, "Weir coordinator");
        // Agents trust the key, not a date: it lasts until somebody replaces it. The far end is
        // the one of RFC 5280, section 4.1.2.5.
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(9999, 12, 31);
        params.self_signed(&key).map(|made| made.pem())
    };
    let pem = make().map_err(|source| TlsError::Make {
        path: key_path.to_owned(),
        source,
    })?;
    write(path, &pem, 0o644)?;
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn names() -> Vec<String> {
        vec!["localhost".to_owned(), "127.0.0.1".to_owned()]
    }

    #[test]
    fn the_pin_stays_and_the_key_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let made = TlsIdentity::load_or_make(directory.path(), &names()).unwrap();
        let key = directory.path().join(KEY_FILE);
        let mode = fs::metadata(&key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = TlsIdentity::load_or_make(directory.path(), &names()).unwrap();
        assert_eq!(again.pin, made.pin);
        // A lost certificate is made anew with the same key, so agents still know it.
        fs::remove_file(directory.path().join(CERTIFICATE_FILE)).unwrap();
        let remade = TlsIdentity::load_or_make(directory.path(), &names()).unwrap();
        assert_eq!(remade.pin, made.pin);
    }

    #[test]
    fn a_damaged_key_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        TlsIdentity::load_or_make(directory.path(), &names()).unwrap();
        let key = directory.path().join(KEY_FILE);
        fs::write(&key, "nonsense").unwrap();
        let error = TlsIdentity::load_or_make(directory.path(), &names()).unwrap_err();
        assert!(matches!(error, TlsError::Damaged { .. }), "{error}");
        assert_eq!(fs::read_to_string(&key).unwrap(), "nonsense");
    }
}
