//! Compares the codec with another one, the crate mqtt-protocol-core 0.7.9, on valid packets and on
//! damaged ones.
//!
//! Valid packets must be accepted there, and what that codec writes must be the same packet here.
//! Damaged packets must be accepted or refused alike, but for these differences:
//!
//! It refuses, and we accept:
//! - a password without a user name in MQTT 5, which MQTT 5 allows (3.1.2.9);
//! - malformed `$share` filters, which `engine-topic` judges: the answer is a SUBACK;
//! - DISCONNECT reason 0x8C, which section 2.4 lists.
//!
//! It accepts, and we refuse: see [`we_are_stricter`], by error.
//!
//! MQTT 3.1 is not compared: that codec does not speak it.

use std::sync::Arc;

use engine_mqtt::{
    DecodeError, Decoded, Direction, Limits, Packet, PacketType, ReasonCode, Version, decode,
};
use mqtt_protocol_core::mqtt::packet::{GenericPacketTrait, v3_1_1, v5_0};
use mqtt_protocol_core::mqtt::result_code::MqttError;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::model::{Sample, samples};

/// The fixed header's first byte and the body.
fn split(bytes: &[u8]) -> (u8, &[u8]) {
    let header_len = bytes
        .iter()
        .skip(1)
        .take_while(|byte| **byte >= 0x80)
        .count()
        + 2;
    (bytes[0], &bytes[header_len..])
}

/// What the other codec reads, written again by it, if it accepts the packet and all of its bytes.
fn other(version: Version, first: u8, body: &[u8]) -> Option<Vec<u8>> {
    let kind = PacketType::from_first_byte(first)?;
    if version == Version::V5 {
        other_v5(kind, first, body)
    } else {
        other_v311(kind, first, body)
    }
}

fn written<P: GenericPacketTrait>(
    parsed: Result<(P, usize), MqttError>,
    body: &[u8],
) -> Option<Vec<u8>> {
    let (packet, consumed) = parsed.ok()?;
    (consumed == body.len()).then(|| packet.to_continuous_buffer())
}

fn other_v5(kind: PacketType, first: u8, body: &[u8]) -> Option<Vec<u8>> {
    match kind {
        PacketType::Connect => written(v5_0::Connect::parse(body), body),
        PacketType::ConnAck => written(v5_0::Connack::parse(body), body),
        PacketType::Publish => written(v5_0::Publish::parse(first & 15, Arc::from(body)), body),
        PacketType::PubAck => written(v5_0::Puback::parse(body), body),
        PacketType::PubRec => written(v5_0::Pubrec::parse(body), body),
        PacketType::PubRel => written(v5_0::Pubrel::parse(body), body),
        PacketType::PubComp => written(v5_0::Pubcomp::parse(body), body),
        PacketType::Subscribe => written(v5_0::Subscribe::parse(body), body),
        PacketType::SubAck => written(v5_0::Suback::parse(body), body),
        PacketType::Unsubscribe => written(v5_0::Unsubscribe::parse(body), body),
        PacketType::UnsubAck => written(v5_0::Unsuback::parse(body), body),
        PacketType::PingReq => written(v5_0::Pingreq::parse(body), body),
        PacketType::PingResp => written(v5_0::Pingresp::parse(body), body),
        PacketType::Disconnect => written(v5_0::Disconnect::parse(body), body),
        PacketType::Auth => written(v5_0::Auth::parse(body), body),
    }
}

fn other_v311(kind: PacketType, first: u8, body: &[u8]) -> Option<Vec<u8>> {
    match kind {
        PacketType::Connect => written(v3_1_1::Connect::parse(body), body),
        PacketType::ConnAck => written(v3_1_1::Connack::parse(body), body),
        PacketType::Publish => written(v3_1_1::Publish::parse(first & 15, Arc::from(body)), body),
        PacketType::PubAck => written(v3_1_1::Puback::parse(body), body),
        PacketType::PubRec => written(v3_1_1::Pubrec::parse(body), body),
        PacketType::PubRel => written(v3_1_1::Pubrel::parse(body), body),
        PacketType::PubComp => written(v3_1_1::Pubcomp::parse(body), body),
        PacketType::Subscribe => written(v3_1_1::Subscribe::parse(body), body),
        PacketType::SubAck => written(v3_1_1::Suback::parse(body), body),
        PacketType::Unsubscribe => written(v3_1_1::Unsubscribe::parse(body), body),
        PacketType::UnsubAck => written(v3_1_1::Unsuback::parse(body), body),
        PacketType::PingReq => written(v3_1_1::Pingreq::parse(body), body),
        PacketType::PingResp => written(v3_1_1::Pingresp::parse(body), body),
        PacketType::Disconnect => written(v3_1_1::Disconnect::parse(body), body),
        PacketType::Auth => None,
    }
}

/// Packets that we accept and it refuses.
#[expect(clippy::wildcard_enum_match_arm, reason = "a list of differences")]
fn it_is_stricter(packet: &Packet<'_>) -> bool {
    match packet {
        Packet::Connect(connect) => connect.password.is_some() && connect.user_name.is_none(),
        Packet::Subscribe(subscribe) => subscribe
            .filters
            .iter()
            .any(|wanted| wanted.filter.starts_with("$share/")),
        Packet::Unsubscribe(unsubscribe) => unsubscribe
            .filters
            .iter()
            .any(|filter| filter.starts_with("$share/")),
        Packet::Disconnect(disconnect) => disconnect.reason.number() == 0x8C,
        _ => false,
    }
}

