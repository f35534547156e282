//! Every way to be malformed: tables of packets and of what is wrong with them.
//!
//! A line holds the versions (as their numbers without the dot), the sender (client or server), the
//! packet in hexadecimal, the reason code in hexadecimal, and the error in words with the
//! statement.

use engine_mqtt::{DecodeError as Error, Decoded, Direction, Limits, PacketType, Version, decode};

use Direction::{FromClient, FromServer};
use Version::{V5, V31, V311};

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits: Vec<&str> = hex.split_inclusive(|_| true).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(&pair.concat(), 16).unwrap())
        .collect()
}

fn version_of(number: &str) -> Version {
    match number {
        "31" => V31,
        "311" => V311,
        "5" => V5,
        other => panic!("version {other}"),
    }
}

/// Every packet of a table is refused as it says.
#[track_caller]
fn check(table: &str) {
    for line in table.trim().lines() {
        let [versions, sender, hex, reason, words] = line.splitn(5, ' ').collect::<Vec<_>>()[..]
            .try_into()
            .unwrap();
        let direction = if sender == "c" {
            FromClient
        } else {
            FromServer
        };
        for version in versions.split(',').map(version_of) {
            let bytes = bytes_of(hex);
            let error = decode(&bytes, version, &Limits::default(), direction).expect_err(line);
            assert_eq!(error.to_string(), words, "{version:?} {hex}");
            assert_eq!(format!("{:02x}", error.reason().number()), reason, "{line}");
        }
    }
}

const FIXED_HEADERS: &str = "
5 c 0000 81 reserved packet type 0
311 c f000 81 reserved packet type 15
5 c 2003000000 82 CONNACK may not come from this peer in this version
5 c 900400010000 82 SUBACK may not come from this peer in this version
5 c b00400010000 82 UNSUBACK may not come from this peer in this version
5 c d000 82 PINGRESP may not come from this peer in this version
5 s 1000 82 CONNECT may not come from this peer in this version
5 s 8200 82 SUBSCRIBE may not come from this peer in this version
5 s a200 82 UNSUBSCRIBE may not come from this peer in this version
5 s c000 82 PINGREQ may not come from this peer in this version
311 s e000 82 DISCONNECT may not come from this peer in this version
5 c c00178 81 PINGREQ has 1 bytes after its last field
311 c e0020000 81 DISCONNECT has 2 bytes after its last field
";

const VARIABLE_BYTE_INTEGERS: &str = "
5 c 30050001618000 81 variable byte integer longer than necessary [MQTT-1.5.5-1]
5 c 30080001618080808000 81 variable byte integer of more than 4 bytes
5 c 3007000161030b8100 81 variable byte integer longer than necessary [MQTT-1.5.5-1]
";

const TEXTS: &str = "
5,311 c 30040001ff00 81 PUBLISH: topic name is not UTF-8 [MQTT-1.5.4-1]
5,311 c 30050002c08000 81 PUBLISH: topic name is not UTF-8 [MQTT-1.5.4-1]
5,311 c 30060003eda08000 81 PUBLISH: topic name is not UTF-8 [MQTT-1.5.4-1]
5,311 c 30070004f490808000 81 PUBLISH: topic name is not UTF-8 [MQTT-1.5.4-1]
5,311 c 30050002e28200 81 PUBLISH: topic name is not UTF-8 [MQTT-1.5.4-1]
5 c 3006000361006200 81 PUBLISH: topic name holds U+0000 [MQTT-1.5.4-2]
5 c 300b0001610726000161000100 81 PUBLISH: user property holds U+0000 [MQTT-1.5.4-2]
311 c 100f00044d5154540482000000000001ff 81 CONNECT: user name is not UTF-8 [MQTT-1.5.4-1]
";

