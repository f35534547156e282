//! What breaks the rules ends the connection, in MQTT 5 with the reason.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use engine_mqtt::{QoS, ReasonCode, Version};

use super::VERSIONS;
use crate::client::{Answer, Dial, Transport};
use crate::node::{DEADLINE, Node};

/// Half of the time in which CONNECT has to come by default.
const SOON: Duration = Duration::from_secs(5);

/// Bytes after CONNECT, what is wrong with them, and the reason that MQTT 5 asks for.
const AFTER_CONNECT: [(&[u8], &str, ReasonCode); 9] = [
    (
        b"\x36\x05\x00\x01a\x00\x01",
        "QoS 3",
        ReasonCode::MalformedPacket,
    ),
    (
        b"\x82\x02\x00\x01",
        "SUBSCRIBE without a filter",
        ReasonCode::MalformedPacket,
    ),
    (
        b"\x80\x06\x00\x01\x00\x01a\x00",
        "SUBSCRIBE with wrong flags",
        ReasonCode::MalformedPacket,
    ),
    (
        b"\x60\x02\x00\x01",
        "PUBREL with wrong flags",
        ReasonCode::MalformedPacket,
    ),
    (
        b"\xc0\xff\xff\xff\xff\x01",
        "a length of five bytes",
        ReasonCode::MalformedPacket,
    ),
    (b"\x00\x00", "packet type 0", ReasonCode::MalformedPacket),
    (
        b"\x20\x02\x00\x00",
        "CONNACK from a client",
        ReasonCode::ProtocolError,
    ),
    (
        b"\xd0\x00",
        "PINGRESP from a client",
        ReasonCode::ProtocolError,
    ),
    (
        b"\xc1\x00",
        "PINGREQ with a flag",
        ReasonCode::MalformedPacket,
    ),
];

#[test]
fn malformed_packets_end_the_connection_with_a_reason() {
    let node = Node::start();
    for version in VERSIONS {
        for (bytes, what, reason) in AFTER_CONNECT {
            let mut client = Dial::clean(version, "bad").connect(&node);
            println!("{version:?}: {what}");
            client.send_bytes(bytes);
            match client.next() {
                Answer::Disconnect(got) => {
                    assert_eq!(
                        version,
                        Version::V5,
                        "{what}: no server DISCONNECT before 5"
                    );
                    let named = [
                        reason,
                        ReasonCode::ProtocolError,
                        ReasonCode::MalformedPacket,
                    ];
                    assert!(
                        named.contains(&got),
                        "{what}: {got:?} instead of {reason:?}"
                    );
                    assert_eq!(client.next(), Answer::Closed, "{what}");
                }
                Answer::Closed => assert_ne!(version, Version::V5, "{what}: DISCONNECT is missing"),
                other => panic!("{what}: {other:?}"),
            }
        }
    }
    Dial::clean(Version::V5, "good").connect(&node).ping();
}

/// [MQTT-3.1.0-1]: what is not CONNECT ends the connection unanswered.
#[test]
fn the_first_packet_must_be_connect() {
    let node = Node::start();
    for bytes in [
        b"\xc0\x00".as_slice(),
        b"\x30\x03\x00\x01a",
        b"GET / HTTP/1.1\r\nHost: corelane\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ] {
        let mut client = Dial::silent(Version::V311, &node);
        client.send_bytes(bytes);
        // Long before it would be closed for sending no CONNECT.
        let end = client.next_within(SOON);
        assert_eq!(end, Some(Answer::Closed), "{bytes:?}");
    }
}

/// [MQTT-3.1.2-2]: a protocol level that nobody knows is refused, in 3.1.1's form or in 5.0's.
#[test]
fn an_unknown_protocol_level_is_refused() {
    if Transport::chosen() != Transport::Tcp {
        return;
    }
    let node = Node::start();
    let mut stream = TcpStream::connect(node.address()).expect("the node accepts connections");
    stream
        .set_read_timeout(Some(DEADLINE))
        .expect("a read timeout");
    stream
        .write_all(b"\x10\x0d\x00\x04MQTT\x09\x02\x00\x3c\x00\x01a")
        .expect("CONNECT is sent");
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .expect("the connection ends");
    // The server may close without CONNACK.
    if !answer.is_empty() {
        let [packet_type, _, _, reason, ..] = answer.as_slice() else {
            panic!("{answer:?}")
        };
        assert_eq!(*packet_type, 0x20, "CONNACK");
        assert!([0x01, 0x84].contains(reason), "{answer:?}");
    }
}

/// [MQTT-3.3.2-2], [MQTT-4.7.1-1]: wildcards have no place in a topic name.
#[test]
fn a_topic_name_with_a_wildcard_ends_the_connection() {
    let node = Node::start();
    for version in VERSIONS {
        for topic in [b'#', b'+'] {
            let mut client = Dial::clean(version, "wild").connect(&node);
            let properties: &[u8] = if version == Version::V5 { b"\x00" } else { b"" };
            let mut bytes = vec![0x30, 3 + u8::from(version == Version::V5), 0, 1, topic];
            bytes.extend_from_slice(properties);
            client.send_bytes(&bytes);
            match client.next() {
                Answer::Disconnect(reason) => assert!(reason.is_failure(), "{reason:?}"),
                other => assert_eq!(other, Answer::Closed),
            }
        }
    }
}

/// A filter with a misplaced wildcard is refused in SUBACK or ends the connection; nothing else.
#[test]
fn a_malformed_filter_is_refused() {
    let node = Node::start();
    for filter in ["a#", "a/#/b", "+a", "a/b+"] {
        let mut client = Dial::clean(Version::V5, "filter").connect(&node);
        let packet = engine_mqtt::Subscription {
            filter,
            options: engine_mqtt::SubscriptionOptions::default(),
        };
        let id = client.packet_id();
        client.send(&engine_mqtt::Packet::Subscribe(engine_mqtt::Subscribe {
            packet_id: id,
            properties: engine_mqtt::Properties::EMPTY,
            filters: engine_mqtt::Subscriptions::from([packet].as_slice()),
        }));
        match client.next() {
            Answer::SubAck(got, codes) => {
                assert_eq!(
                    (got, codes),
                    (id, vec![ReasonCode::TopicFilterInvalid]),
                    "{filter}"
                );
            }
            Answer::Disconnect(reason) => assert!(reason.is_failure(), "{filter}: {reason:?}"),
            other => panic!("{filter}: {other:?}"),
        }
    }
}

/// Damage on one connection is nothing to the others.
#[test]
fn a_broken_neighbour_disturbs_nobody() {
    let node = Node::start();
    let mut good = Dial::clean(Version::V5, "good").connect(&node);
    good.subscribe("calm", QoS::ExactlyOnce);
    for byte in 0..=u8::MAX {
        let mut bad = Dial::silent(Version::V5, &node);
        bad.send_bytes(&[byte; 64]);
        bad.vanish();
    }
    good.publish("calm", "here", QoS::ExactlyOnce);
    good.expect("calm", "here", QoS::ExactlyOnce);
}
