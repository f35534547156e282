//! The 27 properties of MQTT 5 (section 2.2.2.2): their numbers, types and places.

use std::fmt;

use PropertyId as Id;

use crate::model::PacketType;

/// A property, by its identifier on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PropertyId {
    /// Payload format indicator.
    PayloadFormatIndicator = 0x01,
    /// Message expiry interval.
    MessageExpiryInterval = 0x02,
    /// Content type.
    ContentType = 0x03,
    /// Response topic.
    ResponseTopic = 0x08,
    /// Correlation data.
    CorrelationData = 0x09,
    /// Subscription identifier.
    SubscriptionIdentifier = 0x0B,
    /// Session expiry interval.
    SessionExpiryInterval = 0x11,
    /// Assigned client identifier.
    AssignedClientIdentifier = 0x12,
    /// Server keep alive.
    ServerKeepAlive = 0x13,
    /// Authentication method.
    AuthenticationMethod = 0x15,
    /// Authentication data.
    AuthenticationData = 0x16,
    /// Request problem information.
    RequestProblemInformation = 0x17,
    /// Will delay interval.
    WillDelayInterval = 0x18,
    /// Request response information.
    RequestResponseInformation = 0x19,
    /// Response information.
    ResponseInformation = 0x1A,
    /// Server reference.
    ServerReference = 0x1C,
    /// Reason string.
    ReasonString = 0x1F,
    /// Receive maximum.
    ReceiveMaximum = 0x21,
    /// Topic alias maximum.
    TopicAliasMaximum = 0x22,
    /// Topic alias.
    TopicAlias = 0x23,
    /// Maximum QoS.
    MaximumQoS = 0x24,
    /// Retain available.
    RetainAvailable = 0x25,
    /// User property.
    UserProperty = 0x26,
    /// Maximum packet size.
    MaximumPacketSize = 0x27,
    /// Wildcard subscription available.
    WildcardSubscriptionAvailable = 0x28,
    /// Subscription identifier available.
    SubscriptionIdentifierAvailable = 0x29,
    /// Shared subscription available.
    SharedSubscriptionAvailable = 0x2A,
}

/// How a property's value is written on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ValueKind {
    Byte,
    U16,
    U32,
    VarInt,
    Text,
    Binary,
    Pair,
}

/// Where a list of properties stands: in a packet's variable header or in front of a will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PropertyPlace {
    /// The properties of a packet.
    Packet(PacketType),
    /// The will properties in the payload of CONNECT.
    Will,
}

impl fmt::Display for PropertyPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packet(packet) => packet.fmt(f),
            Self::Will => f.write_str("will"),
        }
    }
}

/// A set of properties: bit n stands for the property with identifier n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PropertySet(u64);

impl PropertySet {
    pub(crate) const EMPTY: Self = Self(0);

    const fn of(ids: &[PropertyId]) -> Self {
        let mut bits = 0;
        let mut rest = ids;
        while let [first, tail @ ..] = rest {
            bits |= first.bit();
            rest = tail;
        }
        Self(bits)
    }

    pub(crate) const fn contains(self, id: PropertyId) -> bool {
        self.0 & id.bit() != 0
    }

    pub(crate) const fn insert(&mut self, id: PropertyId) {
        self.0 |= id.bit();
    }

    /// The members that `other` lacks.
    pub(crate) const fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The member with the lowest identifier.
    pub(crate) fn first(self) -> Option<PropertyId> {
        PropertyId::ALL.into_iter().find(|id| self.contains(*id))
    }
}

