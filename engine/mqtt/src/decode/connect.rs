//! CONNECT (section 3.1), a look at its client identifier, and CONNACK (section 3.2).
//!
//! ```text
//! size  CONNECT                                        size  CONNACK
//! 2+n   protocol name                                  1     bit 0 session present
//! 1     protocol level                                 1     reason code or return code
//! 1     flags                                          1+n   properties, in MQTT 5
//! 2     keep alive in seconds
//! 1+n   properties, in MQTT 5
//! 2+n   client identifier
//! 1+n   will properties, in MQTT 5, if there is a will
//! 2+n   will topic, if there is a will
//! 2+n   will payload, if there is a will
//! 2+n   user name, by its flag
//! 2+n   password, by its flag
//! ```
//!
//! The flags of CONNECT, from bit 7 to bit 0: user name, password, will retain, will QoS (2 bits),
//! will, clean start, reserved.

use super::{Header, Partial, check_minimal, check_topic};
use crate::error::DecodeError;
use crate::model::{Direction, Limits, PacketType, QoS, Version};
use crate::packet::{ConnAck, Connect, Will};
use crate::properties::Properties;
use crate::property::{PropertyId, PropertyPlace};
use crate::read::Reader;
use crate::reason::ReasonCode;

const PLACE: PropertyPlace = PropertyPlace::Packet(PacketType::Connect);

/// The flags byte of CONNECT, checked.
#[derive(Clone, Copy)]
struct Flags {
    user_name: bool,
    password: bool,
    /// QoS and retain of the will.
    will: Option<(QoS, bool)>,
    clean_start: bool,
}

impl Flags {
    fn parse(bits: u8, version: Version) -> Result<Self, DecodeError> {
        if bits & 1 != 0 {
            return Err(DecodeError::ConnectFlagReserved);
        }
        let will_retain = bits & 0b10_0000 != 0;
        let Some(will_qos) = QoS::from_bits((bits >> 3) & 0b11) else {
            return Err(DecodeError::WillQosInvalid);
        };
        let has_will = bits & 0b100 != 0;
        if !has_will && will_qos != QoS::AtMostOnce {
            return Err(DecodeError::WillQosWithoutWill);
        }
        if !has_will && will_retain {
            return Err(DecodeError::WillRetainWithoutWill);
        }
        let user_name = bits & 0b1000_0000 != 0;
        let password = bits & 0b100_0000 != 0;
        if password && !user_name && !version.has_properties() {
            return Err(DecodeError::PasswordWithoutUserName);
        }
        let will = has_will.then_some((will_qos, will_retain));
        Ok(Self {
            user_name,
            password,
            will,
            clean_start: bits & 0b10 != 0,
        })
    }
}

/// CONNECT up to and including the client identifier.
struct Start<'a> {
    version: Version,
    flags: Flags,
    keep_alive: u16,
    properties: Properties<'a>,
    client_id: &'a str,
}

impl<'a> Start<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let version = read_version(reader)?;
        let flags = Flags::parse(reader.u8("connect flags")?, version)?;
        let keep_alive = reader.u16("keep alive")?;
        let properties = read_properties(reader, version, PLACE)?;
        if properties.contains(PropertyId::AuthenticationData)
            && !properties.contains(PropertyId::AuthenticationMethod)
        {
            return Err(DecodeError::AuthDataWithoutMethod);
        }
        let client_id = reader.text("client identifier")?;
        let may_be_empty = match version {
            Version::V31 => false,
            Version::V311 => flags.clean_start,
            Version::V5 => true,
        };
        if client_id.is_empty() && !may_be_empty {
            return Err(DecodeError::ClientIdEmpty);
        }
        Ok(Self {
            version,
            flags,
            keep_alive,
            properties,
            client_id,
        })
    }
}

/// Protocol name [MQTT-3.1.2-1] and level [MQTT-3.1.2-2].
fn read_version(reader: &mut Reader<'_>) -> Result<Version, DecodeError> {
    let name = reader.binary("protocol name")?;
    if !Version::ALL
        .iter()
        .any(|version| version.protocol_name().as_bytes() == name)
    {
        return Err(DecodeError::ProtocolName);
    }
    let level = reader.u8("protocol level")?;
    match Version::from_level(level) {
        Some(version) if version.protocol_name().as_bytes() == name => Ok(version),
        _ => Err(DecodeError::ProtocolLevel { level }),
    }
}

fn read_properties<'a>(
    reader: &mut Reader<'a>,
    version: Version,
    place: PropertyPlace,
) -> Result<Properties<'a>, DecodeError> {
    if version.has_properties() {
        Properties::read(reader, place)
    } else {
        Ok(Properties::EMPTY)
    }
}

