//! A rumqttc client of either version, whose events wait in channels until they are asked for.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::spawn;
use std::time::Duration;

use rumqttc::v5;
use rumqttc::v5::mqttbytes::v5::{Filter, LastWill, PublishProperties, SubscribeProperties};

const DEADLINE: Duration = Duration::from_secs(30);
/// Above a payload of 1 MiB.
const PACKET_MAX: u32 = 2 << 20;

/// Where the node is, and the version that is spoken: 4 or 5.
pub struct Door {
    pub port: u16,
    pub version: u8,
}

/// A will: topic, payload, QoS.
pub type Parting<'a> = (&'a str, &'a str, u8);

#[derive(Debug, PartialEq)]
pub struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub properties: Option<PublishProperties>,
}

enum Seen {
    Welcome(bool),
    Granted(Vec<u8>),
    Acknowledged,
    Message(Message),
}

enum Link {
    V4(rumqttc::Client),
    V5(v5::Client),
}

pub struct Client {
    link: Link,
    welcomes: Receiver<bool>,
    grants: Receiver<Vec<u8>>,
    acknowledgements: Receiver<()>,
    messages: Receiver<Message>,
    pub session_present: bool,
}

/// Where a connection's events go.
struct Channels {
    welcomes: Sender<bool>,
    grants: Sender<Vec<u8>>,
    acknowledgements: Sender<()>,
    messages: Sender<Message>,
}

impl Channels {
    fn put(&self, seen: Seen) {
        // A scenario that has ended does not look any more.
        match seen {
            Seen::Welcome(present) => drop(self.welcomes.send(present)),
            Seen::Granted(codes) => drop(self.grants.send(codes)),
            Seen::Acknowledged => drop(self.acknowledgements.send(())),
            Seen::Message(message) => drop(self.messages.send(message)),
        }
    }
}

fn seen_in_4(event: rumqttc::Event) -> Option<Seen> {
    use rumqttc::{Packet, SubscribeReasonCode};
    let rumqttc::Event::Incoming(packet) = event else {
        return None;
    };
    match packet {
        Packet::ConnAck(connack) => Some(Seen::Welcome(connack.session_present)),
        Packet::SubAck(suback) => {
            let codes = suback.return_codes.iter().map(|code| match code {
                SubscribeReasonCode::Success(qos) => *qos as u8,
                SubscribeReasonCode::Failure => 0x80,
            });
            Some(Seen::Granted(codes.collect()))
        }
        Packet::PubAck(_) | Packet::PubComp(_) => Some(Seen::Acknowledged),
        Packet::Publish(publish) => Some(Seen::Message(Message {
            topic: publish.topic,
            payload: publish.payload.to_vec(),
            qos: publish.qos as u8,
            retain: publish.retain,
            properties: None,
        })),
        _ => None,
    }
}

fn seen_in_5(event: v5::Event) -> Option<Seen> {
    use v5::mqttbytes::v5::{Packet, SubscribeReasonCode};
    let v5::Event::Incoming(packet) = event else {
        return None;
    };
    match packet {
        Packet::ConnAck(connack) => Some(Seen::Welcome(connack.session_present)),
        Packet::SubAck(suback) => {
            let codes = suback.return_codes.iter().map(|code| match code {
                SubscribeReasonCode::Success(qos) => *qos as u8,
                _ => 0x80,
            });
            Some(Seen::Granted(codes.collect()))
        }
        Packet::PubAck(_) | Packet::PubComp(_) => Some(Seen::Acknowledged),
        Packet::Publish(publish) => Some(Seen::Message(Message {
            topic: String::from_utf8(publish.topic.to_vec()).expect("a topic is UTF-8"),
            payload: publish.payload.to_vec(),
            qos: publish.qos as u8,
            retain: publish.retain,
            properties: publish.properties,
        })),
        _ => None,
    }
}

impl Door {
    pub fn connect(&self, id: &str, durable: bool) -> Client {
        self.connect_with(id, durable, None)
    }

    pub fn connect_with(&self, id: &str, durable: bool, will: Option<Parting<'_>>) -> Client {
        let (welcomes, welcomes_seen) = channel();
        let (grants, grants_seen) = channel();
        let (acknowledgements, acknowledgements_seen) = channel();
        let (messages, messages_seen) = channel();
        let channels = Channels {
            welcomes,
            grants,
            acknowledgements,
            messages,
        };
        let link = if self.version == 5 {
            let (link, mut connection) = self.open_5(id, durable, will);
            // The first error is the end: rumqttc would connect again.
            spawn(move || {
                connection
                    .iter()
                    .map_while(Result::ok)
                    .filter_map(seen_in_5)
                    .for_each(|seen| channels.put(seen));
            });
            Link::V5(link)
        } else {
            let (link, mut connection) = self.open_4(id, durable, will);
            spawn(move || {
                connection
                    .iter()
                    .map_while(Result::ok)
                    .filter_map(seen_in_4)
                    .for_each(|seen| channels.put(seen));
            });
            Link::V4(link)
        };
        let mut client = Client {
            link,
            welcomes: welcomes_seen,
            grants: grants_seen,
            acknowledgements: acknowledgements_seen,
            messages: messages_seen,
            session_present: false,
        };
        client.session_present = client.welcomes.recv_timeout(DEADLINE).expect("CONNACK");
        client
    }

