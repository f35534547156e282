//! PUBLISH from the parts that a server keeps of a message, for fan-out: encoded once for all
//! subscribers with the same version, QoS and subscription identifiers, then copied per subscriber
//! with another packet identifier.

use super::{check_packet_id, publish_flags};
use crate::error::EncodeError;
use crate::model::{PacketId, PacketType, QoS, REMAINING_LENGTH_MAX, Version};
use crate::properties::subscription_id_len;
use crate::property::PropertyId;
use crate::write::{Sink, remaining_length, var_int_len};

/// The parts of one PUBLISH. They are trusted: what was decoded once is not checked again.
#[derive(Debug, Clone, Copy)]
pub struct PublishParts<'a> {
    /// Version to write. Before MQTT 5 the message has no properties.
    pub version: Version,
    /// Sent before, perhaps. Not written at QoS 0 [MQTT-3.3.1-2].
    pub dup: bool,
    /// Quality of service.
    pub qos: QoS,
    /// Retain flag.
    pub retain: bool,
    /// Topic name in UTF-8, at most 65,535 bytes; empty only with a topic alias.
    pub topic: &'a [u8],
    /// Topic alias, at least 1. Not written before MQTT 5.
    pub topic_alias: Option<u16>,
    /// Packet identifier, at QoS 1 and 2.
    pub packet_id: Option<PacketId>,
    /// Remaining lifetime in seconds.
    pub message_expiry: Option<u32>,
    /// Identifiers of the matching subscriptions, each 1 to 268,435,455.
    pub subscription_ids: &'a [u32],
    /// Properties to pass on, in wire form, as
    /// [`Properties::forwardable_into`](crate::Properties::forwardable_into) wrote them.
    pub forwardable: &'a [u8],
    /// The application's bytes.
    pub payload: &'a [u8],
}

/// Where things are in an encoded PUBLISH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishLayout {
    /// Bytes of the whole packet, payload included.
    pub len: usize,
    /// Bytes before the payload.
    pub header_len: usize,
    /// Offset of the two bytes of the packet identifier, at QoS 1 and 2.
    pub packet_id_at: Option<usize>,
}

impl PublishLayout {
    /// Replaces the packet identifier of an encoded PUBLISH. Does nothing at QoS 0, or when
    /// `packet` is shorter than its header.
    pub fn set_packet_id(&self, packet: &mut [u8], packet_id: PacketId) {
        if let Some(at) = self.packet_id_at
            && let Some(bytes) = packet.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<2>)
        {
            *bytes = packet_id.number().to_be_bytes();
        }
    }

    /// Sets DUP in an encoded PUBLISH of QoS 1 or 2.
    pub const fn set_dup(&self, packet: &mut [u8]) {
        if self.packet_id_at.is_some()
            && let Some(first) = packet.first_mut()
        {
            *first |= 0b1000;
        }
    }
}

/// Lengths found before anything is written.
struct Measured {
    remaining: u32,
    properties_len: u32,
    layout: PublishLayout,
}

