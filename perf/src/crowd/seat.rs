//! One client of the crowd: what it does with what it gets. Pure.

use super::payload;
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
    /// Messages that it waited for have come, so many.
    pub(crate) received: u32,
    /// Messages that should not have come.
    pub(crate) faults: u64,
}

/// Who a client is and what it waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected<'a> {
    /// Its topic.
    pub(crate) topic: &'a str,
    /// Its number.
    pub(crate) number: u32,
    /// The round of its next message.
    pub(crate) next: u32,
    /// The round of the last one.
    pub(crate) last: u32,
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
                let round = expected.next + found.received;
                let is_mine = publish.topic == expected.topic.as_bytes()
                    && publish.payload == payload(round, expected.number)
                    && publish.qos == 1;
                if is_mine && round <= expected.last {
                    found.received += 1;
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

    fn taken(mut input: Vec<u8>, next: u32) -> (Found, Vec<u8>, usize) {
        let expected = Expected {
            topic: "c/1",
            number: 1,
            next,
            last: 6,
        };
        let mut output = Vec::new();
        let found = take(&mut Stage::Ready, expected, &mut input, &mut output).unwrap();
        (found, output, input.len())
    }

    #[test]
    fn each_of_its_messages_counts_once_and_in_order_and_every_other_is_a_fault() {
        let of = |round| message(b"c/1", &payload(round, 1));
        let (found, output, _) = taken(of(5), 5);
        assert!(found.received == 1 && found.faults == 0);
        assert_eq!(output, [0x40, 2, 0, 7]);
        let faults = |input, next| {
            let found = taken(input, next).0;
            (found.received, found.faults)
        };
        assert_eq!(faults([of(5), of(6)].concat(), 5), (2, 0));
        assert_eq!(faults([of(5), of(5)].concat(), 5), (1, 1));
        assert_eq!(faults([of(6), of(5)].concat(), 5), (1, 1));
        assert_eq!(faults(of(7), 7), (0, 1));
        for other in [message(b"c/2", &payload(5, 1)), message(b"c/1", b"other")] {
            assert_eq!(faults(other, 5), (0, 1));
        }
    }

    #[test]
    fn a_part_of_a_packet_waits_for_the_rest() {
        let mut part = message(b"c/1", &payload(5, 1));
        part.pop();
        let len = part.len();
        assert_eq!(taken(part, 5), (Found::default(), Vec::new(), len));
    }
}
