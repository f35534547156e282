//! Certificates that a test makes for itself.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

use crate::node::DEADLINE;

/// An authority, and what it has signed: `ca.pem`, `chain.pem` and `key.pem` of the node,
/// `client.pem` and `client-key.pem`.
pub(crate) struct Certificates {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Certificates {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "an authority of a test");
        let key = KeyPair::generate().expect("randomness");
        let certificates = Self {
            folder: tempfile::tempdir().expect("a scratch folder"),
            issuer: CertifiedIssuer::self_signed(params, key).expect("a signature"),
        };
        certificates.write("ca.pem", &certificates.issuer.pem());
        certificates.issue("127.0.0.1", "chain.pem", "key.pem");
        certificates.issue("device", "client.pem", "client-key.pem");
        certificates
    }

    fn issue(&self, name: &str, certificate: &str, key: &str) {
        let pair = KeyPair::generate().expect("randomness");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, name);
        let signed = params.signed_by(&pair, &self.issuer).expect("a signature");
        self.write(certificate, &signed.pem());
        self.write(key, &pair.serialize_pem());
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a file");
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the node is told about them.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let text = |name: &str| self.path(name).display().to_string();
        let named = [("--tls-certificate", "chain.pem"), ("--tls-key", "key.pem")];
        named
            .into_iter()
            .flat_map(|(flag, name)| [flag.to_owned(), text(name)])
            .collect()
    }

    /// A connection over TLS that trusts these only.
    pub(crate) fn dial(&self, port: u16) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("a certificate");
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("two versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = "127.0.0.1".try_into().expect("an address");
        let client = ClientConnection::new(Arc::new(config), name).expect("a client");
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        socket.set_read_timeout(Some(DEADLINE))?;
        let mut stream = StreamOwned::new(client, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(stream)
    }
}
