//! One client of the crowd: what it does with what it gets. Pure.

use crate::cli::MqttVersion;
use crate::control_packet::{self, FromServer};
use crate::packet::{AckKind, Frame, Scanner};

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Not connected.
    Away,
    /// The socket is not connected yet.
    Dialling,
    /// CONNECT is sent.
    Greeting,
    /// SUBSCRIBE is sent.
    Subscribing,
    /// Subscribed.
    Ready,
}

/// What a client has made of its input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// It is subscribed now.
    pub(crate) is_ready: bool,
    /// Its message has come, for the first time in this round.
    pub(crate) received: bool,
    /// Messages that should not have come.
    pub(crate) faults: u64,
}

/// Who a client is and what it waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected<'a> {
    /// Its topic.
    pub(crate) topic: &'a str,
    /// The content of its message.
    pub(crate) payload: &'a [u8],
    /// Its message has come already.
    pub(crate) has_received: bool,
}

/// Takes whole packets off the front of `input` and appends the answers to `output`.
///
/// # Errors
/// What the broker has done wrong, in words.
pub(crate) fn take(
    stage: &mut Stage,
    expected: Expected<'_>,
    input: &mut Vec<u8>,
    output: &mut Vec<u8>,
) -> Result<Found, String> {
    let mut found = Found::default();
    let mut scanner = Scanner::new(input, MqttVersion::V311);
    while let Some(frame) = scanner.next().map_err(|error| error.to_string())? {
        match frame {
            Frame::Publish(publish) => {
                let is_mine = publish.topic == expected.topic.as_bytes()
                    && publish.payload == expected.payload
                    && publish.qos == 1;
                if is_mine && !expected.has_received && !found.received {
                    found.received = true;
                } else {
                    found.faults += 1;
                }
                if publish.qos == 1 {
                    AckKind::PubAck.write(publish.packet_id, output);
                }
            }
            Frame::Control(bytes) => {
                let answer = control_packet::read_from_server(bytes, MqttVersion::V311)?;
                match (*stage, answer) {
                    (Stage::Greeting, FromServer::Accepted { .. }) => {
                        let filters = [expected.topic.to_owned()];
                        let version = MqttVersion::V311;
                        control_packet::write_subscribe(version, 1, &filters, 1, output)?;
                        *stage = Stage::Subscribing;
                    }
                    (Stage::Subscribing, FromServer::Subscribed) => {
                        *stage = Stage::Ready;
                        found.is_ready = true;
                    }
                    (stage, answer) => return Err(format!("{answer:?} while {stage:?}")),
                }
            }
            Frame::Ack(ack) => return Err(format!("{ack:?}")),
        }
    }
    let rest = scanner.rest().len();
    input.drain(..input.len() - rest);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{PublishFrame, write_publish};

    fn message(topic: &[u8], payload: &[u8]) -> Vec<u8> {
        let publish = PublishFrame {
            qos: 1,
            retain: false,
            topic,
            packet_id: 7,
            payload,
        };
        let mut bytes = Vec::new();
        write_publish(publish, MqttVersion::V311, &mut bytes);
        bytes
    }

    fn taken(mut input: Vec<u8>, has_received: bool) -> (Found, Vec<u8>, usize) {
        let expected = Expected {
            topic: "c/1",
            payload: b"mine",
            has_received,
        };
        let mut output = Vec::new();
        let found = take(&mut Stage::Ready, expected, &mut input, &mut output).unwrap();
        (found, output, input.len())
    }

    #[test]
    fn its_message_counts_once_and_every_other_is_a_fault() {
        let mine = message(b"c/1", b"mine");
        let (found, output, _) = taken(mine.clone(), false);
        assert!(found.received && found.faults == 0);
        assert_eq!(output, [0x40, 2, 0, 7]);
        assert_eq!(
            taken([mine.clone(), mine.clone()].concat(), false).0.faults,
            1
        );
        assert_eq!(taken(mine, true).0.faults, 1);
        for other in [message(b"c/2", b"mine"), message(b"c/1", b"other")] {
            let found = taken(other, false).0;
            assert!(!found.received && found.faults == 1);
        }
    }

    #[test]
    fn a_part_of_a_packet_waits_for_the_rest() {
        let mut part = message(b"c/1", b"mine");
        part.pop();
        let len = part.len();
        assert_eq!(taken(part, false), (Found::default(), Vec::new(), len));
    }
}
