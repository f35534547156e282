//! The one who sends the messages: a client over a non-blocking socket.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::BenchError;
use crate::cli::MqttVersion;
use crate::control_packet::{self, ConnectOptions, FromServer};
use crate::packet::{AckKind, Frame, PublishFrame, Scanner, write_publish};

/// Bytes that are sent together.
const SEND_BYTES: usize = 4096;

/// How long a broker may take to answer CONNECT.
const ANSWER: Duration = Duration::from_secs(20);

/// See the module.
pub(crate) struct Publisher {
    stream: TcpStream,
    /// What has been published and not sent.
    output: Vec<u8>,
    /// What has come and is not a whole packet.
    input: Vec<u8>,
    packet_id: u16,
    sent: u64,
    acknowledged: u64,
    round: u32,
    sent_before_round: u64,
}

fn failed(source: io::Error) -> BenchError {
    BenchError::System {
        doing: "publishing",
        source,
    }
}

impl Publisher {
    /// Connects as `prefix-publisher`.
    pub(crate) fn connect(address: SocketAddr, prefix: &str) -> Result<Self, BenchError> {
        let mut stream = TcpStream::connect(address).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let client_id = format!("{prefix}-publisher");
        let options = ConnectOptions {
            version: MqttVersion::V311,
            client_id: &client_id,
            is_durable: false,
            keepalive_s: 0,
            username: None,
            password: None,
        };
        let mut bytes = Vec::new();
        control_packet::write_connect(&options, &mut bytes).map_err(BenchError::Measured)?;
        stream.write_all(&bytes).map_err(failed)?;
        stream.set_read_timeout(Some(ANSWER)).map_err(failed)?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).map_err(failed)?;
        let accepted = control_packet::read_from_server(&answer, MqttVersion::V311);
        if !matches!(accepted, Ok(FromServer::Accepted { .. })) {
            return Err(BenchError::Measured(format!("the publisher: {accepted:?}")));
        }
        stream.set_read_timeout(None).map_err(failed)?;
        Ok(Self {
            stream,
            output: Vec::new(),
            input: Vec::new(),
            packet_id: 0,
            sent: 0,
            acknowledged: 0,
            round: 0,
            sent_before_round: 0,
        })
    }

    /// Messages published.
    pub(crate) const fn sent(&self) -> u64 {
        self.sent
    }

    /// Messages published in a round; those of the round before do not count.
    pub(crate) fn sent_in(&mut self, round: u32) -> u64 {
        if round != self.round {
            self.round = round;
            // The first of the round has been published by now.
            self.sent_before_round = self.sent - 1;
        }
        self.sent - self.sent_before_round
    }

    /// Messages that the broker has acknowledged.
    pub(crate) const fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Publishes with QoS 1; it leaves with others behind it or with the next
    /// [`Publisher::take_acknowledgements`].
    pub(crate) fn publish(&mut self, topic: &[u8], payload: &[u8]) -> Result<(), BenchError> {
        self.packet_id = self.packet_id.checked_add(1).unwrap_or(1);
        let publish = PublishFrame {
            qos: 1,
            retain: false,
            topic,
            packet_id: self.packet_id,
            payload,
        };
        write_publish(publish, MqttVersion::V311, &mut self.output);
        self.sent += 1;
        if self.output.len() >= SEND_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BenchError> {
        self.stream.set_nonblocking(false).map_err(failed)?;
        self.stream.write_all(&self.output).map_err(failed)?;
        self.output.clear();
        Ok(())
    }

    /// Counts the PUBACKs that have come; does not wait for any.
    pub(crate) fn take_acknowledgements(&mut self) -> Result<(), BenchError> {
        self.flush()?;
        self.stream.set_nonblocking(true).map_err(failed)?;
        let mut buffer = [0; 16_384];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => self
                    .input
                    .extend_from_slice(buffer.get(..n).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(failed(error)),
            }
        }
        let mut scanner = Scanner::new(&self.input, MqttVersion::V311);
        let malformed = |error| BenchError::Measured(format!("the publisher: {error}"));
        while let Some(frame) = scanner.next().map_err(malformed)? {
            let is_ack = matches!(frame, Frame::Ack(ack)
                if ack.kind == AckKind::PubAck && !ack.is_refusal);
            if !is_ack {
                return Err(BenchError::Measured(format!("the publisher got {frame:?}")));
            }
            self.acknowledged += 1;
        }
        let rest = scanner.rest().len();
        self.input.drain(..self.input.len() - rest);
        Ok(())
    }
}
