//! What is encoded decodes to the same packet, in every version.

use engine_mqtt::{
    Decoded, Direction, Limits, Packet, PacketId, PacketType, Peek, PublishParts, QoS, Version,
    decode, encode_publish_header, encode_publish_parts, peek_client_id,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::model::{packet_ids, publishes, sample, samples, topics};

proptest! {
    #[test]
    fn packets(sample in samples(), tail in vec(any::<u8>(), 0..8)) {
        let mut bytes = sample.bytes();
        let len = bytes.len();
        prop_assert_eq!(sample.packet.encoded_len(sample.version), Ok(len));
        bytes.extend_from_slice(&tail);
        let decoded = decode(&bytes, sample.version, &Limits::default(), sample.direction);
        prop_assert_eq!(decoded, Ok(Decoded::Packet { packet: sample.packet, len }));
    }

    #[test]
    fn every_strict_prefix_needs_more(sample in samples()) {
        let bytes = sample.bytes();
        let header_len = bytes.iter().skip(1).take_while(|byte| **byte >= 0x80).count() + 2;
        for end in 0..bytes.len() {
            let prefix = &bytes[..end];
            let decoded = decode(prefix, sample.version, &Limits::default(), sample.direction);
            let Ok(Decoded::NeedMore { at_least }) = decoded else {
                return Err(TestCaseError::fail(format!("{end} bytes gave {decoded:?}")));
            };
            let missing = bytes.len() - end;
            prop_assert!(at_least >= 1 && at_least <= missing);
            prop_assert!(end < header_len || at_least == missing);
        }
    }

    #[test]
    fn a_peek_agrees_with_the_whole_packet(
        sample in select(&Version::ALL[..]).prop_flat_map(|version| {
            sample(version, Direction::FromClient, PacketType::Connect)
        }),
    ) {
        let Packet::Connect(connect) = sample.packet else { unreachable!() };
        let bytes = sample.bytes();
        let expected = Peek::Connect {
            version: connect.version,
            client_id: connect.client_id,
            clean_start: connect.clean_start,
            len: bytes.len(),
        };
        let mut seen = false;
        for end in 0..=bytes.len() {
            match peek_client_id(&bytes[..end], &Limits::default()) {
                Ok(Peek::NeedMore { at_least }) => {
                    prop_assert!(!seen, "a longer prefix knows less");
                    prop_assert!(at_least >= 1 && at_least <= bytes.len() - end);
                }
                found => {
                    prop_assert_eq!(found, Ok(expected));
                    seen = true;
                }
            }
        }
        prop_assert!(seen);
    }

    #[test]
    fn fan_out_keeps_the_message(
        publish in publishes(Version::V5, Direction::FromClient),
        version in select(&Version::ALL[..]),
        topic in topics(),
        expiry in option::of(any::<u32>()),
        ids in vec(1..=268_435_455_u32, 0..4),
        other_id in packet_ids(),
    ) {
        let mut forwardable = Vec::new();
        publish.properties.forwardable_into(&mut forwardable);
        prop_assert_eq!(forwardable.len(), publish.properties.forwardable_len());
        let parts = PublishParts {
            version,
            dup: publish.dup,
            qos: publish.qos,
            retain: publish.retain,
            topic: topic.as_bytes(),
            topic_alias: None,
            packet_id: publish.packet_id,
            message_expiry: expiry,
            subscription_ids: &ids,
            forwardable: &forwardable,
            payload: publish.payload,
        };
        let mut bytes = vec![0xAA];
        let layout = encode_publish_parts(&parts, &mut bytes).unwrap();
        let mut packet = bytes.split_off(1);
        prop_assert_eq!(parts.layout(), Ok(layout));
        prop_assert_eq!(layout.len, packet.len());
        prop_assert_eq!(&packet[layout.header_len..], publish.payload);

        let mut header = Vec::new();
        prop_assert_eq!(encode_publish_header(&parts, &mut header), Ok(layout));
        prop_assert_eq!(&header[..], &packet[..layout.header_len]);

        layout.set_packet_id(&mut packet, other_id);
        layout.set_dup(&mut packet);
        let decoded = decode(&packet, version, &Limits::default(), Direction::FromServer).unwrap();
        let Decoded::Packet { packet: Packet::Publish(found), len } = decoded else {
            return Err(TestCaseError::fail(format!("{decoded:?}")));
        };
        let with_id = publish.qos != QoS::AtMostOnce;
        prop_assert_eq!(len, layout.len);
        prop_assert_eq!(found.packet_id, with_id.then_some(other_id));
        prop_assert_eq!(found.dup, with_id);
        prop_assert_eq!((found.qos, found.retain), (publish.qos, publish.retain));
        prop_assert_eq!((found.topic, found.payload), (topic, publish.payload));
        if version == Version::V5 {
            prop_assert_eq!(found.properties.message_expiry(), expiry);
            prop_assert!(found.properties.subscription_ids().eq(ids.iter().copied()));
            let kept = found.properties.user_properties();
            prop_assert!(kept.eq(publish.properties.user_properties()));
            prop_assert!(found.properties.raw().ends_with(&forwardable));
        } else {
            prop_assert!(found.properties.is_empty());
        }
    }
}

/// MQTT 3.1 sets DUP in what it sends again; the packet means the same.
#[test]
fn mqtt_31_may_set_dup_in_pubrel() {
    let bytes = [0x6A, 2, 0, 7];
    let decoded = decode(
        &bytes,
        Version::V31,
        &Limits::default(),
        Direction::FromClient,
    );
    let packet = Packet::PubRel(engine_mqtt::Ack::success(PacketId::new(7).unwrap()));
    assert_eq!(decoded, Ok(Decoded::Packet { packet, len: 4 }));
}

/// MQTT 3.1: the remaining length takes precedence over the user name and password flags.
#[test]
fn mqtt_31_may_leave_out_announced_credentials() {
    let bytes = b"\x10\x0F\0\x06MQIsdp\x03\xC2\0\x0A\0\x01a";
    let decoded = decode(
        bytes,
        Version::V31,
        &Limits::default(),
        Direction::FromClient,
    );
    let Ok(Decoded::Packet {
        packet: Packet::Connect(connect),
        ..
    }) = decoded
    else {
        panic!("{decoded:?}");
    };
    assert_eq!((connect.user_name, connect.password), (None, None));
}
