//! The packets: one model for every version, with the version as data. What a version lacks
//! (properties, most reason codes, most subscription options) has a neutral value there: it is
//! decoded to that value, and not written when encoded.

use crate::lists::{Filters, ReasonCodes, Subscriptions};
use crate::model::{PacketId, PacketType, QoS, Version};
use crate::properties::Properties;
use crate::reason::ReasonCode;

/// An MQTT control packet that borrows its texts, properties and payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// A client asks for a connection.
    Connect(Connect<'a>),
    /// The server's answer to CONNECT.
    ConnAck(ConnAck<'a>),
    /// A message.
    Publish(Publish<'a>),
    /// Acknowledges a QoS 1 message.
    PubAck(Ack<'a>),
    /// First answer to a QoS 2 message.
    PubRec(Ack<'a>),
    /// Releases a QoS 2 message.
    PubRel(Ack<'a>),
    /// Completes a QoS 2 message.
    PubComp(Ack<'a>),
    /// Asks for subscriptions.
    Subscribe(Subscribe<'a>),
    /// Answers SUBSCRIBE.
    SubAck(SubAck<'a>),
    /// Ends subscriptions.
    Unsubscribe(Unsubscribe<'a>),
    /// Answers UNSUBSCRIBE.
    UnsubAck(UnsubAck<'a>),
    /// Asks whether the server is alive.
    PingReq,
    /// Answers PINGREQ.
    PingResp,
    /// Ends the connection in good order. From a server only in MQTT 5.
    Disconnect(Disconnect<'a>),
    /// One step of an extended authentication. Only in MQTT 5.
    Auth(Auth<'a>),
}

impl Packet<'_> {
    /// The type of the packet.
    #[must_use]
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Self::Connect(_) => PacketType::Connect,
            Self::ConnAck(_) => PacketType::ConnAck,
            Self::Publish(_) => PacketType::Publish,
            Self::PubAck(_) => PacketType::PubAck,
            Self::PubRec(_) => PacketType::PubRec,
            Self::PubRel(_) => PacketType::PubRel,
            Self::PubComp(_) => PacketType::PubComp,
            Self::Subscribe(_) => PacketType::Subscribe,
            Self::SubAck(_) => PacketType::SubAck,
            Self::Unsubscribe(_) => PacketType::Unsubscribe,
            Self::UnsubAck(_) => PacketType::UnsubAck,
            Self::PingReq => PacketType::PingReq,
            Self::PingResp => PacketType::PingResp,
            Self::Disconnect(_) => PacketType::Disconnect,
            Self::Auth(_) => PacketType::Auth,
        }
    }
}

/// CONNECT: a client asks for a connection, and for a session to go with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connect<'a> {
    /// The version of this and of every later packet of the connection.
    pub version: Version,
    /// Begin with a new session (Clean Session before MQTT 5).
    pub clean_start: bool,
    /// Longest silence of the client in seconds; 0: none.
    pub keep_alive: u16,
    /// The client identifier. Empty: the server chooses one.
    pub client_id: &'a str,
    /// The message to publish when the connection ends badly.
    pub will: Option<Will<'a>>,
    /// User name.
    pub user_name: Option<&'a str>,
    /// Password; before MQTT 5 only with a user name [3.1.1 MQTT-3.1.2-22].
    pub password: Option<&'a [u8]>,
    /// Properties of CONNECT; those of the will are with it.
    pub properties: Properties<'a>,
}

/// The will in CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Will<'a> {
    /// QoS to publish it at.
    pub qos: QoS,
    /// Whether to retain it.
    pub retain: bool,
    /// Its topic name: not empty, without wildcards.
    pub topic: &'a str,
    /// Its payload, at most 65,535 bytes.
    pub payload: &'a [u8],
    /// Its properties.
    pub properties: Properties<'a>,
}

/// CONNACK: the server accepts or refuses the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnAck<'a> {
    /// The server had a session for the client. Only with success [MQTT-3.2.2-6]; MQTT 3.1 cannot
    /// say it.
    pub session_present: bool,
    /// Success or why not. Before MQTT 5 written as a return code, see
    /// [`ReasonCode::connack_number`].
    pub reason: ReasonCode,
    /// Properties of CONNACK.
    pub properties: Properties<'a>,
}

/// PUBLISH: a message, to the server or from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish<'a> {
    /// The packet may have been sent before. Never at QoS 0 [MQTT-3.3.1-2].
    pub dup: bool,
    /// Quality of service.
    pub qos: QoS,
    /// To a server: keep as the topic's retained message. From a server: it was kept.
    pub retain: bool,
    /// Topic name, without wildcards. Empty only with a topic alias.
    pub topic: &'a str,
    /// Packet identifier: exactly at QoS 1 and 2 [MQTT-2.2.1-2].
    pub packet_id: Option<PacketId>,
    /// Properties of the message.
    pub properties: Properties<'a>,
    /// The application's bytes.
    pub payload: &'a [u8],
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack<'a> {
    /// The packet identifier of the PUBLISH.
    pub packet_id: PacketId,
    /// What became of the message. Always success before MQTT 5.
    pub reason: ReasonCode,
    /// Properties of the acknowledgement.
    pub properties: Properties<'a>,
}

impl Ack<'_> {
    /// A success without properties.
    #[must_use]
    pub const fn success(packet_id: PacketId) -> Self {
        Self {
            packet_id,
            reason: ReasonCode::Success,
            properties: Properties::EMPTY,
        }
    }
}

/// SUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// Its packet identifier.
    pub packet_id: PacketId,
    /// Properties of SUBSCRIBE.
    pub properties: Properties<'a>,
    /// What is asked for, at least one.
    pub filters: Subscriptions<'a>,
}

/// One topic filter in SUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscription<'a> {
    /// The filter: UTF-8, not empty. Where its wildcards stand is not this crate's business.
    pub filter: &'a str,
    /// How to deliver.
    pub options: SubscriptionOptions,
}

/// How a subscription wants its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SubscriptionOptions {
    /// Highest QoS of the deliveries.
    pub qos: QoS,
    /// Leave out what the same client published. False before MQTT 5.
    pub no_local: bool,
    /// Keep the retain flag as published. False before MQTT 5.
    pub retain_as_published: bool,
    /// Which retained messages to send now. Always, before MQTT 5.
    pub retain_handling: RetainHandling,
}

/// When SUBSCRIBE brings retained messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum RetainHandling {
    /// At every SUBSCRIBE.
    #[default]
    Send = 0,
    /// When the subscription is new.
    SendIfNew = 1,
    /// Never.
    DoNotSend = 2,
}

