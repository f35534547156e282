//! CONNECT and CONNACK; their bytes are described where they are decoded.

use super::{EncodeResult, check_reason, check_topic, write_properties};
use crate::error::EncodeError;
use crate::model::{PacketType, Version};
use crate::packet::{ConnAck, Connect};
use crate::property::PropertyPlace;
use crate::reason::ReasonCode;
use crate::write::Sink;

pub(super) fn write(connect: &Connect<'_>, out: &mut impl Sink) -> EncodeResult {
    let version = connect.version;
    if connect.password.is_some() && connect.user_name.is_none() && !version.has_properties() {
        return Err(EncodeError::PasswordWithoutUserName);
    }
    out.text(version.protocol_name(), "protocol name")?;
    out.u8(version.level());
    out.u8(flags(connect));
    out.u16(connect.keep_alive);
    let place = PropertyPlace::Packet(PacketType::Connect);
    write_properties(&connect.properties, place, version, out)?;
    out.text(connect.client_id, "client identifier")?;
    if let Some(will) = &connect.will {
        check_topic(will.topic, false, "will topic")?;
        write_properties(&will.properties, PropertyPlace::Will, version, out)?;
        out.text(will.topic, "will topic")?;
        out.binary(will.payload, "will payload")?;
    }
    if let Some(user_name) = connect.user_name {
        out.text(user_name, "user name")?;
    }
    if let Some(password) = connect.password {
        out.binary(password, "password")?;
    }
    Ok(())
}

fn flags(connect: &Connect<'_>) -> u8 {
    let will = match &connect.will {
        Some(will) => 0b100 | will.qos.bits() << 3 | u8::from(will.retain) << 5,
        None => 0,
    };
    u8::from(connect.user_name.is_some()) << 7
        | u8::from(connect.password.is_some()) << 6
        | will
        | u8::from(connect.clean_start) << 1
}

pub(super) fn write_connack(
    connack: &ConnAck<'_>,
    version: Version,
    out: &mut impl Sink,
) -> EncodeResult {
    check_reason(connack.reason, PacketType::ConnAck)?;
    let session_present =
        connack.session_present && connack.reason == ReasonCode::Success && version != Version::V31;
    out.u8(u8::from(session_present));
    out.u8(connack.reason.connack_number(version));
    let place = PropertyPlace::Packet(PacketType::ConnAck);
    write_properties(&connack.properties, place, version, out)
}
