//! PUBACK, PUBREC, PUBREL, PUBCOMP (sections 3.4 to 3.7), DISCONNECT (3.14) and AUTH (3.15).
//!
//! In MQTT 5 the tail may be cut off: without properties the property length may be missing, and
//! then also a reason code of 0.
//!
//! ```text
//! size  acknowledgement         size  DISCONNECT, AUTH
//! 2     packet identifier       1     reason code, in MQTT 5
//! 1     reason code, in MQTT 5  1+n   properties, in MQTT 5
//! 1+n   properties, in MQTT 5
//! ```

use crate::error::DecodeError;
use crate::model::{Direction, PacketType, Version};
use crate::packet::{Ack, Auth, Disconnect};
use crate::properties::Properties;
use crate::property::{PropertyId, PropertyPlace};
use crate::read::Reader;
use crate::reason::ReasonCode;

pub(super) fn decode_ack(
    mut reader: Reader<'_>,
    version: Version,
    direction: Direction,
) -> Result<Ack<'_>, DecodeError> {
    let packet_id = reader.packet_id()?;
    if reader.is_empty() {
        return Ok(Ack::success(packet_id));
    }
    if !version.has_properties() {
        reader.finish()?;
    }
    let (reason, properties) = read_tail(&mut reader, direction)?;
    Ok(Ack {
        packet_id,
        reason,
        properties,
    })
}

pub(super) fn decode_disconnect(
    mut reader: Reader<'_>,
    version: Version,
    direction: Direction,
) -> Result<Disconnect<'_>, DecodeError> {
    if reader.is_empty() {
        return Ok(Disconnect::default());
    }
    if !version.has_properties() {
        reader.finish()?;
    }
    let (reason, properties) = read_tail(&mut reader, direction)?;
    if direction == Direction::FromServer && properties.contains(PropertyId::SessionExpiryInterval)
    {
        return Err(DecodeError::SessionExpiryFromServer);
    }
    Ok(Disconnect { reason, properties })
}

pub(super) fn decode_auth(
    mut reader: Reader<'_>,
    direction: Direction,
) -> Result<Auth<'_>, DecodeError> {
    if reader.is_empty() {
        let reason = check_reason(PacketType::Auth, 0, direction)?;
        return Ok(Auth {
            reason,
            properties: Properties::EMPTY,
        });
    }
    let (reason, properties) = read_tail(&mut reader, direction)?;
    if !properties.contains(PropertyId::AuthenticationMethod) {
        return Err(DecodeError::AuthMethodMissing);
    }
    Ok(Auth { reason, properties })
}

fn read_tail<'a>(
    reader: &mut Reader<'a>,
    direction: Direction,
) -> Result<(ReasonCode, Properties<'a>), DecodeError> {
    let packet = reader.packet();
    let reason = check_reason(packet, reader.u8("reason code")?, direction)?;
    if reader.is_empty() {
        return Ok((reason, Properties::EMPTY));
    }
    let properties = Properties::read(reader, PropertyPlace::Packet(packet))?;
    reader.finish()?;
    Ok((reason, properties))
}

/// The reason code of a byte, if this packet from this sender may carry it.
pub(super) fn check_reason(
    packet: PacketType,
    code: u8,
    direction: Direction,
) -> Result<ReasonCode, DecodeError> {
    ReasonCode::from_number(code)
        .filter(|reason| reason.may_stand_in(packet, direction))
        .ok_or(DecodeError::ReasonCodeInvalid { packet, code })
}
