//! A publisher that goes on as long as the node takes its messages, and knows which of them the
//! node has promised to keep.

use std::time::Duration;

use engine_mqtt::{Ack, Packet, Properties, Publish, QoS, Version};

use crate::client::{Answer, Client, Dial};
use crate::history::{MessageId, message_id, payload};
use crate::node::Node;

/// Bytes of a message.
pub(super) const MESSAGE_BYTES: usize = 64 << 10;
/// Messages that are open at once.
const WINDOW: u64 = 8;
/// No acknowledgement for so long: the publisher is held back.
const PATIENCE: Duration = Duration::from_secs(3);

/// A publisher that knows what was acknowledged.
pub(super) struct Pressure {
    client: Client,
    topic: &'static str,
    /// Messages 1 up to this one were sent.
    pub(super) sent: u64,
    /// Messages 1 up to this one were acknowledged.
    pub(super) acknowledged: u64,
}

/// Why a publisher has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The node acknowledges nothing.
    HeldBack,
    /// The node has ended the connection.
    Closed,
    /// All messages are acknowledged.
    Enough,
}

impl Pressure {
    pub(super) fn new(topic: &'static str, node: &Node) -> Self {
        Self {
            client: Dial::durable(Version::V5, "pressure").connect(node),
            topic,
            sent: 0,
            acknowledged: 0,
        }
    }

    fn send(&mut self) {
        self.sent += 1;
        let packet_id = self.client.packet_id();
        self.client.send(&Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: self.topic,
            packet_id: Some(packet_id),
            properties: Properties::EMPTY,
            payload: &payload(MessageId(self.sent), MESSAGE_BYTES),
        }));
    }

    /// Publishes with QoS 1 until `count` messages are acknowledged, or it gets no further.
    pub(super) fn publish_upto(&mut self, count: u64) -> End {
        loop {
            while self.sent < count && self.sent - self.acknowledged < WINDOW {
                self.send();
            }
            if self.acknowledged == count {
                return End::Enough;
            }
            match self.client.next_within(PATIENCE) {
                Some(Answer::PubAck(_, reason)) => {
                    assert!(!reason.is_failure(), "PUBACK {reason:?}");
                    self.acknowledged += 1;
                }
                Some(Answer::Closed) => return End::Closed,
                Some(other) => panic!("{other:?}"),
                None => return End::HeldBack,
            }
        }
    }
}

/// Receives and acknowledges a message; its number.
pub(super) fn receive_any(reader: &mut Client) -> u64 {
    let message = match reader.next() {
        Answer::Message(message) => message,
        other => panic!("expected a message, got {other:?}"),
    };
    let id = message.packet_id.expect("QoS 1");
    reader.send(&Packet::PubAck(Ack::success(id)));
    let number = message_id(&message.payload);
    number.map_or(0, |MessageId(number)| number)
}

/// Receives the messages above `from` up to `upto`, in order and each once, or until the node
/// ends. Returns the number of the last one.
pub(super) fn receive_upto(reader: &mut Client, from: u64, upto: u64) -> u64 {
    for number in from + 1..=upto {
        let message = match reader.next() {
            Answer::Message(message) => message,
            Answer::Closed => return number - 1,
            other => panic!("message {number}: {other:?}"),
        };
        assert_eq!(message_id(&message.payload), Some(MessageId(number)));
        let id = message.packet_id.expect("QoS 1");
        reader.send(&Packet::PubAck(Ack::success(id)));
    }
    upto
}