/// What a server passes on unchanged with a message, in order [MQTT-3.3.2-4], [MQTT-3.3.2-15],
/// [MQTT-3.3.2-16], [MQTT-3.3.2-17], [MQTT-3.3.2-20]. The message expiry interval is passed on too,
/// but smaller.
pub(crate) const FORWARDABLE: PropertySet = PropertySet::of(&[
    Id::PayloadFormatIndicator,
    Id::ContentType,
    Id::ResponseTopic,
    Id::CorrelationData,
    Id::UserProperty,
]);
const WILL: PropertySet = PropertySet::of(&[
    Id::PayloadFormatIndicator,
    Id::MessageExpiryInterval,
    Id::ContentType,
    Id::ResponseTopic,
    Id::CorrelationData,
    Id::WillDelayInterval,
    Id::UserProperty,
]);
const CONNECT: PropertySet = PropertySet::of(&[
    Id::SessionExpiryInterval,
    Id::AuthenticationMethod,
    Id::AuthenticationData,
    Id::RequestProblemInformation,
    Id::RequestResponseInformation,
    Id::ReceiveMaximum,
    Id::TopicAliasMaximum,
    Id::UserProperty,
    Id::MaximumPacketSize,
]);
const CONNACK: PropertySet = PropertySet::of(&[
    Id::SessionExpiryInterval,
    Id::AssignedClientIdentifier,
    Id::ServerKeepAlive,
    Id::AuthenticationMethod,
    Id::AuthenticationData,
    Id::ResponseInformation,
    Id::ServerReference,
    Id::ReasonString,
    Id::ReceiveMaximum,
    Id::TopicAliasMaximum,
    Id::MaximumQoS,
    Id::RetainAvailable,
    Id::UserProperty,
    Id::MaximumPacketSize,
    Id::WildcardSubscriptionAvailable,
    Id::SubscriptionIdentifierAvailable,
    Id::SharedSubscriptionAvailable,
]);
const PUBLISH: PropertySet = PropertySet::of(&[
    Id::PayloadFormatIndicator,
    Id::MessageExpiryInterval,
    Id::ContentType,
    Id::ResponseTopic,
    Id::CorrelationData,
    Id::SubscriptionIdentifier,
    Id::TopicAlias,
    Id::UserProperty,
]);
const SUBSCRIBE: PropertySet = PropertySet::of(&[Id::SubscriptionIdentifier, Id::UserProperty]);
const DISCONNECT: PropertySet = PropertySet::of(&[
    Id::SessionExpiryInterval,
    Id::ServerReference,
    Id::ReasonString,
    Id::UserProperty,
]);
const AUTH: PropertySet = PropertySet::of(&[
    Id::AuthenticationMethod,
    Id::AuthenticationData,
    Id::ReasonString,
    Id::UserProperty,
]);
const ACK: PropertySet = PropertySet::of(&[Id::ReasonString, Id::UserProperty]);
const UNSUBSCRIBE: PropertySet = PropertySet::of(&[Id::UserProperty]);

impl PropertyPlace {
    /// The properties that may stand here.
    pub(crate) const fn allowed(self) -> PropertySet {
        match self {
            Self::Will => WILL,
            Self::Packet(PacketType::Connect) => CONNECT,
            Self::Packet(PacketType::ConnAck) => CONNACK,
            Self::Packet(PacketType::Publish) => PUBLISH,
            Self::Packet(PacketType::Subscribe) => SUBSCRIBE,
            Self::Packet(PacketType::Unsubscribe) => UNSUBSCRIBE,
            Self::Packet(PacketType::Disconnect) => DISCONNECT,
            Self::Packet(PacketType::Auth) => AUTH,
            Self::Packet(
                PacketType::PubAck
                | PacketType::PubRec
                | PacketType::PubRel
                | PacketType::PubComp
                | PacketType::SubAck
                | PacketType::UnsubAck,
            ) => ACK,
            Self::Packet(PacketType::PingReq | PacketType::PingResp) => PropertySet::EMPTY,
        }
    }
}

impl PropertyId {
    /// Every property in the order of its identifier.
    pub const ALL: [Self; 27] = [
        Self::PayloadFormatIndicator,
        Self::MessageExpiryInterval,
        Self::ContentType,
        Self::ResponseTopic,
        Self::CorrelationData,
        Self::SubscriptionIdentifier,
        Self::SessionExpiryInterval,
        Self::AssignedClientIdentifier,
        Self::ServerKeepAlive,
        Self::AuthenticationMethod,
        Self::AuthenticationData,
        Self::RequestProblemInformation,
        Self::WillDelayInterval,
        Self::RequestResponseInformation,
        Self::ResponseInformation,
        Self::ServerReference,
        Self::ReasonString,
        Self::ReceiveMaximum,
        Self::TopicAliasMaximum,
        Self::TopicAlias,
        Self::MaximumQoS,
        Self::RetainAvailable,
        Self::UserProperty,
        Self::MaximumPacketSize,
        Self::WildcardSubscriptionAvailable,
        Self::SubscriptionIdentifierAvailable,
        Self::SharedSubscriptionAvailable,
    ];

