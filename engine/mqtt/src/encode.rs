//! Packets to bytes. Each body is written by one function, run twice: first into a counter for the
//! remaining length, then into the caller's vector, which therefore grows by exactly the packet's
//! bytes, and not at all when the packet cannot be encoded.

mod connect;
pub(crate) mod fan_out;

use crate::error::EncodeError;
use crate::lists::ReasonCodes;
use crate::model::{Direction, PacketId, PacketType, QoS, Version};
use crate::packet::{
    Ack, Auth, Disconnect, Packet, Publish, SubAck, Subscribe, UnsubAck, Unsubscribe,
};
use crate::properties::{self, Properties};
use crate::property::{PropertyId, PropertyPlace};
use crate::reason::ReasonCode;
use crate::write::{Count, Sink, remaining_length, var_int_len};

/// What every writing function returns.
pub(crate) type EncodeResult = Result<(), EncodeError>;

impl Packet<'_> {
    /// Appends the packet to `out`, as `version` writes it; CONNECT is written in its own version.
    /// Properties and reason codes that the version lacks are left out.
    ///
    /// # Errors
    /// See [`EncodeError`]; `out` is then unchanged.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let version = self.own_version(version);
        let remaining = self.remaining(version)?;
        let len = 1 + var_int_len(remaining) + usize::try_from(remaining).unwrap_or(usize::MAX);
        let start = out.len();
        out.reserve(len);
        out.u8(self.first_byte());
        out.var_int(remaining);
        self.write_body(version, out)?;
        debug_assert_eq!(out.len() - start, len, "both runs of a body writer agree");
        Ok(())
    }

    /// Bytes that [`Self::encode`] appends.
    ///
    /// # Errors
    /// Those of [`Self::encode`].
    pub fn encoded_len(&self, version: Version) -> Result<usize, EncodeError> {
        let remaining = self.remaining(self.own_version(version))?;
        Ok(1 + var_int_len(remaining) + usize::try_from(remaining).unwrap_or(usize::MAX))
    }

    const fn own_version(&self, version: Version) -> Version {
        if let Self::Connect(connect) = self {
            connect.version
        } else {
            version
        }
    }

    fn remaining(&self, version: Version) -> Result<u32, EncodeError> {
        let mut count = Count::default();
        self.write_body(version, &mut count)?;
        remaining_length(count.0)
    }

    const fn first_byte(&self) -> u8 {
        let packet = self.packet_type();
        let flags = if let Self::Publish(publish) = self {
            publish_flags(publish.dup, publish.qos, publish.retain)
        } else {
            packet.reserved_flags()
        };
        packet.number() << 4 | flags
    }

    fn write_body(&self, version: Version, out: &mut impl Sink) -> EncodeResult {
        match self {
            Self::Connect(connect) => connect::write(connect, out),
            Self::ConnAck(connack) => connect::write_connack(connack, version, out),
            Self::Publish(publish) => write_publish(publish, version, out),
            Self::PubAck(ack) | Self::PubRec(ack) | Self::PubRel(ack) | Self::PubComp(ack) => {
                write_ack(ack, self.packet_type(), version, out)
            }
            Self::Subscribe(subscribe) => write_subscribe(subscribe, version, out),
            Self::SubAck(suback) => write_suback(suback, version, out),
            Self::Unsubscribe(unsubscribe) => write_unsubscribe(unsubscribe, version, out),
            Self::UnsubAck(unsuback) => write_unsuback(unsuback, version, out),
            Self::PingReq | Self::PingResp => Ok(()),
            Self::Disconnect(disconnect) => write_disconnect(disconnect, version, out),
            Self::Auth(auth) => write_auth(auth, version, out),
        }
    }
}

/// The fixed header flags of PUBLISH. DUP has no place at QoS 0 [MQTT-3.3.1-2].
const fn publish_flags(dup: bool, qos: QoS, retain: bool) -> u8 {
    let dup = if dup && !matches!(qos, QoS::AtMostOnce) {
        0b1000
    } else {
        0
    };
    let retain = if retain { 1 } else { 0 };
    dup | qos.bits() << 1 | retain
}

/// A packet id belongs to QoS 1 and 2, and only to them [MQTT-2.2.1-2].
fn check_packet_id(qos: QoS, packet_id: Option<PacketId>) -> EncodeResult {
    if packet_id.is_some() == (qos == QoS::AtMostOnce) {
        return Err(EncodeError::PacketIdMismatch);
    }
    Ok(())
}

fn write_publish(publish: &Publish<'_>, version: Version, out: &mut impl Sink) -> EncodeResult {
    check_packet_id(publish.qos, publish.packet_id)?;
    let aliased = version.has_properties() && publish.properties.contains(PropertyId::TopicAlias);
    check_topic(publish.topic, aliased, "topic name")?;
    out.text(publish.topic, "topic name")?;
    if let Some(packet_id) = publish.packet_id {
        out.u16(packet_id.number());
    }
    let place = PropertyPlace::Packet(PacketType::Publish);
    write_properties(&publish.properties, place, version, out)?;
    out.put(publish.payload);
    Ok(())
}

/// A topic name to publish to: no wildcards [MQTT-3.3.2-2], empty only where an alias stands in.
fn check_topic(topic: &str, may_be_empty: bool, field: &'static str) -> EncodeResult {
    let wildcard = topic.bytes().any(|byte| matches!(byte, b'+' | b'#'));
    if wildcard || (topic.is_empty() && !may_be_empty) {
        return Err(EncodeError::TopicInvalid { field });
    }
    Ok(())
}