    fn open_4(
        &self,
        id: &str,
        durable: bool,
        will: Option<Parting<'_>>,
    ) -> (rumqttc::Client, rumqttc::Connection) {
        let mut options = rumqttc::MqttOptions::new(id, "127.0.0.1", self.port);
        options
            .set_clean_session(!durable)
            .set_max_packet_size(PACKET_MAX as usize, PACKET_MAX as usize);
        if let Some((topic, payload, qos)) = will {
            let qos = rumqttc::qos(qos).expect("a QoS");
            options.set_last_will(rumqttc::LastWill::new(topic, payload, qos, false));
        }
        rumqttc::Client::new(options, 100)
    }

    fn open_5(
        &self,
        id: &str,
        durable: bool,
        will: Option<Parting<'_>>,
    ) -> (v5::Client, v5::Connection) {
        let mut options = v5::MqttOptions::new(id, "127.0.0.1", self.port);
        options
            .set_clean_start(!durable)
            .set_session_expiry_interval(Some(if durable { 3600 } else { 0 }))
            .set_max_packet_size(Some(PACKET_MAX));
        if let Some((topic, payload, qos)) = will {
            let qos = v5::mqttbytes::qos(qos).expect("a QoS");
            options.set_last_will(LastWill::new(topic, payload, qos, false, None));
        }
        v5::Client::new(options, 100)
    }

    /// Connects with a will and ends the connection without DISCONNECT.
    pub fn die(&self, id: &str, will: Parting<'_>) {
        if self.version == 5 {
            let (_link, mut connection) = self.open_5(id, false, Some(will));
            let mut seen = connection
                .iter()
                .map_while(Result::ok)
                .filter_map(seen_in_5);
            assert!(matches!(seen.next(), Some(Seen::Welcome(_))), "no CONNACK");
        } else {
            let (_link, mut connection) = self.open_4(id, false, Some(will));
            let mut seen = connection
                .iter()
                .map_while(Result::ok)
                .filter_map(seen_in_4);
            assert!(matches!(seen.next(), Some(Seen::Welcome(_))), "no CONNACK");
        }
    }
}

impl Client {
    pub fn subscribe(&self, filter: &str, qos: u8) {
        match &self.link {
            Link::V4(link) => link
                .subscribe(filter, rumqttc::qos(qos).expect("a QoS"))
                .expect("SUBSCRIBE"),
            Link::V5(link) => link
                .subscribe(filter, v5::mqttbytes::qos(qos).expect("a QoS"))
                .expect("SUBSCRIBE"),
        }
        let granted = self.grants.recv_timeout(DEADLINE).expect("SUBACK");
        assert_eq!(granted, [qos], "SUBACK for {filter}");
    }

    /// Subscribes with an identifier; MQTT 5 only.
    pub fn subscribe_as(&self, filter: &str, qos: u8, identifier: usize) {
        let Link::V5(link) = &self.link else { return };
        let filter = Filter::new(filter, v5::mqttbytes::qos(qos).expect("a QoS"));
        let properties = SubscribeProperties {
            id: Some(identifier),
            user_properties: Vec::new(),
        };
        link.subscribe_many_with_properties([filter], properties)
            .expect("SUBSCRIBE");
        let granted = self.grants.recv_timeout(DEADLINE).expect("SUBACK");
        assert_eq!(granted, [qos]);
    }

    /// Hands a message to the connection; does not wait for its acknowledgement.
    pub fn send(&self, topic: &str, payload: &str, qos: u8, retain: bool) {
        match &self.link {
            Link::V4(link) => link
                .publish(topic, rumqttc::qos(qos).expect("a QoS"), retain, payload)
                .expect("PUBLISH"),
            Link::V5(link) => {
                let qos = v5::mqttbytes::qos(qos).expect("a QoS");
                link.publish(topic, qos, retain, payload.to_owned())
                    .expect("PUBLISH");
            }
        }
    }

    /// The end of so many exchanges.
    pub fn acknowledged(&self, count: usize) {
        for _ in 0..count {
            let end = self.acknowledgements.recv_timeout(DEADLINE);
            end.expect("PUBACK or PUBCOMP");
        }
    }

    /// Publishes a message, after whose whole exchange it returns.
    pub fn publish(&self, topic: &str, payload: &str, qos: u8) {
        self.send(topic, payload, qos, false);
        self.acknowledged(usize::from(qos > 0));
    }

    pub fn retain(&self, topic: &str, payload: &str, qos: u8) {
        self.send(topic, payload, qos, true);
        self.acknowledged(usize::from(qos > 0));
    }

    /// Publishes with properties; MQTT 5 only.
    pub fn publish_with(&self, topic: &str, payload: &str, qos: u8, with: PublishProperties) {
        let Link::V5(link) = &self.link else { return };
        let qos = v5::mqttbytes::qos(qos).expect("a QoS");
        link.publish_with_properties(topic, qos, false, payload.to_owned(), with)
            .expect("PUBLISH");
        self.acknowledged(1);
    }

    pub fn message(&self) -> Message {
        self.messages.recv_timeout(DEADLINE).expect("a message")
    }

    pub fn early(&self) -> Option<Message> {
        self.messages.try_recv().ok()
    }

    #[track_caller]
    pub fn expect(&self, topic: &str, payload: &str, qos: u8, retain: bool) -> Message {
        let got = self.message();
        assert_eq!((&*got.topic, got.qos, got.retain), (topic, qos, retain));
        assert!(
            got.payload == payload.as_bytes(),
            "another payload in {topic}"
        );
        got
    }

    /// DISCONNECT; returns when the connection has ended.
    pub fn close(self) {
        match &self.link {
            Link::V4(link) => link.disconnect().expect("DISCONNECT"),
            Link::V5(link) => link.disconnect().expect("DISCONNECT"),
        }
        // The thread of the connection ends with it, and with it the channel.
        while self.welcomes.recv_timeout(DEADLINE).is_ok() {}
    }
}
