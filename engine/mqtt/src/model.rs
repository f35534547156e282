//! The small types that every packet shares: version, quality of service, packet id, direction,
//! packet type, size limit.

use std::fmt;
use std::num::NonZeroU16;

/// Protocol version, by the protocol level byte of CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Version {
    /// MQTT 3.1 (protocol name `MQIsdp`).
    V31 = 3,
    /// MQTT 3.1.1.
    V311 = 4,
    /// MQTT 5.0.
    V5 = 5,
}

impl Version {
    /// Every version, oldest first.
    pub const ALL: [Self; 3] = [Self::V31, Self::V311, Self::V5];

    /// The version of a protocol level byte, if it is one that this codec speaks.
    #[must_use]
    pub const fn from_level(level: u8) -> Option<Self> {
        match level {
            3 => Some(Self::V31),
            4 => Some(Self::V311),
            5 => Some(Self::V5),
            _ => None,
        }
    }

    /// The protocol level byte.
    #[must_use]
    pub const fn level(self) -> u8 {
        self as u8
    }

    /// The protocol name that CONNECT carries [MQTT-3.1.2-1].
    #[must_use]
    pub const fn protocol_name(self) -> &'static str {
        match self {
            Self::V31 => "MQIsdp",
            Self::V311 | Self::V5 => "MQTT",
        }
    }

    /// Whether packets of this version carry properties and reason codes.
    #[must_use]
    pub const fn has_properties(self) -> bool {
        matches!(self, Self::V5)
    }
}

/// Quality of service of one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum QoS {
    /// At most once: no acknowledgement, no packet id.
    #[default]
    AtMostOnce = 0,
    /// At least once: PUBACK.
    AtLeastOnce = 1,
    /// Exactly once: PUBREC, PUBREL, PUBCOMP.
    ExactlyOnce = 2,
}

impl QoS {
    /// The quality of service of its two wire bits; `None` for 3 and above.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }

    /// The two wire bits.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self as u8
    }
}

/// A packet identifier: never zero [MQTT-2.2.1-3].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketId(pub NonZeroU16);

impl PacketId {
    /// The identifier of a number; `None` for zero.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        match NonZeroU16::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The number, 1 to 65,535.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for PacketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who sent the bytes to decode. Some packets, properties and reason codes have one sender only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// A client sent them: this end is a server.
    FromClient,
    /// A server sent them: this end is a client.
    FromServer,
}

/// The control packet types, by their number in the fixed header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PacketType {
    /// A client asks for a connection.
    Connect = 1,
    /// The server's answer to CONNECT.
    ConnAck = 2,
    /// A message.
    Publish = 3,
    /// Acknowledges a QoS 1 message.
    PubAck = 4,
    /// First answer to a QoS 2 message.
    PubRec = 5,
    /// Releases a QoS 2 message.
    PubRel = 6,
    /// Completes a QoS 2 message.
    PubComp = 7,
    /// Asks for subscriptions.
    Subscribe = 8,
    /// Answers SUBSCRIBE.
    SubAck = 9,
    /// Ends subscriptions.
    Unsubscribe = 10,
    /// Answers UNSUBSCRIBE.
    UnsubAck = 11,
    /// Asks whether the server is alive.
    PingReq = 12,
    /// Answers PINGREQ.
    PingResp = 13,
    /// Ends the connection in good order.
    Disconnect = 14,
    /// One step of an extended authentication (MQTT 5 only).
    Auth = 15,
}

impl PacketType {
    /// Every type in the order of its number.
    pub const ALL: [Self; 15] = [
        Self::Connect,
        Self::ConnAck,
        Self::Publish,
        Self::PubAck,
        Self::PubRec,
        Self::PubRel,
        Self::PubComp,
        Self::Subscribe,
        Self::SubAck,
        Self::Unsubscribe,
        Self::UnsubAck,
        Self::PingReq,
        Self::PingResp,
        Self::Disconnect,
        Self::Auth,
    ];

    /// The type of the upper four bits of a fixed header's first byte; `None` for 0.
    #[must_use]
    pub fn from_first_byte(first: u8) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.number() == first >> 4)
    }

    /// The number in the fixed header, 1 to 15.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The four flag bits that the fixed header of this type must carry [MQTT-2.1.3-1]. PUBLISH has
    /// flags of its own and is not asked about.
    #[must_use]
    pub const fn reserved_flags(self) -> u8 {
        match self {
            Self::PubRel | Self::Subscribe | Self::Unsubscribe => 0b0010,
            Self::Connect
            | Self::ConnAck
            | Self::Publish
            | Self::PubAck
            | Self::PubRec
            | Self::PubComp
            | Self::SubAck
            | Self::UnsubAck
            | Self::PingReq
            | Self::PingResp
            | Self::Disconnect
            | Self::Auth => 0,
        }
    }

    /// Whether the type exists in a version and may come from this sender.
    #[must_use]
    pub const fn may_come(self, version: Version, direction: Direction) -> bool {
        match self {
            Self::Connect | Self::Subscribe | Self::Unsubscribe | Self::PingReq => {
                matches!(direction, Direction::FromClient)
            }
            Self::ConnAck | Self::SubAck | Self::UnsubAck | Self::PingResp => {
                matches!(direction, Direction::FromServer)
            }
            Self::Publish | Self::PubAck | Self::PubRec | Self::PubRel | Self::PubComp => true,
            Self::Disconnect => {
                version.has_properties() || matches!(direction, Direction::FromClient)
            }
            Self::Auth => version.has_properties(),
        }
    }

    /// The name as the specifications write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::ConnAck => "CONNACK",
            Self::Publish => "PUBLISH",
            Self::PubAck => "PUBACK",
            Self::PubRec => "PUBREC",
            Self::PubRel => "PUBREL",
            Self::PubComp => "PUBCOMP",
            Self::Subscribe => "SUBSCRIBE",
            Self::SubAck => "SUBACK",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::UnsubAck => "UNSUBACK",
            Self::PingReq => "PINGREQ",
            Self::PingResp => "PINGRESP",
            Self::Disconnect => "DISCONNECT",
            Self::Auth => "AUTH",
        }
    }
}

impl fmt::Display for PacketType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The largest packet that the remaining length field can describe, in bytes: one byte of type and
/// flags, four of length and 2^28 - 1 of content.
pub const PACKET_BYTES_MAX: u32 = 1 + 4 + REMAINING_LENGTH_MAX;

/// The largest value of a variable byte integer [MQTT-1.5.5-1].
pub const REMAINING_LENGTH_MAX: u32 = 0x0FFF_FFFF;

/// What a decoder accepts beyond what the protocol itself bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest packet in bytes, fixed header included: the Maximum Packet Size that this end has
    /// told its peer. Default 1 MiB, range 5 to [`PACKET_BYTES_MAX`].
    pub packet_bytes_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            packet_bytes_max: 1 << 20,
        }
    }
}
