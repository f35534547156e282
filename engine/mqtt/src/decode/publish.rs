//! PUBLISH (section 3.3).
//!
//! ```text
//! size  what
//! 2+n   topic name
//! 2     packet identifier, at QoS 1 and 2
//! 1+n   properties, in MQTT 5
//! rest  payload
//! ```

use super::check_topic;
use crate::error::DecodeError;
use crate::model::{Direction, PacketType, QoS, Version};
use crate::packet::Publish;
use crate::properties::Properties;
use crate::property::{PropertyId, PropertyPlace};
use crate::read::Reader;

const PLACE: PropertyPlace = PropertyPlace::Packet(PacketType::Publish);

/// Checks DUP and QoS [MQTT-3.3.1-2], [MQTT-3.3.1-4].
pub(super) const fn check_flags(flags: u8) -> Result<(), DecodeError> {
    match (flags >> 1) & 0b11 {
        3 => Err(DecodeError::QosInvalid),
        0 if flags & 0b1000 != 0 => Err(DecodeError::DupAtQos0),
        _ => Ok(()),
    }
}

#[inline]
pub(super) fn decode<'a>(
    mut reader: Reader<'a>,
    flags: u8,
    version: Version,
    direction: Direction,
) -> Result<Publish<'a>, DecodeError> {
    let Some(qos) = QoS::from_bits((flags >> 1) & 0b11) else {
        return Err(DecodeError::QosInvalid);
    };
    let topic = reader.text("topic name")?;
    check_topic(topic, PacketType::Publish)?;
    let packet_id = match qos {
        QoS::AtMostOnce => None,
        QoS::AtLeastOnce | QoS::ExactlyOnce => Some(reader.packet_id()?),
    };
    let properties = if version.has_properties() {
        Properties::read(&mut reader, PLACE)?
    } else {
        Properties::EMPTY
    };
    if topic.is_empty() && !properties.contains(PropertyId::TopicAlias) {
        return Err(DecodeError::TopicEmpty {
            packet: PacketType::Publish,
        });
    }
    if direction == Direction::FromClient && properties.contains(PropertyId::SubscriptionIdentifier)
    {
        return Err(DecodeError::SubscriptionIdFromClient);
    }
    Ok(Publish {
        dup: flags & 0b1000 != 0,
        qos,
        retain: flags & 1 != 0,
        topic,
        packet_id,
        properties,
        payload: reader.rest(),
    })
}