const PUBLISH: &str = "
31,311,5 c 3600 81 PUBLISH with QoS 3 [MQTT-3.3.1-4]
31,311,5 c 3800 81 PUBLISH with DUP at QoS 0 [MQTT-3.3.1-2]
31,311,5 c 3206000161000000 82 PUBLISH with packet identifier 0 [MQTT-2.2.1-3]
31,311,5 c 300400012b00 90 PUBLISH: topic name with a wildcard [MQTT-3.3.2-2]
31,311,5 c 30060003612f2300 90 PUBLISH: topic name with a wildcard [MQTT-3.3.2-2]
31,311,5 c 3003000000 82 PUBLISH: empty topic name [MQTT-4.7.3-1]
31,311,5 c 3000 81 PUBLISH: topic name reaches past the end
31,311,5 c 3006000561626364 81 PUBLISH: topic name reaches past the end
31,311,5 c 320400016100 81 PUBLISH: packet identifier reaches past the end
5 c 3003000161 81 PUBLISH: property length reaches past the end
5 c 30050001610501 81 PUBLISH: properties reaches past the end
5 c 30050001610101 81 PUBLISH: payload format indicator reaches past the end
5 c 300700016103230000 94 topic alias 0 [MQTT-3.3.2-8]
5 c 3006000161020b01 82 PUBLISH of a client with a subscription identifier [MQTT-3.3.4-6]
5 c 30080001610408000123 90 response topic empty or with a wildcard [MQTT-3.3.2-14]
5 c 300700016103080000 90 response topic empty or with a wildcard [MQTT-3.3.2-14]
";

const CONNECT_VERSIONS: &str = "
5 c 100c000448545450040200000000 84 CONNECT names another protocol [MQTT-3.1.2-1]
5 c 100c00046d717474040200000000 84 CONNECT names another protocol [MQTT-3.1.2-1]
5 c 100c00044d515454060200000000 84 CONNECT at protocol level 6 [MQTT-3.1.2-2]
5 c 100c00044d515454030200000000 84 CONNECT at protocol level 3 [MQTT-3.1.2-2]
5 c 100e00064d5149736470040200000000 84 CONNECT at protocol level 4 [MQTT-3.1.2-2]
5 c 100c00044d515454840200000000 84 CONNECT at protocol level 132 [MQTT-3.1.2-2]
";

const CONNECT_FLAGS: &str = "
5 c 100a00044d51545404030000 81 CONNECT sets its reserved flag [MQTT-3.1.2-3]
5 c 100a00044d515454041e0000 81 CONNECT with will QoS 3 [MQTT-3.1.2-12]
5 c 100a00044d515454040a0000 81 CONNECT with a will QoS and no will [MQTT-3.1.2-11]
5 c 100a00044d51545404220000 81 CONNECT with will retain and no will [MQTT-3.1.2-13]
5 c 100a00044d51545405030000 81 CONNECT sets its reserved flag [MQTT-3.1.2-3]
5 c 100a00044d515454051e0000 81 CONNECT with will QoS 3 [MQTT-3.1.2-12]
5 c 100a00044d515454050a0000 81 CONNECT with a will QoS and no will [MQTT-3.1.2-11]
5 c 100a00044d51545405220000 81 CONNECT with will retain and no will [MQTT-3.1.2-13]
5 c 100e00044d5154540442000000000000 82 CONNECT with a password, no user name [MQTT-3.1.2-22]
5 c 101100064d5149736470034200000001610000 82 CONNECT with a password, no user name [MQTT-3.1.2-22]
5 c 100c00044d515454040000000000 85 CONNECT with an empty client identifier [MQTT-3.1.3-8]
5 c 100e00064d5149736470030200000000 85 CONNECT with an empty client identifier [MQTT-3.1.3-8]
";

const CONNECT_PAYLOADS: &str = "
5 c 100a00044d51545404020000 81 CONNECT: client identifier reaches past the end
5 c 100c00044d515454040600000000 81 CONNECT: will topic reaches past the end
5 c 100f00044d515454040600000000000174 81 CONNECT: will payload reaches past the end
5 c 100c00044d515454048200000000 81 CONNECT: user name reaches past the end
5 c 101100044d51545404c2000000000001750009 81 CONNECT: password reaches past the end
5 c 100e00044d5154540402000000007879 81 CONNECT has 2 bytes after its last field
5 c 101100044d51545404060000000000012b0000 90 CONNECT: topic name with a wildcard [MQTT-3.3.2-2]
5 c 101000044d51545404060000000000000000 82 CONNECT: empty topic name [MQTT-4.7.3-1]
5 c 101100044d5154540502000004160001780000 82 authentication data without an authentication method
5 c 101600044d51545405060000000000032300010001740000 81 will: topic alias does not belong here
";

