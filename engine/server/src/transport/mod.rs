//! The layers between a socket and the codec: they turn wire bytes into MQTT bytes and back.
//!
//! From the wire inwards: a PROXY header (`proxy`), TLS (`tls`), WebSocket (`websocket`). They hold
//! no socket, do no I/O and read no clock. A plain connection has none of them and costs nothing;
//! what a connection has moves with it to its home shard. Buffers exist only while a record, a
//! header or a frame is incomplete, and each has a bound.

mod doorways;
mod proxy;
mod tls;
mod tls_files;
mod websocket;

use std::fmt;
use std::net::IpAddr;

pub(crate) use doorways::{Doorway, Doorways};
pub(crate) use tls::{ServerTls, Tls};
pub use tls_files::{ClientCertificate, TlsError, TlsFiles};

use proxy::Proxy;
use websocket::WebSocket;

/// Whether a connection goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flow {
    /// More may come.
    Open,
    /// The peer has ended the stream in an orderly way.
    Ended,
}

/// Why a connection's layers cannot go on; it is closed behind what the layers still answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum LayerError {
    /// The PROXY header.
    Proxy(&'static str),
    /// TLS: the handshake or a record.
    Tls(String),
    /// The WebSocket handshake or a frame.
    WebSocket(&'static str),
}

impl fmt::Display for LayerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proxy(problem) => write!(f, "PROXY header: {problem}"),
            Self::Tls(problem) => write!(f, "TLS: {problem}"),
            Self::WebSocket(problem) => write!(f, "WebSocket: {problem}"),
        }
    }
}

/// What the layers of a shard's connections count.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct LayerCounters {
    pub(crate) tls_handshakes: u64,
    pub(crate) tls_failures: u64,
    pub(crate) websocket_upgrades: u64,
    pub(crate) websocket_failures: u64,
    pub(crate) proxy_headers: u64,
    pub(crate) proxy_failures: u64,
}

impl LayerCounters {
    fn count_failure(&mut self, error: &LayerError) {
        match error {
            LayerError::Proxy(_) => self.proxy_failures += 1,
            LayerError::Tls(_) => self.tls_failures += 1,
            LayerError::WebSocket(_) => self.websocket_failures += 1,
        }
    }
}

/// The layers of one connection.
#[derive(Debug)]
pub(crate) struct Stack {
    proxy: Option<Box<Proxy>>,
    /// Where a PROXY header says that the connection comes from.
    source: Option<IpAddr>,
    tls: Option<Box<Tls>>,
    websocket: Option<Box<WebSocket>>,
}

/// The layers of a connection; `None` is plain MQTT.
pub(crate) type Layers = Option<Box<Stack>>;

impl Stack {
    /// What a connection at this doorway needs. `None`: nothing, or the listener needs TLS and
    /// there is none, which [`Doorways`] makes impossible.
    pub(crate) fn for_doorway(doorway: Doorway, tls: Option<Tls>) -> Layers {
        if doorway == Doorway::PLAIN {
            return None;
        }
        Some(Box::new(Self {
            proxy: doorway.is_proxied.then(Box::default),
            source: None,
            tls: tls.filter(|_| doorway.has_tls).map(Box::new),
            websocket: doorway.is_websocket.then(Box::default),
        }))
    }

    /// Takes bytes from the wire. Appends the MQTT bytes in them to `plain`, and what the layers
    /// themselves must send (a handshake, a pong, an alert), also after an error, to `answer`.
    pub(crate) fn inbound(
        &mut self,
        wire: &[u8],
        plain: &mut Vec<u8>,
        answer: &mut Vec<u8>,
        counters: &mut LayerCounters,
    ) -> Result<Flow, LayerError> {
        let result = self.pass_inwards(wire, plain, answer, counters);
        if let Err(error) = &result {
            counters.count_failure(error);
        }
        result
    }