/// Errors of ours that it does not look for.
#[expect(clippy::wildcard_enum_match_arm, reason = "a list of differences")]
fn we_are_stricter(error: DecodeError, version: Version) -> bool {
    match error {
        // The other parser is given a body; these concern the fixed header and are checked before.
        DecodeError::HeaderFlags { .. } | DecodeError::DupAtQos0 => true,
        // It does not check CONNECT's flags, the packet identifiers of some packets, or that a
        // topic can be published to.
        DecodeError::ConnectFlagReserved
        | DecodeError::WillQosInvalid
        | DecodeError::WillQosWithoutWill
        | DecodeError::WillRetainWithoutWill
        | DecodeError::ClientIdEmpty
        | DecodeError::PacketIdZero { .. }
        | DecodeError::TopicHasWildcard { .. }
        | DecodeError::TopicEmpty { .. }
        | DecodeError::ResponseTopicInvalid
        | DecodeError::FilterEmpty { .. }
        | DecodeError::TextHasNull { .. }
        | DecodeError::VarIntNotMinimal => true,
        // It knows no direction.
        DecodeError::SubscriptionIdFromClient
        | DecodeError::SessionExpiryFromServer
        | DecodeError::PacketTypeUnexpected { .. } => true,
        DecodeError::ReasonCodeInvalid { packet, code } => {
            [Direction::FromClient, Direction::FromServer]
                .into_iter()
                .any(|direction| {
                    ReasonCode::from_number(code)
                        .is_some_and(|reason| reason.may_stand_in(packet, direction))
                })
        }
        DecodeError::ConnAckFlagsReserved { .. }
        | DecodeError::SessionPresentRefused { .. }
        | DecodeError::NoLocalOnShared
        | DecodeError::AuthDataWithoutMethod => true,
        // It reads the options and reason codes of MQTT 5 in 3.1.1 too.
        DecodeError::SubscriptionOptionsReserved { .. } | DecodeError::TrailingBytes { .. } => {
            version == Version::V311
        }
        // It takes a PUBLISH that ends before its property length.
        DecodeError::Truncated {
            packet: PacketType::Publish,
            field: "property length",
        } => true,
        // It lets a successful AUTH name no method even when it is not cut off.
        DecodeError::AuthMethodMissing => true,
        _ => false,
    }
}

fn check_valid(sample: &Sample) -> Result<(), TestCaseError> {
    let bytes = sample.bytes();
    let (first, body) = split(&bytes);
    let Some(rewritten) = other(sample.version, first, body) else {
        prop_assert!(
            it_is_stricter(&sample.packet),
            "refused there: {:?}",
            sample.packet
        );
        return Ok(());
    };
    let decoded = decode(
        &rewritten,
        sample.version,
        &Limits::default(),
        sample.direction,
    );
    let expected = Decoded::Packet {
        packet: sample.packet,
        len: rewritten.len(),
    };
    prop_assert_eq!(decoded, Ok(expected));
    Ok(())
}

fn check_damaged(
    version: Version,
    direction: Direction,
    first: u8,
    body: &[u8],
) -> Result<(), TestCaseError> {
    let Ok(len) = u8::try_from(body.len()) else {
        return Ok(());
    };
    if len >= 0x80 {
        return Ok(());
    }
    let mut bytes = vec![first, len];
    bytes.extend_from_slice(body);
    let ours = decode(&bytes, version, &Limits::default(), direction);
    let theirs = other(version, first, body);
    match (ours, theirs) {
        (Ok(Decoded::Packet { packet, .. }), None) => {
            prop_assert!(
                it_is_stricter(&packet),
                "only we accept {bytes:02x?}: {packet:?}"
            );
        }
        (Err(error), Some(_)) => {
            prop_assert!(
                we_are_stricter(error, version),
                "only we refuse {bytes:02x?}: {error}"
            );
        }
        (Ok(Decoded::NeedMore { .. }), _) => prop_assert!(false, "the packet is complete"),
        (Ok(Decoded::Packet { .. }), Some(_)) | (Err(_), None) => {}
    }
    Ok(())
}

proptest! {
    #[test]
    fn valid_packets_pass_through_the_other_codec(sample in samples()) {
        if sample.version != Version::V31 {
            check_valid(&sample)?;
        }
    }

    #[test]
    fn damaged_packets_are_judged_alike(
        sample in samples(),
        damage in vec((any::<Index>(), any::<u8>()), 1..4),
        cut in prop::option::weighted(0.2, any::<Index>()),
    ) {
        if sample.version != Version::V31 {
            let bytes = sample.bytes();
            let (first, body) = split(&bytes);
            let mut body = body.to_vec();
            for (at, byte) in damage.into_iter().filter(|_| !bytes[2..].is_empty()) {
                let at = at.index(body.len());
                body[at] = byte;
            }
            if let Some(cut) = cut.filter(|_| !body.is_empty()) {
                body.truncate(cut.index(body.len()));
            }
            check_damaged(sample.version, sample.direction, first, &body)?;
        }
    }
}