    /// The property of an identifier; `None` when MQTT 5 does not define it.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0x01 => Self::PayloadFormatIndicator,
            0x02 => Self::MessageExpiryInterval,
            0x03 => Self::ContentType,
            0x08 => Self::ResponseTopic,
            0x09 => Self::CorrelationData,
            0x0B => Self::SubscriptionIdentifier,
            0x11 => Self::SessionExpiryInterval,
            0x12 => Self::AssignedClientIdentifier,
            0x13 => Self::ServerKeepAlive,
            0x15 => Self::AuthenticationMethod,
            0x16 => Self::AuthenticationData,
            0x17 => Self::RequestProblemInformation,
            0x18 => Self::WillDelayInterval,
            0x19 => Self::RequestResponseInformation,
            0x1A => Self::ResponseInformation,
            0x1C => Self::ServerReference,
            0x1F => Self::ReasonString,
            0x21 => Self::ReceiveMaximum,
            0x22 => Self::TopicAliasMaximum,
            0x23 => Self::TopicAlias,
            0x24 => Self::MaximumQoS,
            0x25 => Self::RetainAvailable,
            0x26 => Self::UserProperty,
            0x27 => Self::MaximumPacketSize,
            0x28 => Self::WildcardSubscriptionAvailable,
            0x29 => Self::SubscriptionIdentifierAvailable,
            0x2A => Self::SharedSubscriptionAvailable,
            _ => return None,
        })
    }

    /// The identifier on the wire. All are below 128, so each takes one byte.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Whether the property may stand in a place at all. Some have one sender only besides.
    #[must_use]
    pub const fn may_stand_in(self, place: PropertyPlace) -> bool {
        place.allowed().contains(self)
    }

    const fn bit(self) -> u64 {
        1 << self.number()
    }

    pub(crate) const fn kind(self) -> ValueKind {
        match self {
            Self::PayloadFormatIndicator
            | Self::RequestProblemInformation
            | Self::RequestResponseInformation
            | Self::MaximumQoS
            | Self::RetainAvailable
            | Self::WildcardSubscriptionAvailable
            | Self::SubscriptionIdentifierAvailable
            | Self::SharedSubscriptionAvailable => ValueKind::Byte,
            Self::MessageExpiryInterval
            | Self::SessionExpiryInterval
            | Self::WillDelayInterval
            | Self::MaximumPacketSize => ValueKind::U32,
            Self::ContentType
            | Self::ResponseTopic
            | Self::AssignedClientIdentifier
            | Self::AuthenticationMethod
            | Self::ResponseInformation
            | Self::ServerReference
            | Self::ReasonString => ValueKind::Text,
            Self::CorrelationData | Self::AuthenticationData => ValueKind::Binary,
            Self::SubscriptionIdentifier => ValueKind::VarInt,
            Self::ServerKeepAlive
            | Self::ReceiveMaximum
            | Self::TopicAliasMaximum
            | Self::TopicAlias => ValueKind::U16,
            Self::UserProperty => ValueKind::Pair,
        }
    }

    /// Whether the property may stand more than once in this place: user properties everywhere, the
    /// subscription identifiers of all matching subscriptions in PUBLISH [MQTT-3.3.4-4].
    pub(crate) const fn may_repeat(self, place: PropertyPlace) -> bool {
        matches!(
            (self, place),
            (Self::UserProperty, _)
                | (
                    Self::SubscriptionIdentifier,
                    PropertyPlace::Packet(PacketType::Publish)
                )
        )
    }

    /// The smallest and largest number that the property may hold, where that is narrower than its
    /// wire type.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "most properties have no narrower range"
    )]
    pub(crate) const fn range(self) -> (u32, u32) {
        match self {
            Self::PayloadFormatIndicator
            | Self::RequestProblemInformation
            | Self::RequestResponseInformation
            | Self::MaximumQoS
            | Self::RetainAvailable
            | Self::WildcardSubscriptionAvailable
            | Self::SubscriptionIdentifierAvailable
            | Self::SharedSubscriptionAvailable => (0, 1),
            Self::SubscriptionIdentifier
            | Self::ReceiveMaximum
            | Self::TopicAlias
            | Self::MaximumPacketSize => (1, u32::MAX),
            _ => (0, u32::MAX),
        }
    }

    /// The name in words, as the specification writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PayloadFormatIndicator => "payload format indicator",
            Self::MessageExpiryInterval => "message expiry interval",
            Self::ContentType => "content type",
            Self::ResponseTopic => "response topic",
            Self::CorrelationData => "correlation data",
            Self::SubscriptionIdentifier => "subscription identifier",
            Self::SessionExpiryInterval => "session expiry interval",
            Self::AssignedClientIdentifier => "assigned client identifier",
            Self::ServerKeepAlive => "server keep alive",
            Self::AuthenticationMethod => "authentication method",
            Self::AuthenticationData => "authentication data",
            Self::RequestProblemInformation => "request problem information",
            Self::WillDelayInterval => "will delay interval",
            Self::RequestResponseInformation => "request response information",
            Self::ResponseInformation => "response information",
            Self::ServerReference => "server reference",
            Self::ReasonString => "reason string",
            Self::ReceiveMaximum => "receive maximum",
            Self::TopicAliasMaximum => "topic alias maximum",
            Self::TopicAlias => "topic alias",
            Self::MaximumQoS => "maximum QoS",
            Self::RetainAvailable => "retain available",
            Self::UserProperty => "user property",
            Self::MaximumPacketSize => "maximum packet size",
            Self::WildcardSubscriptionAvailable => "wildcard subscription available",
            Self::SubscriptionIdentifierAvailable => "subscription identifier available",
            Self::SharedSubscriptionAvailable => "shared subscription available",
        }
    }
}

impl fmt::Display for PropertyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
