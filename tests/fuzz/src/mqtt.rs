//! Fuzz bodies for the MQTT codec: whatever the bytes are, nothing panics, and what decodes comes
//! back the same after it is encoded again.

use engine_mqtt::{
    Decoded, Direction, Limits, Packet, PacketType, Peek, Properties, PropertyPlace, Publish,
    PublishParts, Version, decode, encode_publish_parts, peek_client_id,
};

const LIMITS: Limits = Limits {
    packet_bytes_max: 64 << 10,
};

/// Takes the version from the first byte and decodes the rest as a stream of packets.
pub fn decode_stream(input: &[u8], direction: Direction) {
    let Some((first, mut stream)) = input.split_first() else {
        return;
    };
    let mut version = match first % 3 {
        0 => Version::V31,
        1 => Version::V311,
        _ => Version::V5,
    };
    check_peek(stream);
    loop {
        match decode(stream, version, &LIMITS, direction) {
            Ok(Decoded::Packet { packet, len }) => {
                check_packet(&packet, len, version, direction);
                if let Packet::Connect(connect) = packet {
                    version = connect.version;
                }
                stream = stream.get(len..).expect("a packet within the input");
            }
            Ok(Decoded::NeedMore { at_least }) => {
                assert!(at_least > 0, "needs more, but nothing");
                return;
            }
            Err(error) => {
                assert!(error.reason().is_failure(), "{error}");
                assert!(!error.to_string().is_empty());
                return;
            }
        }
    }
}

fn check_packet(packet: &Packet<'_>, len: usize, version: Version, direction: Direction) {
    let mut bytes = Vec::new();
    packet
        .encode(version, &mut bytes)
        .expect("what decodes can be encoded");
    assert_eq!(packet.encoded_len(version), Ok(bytes.len()));
    assert!(
        bytes.len() <= len,
        "{packet:?} grew from {len} to {} bytes",
        bytes.len()
    );
    let again = decode(&bytes, version, &LIMITS, direction);
    assert_eq!(
        again,
        Ok(Decoded::Packet {
            packet: *packet,
            len: bytes.len()
        })
    );
    assert!(!format!("{packet:?}").is_empty());
    if let Packet::Publish(publish) = packet {
        check_fan_out(publish, version);
    }
}

/// A message that is passed on keeps its content.
fn check_fan_out(publish: &Publish<'_>, version: Version) {
    let properties = &publish.properties;
    let mut forwardable = Vec::new();
    properties.forwardable_into(&mut forwardable);
    assert_eq!(forwardable.len(), properties.forwardable_len());
    let ids: Vec<u32> = properties.subscription_ids().collect();
    let parts = PublishParts {
        version,
        dup: publish.dup,
        qos: publish.qos,
        retain: publish.retain,
        topic: publish.topic.as_bytes(),
        topic_alias: properties.topic_alias(),
        packet_id: publish.packet_id,
        message_expiry: properties.message_expiry(),
        subscription_ids: &ids,
        forwardable: &forwardable,
        payload: publish.payload,
    };
    let mut bytes = Vec::new();
    let layout = encode_publish_parts(&parts, &mut bytes).expect("decoded parts can be encoded");
    assert_eq!(layout.len, bytes.len());
    let decoded = decode(&bytes, version, &LIMITS, Direction::FromServer);
    let Ok(Decoded::Packet {
        packet: Packet::Publish(again),
        len,
    }) = decoded
    else {
        panic!("{parts:?} became {decoded:?}");
    };
    assert_eq!(len, bytes.len());
    assert_eq!(without_properties(&again), without_properties(publish));
    assert_eq!(
        again.properties.message_expiry(),
        properties.message_expiry()
    );
    assert_eq!(again.properties.topic_alias(), properties.topic_alias());
    assert!(again.properties.subscription_ids().eq(ids));
    let place = PropertyPlace::Packet(PacketType::Publish);
    let stored = Properties::parse(&forwardable, place);
    let stored = stored.expect("forwardable properties parse");
    assert!(stored.user_properties().eq(properties.user_properties()));
    assert_eq!(stored.content_type(), properties.content_type());
}

fn without_properties<'a>(publish: &Publish<'a>) -> Publish<'a> {
    Publish {
        properties: Properties::EMPTY,
        ..*publish
    }
}

fn check_peek(stream: &[u8]) {
    let Ok(Peek::Connect {
        version,
        client_id,
        clean_start,
        len,
    }) = peek_client_id(stream, &LIMITS)
    else {
        return;
    };
    let whole = decode(stream, version, &LIMITS, Direction::FromClient);
    if let Ok(Decoded::Packet {
        packet: Packet::Connect(connect),
        len: whole_len,
    }) = whole
    {
        assert_eq!((connect.version, connect.client_id), (version, client_id));
        assert_eq!((connect.clean_start, whole_len), (clean_start, len));
    }
}
