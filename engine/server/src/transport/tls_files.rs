//! Certificates and keys from PEM files.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use storage_io::read_small_file;

use super::ServerTls;

/// The largest PEM file, bytes.
const FILE_BYTES_MAX: usize = 1 << 20;

/// Whether clients must show a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ClientCertificate {
    /// Who shows none is refused.
    #[default]
    Required,
    /// Who shows one must show a good one.
    Optional,
}

impl FromStr for ClientCertificate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "required" => Ok(Self::Required),
            "optional" => Ok(Self::Optional),
            _ => Err(format!(
                "tls-client-certificate \"{text}\" must be required or optional"
            )),
        }
    }
}

impl<'de> serde::Deserialize<'de> for ClientCertificate {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// Where certificates and key are, as PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// The node's certificate, and behind it those that signed it.
    pub certificate: PathBuf,
    /// Its private key: PKCS #8, PKCS #1 or SEC1.
    pub key: PathBuf,
    /// Who may sign clients' certificates; `None`: clients are not asked for one.
    pub client_ca: Option<PathBuf>,
    /// Whether they must show one.
    pub client_certificate: ClientCertificate,
}

/// Why TLS files cannot be used. It names the file.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TlsError {
    /// The file cannot be read.
    Unreadable(PathBuf, String),
    /// The file has no certificate in PEM.
    NoCertificate(PathBuf),
    /// The file has no private key in PEM.
    NoKey(PathBuf, String),
    /// A certificate is damaged or of a kind that cannot be used.
    BadCertificate(PathBuf, String),
    /// The key is not that of the certificate, or is of a kind that cannot be used.
    KeyMismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(path, error) => write!(f, "{}: {error}", path.display()),
            Self::NoCertificate(path) => {
                write!(f, "{}: no certificate in PEM in it", path.display())
            }
            Self::NoKey(path, error) => {
                write!(
                    f,
                    "{}: no private key in PEM in it: {error}",
                    path.display()
                )
            }
            Self::BadCertificate(path, error) => {
                write!(
                    f,
                    "{}: the certificate cannot be used: {error}",
                    path.display()
                )
            }
            Self::KeyMismatch {
                key,
                certificate,
                problem,
            } => write!(
                f,
                "{}: the key does not match the certificate in {}: {problem}",
                key.display(),
                certificate.display()
            ),
        }
    }
}

impl std::error::Error for TlsError {}

impl TlsFiles {
    /// Reads the files.
    pub(crate) fn load(&self) -> Result<ServerTls, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let chain = certificates(&self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?)
            .map_err(|error| TlsError::NoKey(self.key.clone(), error.to_string()))?;
        let bad = |error: rustls::Error| self.refusal(&error);
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(bad)?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => builder.with_client_cert_verifier(self.client_verifier(path, &provider)?),
        };
        let mut tls = builder.with_single_cert(chain, key).map_err(bad)?;
        // Resumption by tickets that the client keeps: the node keeps nothing per session. The
        // keys of tickets are new with every reload.
        tls.session_storage = Arc::new(NoServerSessionStorage {});
        tls.ticketer = aws_lc_rs::Ticketer::new().map_err(bad)?;
        tls.send_tls13_tickets = 1;
        Ok(Arc::new(tls))
    }

    fn refusal(&self, error: &rustls::Error) -> TlsError {
        if matches!(error, rustls::Error::InvalidCertificate(_)) {
            return TlsError::BadCertificate(self.certificate.clone(), error.to_string());
        }
        TlsError::KeyMismatch {
            key: self.key.clone(),
            certificate: self.certificate.clone(),
            problem: error.to_string(),
        }
    }

    fn client_verifier(
        &self,
        path: &Path,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
        let bad = |error: String| TlsError::BadCertificate(path.to_path_buf(), error);
        let mut roots = RootCertStore::empty();
        for certificate in certificates(path)? {
            roots
                .add(certificate)
                .map_err(|error| bad(error.to_string()))?;
        }
        let builder =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        let builder = match self.client_certificate {
            ClientCertificate::Required => builder,
            ClientCertificate::Optional => builder.allow_unauthenticated(),
        };
        builder.build().map_err(|error| bad(error.to_string()))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    read_small_file(path, FILE_BYTES_MAX)
        .map_err(|error| TlsError::Unreadable(path.to_path_buf(), error.to_string()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let chain = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TlsError::BadCertificate(path.to_path_buf(), error.to_string()))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate(path.to_path_buf()));
    }
    Ok(chain)
}
