//! What the server sends, owned, so that a test can keep it.

use engine_mqtt::{Packet, PacketId, QoS, ReasonCode};

/// A packet from the server, or the end of the connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    ConnAck(Welcome),
    Message(Message),
    PubAck(PacketId, ReasonCode),
    PubRec(PacketId, ReasonCode),
    PubRel(PacketId, ReasonCode),
    PubComp(PacketId, ReasonCode),
    SubAck(PacketId, Vec<ReasonCode>),
    UnsubAck(PacketId, Vec<ReasonCode>),
    PingResp,
    Disconnect(ReasonCode),
    /// DISCONNECT with a Server Reference.
    SentElsewhere(ReasonCode, String),
    Auth(Step),
    Closed,
}

/// CONNACK, with the properties that tests look at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Welcome {
    pub(crate) session_present: bool,
    pub(crate) reason: ReasonCode,
    pub(crate) assigned_client_id: Option<String>,
    pub(crate) receive_maximum: Option<u16>,
    pub(crate) topic_alias_maximum: Option<u16>,
    pub(crate) server_keep_alive: Option<u16>,
    pub(crate) maximum_packet_size: Option<u32>,
    pub(crate) session_expiry: Option<u32>,
    pub(crate) shared_subscriptions: Option<bool>,
    pub(crate) authentication: Option<(String, Vec<u8>)>,
    pub(crate) server_reference: Option<String>,
}

/// An AUTH from the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Step {
    pub(crate) reason: ReasonCode,
    pub(crate) method: String,
    pub(crate) data: Vec<u8>,
}

/// A PUBLISH from the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    pub(crate) packet_id: Option<PacketId>,
    pub(crate) subscription_ids: Vec<u32>,
    pub(crate) user_properties: Vec<(String, String)>,
    pub(crate) message_expiry: Option<u32>,
    pub(crate) topic_alias: Option<u16>,
}

impl Message {
    /// The payload as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).expect("a payload of text")
    }
}

impl Answer {
    /// It acknowledges this QoS 1 message with success.
    pub(crate) fn accepts(&self, id: PacketId) -> bool {
        matches!(self, Self::PubAck(got, reason) if *got == id && !reason.is_failure())
    }
}

impl From<Packet<'_>> for Answer {
    fn from(packet: Packet<'_>) -> Self {
        match packet {
            Packet::ConnAck(connack) => Self::ConnAck(Welcome {
                session_present: connack.session_present,
                reason: connack.reason,
                assigned_client_id: connack.properties.assigned_client_id().map(str::to_owned),
                receive_maximum: connack.properties.receive_maximum(),
                topic_alias_maximum: connack.properties.topic_alias_maximum(),
                server_keep_alive: connack.properties.server_keep_alive(),
                maximum_packet_size: connack.properties.maximum_packet_size(),
                session_expiry: connack.properties.session_expiry(),
                shared_subscriptions: connack.properties.shared_subscription_available(),
                server_reference: connack.properties.server_reference().map(str::to_owned),
                authentication: connack.properties.authentication_method().map(|method| {
                    let data = connack.properties.authentication_data();
                    (method.to_owned(), data.unwrap_or_default().to_vec())
                }),
            }),
            Packet::Publish(publish) => {
                let mut subscription_ids: Vec<u32> =
                    publish.properties.subscription_ids().collect();
                subscription_ids.sort_unstable();
                let pairs = publish.properties.user_properties();
                Self::Message(Message {
                    topic: publish.topic.to_owned(),
                    payload: publish.payload.to_vec(),
                    qos: publish.qos,
                    retain: publish.retain,
                    dup: publish.dup,
                    packet_id: publish.packet_id,
                    subscription_ids,
                    user_properties: pairs.map(|(a, b)| (a.to_owned(), b.to_owned())).collect(),
                    message_expiry: publish.properties.message_expiry(),
                    topic_alias: publish.properties.topic_alias(),
                })
            }
            Packet::PubAck(ack) => Self::PubAck(ack.packet_id, ack.reason),
            Packet::PubRec(ack) => Self::PubRec(ack.packet_id, ack.reason),
            Packet::PubRel(ack) => Self::PubRel(ack.packet_id, ack.reason),
            Packet::PubComp(ack) => Self::PubComp(ack.packet_id, ack.reason),
            Packet::SubAck(ack) => Self::SubAck(ack.packet_id, ack.codes.iter().collect()),
            Packet::UnsubAck(ack) => Self::UnsubAck(ack.packet_id, ack.codes.iter().collect()),
            Packet::PingResp => Self::PingResp,
            Packet::Disconnect(disconnect) => match disconnect.properties.server_reference() {
                None => Self::Disconnect(disconnect.reason),
                Some(servers) => Self::SentElsewhere(disconnect.reason, servers.to_owned()),
            },
            Packet::Auth(auth) => Self::Auth(Step {
                reason: auth.reason,
                method: auth
                    .properties
                    .authentication_method()
                    .unwrap_or_default()
                    .to_owned(),
                data: auth
                    .properties
                    .authentication_data()
                    .unwrap_or_default()
                    .to_vec(),
            }),
            Packet::Connect(_)
            | Packet::Subscribe(_)
            | Packet::Unsubscribe(_)
            | Packet::PingReq => {
                panic!("a server never sends {packet:?}")
            }
        }
    }
}