/// Writes properties where the version has them and they may stand in this place.
fn write_properties(
    properties: &Properties<'_>,
    place: PropertyPlace,
    version: Version,
    out: &mut impl Sink,
) -> EncodeResult {
    if !version.has_properties() {
        return Ok(());
    }
    if let Some(property) = properties.present().minus(place.allowed()).first() {
        return Err(EncodeError::PropertyNotAllowed { place, property });
    }
    let property = PropertyId::SubscriptionIdentifier;
    if !property.may_repeat(place) && properties.subscription_ids().nth(1).is_some() {
        return Err(EncodeError::PropertyRepeated { property });
    }
    properties::write(properties, out)
}

fn check_reason(reason: ReasonCode, packet: PacketType) -> EncodeResult {
    if reason.may_stand_in(packet, Direction::FromServer)
        || reason.may_stand_in(packet, Direction::FromClient)
    {
        return Ok(());
    }
    Err(EncodeError::ReasonCodeInvalid { packet, reason })
}

/// Reason code and properties of MQTT 5, cut off where they say nothing.
fn write_tail(
    reason: ReasonCode,
    properties: &Properties<'_>,
    packet: PacketType,
    out: &mut impl Sink,
) -> EncodeResult {
    check_reason(reason, packet)?;
    if reason == ReasonCode::Success && properties.is_empty() {
        return Ok(());
    }
    out.u8(reason.number());
    if properties.is_empty() {
        return Ok(());
    }
    write_properties(properties, PropertyPlace::Packet(packet), Version::V5, out)
}

fn write_ack(
    ack: &Ack<'_>,
    packet: PacketType,
    version: Version,
    out: &mut impl Sink,
) -> EncodeResult {
    out.u16(ack.packet_id.number());
    if version.has_properties() {
        write_tail(ack.reason, &ack.properties, packet, out)?;
    }
    Ok(())
}

fn write_subscribe(
    subscribe: &Subscribe<'_>,
    version: Version,
    out: &mut impl Sink,
) -> EncodeResult {
    let packet = PacketType::Subscribe;
    out.u16(subscribe.packet_id.number());
    write_properties(
        &subscribe.properties,
        PropertyPlace::Packet(packet),
        version,
        out,
    )?;
    if subscribe.filters.is_empty() {
        return Err(EncodeError::ListEmpty { packet });
    }
    for subscription in subscribe.filters.iter() {
        write_filter(subscription.filter, out)?;
        if version.has_properties() {
            out.u8(subscription.options.bits());
        } else {
            out.u8(subscription.options.qos.bits());
        }
    }
    Ok(())
}

fn write_unsubscribe(
    unsubscribe: &Unsubscribe<'_>,
    version: Version,
    out: &mut impl Sink,
) -> EncodeResult {
    let packet = PacketType::Unsubscribe;
    out.u16(unsubscribe.packet_id.number());
    write_properties(
        &unsubscribe.properties,
        PropertyPlace::Packet(packet),
        version,
        out,
    )?;
    if unsubscribe.filters.is_empty() {
        return Err(EncodeError::ListEmpty { packet });
    }
    for filter in unsubscribe.filters.iter() {
        write_filter(filter, out)?;
    }
    Ok(())
}

fn write_filter(filter: &str, out: &mut impl Sink) -> EncodeResult {
    if filter.is_empty() {
        return Err(EncodeError::TopicInvalid {
            field: "topic filter",
        });
    }
    out.text(filter, "topic filter")
}

fn write_suback(suback: &SubAck<'_>, version: Version, out: &mut impl Sink) -> EncodeResult {
    let packet = PacketType::SubAck;
    out.u16(suback.packet_id.number());
    write_properties(
        &suback.properties,
        PropertyPlace::Packet(packet),
        version,
        out,
    )?;
    write_codes(&suback.codes, packet, version, out)
}

fn write_unsuback(unsuback: &UnsubAck<'_>, version: Version, out: &mut impl Sink) -> EncodeResult {
    let packet = PacketType::UnsubAck;
    out.u16(unsuback.packet_id.number());
    if !version.has_properties() {
        return Ok(());
    }
    write_properties(
        &unsuback.properties,
        PropertyPlace::Packet(packet),
        version,
        out,
    )?;
    write_codes(&unsuback.codes, packet, version, out)
}

fn write_codes(
    codes: &ReasonCodes<'_>,
    packet: PacketType,
    version: Version,
    out: &mut impl Sink,
) -> EncodeResult {
    if codes.is_empty() {
        return Err(EncodeError::ListEmpty { packet });
    }
    for reason in codes.iter() {
        check_reason(reason, packet)?;
        if reason.is_failure() && !version.has_properties() {
            out.u8(ReasonCode::UnspecifiedError.number());
        } else {
            out.u8(reason.number());
        }
    }
    Ok(())
}

fn write_disconnect(
    disconnect: &Disconnect<'_>,
    version: Version,
    out: &mut impl Sink,
) -> EncodeResult {
    if version.has_properties() {
        let packet = PacketType::Disconnect;
        write_tail(disconnect.reason, &disconnect.properties, packet, out)?;
    }
    Ok(())
}

/// AUTH may leave out its reason code only together with its properties.
fn write_auth(auth: &Auth<'_>, version: Version, out: &mut impl Sink) -> EncodeResult {
    let packet = PacketType::Auth;
    if !version.has_properties() {
        return Err(EncodeError::NotInVersion { packet });
    }
    if auth.reason != ReasonCode::Success
        && !auth.properties.contains(PropertyId::AuthenticationMethod)
    {
        return Err(EncodeError::AuthMethodMissing);
    }
    write_tail(auth.reason, &auth.properties, packet, out)
}