const CONNACK: &str = "
5 s 2003020000 81 reserved bits in CONNACK flags 0b00000010 [MQTT-3.2.2-1]
31 s 20020100 81 reserved bits in CONNACK flags 0b00000001 [MQTT-3.2.2-1]
311 s 20020105 82 CONNACK with session present and code 0x05 [MQTT-3.2.2-6]
5 s 2003018700 82 CONNACK with session present and code 0x87 [MQTT-3.2.2-6]
311 s 20020006 82 CONNACK may not carry reason code 0x06 [MQTT-3.2.2-8]
5 s 2003000500 82 CONNACK may not carry reason code 0x05 [MQTT-3.2.2-8]
5 s 2003008b00 82 CONNACK may not carry reason code 0x8b [MQTT-3.2.2-8]
311 s 2003000000 81 CONNACK has 1 bytes after its last field
5 s 20020000 81 CONNACK: property length reaches past the end
";

const ACKNOWLEDGEMENTS: &str = "
311 c 40020000 82 PUBACK with packet identifier 0 [MQTT-2.2.1-3]
311 c 4003000100 81 PUBACK has 1 bytes after its last field
5 c 40050001000078 81 PUBACK has 1 bytes after its last field
5 c 400100 81 PUBACK: packet identifier reaches past the end
5 c 4003000101 82 PUBACK may not carry reason code 0x01 [MQTT-3.4.2-1]
5 c 400300019a 82 PUBACK may not carry reason code 0x9a [MQTT-3.4.2-1]
311 c 50020000 82 PUBREC with packet identifier 0 [MQTT-2.2.1-3]
311 c 5003000100 81 PUBREC has 1 bytes after its last field
5 c 50050001000078 81 PUBREC has 1 bytes after its last field
5 c 500100 81 PUBREC: packet identifier reaches past the end
5 c 5003000101 82 PUBREC may not carry reason code 0x01 [MQTT-3.5.2-1]
5 c 500300019a 82 PUBREC may not carry reason code 0x9a [MQTT-3.5.2-1]
311 c 62020000 82 PUBREL with packet identifier 0 [MQTT-2.2.1-3]
311 c 6203000100 81 PUBREL has 1 bytes after its last field
5 c 62050001000078 81 PUBREL has 1 bytes after its last field
5 c 620100 81 PUBREL: packet identifier reaches past the end
5 c 6203000101 82 PUBREL may not carry reason code 0x01 [MQTT-3.6.2-1]
5 c 620300019a 82 PUBREL may not carry reason code 0x9a [MQTT-3.6.2-1]
311 c 70020000 82 PUBCOMP with packet identifier 0 [MQTT-2.2.1-3]
311 c 7003000100 81 PUBCOMP has 1 bytes after its last field
5 c 70050001000078 81 PUBCOMP has 1 bytes after its last field
5 c 700100 81 PUBCOMP: packet identifier reaches past the end
5 c 7003000101 82 PUBCOMP may not carry reason code 0x01 [MQTT-3.7.2-1]
5 c 700300019a 82 PUBCOMP may not carry reason code 0x9a [MQTT-3.7.2-1]
5 c 4003000110 82 PUBACK may not carry reason code 0x10 [MQTT-3.4.2-1]
";

const SUBSCRIBE: &str = "
311 c 8206000000016100 82 SUBSCRIBE with packet identifier 0 [MQTT-2.2.1-3]
311 c 82020001 82 SUBSCRIBE without a topic filter [MQTT-3.8.3-2]
5 c 8203000100 82 SUBSCRIBE without a topic filter [MQTT-3.8.3-2]
311 c 82050001000000 8f SUBSCRIBE with an empty topic filter [MQTT-4.7.3-1]
311 c 82050001000161 81 SUBSCRIBE: subscription options reaches past the end
5 c 820700010000016140 81 reserved bits in subscription options 0b01000000 [MQTT-3.8.3-5]
5 c 820700010000016180 81 reserved bits in subscription options 0b10000000 [MQTT-3.8.3-5]
311 c 8206000100016104 81 reserved bits in subscription options 0b00000100 [MQTT-3.8.3-5]
311 c 8206000100016108 81 reserved bits in subscription options 0b00001000 [MQTT-3.8.3-5]
311 c 8206000100016110 81 reserved bits in subscription options 0b00010000 [MQTT-3.8.3-5]
311 c 8206000100016120 81 reserved bits in subscription options 0b00100000 [MQTT-3.8.3-5]
311 c 8206000100016140 81 reserved bits in subscription options 0b01000000 [MQTT-3.8.3-5]
311 c 8206000100016180 81 reserved bits in subscription options 0b10000000 [MQTT-3.8.3-5]
311 c 8206000100016103 82 subscription with QoS 3 [MQTT-3.8.3-4]
5 c 820700010000016103 82 subscription with QoS 3 [MQTT-3.8.3-4]
5 c 820700010000016130 82 subscription with retain handling 3
5 c 8210000100000a2473686172652f672f6104 82 No Local on a shared subscription [MQTT-3.8.3-4]
5 c 82090001020b0000016100 82 property subscription identifier may not be 0
5 c 820b0001040b010b0200016100 82 SUBSCRIBE: subscription identifier stands twice
";

