//! SUBSCRIBE, SUBACK, UNSUBSCRIBE and UNSUBACK (sections 3.8 to 3.11).
//!
//! ```text
//! size  SUBSCRIBE, UNSUBSCRIBE            size  SUBACK, UNSUBACK
//! 2     packet identifier                 2     packet identifier
//! 1+n   properties, in MQTT 5             1+n   properties, in MQTT 5
//! then for each filter:                   then for each filter (not in UNSUBACK before MQTT 5):
//! 2+n   topic filter                      1     reason code
//! 1     options (SUBSCRIBE only)
//! ```
//!
//! The options, from bit 7 to bit 0: 2 reserved, retain handling (2 bits), retain as published, no
//! local, QoS (2 bits). Before MQTT 5 only the QoS bits are not reserved.

use super::ack::check_reason;
use crate::error::DecodeError;
use crate::lists::{Filters, ReasonCodes, Subscriptions};
use crate::model::{Direction, PacketType, QoS, Version};
use crate::packet::{RetainHandling, SubAck, Subscribe, UnsubAck, Unsubscribe};
use crate::properties::Properties;
use crate::property::PropertyPlace;
use crate::read::Reader;

/// How a shared subscription's filter begins.
const SHARE_PREFIX: &str = "$share/";

pub(super) fn decode(
    mut reader: Reader<'_>,
    version: Version,
) -> Result<Subscribe<'_>, DecodeError> {
    let packet_id = reader.packet_id()?;
    let properties = read_properties(&mut reader, version)?;
    if reader.is_empty() {
        return Err(DecodeError::NoFilter {
            packet: reader.packet(),
        });
    }
    let filters = Subscriptions::from_wire(reader.rest());
    while !reader.is_empty() {
        let filter = read_filter(&mut reader)?;
        check_options(reader.u8("subscription options")?, filter, version)?;
    }
    Ok(Subscribe {
        packet_id,
        properties,
        filters,
    })
}

pub(super) fn decode_unsubscribe(
    mut reader: Reader<'_>,
    version: Version,
) -> Result<Unsubscribe<'_>, DecodeError> {
    let packet_id = reader.packet_id()?;
    let properties = read_properties(&mut reader, version)?;
    if reader.is_empty() {
        return Err(DecodeError::NoFilter {
            packet: reader.packet(),
        });
    }
    let filters = Filters::from_wire(reader.rest());
    while !reader.is_empty() {
        read_filter(&mut reader)?;
    }
    Ok(Unsubscribe {
        packet_id,
        properties,
        filters,
    })
}

pub(super) fn decode_suback(
    mut reader: Reader<'_>,
    version: Version,
) -> Result<SubAck<'_>, DecodeError> {
    let packet_id = reader.packet_id()?;
    let properties = read_properties(&mut reader, version)?;
    let codes = read_codes(&reader, version)?;
    Ok(SubAck {
        packet_id,
        properties,
        codes,
    })
}

pub(super) fn decode_unsuback(
    mut reader: Reader<'_>,
    version: Version,
) -> Result<UnsubAck<'_>, DecodeError> {
    let packet_id = reader.packet_id()?;
    if !version.has_properties() {
        reader.finish()?;
        let codes = ReasonCodes::from_wire(&[]);
        return Ok(UnsubAck {
            packet_id,
            properties: Properties::EMPTY,
            codes,
        });
    }
    let properties = read_properties(&mut reader, version)?;
    let codes = read_codes(&reader, version)?;
    Ok(UnsubAck {
        packet_id,
        properties,
        codes,
    })
}

fn read_properties<'a>(
    reader: &mut Reader<'a>,
    version: Version,
) -> Result<Properties<'a>, DecodeError> {
    if version.has_properties() {
        let place = PropertyPlace::Packet(reader.packet());
        Properties::read(reader, place)
    } else {
        Ok(Properties::EMPTY)
    }
}

fn read_filter<'a>(reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    let filter = reader.text("topic filter")?;
    if filter.is_empty() {
        return Err(DecodeError::FilterEmpty {
            packet: reader.packet(),
        });
    }
    Ok(filter)
}

fn check_options(options: u8, filter: &str, version: Version) -> Result<(), DecodeError> {
    let reserved = if version.has_properties() {
        0b1100_0000
    } else {
        0b1111_1100
    };
    if options & reserved != 0 {
        return Err(DecodeError::SubscriptionOptionsReserved { options });
    }
    if QoS::from_bits(options & 0b11).is_none() {
        return Err(DecodeError::SubscriptionQosInvalid);
    }
    if RetainHandling::from_bits(options >> 4).is_none() {
        return Err(DecodeError::RetainHandlingInvalid);
    }
    if options & 0b100 != 0 && filter.starts_with(SHARE_PREFIX) {
        return Err(DecodeError::NoLocalOnShared);
    }
    Ok(())
}

/// Reason codes up to the end of the packet, at least one. Before MQTT 5 SUBACK knows the three
/// levels of QoS and 0x80.
fn read_codes<'a>(reader: &Reader<'a>, version: Version) -> Result<ReasonCodes<'a>, DecodeError> {
    let packet = reader.packet();
    let codes = reader.rest();
    if codes.is_empty() {
        return Err(DecodeError::NoReasonCode { packet });
    }
    for &code in codes {
        check_reason(packet, code, Direction::FromServer)?;
        if !version.has_properties() && !matches!(code, 0..=2 | 0x80) {
            return Err(DecodeError::ReasonCodeInvalid { packet, code });
        }
    }
    debug_assert!(
        matches!(packet, PacketType::SubAck | PacketType::UnsubAck),
        "{packet}"
    );
    Ok(ReasonCodes::from_wire(codes))
}
