//! Bytes to packets: the fixed header, then each type in a file of its own.
//!
//! The fixed header (section 2.1):
//!
//! ```text
//! offset  size  what
//! 0       1     bits 7-4 packet type, bits 3-0 flags (PUBLISH: DUP, QoS 2 bits, RETAIN)
//! 1       1-4   remaining length: variable byte integer, bytes after the fixed header
//! ```

mod ack;
mod connect;
mod publish;
mod subscribe;

pub use connect::{Peek, peek_client_id};

use crate::error::DecodeError;
use crate::model::{Direction, Limits, PacketType, Version};
use crate::packet::Packet;
use crate::read::{Reader, VarInt, var_int};

/// What the first bytes of the input are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// The beginning of a packet, good so far.
    NeedMore {
        /// Bytes missing, at least; never 0. Exact once the remaining length is known.
        at_least: usize,
    },
    /// A packet.
    Packet {
        /// The packet; it borrows from the input.
        packet: Packet<'a>,
        /// Bytes that it took.
        len: usize,
    },
}

/// Decodes the packet that `input` begins with.
///
/// `version` is that of the connection's CONNECT; a CONNECT itself is decoded in the version that
/// it names. `direction` tells who sent the bytes. A packet above `limits` is an error as soon as
/// its fixed header is there, so a caller never buffers more than the limit.
///
/// # Errors
/// The first thing found wrong; see [`DecodeError`]. The connection must then be closed
/// [MQTT-4.13.1-1].
#[inline]
pub fn decode<'a>(
    input: &'a [u8],
    version: Version,
    limits: &Limits,
    direction: Direction,
) -> Result<Decoded<'a>, DecodeError> {
    let header = match Header::read(input, version, limits, direction)? {
        Partial::NeedMore { at_least } => return Ok(Decoded::NeedMore { at_least }),
        Partial::Ready(header) => header,
    };
    let Some(body) = input.get(header.len..header.packet_len) else {
        return Ok(Decoded::NeedMore {
            at_least: header.packet_len - input.len(),
        });
    };
    let packet = decode_body(&header, body, version, direction)?;
    Ok(Decoded::Packet {
        packet,
        len: header.packet_len,
    })
}

fn decode_body<'a>(
    header: &Header,
    body: &'a [u8],
    version: Version,
    direction: Direction,
) -> Result<Packet<'a>, DecodeError> {
    let reader = Reader::new(header.packet, body);
    Ok(match header.packet {
        PacketType::Publish => {
            Packet::Publish(publish::decode(reader, header.flags, version, direction)?)
        }
        PacketType::PubAck => Packet::PubAck(ack::decode_ack(reader, version, direction)?),
        PacketType::PubRec => Packet::PubRec(ack::decode_ack(reader, version, direction)?),
        PacketType::PubRel => Packet::PubRel(ack::decode_ack(reader, version, direction)?),
        PacketType::PubComp => Packet::PubComp(ack::decode_ack(reader, version, direction)?),
        PacketType::Connect => {
            let connect = connect::decode(reader)?;
            check_minimal(header, connect.version)?;
            Packet::Connect(connect)
        }
        PacketType::ConnAck => Packet::ConnAck(connect::decode_connack(reader, version)?),
        PacketType::Subscribe => Packet::Subscribe(subscribe::decode(reader, version)?),
        PacketType::SubAck => Packet::SubAck(subscribe::decode_suback(reader, version)?),
        PacketType::Unsubscribe => {
            Packet::Unsubscribe(subscribe::decode_unsubscribe(reader, version)?)
        }
        PacketType::UnsubAck => Packet::UnsubAck(subscribe::decode_unsuback(reader, version)?),
        PacketType::PingReq => {
            reader.finish()?;
            Packet::PingReq
        }
        PacketType::PingResp => {
            reader.finish()?;
            Packet::PingResp
        }
        PacketType::Disconnect => {
            Packet::Disconnect(ack::decode_disconnect(reader, version, direction)?)
        }
        PacketType::Auth => Packet::Auth(ack::decode_auth(reader, direction)?),
    })
}