const UNSUBSCRIBE_AND_ANSWERS: &str = "
311 c a2020001 82 UNSUBSCRIBE without a topic filter [MQTT-3.10.3-2]
5 c a203000100 82 UNSUBSCRIBE without a topic filter [MQTT-3.10.3-2]
311 c a20400010000 8f UNSUBSCRIBE with an empty topic filter [MQTT-4.7.3-1]
311 s 90020001 82 SUBACK without a reason code [MQTT-3.8.4-6]
5 s 900400010003 82 SUBACK may not carry reason code 0x03 [MQTT-3.9.3-2]
311 s 9003000187 82 SUBACK may not carry reason code 0x87 [MQTT-3.9.3-2]
5 s b003000100 82 UNSUBACK without a reason code [MQTT-3.11.3-1]
311 s b003000100 81 UNSUBACK has 1 bytes after its last field
5 s b00400010001 82 UNSUBACK may not carry reason code 0x01 [MQTT-3.11.3-2]
";

const DISCONNECT_AND_AUTH: &str = "
5 c e0018b 82 DISCONNECT may not carry reason code 0x8b [MQTT-3.14.2-1]
5 s e00104 82 DISCONNECT may not carry reason code 0x04 [MQTT-3.14.2-1]
5 s e00700051100000001 82 DISCONNECT of a server with a session expiry interval [MQTT-3.14.2-2]
5 c f000 82 AUTH may not carry reason code 0x00 [MQTT-3.15.2-1]
5 c f0020400 82 AUTH may not carry reason code 0x04 [MQTT-3.15.2-1]
5 c f00118 82 AUTH without an authentication method
5 c f0021800 82 AUTH without an authentication method
5 c f006180416000178 82 AUTH without an authentication method
";

const PROPERTIES: &str = "
5 c 3006000161027f00 81 PUBLISH: unknown property 0x7f
5 c 300700016103810100 81 PUBLISH: unknown property 0x81
5 c 30050001610111 81 PUBLISH: session expiry interval does not belong here
5 c 30050001610112 81 PUBLISH: assigned client identifier does not belong here
5 c 30050001610113 81 PUBLISH: server keep alive does not belong here
5 c 30050001610115 81 PUBLISH: authentication method does not belong here
5 c 30050001610116 81 PUBLISH: authentication data does not belong here
5 c 30050001610117 81 PUBLISH: request problem information does not belong here
5 c 30050001610118 81 PUBLISH: will delay interval does not belong here
5 c 30050001610119 81 PUBLISH: request response information does not belong here
5 c 3005000161011a 81 PUBLISH: response information does not belong here
5 c 3005000161011c 81 PUBLISH: server reference does not belong here
5 c 3005000161011f 81 PUBLISH: reason string does not belong here
5 c 30050001610121 81 PUBLISH: receive maximum does not belong here
5 c 30050001610122 81 PUBLISH: topic alias maximum does not belong here
5 c 30050001610124 81 PUBLISH: maximum QoS does not belong here
5 c 30050001610125 81 PUBLISH: retain available does not belong here
5 c 30050001610127 81 PUBLISH: maximum packet size does not belong here
5 c 30050001610128 81 PUBLISH: wildcard subscription available does not belong here
5 c 30050001610129 81 PUBLISH: subscription identifier available does not belong here
5 c 3005000161012a 81 PUBLISH: shared subscription available does not belong here
5 c 30080001610401000100 82 PUBLISH: payload format indicator stands twice
5 c 3006000161020102 82 property payload format indicator may not be 2
5 c 101000044d51545405020000032100000000 82 property receive maximum may not be 0
5 c 101200044d515454050200000527000000000000 82 property maximum packet size may not be 0
5 c 300800016104030001ff 81 PUBLISH: content type is not UTF-8 [MQTT-1.5.4-1]
5 c 300800016104080001ff 81 PUBLISH: response topic is not UTF-8 [MQTT-1.5.4-1]
5 s 20050000022402 82 property maximum QoS may not be 2
5 s 20050000022502 82 property retain available may not be 2
";

