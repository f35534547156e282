//! Why bytes are not an MQTT packet, each with its reason code and the statement that it breaks.

use std::fmt;

use crate::model::{PacketType, REMAINING_LENGTH_MAX};
use crate::property::{PropertyId, PropertyPlace};
use crate::reason::ReasonCode;

/// Why a packet cannot be decoded. Any of them ends the connection [MQTT-4.13.1-1].
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// The fixed header announces a packet above the limit of this end. Seen before its content.
    PacketTooLarge {
        /// Bytes of the whole packet, fixed header included.
        len: u32,
        /// The limit in bytes.
        max: u32,
    },
    /// A variable byte integer has a fifth byte.
    VarIntTooLong,
    /// A variable byte integer takes more bytes than its value needs. (MQTT 5; older versions do
    /// not forbid it in the remaining length.)
    VarIntNotMinimal,
    /// Packet type 0, or 15 in a version before 5.
    PacketTypeReserved {
        /// The number in the fixed header.
        number: u8,
    },
    /// This packet may not come from that end of the connection in this version.
    PacketTypeUnexpected {
        /// The type of the packet.
        packet: PacketType,
    },
    /// The first packet of a connection is not CONNECT.
    FirstPacketNotConnect {
        /// The type of the packet.
        packet: PacketType,
    },
    /// The reserved flags of the fixed header do not hold their fixed value.
    HeaderFlags {
        /// The type of the packet.
        packet: PacketType,
        /// The four flag bits found.
        flags: u8,
    },
    /// Both QoS bits of PUBLISH are set.
    QosInvalid,
    /// PUBLISH has DUP set at QoS 0.
    DupAtQos0,
    /// A field reaches past the end of the packet, or of the properties.
    Truncated {
        /// The type of the packet.
        packet: PacketType,
        /// The field in words.
        field: &'static str,
    },
    /// Bytes are left after the last field.
    TrailingBytes {
        /// The type of the packet.
        packet: PacketType,
        /// How many bytes.
        count: usize,
    },
    /// Text is not well-formed UTF-8.
    TextNotUtf8 {
        /// The type of the packet.
        packet: PacketType,
        /// The field in words.
        field: &'static str,
    },
    /// Text holds U+0000.
    TextHasNull {
        /// The type of the packet.
        packet: PacketType,
        /// The field in words.
        field: &'static str,
    },
    /// The packet identifier is zero.
    PacketIdZero {
        /// The type of the packet.
        packet: PacketType,
    },
    /// The protocol name of CONNECT is neither `MQTT` nor, at level 3, `MQIsdp`.
    ProtocolName,
    /// The protocol level of CONNECT is not 3, 4 or 5, or is not one of the protocol name's.
    ProtocolLevel {
        /// The level found.
        level: u8,
    },
    /// The reserved flag of CONNECT is set.
    ConnectFlagReserved,
    /// Both will QoS bits are set.
    WillQosInvalid,
    /// CONNECT gives a will QoS without a will.
    WillQosWithoutWill,
    /// CONNECT sets will retain without a will.
    WillRetainWithoutWill,
    /// A password without a user name, before MQTT 5.
    PasswordWithoutUserName,
    /// An empty client identifier that is to keep a session (3.1.1), or in 3.1 at all.
    ClientIdEmpty,
    /// A property identifier that MQTT 5 does not define.
    PropertyUnknown {
        /// Where it stands.
        place: PropertyPlace,
        /// The identifier.
        number: u32,
    },
    /// A property that may not stand here.
    PropertyNotAllowed {
        /// Where it stands.
        place: PropertyPlace,
        /// The property.
        property: PropertyId,
    },
    /// A property stands twice.
    PropertyRepeated {
        /// Where it stands.
        place: PropertyPlace,
        /// The property.
        property: PropertyId,
    },
    /// A property holds a number outside of its range.
    PropertyValue {
        /// The property.
        property: PropertyId,
        /// The number.
        value: u32,
    },
    /// The topic alias is zero.
    TopicAliasZero,
    /// A client sent a subscription identifier in PUBLISH.
    SubscriptionIdFromClient,
    /// A server sent a session expiry interval in DISCONNECT.
    SessionExpiryFromServer,
    /// The response topic is empty or has a wildcard.
    ResponseTopicInvalid,
    /// Authentication data without an authentication method.
    AuthDataWithoutMethod,
    /// AUTH without an authentication method.
    AuthMethodMissing,
    /// A topic name has a wildcard.
    TopicHasWildcard {
        /// PUBLISH, or CONNECT for the topic of a will.
        packet: PacketType,
    },
    /// A topic name is empty and no topic alias stands in for it.
    TopicEmpty {
        /// PUBLISH, or CONNECT for the topic of a will.
        packet: PacketType,
    },
    /// SUBSCRIBE or UNSUBSCRIBE without a topic filter.
    NoFilter {
        /// The type of the packet.
        packet: PacketType,
    },
    /// A topic filter is empty.
    FilterEmpty {
        /// The type of the packet.
        packet: PacketType,
    },
    /// Reserved bits of the subscription options are set.
    SubscriptionOptionsReserved {
        /// The options byte.
        options: u8,
    },
    /// A subscription asks for QoS 3.
    SubscriptionQosInvalid,
    /// A subscription asks for retain handling 3.
    RetainHandlingInvalid,
    /// No Local on a shared subscription.
    NoLocalOnShared,
    /// SUBACK or UNSUBACK without a reason code.
    NoReasonCode {
        /// The type of the packet.
        packet: PacketType,
    },
    /// A reason code that is undefined, or not this packet's, or not this sender's.
    ReasonCodeInvalid {
        /// The type of the packet.
        packet: PacketType,
        /// The code found.
        code: u8,
    },
    /// Reserved CONNACK flags are set.
    ConnAckFlagsReserved {
        /// The flags byte.
        flags: u8,
    },
    /// CONNACK refuses the connection and says that a session is present.
    SessionPresentRefused {
        /// The reason code or return code.
        code: u8,
    },
}

