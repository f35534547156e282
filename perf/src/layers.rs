//! What may lie between MQTT and the socket: TLS, a WebSocket, or one over the other.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};

use crate::error::BenchError;
use crate::websocket::WebSocket;

/// How every client of a run reaches the broker.
#[derive(Clone, Default)]
pub(crate) struct LayerSettings {
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// Host and path of the WebSocket.
    websocket: Option<(String, String)>,
}

impl fmt::Debug for LayerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerSettings")
            .field("tls", &self.tls.is_some())
            .field("websocket", &self.websocket)
            .finish()
    }
}

impl LayerSettings {
    /// `ca`: a file of certificates in PEM that the broker's must lead to; `None` without TLS.
    ///
    /// # Errors
    /// `Options` when the file holds none, or `host` is no name that a certificate can have.
    pub(crate) fn new(
        host: &str,
        ca: Option<&Path>,
        websocket_path: Option<&str>,
    ) -> Result<Self, BenchError> {
        let tls = ca.map(|ca| tls(host, ca)).transpose();
        Ok(Self {
            tls: tls.map_err(|text| BenchError::Options(format!("--ca: {text}")))?,
            websocket: websocket_path.map(|path| (host.to_owned(), path.to_owned())),
        })
    }

    /// The layers of one connection; `None` when MQTT is on the socket itself.
    pub(crate) fn open(&self) -> io::Result<Option<Box<Layers>>> {
        if self.tls.is_none() && self.websocket.is_none() {
            return Ok(None);
        }
        let tls = match &self.tls {
            Some((config, name)) => {
                let mut tls = ClientConnection::new(Arc::clone(config), name.clone())
                    .map_err(io::Error::other)?;
                // The connection's own queue is what is bounded.
                tls.set_buffer_limit(None);
                Some(tls)
            }
            None => None,
        };
        let mut request = Vec::new();
        let websocket = self
            .websocket
            .as_ref()
            .map(|(host, path)| WebSocket::open(host, path, &mut request));
        Ok(Some(Box::new(Layers {
            tls,
            websocket,
            request,
            early: Vec::new(),
        })))
    }
}

/// The layers of one connection.
pub(crate) struct Layers {
    tls: Option<ClientConnection>,
    websocket: Option<WebSocket>,
    /// The WebSocket's upgrade, until it has left.
    request: Vec<u8>,
    /// MQTT that waits for the WebSocket to be open.
    early: Vec<u8>,
}

impl fmt::Debug for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layers")
            .field("tls", &self.tls.is_some())
            .field("websocket", &self.websocket)
            .finish_non_exhaustive()
    }
}

impl Layers {
    /// Appends to `wire` what MQTT's `bytes` become.
    pub(crate) fn send(&mut self, bytes: &[u8], wire: &mut Vec<u8>) -> io::Result<()> {
        let request = std::mem::take(&mut self.request);
        self.encrypt(&request, wire)?;
        match &self.websocket {
            None => self.encrypt(bytes, wire),
            Some(websocket) if !websocket.is_open() => {
                self.early.extend_from_slice(bytes);
                Ok(())
            }
            Some(_) if bytes.is_empty() => Ok(()),
            Some(_) => {
                let mut framed = Vec::with_capacity(bytes.len() + 14);
                WebSocket::wrap(bytes, &mut framed);
                self.encrypt(&framed, wire)
            }
        }
    }

    /// Appends to `plain` the MQTT that is in some input, and to `wire` what must be answered.
    pub(crate) fn receive(
        &mut self,
        mut input: &[u8],
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> io::Result<()> {
        let Some(mut tls) = self.tls.take() else {
            return self.unwrap(input, plain, wire);
        };
        let mut decrypted = Vec::new();
        while !input.is_empty() {
            tls.read_tls(&mut input)?;
            let state = tls
                .process_new_packets()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let start = decrypted.len();
            decrypted.resize(start + state.plaintext_bytes_to_read(), 0);
            let room = decrypted.get_mut(start..).unwrap_or_default();
            tls.reader().read_exact(room)?;
        }
        while tls.wants_write() {
            tls.write_tls(wire)?;
        }
        self.tls = Some(tls);
        self.unwrap(&decrypted, plain, wire)
    }

    fn unwrap(&mut self, input: &[u8], plain: &mut Vec<u8>, wire: &mut Vec<u8>) -> io::Result<()> {
        let Some(websocket) = &mut self.websocket else {
            plain.extend_from_slice(input);
            return Ok(());
        };
        let mut answers = Vec::new();
        websocket
            .unwrap(input, plain, &mut answers)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        let is_open = websocket.is_open();
        self.encrypt(&answers, wire)?;
        if is_open && !self.early.is_empty() {
            let early = std::mem::take(&mut self.early);
            self.send(&early, wire)?;
        }
        Ok(())
    }

    fn encrypt(&mut self, bytes: &[u8], wire: &mut Vec<u8>) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            wire.extend_from_slice(bytes);
            return Ok(());
        };
        tls.writer().write_all(bytes)?;
        while tls.wants_write() {
            tls.write_tls(wire)?;
        }
        Ok(())
    }
}

fn tls(host: &str, ca: &Path) -> Result<(Arc<ClientConfig>, ServerName<'static>), String> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(ca)
        .map_err(|error| format!("{}: {error:?}", ca.display()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| format!("{}: {error:?}", ca.display()))?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() {
        return Err(format!("{} holds no certificate", ca.display()));
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // Every client makes a whole handshake, as devices that come for the first time do.
    config.resumption = Resumption::disabled();
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    Ok((Arc::new(config), name))
}