impl PublishParts<'_> {
    /// Where things will be, without encoding: for the peer's Maximum Packet Size [MQTT-3.1.2-24].
    ///
    /// # Errors
    /// Those of [`encode_publish_parts`].
    pub fn layout(&self) -> Result<PublishLayout, EncodeError> {
        self.measure().map(|measured| measured.layout)
    }

    fn measure(&self) -> Result<Measured, EncodeError> {
        check_packet_id(self.qos, self.packet_id)?;
        if self.topic.is_empty() && (self.topic_alias.is_none() || !self.version.has_properties()) {
            return Err(EncodeError::TopicInvalid {
                field: "topic name",
            });
        }
        if self.topic.len() > usize::from(u16::MAX) {
            return Err(EncodeError::FieldTooLong {
                field: "topic name",
                len: self.topic.len(),
            });
        }
        if self.version.has_properties() && self.topic_alias == Some(0) {
            let property = PropertyId::TopicAlias;
            return Err(EncodeError::PropertyValue { property, value: 0 });
        }
        let mut variable_len = 2 + self.topic.len();
        let packet_id_at = self.packet_id.map(|_| variable_len);
        variable_len += if packet_id_at.is_some() { 2 } else { 0 };
        let mut properties_len = 0;
        if self.version.has_properties() {
            properties_len = remaining_length(self.properties_len()?)?;
            variable_len += var_int_len(properties_len);
            variable_len += usize::try_from(properties_len).unwrap_or(usize::MAX);
        }
        let remaining = remaining_length(variable_len + self.payload.len())?;
        let fixed_len = 1 + var_int_len(remaining);
        let layout = PublishLayout {
            len: fixed_len + variable_len + self.payload.len(),
            header_len: fixed_len + variable_len,
            packet_id_at: packet_id_at.map(|at| fixed_len + at),
        };
        Ok(Measured {
            remaining,
            properties_len,
            layout,
        })
    }

    fn properties_len(&self) -> Result<usize, EncodeError> {
        let mut len = self.forwardable.len();
        if self.message_expiry.is_some() {
            len += 5;
        }
        if self.topic_alias.is_some() {
            len += 3;
        }
        for &value in self.subscription_ids {
            if value == 0 || value > REMAINING_LENGTH_MAX {
                let property = PropertyId::SubscriptionIdentifier;
                return Err(EncodeError::PropertyValue { property, value });
            }
            len += subscription_id_len(value);
        }
        Ok(len)
    }

    fn write_properties(&self, len: u32, out: &mut Vec<u8>) {
        out.var_int(len);
        if let Some(seconds) = self.message_expiry {
            out.u8(PropertyId::MessageExpiryInterval.number());
            out.u32(seconds);
        }
        if let Some(alias) = self.topic_alias {
            out.u8(PropertyId::TopicAlias.number());
            out.u16(alias);
        }
        for &id in self.subscription_ids {
            out.u8(PropertyId::SubscriptionIdentifier.number());
            out.var_int(id);
        }
        out.put(self.forwardable);
    }
}

/// Appends everything of a PUBLISH but its payload, for callers that send the payload from where it
/// lies. The remaining length counts the payload.
///
/// # Errors
/// Those of [`encode_publish_parts`].
pub fn encode_publish_header(
    parts: &PublishParts<'_>,
    out: &mut Vec<u8>,
) -> Result<PublishLayout, EncodeError> {
    let measured = parts.measure()?;
    out.reserve(measured.layout.header_len);
    write_header(parts, &measured, out)?;
    Ok(measured.layout)
}

/// Appends a PUBLISH, with one reservation of exactly its length.
///
/// # Errors
/// [`EncodeError::PacketIdMismatch`], [`EncodeError::FieldTooLong`] for the topic,
/// [`EncodeError::TopicInvalid`] for an empty topic without alias, [`EncodeError::PropertyValue`]
/// for a subscription identifier out of range, [`EncodeError::PacketTooLarge`]. `out` is then
/// unchanged.
pub fn encode_publish_parts(
    parts: &PublishParts<'_>,
    out: &mut Vec<u8>,
) -> Result<PublishLayout, EncodeError> {
    let measured = parts.measure()?;
    out.reserve(measured.layout.len);
    write_header(parts, &measured, out)?;
    out.extend_from_slice(parts.payload);
    Ok(measured.layout)
}

fn write_header(
    parts: &PublishParts<'_>,
    measured: &Measured,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let flags = publish_flags(parts.dup, parts.qos, parts.retain);
    out.u8(PacketType::Publish.number() << 4 | flags);
    out.var_int(measured.remaining);
    out.binary(parts.topic, "topic name")?;
    if let Some(packet_id) = parts.packet_id {
        out.u16(packet_id.number());
    }
    if parts.version.has_properties() {
        parts.write_properties(measured.properties_len, out);
    }
    Ok(())
}