/// What is wrong with a packet that does not decode, in the words of the specifications.
struct Rule {
    reason: ReasonCode,
    /// Statement of MQTT 5, or empty.
    v5: &'static str,
    /// Statement of MQTT 3.1.1, or empty.
    v311: &'static str,
}

const fn rule(reason: ReasonCode, v5: &'static str, v311: &'static str) -> Rule {
    Rule { reason, v5, v311 }
}

impl DecodeError {
    /// The MQTT 5 reason code for the CONNACK or DISCONNECT that answers the packet.
    #[must_use]
    pub const fn reason(&self) -> ReasonCode {
        self.rule().reason
    }

    /// The statement that the packet breaks: that of MQTT 5, or of 3.1.1 where only 3.1.1 has one,
    /// or the empty string where the specification forbids it in words without a number.
    #[must_use]
    pub const fn statement(&self) -> &'static str {
        let rule = self.rule();
        if rule.v5.is_empty() {
            rule.v311
        } else {
            rule.v5
        }
    }

    /// The statement of MQTT 3.1.1 that the packet breaks, or the empty string.
    #[must_use]
    pub const fn statement_v311(&self) -> &'static str {
        self.rule().v311
    }

    const fn rule(&self) -> Rule {
        match self {
            Self::ProtocolName
            | Self::ProtocolLevel { .. }
            | Self::ConnectFlagReserved
            | Self::WillQosInvalid
            | Self::WillQosWithoutWill
            | Self::WillRetainWithoutWill
            | Self::PasswordWithoutUserName
            | Self::ClientIdEmpty
            | Self::FirstPacketNotConnect { .. } => self.connect_rule(),
            Self::NoFilter { .. }
            | Self::FilterEmpty { .. }
            | Self::SubscriptionOptionsReserved { .. }
            | Self::SubscriptionQosInvalid
            | Self::RetainHandlingInvalid
            | Self::NoLocalOnShared => self.subscribe_rule(),
            Self::NoReasonCode { .. }
            | Self::ReasonCodeInvalid { .. }
            | Self::ConnAckFlagsReserved { .. }
            | Self::SessionPresentRefused { .. } => self.ack_rule(),
            Self::PropertyUnknown { .. }
            | Self::PropertyNotAllowed { .. }
            | Self::PropertyRepeated { .. }
            | Self::PropertyValue { .. }
            | Self::TopicAliasZero
            | Self::SubscriptionIdFromClient
            | Self::SessionExpiryFromServer
            | Self::ResponseTopicInvalid
            | Self::AuthDataWithoutMethod
            | Self::AuthMethodMissing => self.property_rule(),
            Self::PacketTooLarge { .. }
            | Self::VarIntTooLong
            | Self::VarIntNotMinimal
            | Self::PacketTypeReserved { .. }
            | Self::PacketTypeUnexpected { .. }
            | Self::HeaderFlags { .. }
            | Self::QosInvalid
            | Self::DupAtQos0
            | Self::Truncated { .. }
            | Self::TrailingBytes { .. }
            | Self::TextNotUtf8 { .. }
            | Self::TextHasNull { .. }
            | Self::PacketIdZero { .. }
            | Self::TopicHasWildcard { .. }
            | Self::TopicEmpty { .. } => self.common_rule(),
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "`rule` names the variants of each group"
    )]
    const fn common_rule(&self) -> Rule {
        use ReasonCode::{MalformedPacket, PacketTooLarge, ProtocolError, TopicNameInvalid};
        match self {
            Self::PacketTooLarge { .. } => rule(PacketTooLarge, "[MQTT-3.2.2-15]", ""),
            Self::VarIntNotMinimal => rule(MalformedPacket, "[MQTT-1.5.5-1]", ""),
            Self::PacketTypeUnexpected { .. } => rule(ProtocolError, "", ""),
            Self::HeaderFlags { .. } => rule(MalformedPacket, "[MQTT-2.1.3-1]", "[MQTT-2.2.2-2]"),
            Self::QosInvalid => rule(MalformedPacket, "[MQTT-3.3.1-4]", "[MQTT-3.3.1-4]"),
            Self::DupAtQos0 => rule(MalformedPacket, "[MQTT-3.3.1-2]", "[MQTT-3.3.1-2]"),
            Self::TextNotUtf8 { .. } => rule(MalformedPacket, "[MQTT-1.5.4-1]", "[MQTT-1.5.3-1]"),
            Self::TextHasNull { .. } => rule(MalformedPacket, "[MQTT-1.5.4-2]", "[MQTT-1.5.3-2]"),
            Self::PacketIdZero { .. } => rule(ProtocolError, "[MQTT-2.2.1-3]", "[MQTT-2.3.1-1]"),
            Self::TopicHasWildcard { .. } => {
                rule(TopicNameInvalid, "[MQTT-3.3.2-2]", "[MQTT-3.3.2-2]")
            }
            Self::TopicEmpty { .. } => rule(ProtocolError, "[MQTT-4.7.3-1]", "[MQTT-4.7.3-1]"),
            _ => rule(MalformedPacket, "", ""),
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "`rule` names the variants of each group"
    )]
    const fn connect_rule(&self) -> Rule {
        use ReasonCode::{
            ClientIdentifierNotValid, MalformedPacket, ProtocolError, UnsupportedProtocolVersion,
        };
        match self {
            Self::FirstPacketNotConnect { .. } => {
                rule(ProtocolError, "[MQTT-3.1.0-1]", "[MQTT-3.1.0-1]")
            }
            Self::ProtocolName => rule(
                UnsupportedProtocolVersion,
                "[MQTT-3.1.2-1]",
                "[MQTT-3.1.2-1]",
            ),
            Self::ProtocolLevel { .. } => rule(
                UnsupportedProtocolVersion,
                "[MQTT-3.1.2-2]",
                "[MQTT-3.1.2-2]",
            ),
            Self::ConnectFlagReserved => rule(MalformedPacket, "[MQTT-3.1.2-3]", "[MQTT-3.1.2-3]"),
            Self::WillQosInvalid => rule(MalformedPacket, "[MQTT-3.1.2-12]", "[MQTT-3.1.2-14]"),
            Self::WillQosWithoutWill => rule(MalformedPacket, "[MQTT-3.1.2-11]", "[MQTT-3.1.2-13]"),
            Self::WillRetainWithoutWill => {
                rule(MalformedPacket, "[MQTT-3.1.2-13]", "[MQTT-3.1.2-15]")
            }
            Self::PasswordWithoutUserName => rule(ProtocolError, "", "[MQTT-3.1.2-22]"),
            Self::ClientIdEmpty => rule(ClientIdentifierNotValid, "", "[MQTT-3.1.3-8]"),
            _ => rule(MalformedPacket, "", ""),
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "`rule` names the variants of each group"
    )]
    const fn subscribe_rule(&self) -> Rule {
        use ReasonCode::{MalformedPacket, ProtocolError, TopicFilterInvalid};
        match self {
            Self::NoFilter {
                packet: PacketType::Unsubscribe,
            } => rule(ProtocolError, "[MQTT-3.10.3-2]", "[MQTT-3.10.3-2]"),
            Self::NoFilter { .. } => rule(ProtocolError, "[MQTT-3.8.3-2]", "[MQTT-3.8.3-3]"),
            Self::FilterEmpty { .. } => {
                rule(TopicFilterInvalid, "[MQTT-4.7.3-1]", "[MQTT-4.7.3-1]")
            }
            Self::SubscriptionOptionsReserved { .. } => {
                rule(MalformedPacket, "[MQTT-3.8.3-5]", "[MQTT-3.8.3-4]")
            }
            Self::SubscriptionQosInvalid => rule(ProtocolError, "", "[MQTT-3.8.3-4]"),
            Self::RetainHandlingInvalid => rule(ProtocolError, "", ""),
            Self::NoLocalOnShared => rule(ProtocolError, "[MQTT-3.8.3-4]", ""),
            _ => rule(MalformedPacket, "", ""),
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "`rule` names the variants of each group"
    )]
    const fn ack_rule(&self) -> Rule {
        use ReasonCode::{MalformedPacket, ProtocolError};
        match self {
            Self::NoReasonCode {
                packet: PacketType::UnsubAck,
            } => rule(ProtocolError, "[MQTT-3.11.3-1]", ""),
            Self::NoReasonCode { .. } => rule(ProtocolError, "[MQTT-3.8.4-6]", "[MQTT-3.8.4-5]"),
            Self::ReasonCodeInvalid { packet, .. } => match packet {
                PacketType::ConnAck => rule(ProtocolError, "[MQTT-3.2.2-8]", ""),
                PacketType::PubAck => rule(ProtocolError, "[MQTT-3.4.2-1]", ""),
                PacketType::PubRec => rule(ProtocolError, "[MQTT-3.5.2-1]", ""),
                PacketType::PubRel => rule(ProtocolError, "[MQTT-3.6.2-1]", ""),
                PacketType::PubComp => rule(ProtocolError, "[MQTT-3.7.2-1]", ""),
                PacketType::SubAck => rule(ProtocolError, "[MQTT-3.9.3-2]", "[MQTT-3.9.3-2]"),
                PacketType::UnsubAck => rule(ProtocolError, "[MQTT-3.11.3-2]", ""),
                PacketType::Disconnect => rule(ProtocolError, "[MQTT-3.14.2-1]", ""),
                PacketType::Auth => rule(ProtocolError, "[MQTT-3.15.2-1]", ""),
                _ => rule(ProtocolError, "", ""),
            },
            Self::ConnAckFlagsReserved { .. } => rule(MalformedPacket, "[MQTT-3.2.2-1]", ""),
            Self::SessionPresentRefused { .. } => {
                rule(ProtocolError, "[MQTT-3.2.2-6]", "[MQTT-3.2.2-4]")
            }
            _ => rule(MalformedPacket, "", ""),
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "`rule` names the variants of each group"
    )]
    const fn property_rule(&self) -> Rule {
        use ReasonCode::{MalformedPacket, ProtocolError, TopicAliasInvalid, TopicNameInvalid};
        match self {
            Self::TopicAliasZero => rule(TopicAliasInvalid, "[MQTT-3.3.2-8]", ""),
            Self::SubscriptionIdFromClient => rule(ProtocolError, "[MQTT-3.3.4-6]", ""),
            Self::SessionExpiryFromServer => rule(ProtocolError, "[MQTT-3.14.2-2]", ""),
            Self::ResponseTopicInvalid => rule(TopicNameInvalid, "[MQTT-3.3.2-14]", ""),
            Self::PropertyRepeated { .. }
            | Self::PropertyValue { .. }
            | Self::AuthDataWithoutMethod
            | Self::AuthMethodMissing => rule(ProtocolError, "", ""),
            _ => rule(MalformedPacket, "", ""),
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.describe(f)?;
        let statement = self.statement();
        if statement.is_empty() {
            Ok(())
        } else {
            write!(f, " {statement}")
        }
    }
}