    fn pass_inwards(
        &mut self,
        wire: &[u8],
        plain: &mut Vec<u8>,
        answer: &mut Vec<u8>,
        counters: &mut LayerCounters,
    ) -> Result<Flow, LayerError> {
        let behind_header;
        let mut wire = wire;
        if let Some(proxy) = &mut self.proxy {
            let Some(rest) = proxy.inbound(wire).map_err(LayerError::Proxy)? else {
                return Ok(Flow::Open);
            };
            counters.proxy_headers += 1;
            self.source = proxy.source();
            self.proxy = None;
            behind_header = rest;
            wire = &behind_header;
        }
        let Some(tls) = &mut self.tls else {
            return match &mut self.websocket {
                Some(websocket) => unwrap(websocket, wire, plain, answer, counters),
                None => {
                    plain.extend_from_slice(wire);
                    Ok(Flow::Open)
                }
            };
        };
        let was_handshaking = tls.is_handshaking();
        let Some(websocket) = &mut self.websocket else {
            let flow = tls.inbound(wire, plain, answer);
            counters.tls_handshakes += u64::from(was_handshaking && !tls.is_handshaking());
            return flow.map_err(LayerError::Tls);
        };
        let mut clear = Vec::new();
        let flow = tls.inbound(wire, &mut clear, answer);
        counters.tls_handshakes += u64::from(was_handshaking && !tls.is_handshaking());
        let flow = flow.map_err(LayerError::Tls)?;
        let mut reply = Vec::new();
        let inner = unwrap(websocket, &clear, plain, &mut reply, counters);
        if !reply.is_empty() {
            tls.outbound(&reply, answer);
        }
        Ok(if flow == Flow::Ended { flow } else { inner? })
    }

    /// Turns MQTT bytes into wire bytes.
    pub(crate) fn outbound(&mut self, plain: Vec<u8>) -> Vec<u8> {
        if plain.is_empty() {
            return plain;
        }
        let framed = match &self.websocket {
            Some(_) => websocket::frame(&plain),
            None => plain,
        };
        match &mut self.tls {
            Some(tls) => {
                let mut wire = Vec::new();
                tls.outbound(&framed, &mut wire);
                wire
            }
            None => framed,
        }
    }

    /// The last bytes of an orderly end.
    pub(crate) fn farewell(&mut self) -> Vec<u8> {
        let mut wire = Vec::new();
        let close = self.websocket.as_mut().map(|w| w.farewell());
        match &mut self.tls {
            Some(tls) => {
                if let Some(close) = close.filter(|close| !close.is_empty()) {
                    tls.outbound(&close, &mut wire);
                }
                tls.farewell(&mut wire);
            }
            None => wire.extend(close.unwrap_or_default()),
        }
        wire
    }

    /// Where the connection comes from, as a PROXY header says. Told once.
    pub(crate) const fn take_source(&mut self) -> Option<IpAddr> {
        self.source.take()
    }

    /// Whether the next bytes may cost a signature.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// Bytes kept because they are not a whole header, record or frame.
    pub(crate) fn held_bytes(&self) -> usize {
        let proxy = self.proxy.as_ref().map_or(0, |proxy| proxy.held_bytes());
        let tls = self.tls.as_ref().map_or(0, |tls| tls.held_bytes());
        let websocket = self.websocket.as_ref().map_or(0, |w| w.held_bytes());
        proxy + tls + websocket
    }

    /// Whether nothing is left to transform.
    pub(crate) const fn is_done(&self) -> bool {
        self.source.is_none()
            && self.proxy.is_none()
            && self.tls.is_none()
            && self.websocket.is_none()
    }
}

fn unwrap(
    websocket: &mut WebSocket,
    wire: &[u8],
    plain: &mut Vec<u8>,
    answer: &mut Vec<u8>,
    counters: &mut LayerCounters,
) -> Result<Flow, LayerError> {
    let was_open = websocket.is_open();
    let flow = websocket.inbound(wire, plain, answer);
    counters.websocket_upgrades += u64::from(!was_open && websocket.is_open());
    flow.map_err(LayerError::WebSocket)
}
