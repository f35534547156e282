//! How to connect.

use std::net::SocketAddr;

use engine_mqtt::{Connect, Packet, Properties, PropertiesBuilder, QoS, ReasonCode, Version, Will};

use super::{Answer, Client, Wire};
use crate::node::Node;

/// A CONNECT to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Dial {
    version: Version,
    client_id: String,
    clean_start: bool,
    keep_alive: u16,
    session_expiry: Option<u32>,
    receive_maximum: Option<u16>,
    topic_alias_maximum: Option<u16>,
    maximum_packet_size: Option<u32>,
    will: Option<Parting>,
    user_name: Option<String>,
    password: Option<String>,
}

/// A will.
#[derive(Clone, Debug)]
pub(crate) struct Parting {
    pub(crate) topic: String,
    pub(crate) payload: String,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    /// Seconds; MQTT 5 only.
    pub(crate) delay: Option<u32>,
}

impl Parting {
    /// A will that is neither retained nor delayed.
    pub(crate) fn new(topic: &str, payload: &str, qos: QoS) -> Self {
        Self {
            topic: topic.to_owned(),
            payload: payload.to_owned(),
            qos,
            retain: false,
            delay: None,
        }
    }
}

impl Dial {
    /// A session that ends with its connection.
    pub(crate) fn clean(version: Version, client_id: &str) -> Self {
        Self {
            version,
            client_id: client_id.to_owned(),
            clean_start: true,
            keep_alive: 60,
            session_expiry: None,
            receive_maximum: None,
            topic_alias_maximum: None,
            maximum_packet_size: None,
            will: None,
            user_name: None,
            password: None,
        }
    }

    /// A session that outlives its connection.
    pub(crate) fn durable(version: Version, client_id: &str) -> Self {
        let expiry = (version == Version::V5).then_some(3600);
        Self {
            clean_start: false,
            session_expiry: expiry,
            ..Self::clean(version, client_id)
        }
    }

    pub(crate) fn clean_start(self, clean_start: bool) -> Self {
        Self {
            clean_start,
            ..self
        }
    }

    pub(crate) fn keep_alive(self, seconds: u16) -> Self {
        Self {
            keep_alive: seconds,
            ..self
        }
    }

    pub(crate) fn session_expiry(self, seconds: u32) -> Self {
        Self {
            session_expiry: Some(seconds),
            ..self
        }
    }

    pub(crate) fn receive_maximum(self, count: u16) -> Self {
        Self {
            receive_maximum: Some(count),
            ..self
        }
    }

    pub(crate) fn topic_alias_maximum(self, count: u16) -> Self {
        Self {
            topic_alias_maximum: Some(count),
            ..self
        }
    }

    pub(crate) fn maximum_packet_size(self, bytes: u32) -> Self {
        Self {
            maximum_packet_size: Some(bytes),
            ..self
        }
    }

    pub(crate) fn password(self, name: &str, password: &str) -> Self {
        Self {
            user_name: Some(name.to_owned()),
            password: Some(password.to_owned()),
            ..self
        }
    }

    pub(crate) fn will(self, will: Parting) -> Self {
        Self {
            will: Some(will),
            ..self
        }
    }

    /// Connects; CONNACK must say success.
    #[track_caller]
    pub(crate) fn connect(&self, node: &Node) -> Client {
        let client = self
            .attempt(node.address())
            .expect("the node accepts connections");
        assert_eq!(
            client.welcome.reason,
            ReasonCode::Success,
            "CONNACK for {}",
            self.client_id
        );
        client
    }

    /// Connects; `None` when the connection ends before CONNACK, as it does while a node dies.
    pub(crate) fn attempt(&self, address: SocketAddr) -> Option<Client> {
        let mut client = Client::over(Wire::open(address).ok()?, self.version);
        self.send(&mut client);
        match client.next() {
            Answer::ConnAck(welcome) => client.welcome = welcome,
            Answer::Closed => return None,
            other => panic!("expected CONNACK for {}, got {other:?}", self.client_id),
        }
        Some(client)
    }

    /// A connection over which nothing is sent yet.
    pub(crate) fn silent(version: Version, node: &Node) -> Client {
        Self::silent_to(version, node.address())
    }

    /// Like [`Dial::silent`], for a thread that has the address only.
    pub(crate) fn silent_to(version: Version, address: SocketAddr) -> Client {
        let stream = Wire::open(address).expect("the node accepts connections");
        Client::over(stream, version)
    }

    /// Sends the CONNECT.
    pub(crate) fn send(&self, client: &mut Client) {
        let mut properties = PropertiesBuilder::new();
        if let Some(seconds) = self.session_expiry {
            properties.session_expiry(seconds);
        }
        if let Some(count) = self.receive_maximum {
            properties.receive_maximum(count);
        }
        if let Some(count) = self.topic_alias_maximum {
            properties.topic_alias_maximum(count);
        }
        if let Some(bytes) = self.maximum_packet_size {
            properties.maximum_packet_size(bytes);
        }
        let mut will_properties = PropertiesBuilder::new();
        if let Some(seconds) = self.will.as_ref().and_then(|will| will.delay) {
            will_properties.will_delay(seconds);
        }
        let only_v5 = |builder| -> Properties<'_> {
            PropertiesBuilder::properties(builder).expect("well-formed properties")
        };
        let will = self.will.as_ref().map(|will| Will {
            qos: will.qos,
            retain: will.retain,
            topic: &will.topic,
            payload: will.payload.as_bytes(),
            properties: only_v5(&will_properties),
        });
        client.send(&Packet::Connect(Connect {
            version: self.version,
            clean_start: self.clean_start,
            keep_alive: self.keep_alive,
            client_id: &self.client_id,
            will,
            user_name: self.user_name.as_deref(),
            password: self.password.as_deref().map(str::as_bytes),
            properties: only_v5(&properties),
        }));
    }
}