impl DecodeError {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "`describe_content` handles the others"
    )]
    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::PacketTooLarge { len, max } => {
                write!(f, "packet of {len} bytes, the limit is {max}")
            }
            Self::VarIntTooLong => f.write_str("variable byte integer of more than 4 bytes"),
            Self::VarIntNotMinimal => f.write_str("variable byte integer longer than necessary"),
            Self::PacketTypeReserved { number } => write!(f, "reserved packet type {number}"),
            Self::PacketTypeUnexpected { packet } => {
                write!(f, "{packet} may not come from this peer in this version")
            }
            Self::FirstPacketNotConnect { packet } => {
                write!(f, "the first packet is {packet}, not CONNECT")
            }
            Self::HeaderFlags { packet, flags } => {
                write!(f, "{packet} has fixed header flags {flags:#06b}")
            }
            Self::QosInvalid => f.write_str("PUBLISH with QoS 3"),
            Self::DupAtQos0 => f.write_str("PUBLISH with DUP at QoS 0"),
            Self::Truncated { packet, field } => {
                write!(f, "{packet}: {field} reaches past the end")
            }
            Self::TrailingBytes { packet, count } => {
                write!(f, "{packet} has {count} bytes after its last field")
            }
            Self::TextNotUtf8 { packet, field } => write!(f, "{packet}: {field} is not UTF-8"),
            Self::TextHasNull { packet, field } => write!(f, "{packet}: {field} holds U+0000"),
            Self::PacketIdZero { packet } => write!(f, "{packet} with packet identifier 0"),
            Self::PropertyUnknown { place, number } => {
                write!(f, "{place}: unknown property {number:#04x}")
            }
            Self::PropertyNotAllowed { place, property } => {
                write!(f, "{place}: {property} does not belong here")
            }
            Self::PropertyRepeated { place, property } => {
                write!(f, "{place}: {property} stands twice")
            }
            Self::PropertyValue { property, value } => {
                write!(f, "property {property} may not be {value}")
            }
            _ => self.describe_content(f),
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "`describe` handles the others"
    )]
    fn describe_content(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ProtocolName => f.write_str("CONNECT names another protocol"),
            Self::ProtocolLevel { level } => write!(f, "CONNECT at protocol level {level}"),
            Self::ConnectFlagReserved => f.write_str("CONNECT sets its reserved flag"),
            Self::WillQosInvalid => f.write_str("CONNECT with will QoS 3"),
            Self::WillQosWithoutWill => f.write_str("CONNECT with a will QoS and no will"),
            Self::WillRetainWithoutWill => f.write_str("CONNECT with will retain and no will"),
            Self::PasswordWithoutUserName => f.write_str("CONNECT with a password, no user name"),
            Self::ClientIdEmpty => f.write_str("CONNECT with an empty client identifier"),
            Self::TopicAliasZero => f.write_str("topic alias 0"),
            Self::SubscriptionIdFromClient => {
                f.write_str("PUBLISH of a client with a subscription identifier")
            }
            Self::SessionExpiryFromServer => {
                f.write_str("DISCONNECT of a server with a session expiry interval")
            }
            Self::ResponseTopicInvalid => f.write_str("response topic empty or with a wildcard"),
            Self::AuthDataWithoutMethod => {
                f.write_str("authentication data without an authentication method")
            }
            Self::AuthMethodMissing => f.write_str("AUTH without an authentication method"),
            Self::TopicHasWildcard { packet } => write!(f, "{packet}: topic name with a wildcard"),
            Self::TopicEmpty { packet } => write!(f, "{packet}: empty topic name"),
            Self::NoFilter { packet } => write!(f, "{packet} without a topic filter"),
            Self::FilterEmpty { packet } => write!(f, "{packet} with an empty topic filter"),
            Self::SubscriptionOptionsReserved { options } => {
                write!(f, "reserved bits in subscription options {options:#010b}")
            }
            Self::SubscriptionQosInvalid => f.write_str("subscription with QoS 3"),
            Self::RetainHandlingInvalid => f.write_str("subscription with retain handling 3"),
            Self::NoLocalOnShared => f.write_str("No Local on a shared subscription"),
            Self::NoReasonCode { packet } => write!(f, "{packet} without a reason code"),
            Self::ReasonCodeInvalid { packet, code } => {
                write!(f, "{packet} may not carry reason code {code:#04x}")
            }
            Self::ConnAckFlagsReserved { flags } => {
                write!(f, "reserved bits in CONNACK flags {flags:#010b}")
            }
            Self::SessionPresentRefused { code } => {
                write!(f, "CONNACK with session present and code {code:#04x}")
            }
            _ => Ok(()),
        }
    }
}