/// A value, or how many bytes it waits for.
enum Partial<T> {
    NeedMore { at_least: usize },
    Ready(T),
}

/// A checked fixed header.
struct Header {
    packet: PacketType,
    flags: u8,
    /// Bytes of the header itself.
    len: usize,
    /// Bytes of the header and of what follows.
    packet_len: usize,
    /// Whether the remaining length took as few bytes as it needs.
    minimal: bool,
}

impl Header {
    #[inline]
    fn read(
        input: &[u8],
        version: Version,
        limits: &Limits,
        direction: Direction,
    ) -> Result<Partial<Self>, DecodeError> {
        let Some((&first, rest)) = input.split_first() else {
            return Ok(Partial::NeedMore { at_least: 2 });
        };
        let packet = check_type(first, version, direction)?;
        let flags = first & 0x0F;
        check_flags(packet, flags, version)?;
        let Some(length) = var_int(rest)? else {
            return Ok(Partial::NeedMore { at_least: 1 });
        };
        let len = 1 + length.len;
        let packet_len = check_size(length, limits)?;
        let header = Self {
            packet,
            flags,
            len,
            packet_len,
            minimal: length.minimal,
        };
        if packet != PacketType::Connect {
            check_minimal(&header, version)?;
        }
        Ok(Partial::Ready(header))
    }
}

/// Bytes of the whole packet, within the limit.
fn check_size(remaining: VarInt, limits: &Limits) -> Result<usize, DecodeError> {
    let packet_len = 1 + remaining.len + usize::try_from(remaining.value).unwrap_or(usize::MAX);
    match u32::try_from(packet_len) {
        Ok(len) if len > limits.packet_bytes_max => Err(DecodeError::PacketTooLarge {
            len,
            max: limits.packet_bytes_max,
        }),
        _ => Ok(packet_len),
    }
}

fn check_type(
    first: u8,
    version: Version,
    direction: Direction,
) -> Result<PacketType, DecodeError> {
    let number = first >> 4;
    let Some(packet) = PacketType::from_first_byte(first) else {
        return Err(DecodeError::PacketTypeReserved { number });
    };
    if packet.may_come(version, direction) {
        return Ok(packet);
    }
    if packet == PacketType::Auth {
        return Err(DecodeError::PacketTypeReserved { number });
    }
    Err(DecodeError::PacketTypeUnexpected { packet })
}

/// Checks the flags of the fixed header [MQTT-2.1.3-1]. MQTT 3.1 sets DUP in a PUBREL, SUBSCRIBE or
/// UNSUBSCRIBE that is sent again.
fn check_flags(packet: PacketType, flags: u8, version: Version) -> Result<(), DecodeError> {
    if packet == PacketType::Publish {
        return publish::check_flags(flags);
    }
    let expected = packet.reserved_flags();
    if flags == expected || (version == Version::V31 && expected != 0 && flags == expected | 0b1000)
    {
        return Ok(());
    }
    Err(DecodeError::HeaderFlags { packet, flags })
}

/// MQTT 5 forbids to pad the remaining length [MQTT-1.5.5-1]; older versions do not.
fn check_minimal(header: &Header, version: Version) -> Result<(), DecodeError> {
    if header.minimal || !version.has_properties() {
        return Ok(());
    }
    Err(DecodeError::VarIntNotMinimal)
}

/// A topic name to publish to: no wildcards [MQTT-3.3.2-2].
fn check_topic(topic: &str, packet: PacketType) -> Result<(), DecodeError> {
    if topic.bytes().any(|byte| matches!(byte, b'+' | b'#')) {
        return Err(DecodeError::TopicHasWildcard { packet });
    }
    Ok(())
}