#[test]
fn fixed_headers() {
    check(FIXED_HEADERS);
}

#[test]
fn variable_byte_integers() {
    check(VARIABLE_BYTE_INTEGERS);
}

#[test]
fn texts() {
    check(TEXTS);
}

#[test]
fn publish() {
    check(PUBLISH);
}

#[test]
fn connect_versions() {
    check(CONNECT_VERSIONS);
}

#[test]
fn connect_flags() {
    check(CONNECT_FLAGS);
}

#[test]
fn connect_payloads() {
    check(CONNECT_PAYLOADS);
}

#[test]
fn connack() {
    check(CONNACK);
}

#[test]
fn acknowledgements() {
    check(ACKNOWLEDGEMENTS);
}

#[test]
fn subscribe() {
    check(SUBSCRIBE);
}

#[test]
fn unsubscribe_and_answers() {
    check(UNSUBSCRIBE_AND_ANSWERS);
}

#[test]
fn disconnect_and_auth() {
    check(DISCONNECT_AND_AUTH);
}

#[test]
fn properties() {
    check(PROPERTIES);
}

#[test]
fn reserved_header_flags() {
    for packet in PacketType::ALL
        .into_iter()
        .filter(|packet| *packet != PacketType::Publish)
    {
        let direction = if packet.may_come(V5, FromClient) {
            FromClient
        } else {
            FromServer
        };
        for flags in (0..16).filter(|flags| *flags != packet.reserved_flags()) {
            let bytes = [packet.number() << 4 | flags];
            let decoded = decode(&bytes, V5, &Limits::default(), direction);
            assert_eq!(decoded, Err(Error::HeaderFlags { packet, flags }));
        }
    }
}

#[test]
fn a_padded_remaining_length_is_an_error_in_mqtt_5_only() {
    let padded =
        |version, bytes: &[u8]| decode(bytes, version, &Limits::default(), FromClient).map(|_| ());
    assert_eq!(padded(V5, b"\xC0\x80\0"), Err(Error::VarIntNotMinimal));
    assert_eq!(padded(V311, b"\xC0\x80\0"), Ok(()));
    let connect = b"\x10\x8E\0\0\x04MQTT\x05\x02\0\0\0\0\x01a";
    assert_eq!(padded(V311, connect), Err(Error::VarIntNotMinimal));
}

#[test]
fn statements_of_mqtt_311() {
    let packet = PacketType::Subscribe;
    let cases = [
        (Error::HeaderFlags { packet, flags: 0 }, "[MQTT-2.2.2-2]"),
        (
            Error::TextHasNull {
                packet,
                field: "topic filter",
            },
            "[MQTT-1.5.3-2]",
        ),
        (Error::NoFilter { packet }, "[MQTT-3.8.3-3]"),
        (Error::PacketIdZero { packet }, "[MQTT-2.3.1-1]"),
        (Error::WillQosInvalid, "[MQTT-3.1.2-14]"),
        (Error::TopicAliasZero, ""),
    ];
    for (error, statement) in cases {
        assert_eq!(error.statement_v311(), statement, "{error}");
    }
}

/// Packets that look odd and are allowed: version and bytes.
const ODD: &str = "
5 101000044d51545405400000000000000170
5 100d00044d51545405000000000000
5 3006000003230001
5 30070004efbbbf6100
5 4003000100
5 400400018700
5 e00104
311 820a00010001230200012300
5 82070001000001612e
";

#[test]
fn what_looks_odd_but_is_allowed() {
    for line in ODD.trim().lines() {
        let (version, hex) = line.split_once(' ').unwrap();
        let bytes = bytes_of(hex);
        let decoded = decode(&bytes, version_of(version), &Limits::default(), FromClient);
        assert!(
            matches!(decoded, Ok(Decoded::Packet { .. })),
            "{line}: {decoded:?}"
        );
    }
}