pub(super) fn decode(mut reader: Reader<'_>) -> Result<Connect<'_>, DecodeError> {
    let start = Start::read(&mut reader)?;
    let will = match start.flags.will {
        Some((qos, retain)) => Some(read_will(&mut reader, start.version, qos, retain)?),
        None => None,
    };
    // MQTT 3.1 lets the remaining length win over these two flags: the fields may be missing.
    let lenient = start.version == Version::V31;
    let user_name = if start.flags.user_name && !(lenient && reader.is_empty()) {
        Some(reader.text("user name")?)
    } else {
        None
    };
    let password = if start.flags.password && !(lenient && reader.is_empty()) {
        Some(reader.binary("password")?)
    } else {
        None
    };
    reader.finish()?;
    Ok(Connect {
        version: start.version,
        clean_start: start.flags.clean_start,
        keep_alive: start.keep_alive,
        client_id: start.client_id,
        will,
        user_name,
        password,
        properties: start.properties,
    })
}

fn read_will<'a>(
    reader: &mut Reader<'a>,
    version: Version,
    qos: QoS,
    retain: bool,
) -> Result<Will<'a>, DecodeError> {
    let properties = read_properties(reader, version, PropertyPlace::Will)?;
    let topic = reader.text("will topic")?;
    check_topic(topic, PacketType::Connect)?;
    if topic.is_empty() {
        return Err(DecodeError::TopicEmpty {
            packet: PacketType::Connect,
        });
    }
    let payload = reader.binary("will payload")?;
    Ok(Will {
        qos,
        retain,
        topic,
        payload,
        properties,
    })
}

pub(super) fn decode_connack(
    mut reader: Reader<'_>,
    version: Version,
) -> Result<ConnAck<'_>, DecodeError> {
    let flags = reader.u8("acknowledge flags")?;
    // MQTT 3.1 has no session present flag.
    let defined = if version == Version::V31 { 0 } else { 1 };
    if flags & !defined != 0 {
        return Err(DecodeError::ConnAckFlagsReserved { flags });
    }
    let session_present = flags & 1 != 0;
    let code = reader.u8("reason code")?;
    let reason = if version.has_properties() {
        ReasonCode::from_number(code)
            .filter(|reason| reason.may_stand_in(PacketType::ConnAck, Direction::FromServer))
    } else {
        ReasonCode::from_return_code(code)
    };
    let Some(reason) = reason else {
        return Err(DecodeError::ReasonCodeInvalid {
            packet: PacketType::ConnAck,
            code,
        });
    };
    if session_present && reason != ReasonCode::Success {
        return Err(DecodeError::SessionPresentRefused { code });
    }
    let place = PropertyPlace::Packet(PacketType::ConnAck);
    let properties = read_properties(&mut reader, version, place)?;
    reader.finish()?;
    Ok(ConnAck {
        session_present,
        reason,
        properties,
    })
}

/// What [`peek_client_id`] saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peek<'a> {
    /// The client identifier is not there yet.
    NeedMore {
        /// Bytes missing, at least; never 0.
        at_least: usize,
    },
    /// The beginning of a CONNECT; what follows the client identifier is not checked yet.
    Connect {
        /// The version that the client speaks.
        version: Version,
        /// The client identifier. Empty: the server is to choose one.
        client_id: &'a str,
        /// Begin with a new session.
        clean_start: bool,
        /// Bytes of the whole packet; not all of them need be there.
        len: usize,
    },
}

/// Reads the first packet of a connection as far as the client identifier: enough to choose the
/// session's home shard before the packet is complete.
///
/// # Errors
/// The first thing found wrong up to there, or [`DecodeError::FirstPacketNotConnect`]
/// [MQTT-3.1.0-1].
pub fn peek_client_id<'a>(input: &'a [u8], limits: &Limits) -> Result<Peek<'a>, DecodeError> {
    if let Some(packet) = input
        .first()
        .and_then(|first| PacketType::from_first_byte(*first))
        && packet != PacketType::Connect
    {
        return Err(DecodeError::FirstPacketNotConnect { packet });
    }
    // The version does not matter to the header of CONNECT.
    let header = match Header::read(input, Version::V5, limits, Direction::FromClient)? {
        Partial::NeedMore { at_least } => return Ok(Peek::NeedMore { at_least }),
        Partial::Ready(header) => header,
    };
    let end = header.packet_len.min(input.len());
    let body = input.get(header.len..end).unwrap_or_default();
    match Start::read(&mut Reader::new(PacketType::Connect, body)) {
        Ok(start) => {
            check_minimal(&header, start.version)?;
            Ok(Peek::Connect {
                version: start.version,
                client_id: start.client_id,
                clean_start: start.flags.clean_start,
                len: header.packet_len,
            })
        }
        Err(DecodeError::Truncated { .. }) if input.len() < header.packet_len => {
            Ok(Peek::NeedMore { at_least: 1 })
        }
        Err(error) => Err(error),
    }
}