impl RetainHandling {
    /// The handling of its two wire bits; `None` for 3 and above.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::Send),
            1 => Some(Self::SendIfNew),
            2 => Some(Self::DoNotSend),
            _ => None,
        }
    }
}

/// SUBACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubAck<'a> {
    /// The packet identifier of the SUBSCRIBE.
    pub packet_id: PacketId,
    /// Properties of SUBACK.
    pub properties: Properties<'a>,
    /// The granted QoS or a failure for each filter. Before MQTT 5 every failure is 0x80.
    pub codes: ReasonCodes<'a>,
}

/// UNSUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// Its packet identifier.
    pub packet_id: PacketId,
    /// Properties of UNSUBSCRIBE.
    pub properties: Properties<'a>,
    /// The filters to give up, at least one.
    pub filters: Filters<'a>,
}

/// UNSUBACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnsubAck<'a> {
    /// The packet identifier of the UNSUBSCRIBE.
    pub packet_id: PacketId,
    /// Properties of UNSUBACK.
    pub properties: Properties<'a>,
    /// The outcome for each filter. Not written before MQTT 5.
    pub codes: ReasonCodes<'a>,
}

/// DISCONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Disconnect<'a> {
    /// Why. Always a normal disconnection before MQTT 5.
    pub reason: ReasonCode,
    /// Properties of DISCONNECT.
    pub properties: Properties<'a>,
}

/// AUTH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Auth<'a> {
    /// Continue, authenticate again, or success.
    pub reason: ReasonCode,
    /// Properties of AUTH.
    pub properties: Properties<'a>,
}
