//! TLS 1.2 and 1.3 of one connection, by rustls' unbuffered machine.
//!
//! rustls keeps keys and counters; the bytes are ours, and none are kept while no record is
//! incomplete.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};

use super::Flow;

/// Certificates, key and options of a listener; another one after a reload.
pub(crate) type ServerTls = Arc<ServerConfig>;

/// Bytes of incomplete records and handshake messages of one connection: a handshake message (a
/// chain of certificates) has at most 65,535, in records of at most 16 KiB.
const HELD_BYTES_MAX: usize = 96 * 1024;

/// What a record adds to its content at most, and its content at most, bytes.
const RECORD_OVERHEAD: usize = 64;
const RECORD_CONTENT: usize = 16 * 1024;

/// See the module.
pub(crate) struct Tls {
    connection: UnbufferedServerConnection,
    held: Vec<u8>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("held", &self.held.len())
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// For a new connection.
    ///
    /// # Errors
    /// What rustls has against it: nothing, with a configuration that was accepted.
    pub(crate) fn new(tls: &ServerTls) -> Result<Self, String> {
        let connection =
            UnbufferedServerConnection::new(Arc::clone(tls)).map_err(|error| error.to_string())?;
        Ok(Self {
            connection,
            held: Vec::new(),
        })
    }

    /// Takes records; appends what is in them to `plain` and what must be sent to `answer`.
    pub(super) fn inbound(
        &mut self,
        wire: &[u8],
        plain: &mut Vec<u8>,
        answer: &mut Vec<u8>,
    ) -> Result<Flow, String> {
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(wire);
        let mut used = 0;
        let result = loop {
            let rest = held.get_mut(used..).unwrap_or_default();
            let UnbufferedStatus { discard, state, .. } = self.connection.process_tls_records(rest);
            let step = match state {
                Ok(state) => step(state, plain, answer),
                Err(error) => Err(error.to_string()),
            };
            used += discard;
            match step {
                Ok(Step::Again) => {}
                Ok(Step::Done(flow)) => break Ok(flow),
                Err(problem) => break Err(problem),
            }
        };
        held.drain(..used);
        if let Err(problem) = result {
            self.held = held;
            self.flush(answer);
            self.held = Vec::new();
            return Err(problem);
        }
        if held.len() > HELD_BYTES_MAX {
            return Err("a handshake message that does not end".to_owned());
        }
        if !held.is_empty() {
            held.shrink_to_fit();
            self.held = held;
        }
        result
    }

    /// Sends what is left to send: an alert that says why. rustls always wants to see the bytes
    /// that it has not used, and looks at none while it has something to send.
    fn flush(&mut self, answer: &mut Vec<u8>) {
        while self.connection.wants_write() {
            let UnbufferedStatus { state, .. } =
                self.connection.process_tls_records(&mut self.held);
            let sent = state.map(|state| step(state, &mut Vec::new(), answer));
            if !matches!(sent, Ok(Ok(Step::Again))) {
                return;
            }
        }
    }

    /// Appends `plain` as records to `wire`. Before the handshake is over there is nothing to say.
    pub(super) fn outbound(&mut self, plain: &[u8], wire: &mut Vec<u8>) {
        self.flush(wire);
        let UnbufferedStatus { state, .. } = self.connection.process_tls_records(&mut self.held);
        let Ok(ConnectionState::WriteTraffic(mut traffic)) = state else {
            return;
        };
        let records = plain.len() / RECORD_CONTENT + 1;
        grow(wire, plain.len() + records * RECORD_OVERHEAD, |room| {
            traffic.encrypt(plain, room).map_err(|error| match error {
                EncryptError::InsufficientSize(needed) => Some(needed.required_size),
                EncryptError::EncryptExhausted => None,
            })
        });
    }

    /// Appends the alert that ends the stream in an orderly way.
    pub(super) fn farewell(&mut self, wire: &mut Vec<u8>) {
        let UnbufferedStatus { state, .. } = self.connection.process_tls_records(&mut self.held);
        let Ok(ConnectionState::WriteTraffic(mut traffic)) = state else {
            return;
        };
        grow(wire, RECORD_OVERHEAD, |room| {
            traffic
                .queue_close_notify(room)
                .map_err(|error| match error {
                    EncryptError::InsufficientSize(needed) => Some(needed.required_size),
                    EncryptError::EncryptExhausted => None,
                })
        });
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    pub(super) const fn held_bytes(&self) -> usize {
        self.held.len()
    }
}

enum Step {
    Again,
    Done(Flow),
}

fn step<Data>(
    state: ConnectionState<'_, '_, Data>,
    plain: &mut Vec<u8>,
    answer: &mut Vec<u8>,
) -> Result<Step, String> {
    match state {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                let record = record.map_err(|error| error.to_string())?;
                plain.extend_from_slice(record.payload);
            }
            Ok(Step::Again)
        }
        ConnectionState::EncodeTlsData(mut data) => {
            grow(answer, 512, |room| {
                data.encode(room).map_err(|error| match error {
                    EncodeError::InsufficientSize(needed) => Some(needed.required_size),
                    EncodeError::AlreadyEncoded => None,
                })
            });
            Ok(Step::Again)
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Ok(Step::Again)
        }
        ConnectionState::PeerClosed | ConnectionState::Closed => Ok(Step::Done(Flow::Ended)),
        ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) => {
            Ok(Step::Done(Flow::Open))
        }
        ConnectionState::ReadEarlyData(_) => Err("early data, which was not offered".to_owned()),
        other => Err(format!("a state of TLS that is not known here: {other:?}")),
    }
}

/// Lets `write` fill room behind `into`, more when it asks for more.
fn grow(
    into: &mut Vec<u8>,
    room: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) {
    let start = into.len();
    let mut room = room;
    loop {
        into.resize(start + room, 0);
        match write(into.get_mut(start..).unwrap_or_default()) {
            Ok(n) => {
                into.truncate(start + n);
                return;
            }
            Err(Some(needed)) if needed > room => room = needed,
            Err(_) => {
                into.truncate(start);
                return;
            }
        }
    }
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
