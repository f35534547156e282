//! Partial packets, size limits, and the first packet of a connection.

use engine_mqtt::{
    DecodeError, Decoded, Direction, Limits, PacketType, Peek, ReasonCode, Version, decode,
    peek_client_id,
};

fn decode_within(bytes: &[u8], max: u32) -> Result<Decoded<'_>, DecodeError> {
    let limits = Limits {
        packet_bytes_max: max,
    };
    decode(bytes, Version::V5, &limits, Direction::FromClient)
}

#[test]
fn an_oversize_packet_is_refused_at_its_header() {
    let fits = [0x30, 98];
    assert_eq!(
        decode_within(&fits, 100),
        Ok(Decoded::NeedMore { at_least: 98 })
    );
    let error = DecodeError::PacketTooLarge { len: 101, max: 100 };
    assert_eq!(decode_within(&[0x30, 99], 100), Err(error));
    assert_eq!(error.reason(), ReasonCode::PacketTooLarge);
    assert_eq!(
        peek_client_id(
            &[0x10, 99],
            &Limits {
                packet_bytes_max: 100
            }
        ),
        Err(error)
    );
    let error = DecodeError::PacketTooLarge {
        len: 268_435_460,
        max: 1 << 20,
    };
    assert_eq!(
        decode_within(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F], 1 << 20),
        Err(error)
    );
}

#[test]
fn the_remaining_length_is_awaited_byte_by_byte() {
    assert_eq!(
        decode_within(&[], 100),
        Ok(Decoded::NeedMore { at_least: 2 })
    );
    assert_eq!(
        decode_within(&[0x30], 100),
        Ok(Decoded::NeedMore { at_least: 1 })
    );
    assert_eq!(
        decode_within(&[0x30, 0x80], 100),
        Ok(Decoded::NeedMore { at_least: 1 })
    );
    let endless = [0x30, 0x80, 0x80, 0x80, 0x80];
    assert_eq!(
        decode_within(&endless, 100),
        Err(DecodeError::VarIntTooLong)
    );
}

#[test]
fn the_largest_packet_of_the_protocol_is_awaited() {
    let decoded = decode_within(
        &[0x30, 0xFF, 0xFF, 0xFF, 0x7F],
        engine_mqtt::PACKET_BYTES_MAX,
    );
    assert_eq!(
        decoded,
        Ok(Decoded::NeedMore {
            at_least: 268_435_455
        })
    );
}

#[test]
fn bad_first_bytes_are_refused_alone() {
    assert!(decode_within(&[0x00], 100).is_err());
    assert!(decode_within(&[0x36], 100).is_err());
    assert!(decode_within(&[0x20], 100).is_err());
}

#[test]
fn a_connection_begins_with_connect() {
    let error = DecodeError::FirstPacketNotConnect {
        packet: PacketType::Publish,
    };
    assert_eq!(peek_client_id(&[0x30], &Limits::default()), Err(error));
    assert_eq!(error.statement(), "[MQTT-3.1.0-1]");
    assert_eq!(
        peek_client_id(&[], &Limits::default()),
        Ok(Peek::NeedMore { at_least: 2 })
    );
}

#[test]
fn a_client_id_beyond_the_packet_is_an_error_when_the_packet_is_complete() {
    let complete = b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x05a";
    let error = DecodeError::Truncated {
        packet: PacketType::Connect,
        field: "client identifier",
    };
    assert_eq!(peek_client_id(complete, &Limits::default()), Err(error));
    let peek = peek_client_id(&complete[..14], &Limits::default());
    assert_eq!(peek, Ok(Peek::NeedMore { at_least: 1 }));
}
