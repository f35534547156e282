//! A test's MQTT client: a blocking connection and the product's codec, with nothing hidden.
//!
//! [`Dial`] says how to connect, [`Client`] sends packets and takes [`Answer`]s one by one, each
//! with a deadline. The shortcuts ([`Client::publish`], [`Client::subscribe`], [`Client::receive`])
//! do a whole exchange; messages that arrive meanwhile wait for [`Client::receive`].

mod answer;
mod dial;
mod wire;

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use engine_mqtt::{
    Ack, Decoded, Direction, Disconnect, Filters, Limits, Packet, PacketId, Properties,
    PropertiesBuilder, Publish, QoS, ReasonCode, Subscribe, Subscription, SubscriptionOptions,
    Subscriptions, Unsubscribe, Version, decode,
};

pub(crate) use answer::{Answer, Message, Step, Welcome};
pub(crate) use dial::{Dial, Parting};
pub(crate) use wire::Transport;
use wire::Wire;

use crate::node::DEADLINE;

/// Bytes that one read takes at most.
const READ_BYTES: usize = 64 * 1024;

/// One connection.
pub(crate) struct Client {
    stream: Wire,
    version: Version,
    input: Vec<u8>,
    early: VecDeque<Message>,
    next_packet_id: u16,
    welcome: Welcome,
}

impl Client {
    fn over(stream: Wire, version: Version) -> Self {
        stream.socket().set_nodelay(true).expect("TCP_NODELAY");
        Self {
            stream,
            version,
            input: Vec::new(),
            early: VecDeque::new(),
            next_packet_id: 0,
            welcome: Welcome::default(),
        }
    }

    /// What CONNACK said.
    pub(crate) fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// A packet id that this connection has not used yet.
    pub(crate) fn packet_id(&mut self) -> PacketId {
        self.next_packet_id += 1;
        PacketId::new(self.next_packet_id).expect("less than 65,536 exchanges in a test")
    }

    /// Sends a packet. A connection that the peer has closed shows at the next answer.
    pub(crate) fn send(&mut self, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        packet
            .encode(self.version, &mut bytes)
            .expect("a packet that can be sent");
        self.send_bytes(&bytes);
    }