impl std::error::Error for DecodeError {}

/// Why a packet cannot be encoded. All of them are mistakes of the caller, but for the size of what
/// a peer or user supplied.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncodeError {
    /// A text or binary field above 65,535 bytes.
    FieldTooLong {
        /// The field in words.
        field: &'static str,
        /// Its bytes.
        len: usize,
    },
    /// The content exceeds what the remaining length can say, 268,435,455 bytes.
    PacketTooLarge {
        /// Bytes after the fixed header.
        len: usize,
    },
    /// The packet does not exist in this version.
    NotInVersion {
        /// The type of the packet.
        packet: PacketType,
    },
    /// A packet id at QoS 0, or none at QoS 1 or 2.
    PacketIdMismatch,
    /// A list that must hold at least one entry is empty.
    ListEmpty {
        /// The type of the packet.
        packet: PacketType,
    },
    /// A property that may not stand here.
    PropertyNotAllowed {
        /// Where it stands.
        place: PropertyPlace,
        /// The property.
        property: PropertyId,
    },
    /// A property was given twice.
    PropertyRepeated {
        /// The property.
        property: PropertyId,
    },
    /// A property holds a number outside of its range.
    PropertyValue {
        /// The property.
        property: PropertyId,
        /// The number.
        value: u32,
    },
    /// A property was given a value of another type than its own.
    PropertyType {
        /// The property.
        property: PropertyId,
    },
    /// A text holds U+0000.
    TextHasNull {
        /// The field in words.
        field: &'static str,
    },
    /// A topic name is empty or has a wildcard, or a topic filter is empty.
    TopicInvalid {
        /// The field in words.
        field: &'static str,
    },
    /// A reason code that the packet may not carry.
    ReasonCodeInvalid {
        /// The type of the packet.
        packet: PacketType,
        /// The reason code.
        reason: ReasonCode,
    },
    /// AUTH without an authentication method.
    AuthMethodMissing,
    /// A password without a user name, before MQTT 5.
    PasswordWithoutUserName,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::FieldTooLong { field, len } => {
                write!(f, "{field} of {len} bytes, the limit is {}", u16::MAX)
            }
            Self::PacketTooLarge { len } => {
                write!(
                    f,
                    "packet content of {len} bytes, the limit is {REMAINING_LENGTH_MAX}"
                )
            }
            Self::NotInVersion { packet } => write!(f, "{packet} does not exist in this version"),
            Self::PacketIdMismatch => f.write_str("a packet id belongs to QoS 1 and 2 only"),
            Self::ListEmpty { packet } => write!(f, "{packet} needs at least one entry"),
            Self::PropertyNotAllowed { place, property } => {
                write!(f, "{place}: {property} does not belong here")
            }
            Self::PropertyRepeated { property } => write!(f, "property {property} given twice"),
            Self::PropertyValue { property, value } => {
                write!(f, "property {property} may not be {value}")
            }
            Self::PropertyType { property } => write!(f, "property {property} has another type"),
            Self::TextHasNull { field } => write!(f, "{field} holds U+0000"),
            Self::TopicInvalid { field } => write!(f, "{field} is empty or has a wildcard"),
            Self::ReasonCodeInvalid { packet, reason } => {
                write!(
                    f,
                    "{packet} may not carry reason code {:#04x}",
                    reason.number()
                )
            }
            Self::AuthMethodMissing => f.write_str("AUTH needs an authentication method"),
            Self::PasswordWithoutUserName => f.write_str("a password needs a user name"),
        }
    }
}

impl std::error::Error for EncodeError {}
