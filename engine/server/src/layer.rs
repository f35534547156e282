//! The layer between a socket and the codec: it turns wire bytes into MQTT bytes and back.
//!
//! It holds no socket and does no I/O; TLS and WebSocket will be such transformers of bytes in
//! memory. A plain connection has none and costs nothing.

use std::fmt;

/// Why a layer cannot go on; the connection is closed.
#[derive(Debug)]
pub(crate) struct LayerError(pub(crate) &'static str);

impl fmt::Display for LayerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// A transformer of one connection's bytes.
pub(crate) trait Layer: Send {
    /// Takes bytes from the wire. Appends the MQTT bytes in them to `plain`, and what the layer
    /// itself must send (a handshake, a pong) to `answer`.
    fn inbound(
        &mut self,
        wire: &[u8],
        plain: &mut Vec<u8>,
        answer: &mut Vec<u8>,
    ) -> Result<(), LayerError>;

    /// Turns MQTT bytes into wire bytes.
    fn outbound(&mut self, plain: Vec<u8>) -> Vec<u8>;
}

/// The layer of a connection; `None` is plain TCP.
pub(crate) type Layers = Option<Box<dyn Layer>>;