    /// Sends bytes as they are.
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        // The peer may have closed: what it said before is still to be read.
        drop(self.stream.write_all(bytes));
    }

    /// The next packet, or [`Answer::Closed`].
    #[track_caller]
    pub(crate) fn next(&mut self) -> Answer {
        self.next_within(DEADLINE)
            .unwrap_or_else(|| panic!("no packet within {DEADLINE:?}"))
    }

    /// The next packet if it comes in time.
    pub(crate) fn next_within(&mut self, time: Duration) -> Option<Answer> {
        let end = Instant::now() + time;
        loop {
            if let Some(answer) = self.buffered() {
                return Some(answer);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.stream
                .socket()
                .set_read_timeout(Some(left))
                .expect("a read timeout");
            let mut bytes = [0; READ_BYTES];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Some(Answer::Closed),
                Ok(len) => self.input.extend_from_slice(&bytes[..len]),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                    _ => return Some(Answer::Closed),
                },
            }
        }
    }

    fn buffered(&mut self) -> Option<Answer> {
        if self.input.is_empty() {
            return None;
        }
        let limits = Limits {
            packet_bytes_max: u32::MAX,
        };
        match decode(&self.input, self.version, &limits, Direction::FromServer) {
            Ok(Decoded::NeedMore { .. }) => None,
            Ok(Decoded::Packet { packet, len }) => {
                let answer = Answer::from(packet);
                self.input.drain(..len);
                Some(answer)
            }
            Err(error) => panic!("the server sent a malformed packet: {error}"),
        }
    }

    /// The next packet that is no message; messages are kept for [`Client::receive`].
    #[track_caller]
    pub(crate) fn answer(&mut self) -> Answer {
        loop {
            match self.next() {
                Answer::Message(message) => self.early.push_back(message),
                other => return other,
            }
        }
    }

    /// The next message, not acknowledged.
    #[track_caller]
    pub(crate) fn message(&mut self) -> Message {
        if let Some(message) = self.early.pop_front() {
            return message;
        }
        match self.next() {
            Answer::Message(message) => message,
            other => panic!("expected a message, got {other:?}"),
        }
    }

    /// The next message, after its whole exchange.
    #[track_caller]
    pub(crate) fn receive(&mut self) -> Message {
        let message = self.message();
        let Some(id) = message.packet_id else {
            return message;
        };
        if message.qos == QoS::AtLeastOnce {
            self.send(&Packet::PubAck(Ack::success(id)));
            return message;
        }
        self.send(&Packet::PubRec(Ack::success(id)));
        assert_eq!(self.answer(), Answer::PubRel(id, ReasonCode::Success));
        self.send(&Packet::PubComp(Ack::success(id)));
        message
    }

    /// The next message is this one, whole exchange included.
    #[track_caller]
    pub(crate) fn expect(&mut self, topic: &str, payload: &str, qos: QoS) -> Message {
        let message = self.receive();
        let got = (message.topic.as_str(), message.text(), message.qos);
        assert_eq!(got, (topic, payload, qos));
        message
    }

    /// The peer ends the connection, whatever it says before.
    #[track_caller]
    pub(crate) fn expect_end(&mut self) {
        while self.next() != Answer::Closed {}
    }

    /// The peer sends DISCONNECT with this reason (MQTT 5) and ends the connection.
    #[track_caller]
    pub(crate) fn expect_disconnect(&mut self, reason: ReasonCode) {
        if self.version == Version::V5 {
            assert_eq!(self.answer(), Answer::Disconnect(reason));
        }
        assert_eq!(self.answer(), Answer::Closed);
    }

    /// Publishes a message, after whose whole exchange it returns.
    #[track_caller]
    pub(crate) fn publish(&mut self, topic: &str, payload: &str, qos: QoS) {
        self.publish_with(topic, payload, qos, false, &PropertiesBuilder::new());
    }

    /// Publishes a retained message.
    #[track_caller]
    pub(crate) fn retain(&mut self, topic: &str, payload: &str, qos: QoS) {
        self.publish_with(topic, payload, qos, true, &PropertiesBuilder::new());
    }

    /// Publishes a message with properties, after whose whole exchange it returns.
    #[track_caller]
    pub(crate) fn publish_with(
        &mut self,
        topic: &str,
        payload: &str,
        qos: QoS,
        retain: bool,
        properties: &PropertiesBuilder,
    ) {
        let bytes = payload.as_bytes();
        self.publish_bytes_with(topic, bytes, qos, retain, properties);
    }

    /// Publishes bytes, after whose whole exchange it returns.
    #[track_caller]
    pub(crate) fn publish_bytes(&mut self, topic: &str, payload: &[u8], qos: QoS, retain: bool) {
        self.publish_bytes_with(topic, payload, qos, retain, &PropertiesBuilder::new());
    }

    #[track_caller]
    fn publish_bytes_with(
        &mut self,
        topic: &str,
        payload: &[u8],
        qos: QoS,
        retain: bool,
        properties: &PropertiesBuilder,
    ) {
        let packet_id = (qos != QoS::AtMostOnce).then(|| self.packet_id());
        self.send(&Packet::Publish(Publish {
            dup: false,
            qos,
            retain,
            topic,
            packet_id,
            properties: properties.properties().expect("well-formed properties"),
            payload,
        }));
        let Some(id) = packet_id else { return };
        if qos == QoS::AtLeastOnce {
            let answer = self.answer();
            assert!(answer.accepts(id), "PUBACK for {topic}: {answer:?}");
            return;
        }
        let answer = self.answer();
        assert!(matches!(answer, Answer::PubRec(got, reason) if got == id && !reason.is_failure()));
        self.send(&Packet::PubRel(Ack::success(id)));
        assert_eq!(self.answer(), Answer::PubComp(id, ReasonCode::Success));
    }

    /// Subscribes to one filter, which must be granted at this QoS.
    #[track_caller]
    pub(crate) fn subscribe(&mut self, filter: &str, qos: QoS) {
        let options = SubscriptionOptions {
            qos,
            ..SubscriptionOptions::default()
        };
        let granted = self.subscribe_with(filter, options, None);
        assert_eq!(granted.number(), qos.bits(), "SUBACK for {filter}");
    }

    /// Subscribes to one filter; returns the code of SUBACK.
    #[track_caller]
    pub(crate) fn subscribe_with(
        &mut self,
        filter: &str,
        options: SubscriptionOptions,
        subscription_id: Option<u32>,
    ) -> ReasonCode {
        let packet_id = self.send_subscribe(filter, options, subscription_id);
        match self.answer() {
            Answer::SubAck(id, codes) if id == packet_id && codes.len() == 1 => codes[0],
            other => panic!("expected SUBACK {packet_id:?}, got {other:?}"),
        }
    }

    /// A SUBSCRIBE, whose answer is not waited for.
    pub(crate) fn send_subscribe(
        &mut self,
        filter: &str,
        options: SubscriptionOptions,
        subscription_id: Option<u32>,
    ) -> PacketId {
        let packet_id = self.packet_id();
        let mut properties = PropertiesBuilder::new();
        if let Some(id) = subscription_id {
            properties.subscription_id(id);
        }
        self.send(&Packet::Subscribe(Subscribe {
            packet_id,
            properties: properties.properties().expect("well-formed properties"),
            filters: Subscriptions::from([Subscription { filter, options }].as_slice()),
        }));
        packet_id
    }

    /// Ends one subscription.
    #[track_caller]
    pub(crate) fn unsubscribe(&mut self, filter: &str) -> ReasonCode {
        let packet_id = self.packet_id();
        self.send(&Packet::Unsubscribe(Unsubscribe {
            packet_id,
            properties: Properties::EMPTY,
            filters: Filters::from([filter].as_slice()),
        }));
        match self.answer() {
            Answer::UnsubAck(id, codes) if id == packet_id => {
                codes.first().copied().unwrap_or(ReasonCode::Success)
            }
            other => panic!("expected UNSUBACK {packet_id:?}, got {other:?}"),
        }
    }

    /// A PINGREQ and its answer.
    #[track_caller]
    pub(crate) fn ping(&mut self) {
        self.send(&Packet::PingReq);
        assert_eq!(self.answer(), Answer::PingResp);
    }

    /// Nothing waits for this client ahead of a marker that `publisher` sends now.
    #[track_caller]
    pub(crate) fn expect_nothing(&mut self, publisher: &mut Self, marker_topic: &str) {
        publisher.publish(marker_topic, "marker", QoS::AtLeastOnce);
        self.expect(marker_topic, "marker", QoS::AtLeastOnce);
    }

    /// DISCONNECT with success, and the end of the connection.
    pub(crate) fn disconnect(self) {
        self.disconnect_with(ReasonCode::Success, Properties::EMPTY);
    }

    /// DISCONNECT, and the end of the connection.
    pub(crate) fn disconnect_with(mut self, reason: ReasonCode, properties: Properties<'_>) {
        self.send(&Packet::Disconnect(Disconnect { reason, properties }));
        self.expect_end();
    }

    /// Ends the connection without DISCONNECT.
    pub(crate) fn vanish(self) {
        self.stream.shut_down();
    }
}
