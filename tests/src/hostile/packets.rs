//! Packets that lie, stop half-way, or come byte by byte.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use engine_mqtt::{
    Connect, Packet, PacketId, Properties, PropertiesBuilder, Publish, QoS, ReasonCode, Subscribe,
    Subscription, SubscriptionOptions, Subscriptions, Version,
};

use super::canary::Canary;
use super::{assert_grown_less, is_product, resident};
use crate::client::{Answer, Client, Dial, Parting};
use crate::crash::Random;
use crate::node::Node;

const VERSIONS: [Version; 2] = [Version::V311, Version::V5];
/// What all connections of a test may leave behind in the node's memory.
const SLACK: u64 = 48 << 20;

fn bytes_of(packet: &Packet<'_>, version: Version) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.encode(version, &mut bytes).expect("a good packet");
    bytes
}

fn connect_bytes(version: Version, id: &str) -> Vec<u8> {
    let packet = Packet::Connect(Connect {
        version,
        clean_start: true,
        keep_alive: 60,
        client_id: id,
        will: None,
        user_name: None,
        password: None,
        properties: Properties::EMPTY,
    });
    bytes_of(&packet, version)
}

fn publish_bytes(version: Version, topic: &str, qos: QoS) -> Vec<u8> {
    let mut properties = PropertiesBuilder::new();
    if version == Version::V5 {
        properties.message_expiry(600);
        properties.content_type("text/plain");
    }
    let packet = Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        topic,
        packet_id: (qos != QoS::AtMostOnce).then(|| PacketId::new(7).expect("not 0")),
        properties: properties.properties().expect("well-formed properties"),
        payload: b"a payload of some bytes",
    });
    bytes_of(&packet, version)
}

fn subscribe_bytes(version: Version, filters: &[String]) -> Vec<u8> {
    let options = SubscriptionOptions::default();
    let filters: Vec<_> = filters
        .iter()
        .map(|filter| Subscription { filter, options })
        .collect();
    let packet = Packet::Subscribe(Subscribe {
        packet_id: PacketId::new(1).expect("not 0"),
        properties: Properties::EMPTY,
        filters: Subscriptions::from(filters.as_slice()),
    });
    bytes_of(&packet, version)
}

/// One of each packet that a client sends.
fn samples(version: Version) -> Vec<Vec<u8>> {
    vec![
        connect_bytes(version, "fuzz"),
        publish_bytes(version, "fuzz/topic", QoS::AtMostOnce),
        publish_bytes(version, "fuzz/topic", QoS::ExactlyOnce),
        subscribe_bytes(version, &["fuzz/+/a".to_owned(), "fuzz/#".to_owned()]),
        b"\x62\x02\x00\x07".to_vec(),
        b"\x40\x02\x00\x07".to_vec(),
        b"\xc0\x00".to_vec(),
        b"\xe0\x00".to_vec(),
    ]
}

/// Reads until the node has closed (true) or is silent. What it says depends on the version that
/// the bytes ended up to name.
fn hear(stream: &mut TcpStream) -> bool {
    let silence = Some(Duration::from_millis(20));
    stream.set_read_timeout(silence).expect("a time-out");
    loop {
        match stream.read(&mut [0; 4096]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

#[test]
fn fuzzed_packets_are_answered_or_end_their_own_connection() {
    if !is_product() {
        return;
    }
    let node = Node::with_shards(2);
    let canary = Canary::start(&node);
    let before = resident(&node);
    let mut random = Random::new(20_26);
    let (mut closed, mut open) = (0, 0);
    for round in 0..600 {
        let version = VERSIONS[round % 2];
        let samples = samples(version);
        let mut bytes: Vec<u8> = (0..3)
            .flat_map(|_| samples[below(&mut random, samples.len())].clone())
            .collect();
        for _ in 0..=below(&mut random, 4) {
            let at = below(&mut random, bytes.len());
            match random.below(3) {
                0 => bytes[at] ^= 1 << random.below(8),
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, u8::try_from(random.below(256)).expect("a byte")),
            }
        }
        // Before CONNECT, or after a good one.
        if round % 3 > 0 {
            bytes.splice(
                0..0,
                connect_bytes(version, &format!("fuzzer-{}", round % 7)),
            );
        }
        let mut stream = TcpStream::connect(node.address()).expect("the node listens");
        stream.write_all(&bytes).expect("the node reads");
        if hear(&mut stream) {
            closed += 1;
        } else {
            open += 1;
        }
    }
    println!("{closed} connections were closed, {open} stay open");
    assert!(closed > 100, "{closed}: most of it is malformed");
    canary.stop("fuzzed packets");
    assert_grown_less(&node, before, SLACK, "fuzzed packets");
    assert!(!node.stderr().contains("panicked"), "{}", node.stderr());
}

fn below(random: &mut Random, bound: usize) -> usize {
    let bound = u64::try_from(bound).expect("small");
    usize::try_from(random.below(bound)).expect("small")
}

/// Every packet is cut at every byte: the node waits for the rest, and the end ends it.
#[test]
fn truncated_packets_are_waited_for() {
    if !is_product() {
        return;
    }
    let node = Node::with_shards(2);
    let canary = Canary::start(&node);
    for version in VERSIONS {
        for sample in &samples(version)[1..] {
            for cut in 1..sample.len() {
                let mut client = Dial::clean(version, "cut").connect(&node);
                client.send_bytes(b"\xc0\x00");
                client.send_bytes(&sample[..cut]);
                assert_eq!(client.next(), Answer::PingResp);
                client.vanish();
            }
        }
    }
    canary.stop("truncated packets");
}

#[test]
fn packets_that_come_byte_by_byte_are_served() {
    if !is_product() {
        return;
    }
    let node = Node::with_shards(2);
    let canary = Canary::start(&node);
    for version in VERSIONS {
        let mut slow = Dial::silent(version, &node);
        let send = |bytes: &[u8], slow: &mut Client| {
            for byte in bytes {
                slow.send_bytes(&[*byte]);
            }
        };
        send(&connect_bytes(version, "byte-by-byte"), &mut slow);
        assert!(matches!(slow.next(), Answer::ConnAck(_)));
        send(&subscribe_bytes(version, &["slow".to_owned()]), &mut slow);
        assert!(matches!(slow.next(), Answer::SubAck(..)));
        send(&publish_bytes(version, "slow", QoS::AtLeastOnce), &mut slow);
        let answers = [slow.next(), slow.next()];
        let acknowledged = |answer: &Answer| matches!(answer, Answer::PubAck(..));
        assert!(answers.iter().any(acknowledged), "{answers:?}");
        let came = |answer: &Answer| matches!(answer, Answer::Message(one) if one.topic == "slow");
        assert!(answers.iter().any(came), "{answers:?}");
    }
    canary.stop("bytes one by one");
}

/// A length that is announced reserves nothing; one above the limit ends the connection at once.
#[test]
fn huge_remaining_lengths_cost_no_memory() {
    if !is_product() {
        return;
    }
    let node = Node::with_shards(2);
    let canary = Canary::start(&node);
    let before = resident(&node);
    // 268,435,455 bytes, of which none comes.
    let huge = b"\x30\xff\xff\xff\x7f";
    for version in VERSIONS {
        for number in 0..200 {
            let id = format!("huge-{number}");
            let mut client = Dial::clean(version, &id).connect(&node);
            client.send_bytes(huge);
            client.expect_disconnect(ReasonCode::PacketTooLarge);
        }
    }
    let mut before_connect = Dial::silent(Version::V5, &node);
    before_connect.send_bytes(b"\x10\xff\xff\xff\x7f");
    before_connect.expect_end();
    // Just within the limit, announced by many at once: a promise is not memory.
    let announced: Vec<Client> = (0..200)
        .map(|number| {
            let id = format!("announces-{number}");
            let mut client = Dial::clean(Version::V5, &id).connect(&node);
            client.send_bytes(b"\x30\xf0\xff\x3f\x00\x01a\x00some");
            client
        })
        .collect();
    canary.stop("huge lengths");
    assert_grown_less(&node, before, SLACK, "200 announced packets of 1 MiB");
    drop(announced);
}

#[test]
fn text_that_is_not_utf_8_ends_the_connection() {
    if !is_product() {
        return;
    }
    let node = Node::with_shards(2);
    let canary = Canary::start(&node);
    let bad: [&[u8]; 6] = [
        b"\xff\xfe",
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"a\x00b",
        b"\xe2\x82",
    ];
    for text in bad {
        for version in VERSIONS {
            let len = u8::try_from(text.len()).expect("short");
            let no_properties: &[u8] = if version == Version::V5 { b"\0" } else { b"" };
            let publish = [&[0, len], text, no_properties, b"x"].concat();
            let subscribe = [b"\0\x01", no_properties, &[0, len], text, b"\0"].concat();
            for (first, body) in [(0x30, publish), (0x82, subscribe)] {
                let mut client = Dial::clean(version, "bad-text").connect(&node);
                let rest = u8::try_from(body.len()).expect("short");
                client.send_bytes(&[first, rest]);
                client.send_bytes(&body);
                match client.next() {
                    Answer::Disconnect(reason) => {
                        let named = [
                            ReasonCode::MalformedPacket,
                            ReasonCode::TopicNameInvalid,
                            ReasonCode::ProtocolError,
                        ];
                        assert!(named.contains(&reason), "{text:?}: {reason:?}");
                        assert_eq!(client.next(), Answer::Closed);
                    }
                    other => {
                        assert_eq!(other, Answer::Closed, "{text:?}");
                        assert_ne!(version, Version::V5, "DISCONNECT is missing");
                    }
                }
            }
        }
    }
    canary.stop("bad text");
}

/// 500 filters in a packet, again and again: each packet gets its SUBACK, and they end with their
/// connections.
#[test]
fn subscribe_bombs_are_granted_and_leave_nothing() {
    if !is_product() {
        return;
    }
    let node = Node::with_shards(2);
    let canary = Canary::start(&node);
    let mut times = Vec::new();
    let mut resident_then = 0;
    for round in 0..20 {
        for version in VERSIONS {
            let mut client = Dial::clean(version, &format!("bomb-{round}")).connect(&node);
            let filters: Vec<String> = (0..500).map(|n| format!("bomb/{round}/+/{n}/#")).collect();
            let begin = Instant::now();
            client.send_bytes(&subscribe_bytes(version, &filters));
            match client.next() {
                Answer::SubAck(_, codes) => {
                    assert_eq!(codes.len(), 500);
                    assert!(codes.iter().all(|code| !code.is_failure()), "{codes:?}");
                }
                other => panic!("expected SUBACK, got {other:?}"),
            }
            times.push(begin.elapsed());
            client.vanish();
        }
        if round == 9 {
            resident_then = resident(&node);
        }
    }
    times.sort_unstable();
    let (middle, last) = (times[times.len() / 2], times[times.len() - 1]);
    println!("SUBACK of 500 filters after {middle:?} in the median, {last:?} at most");
    canary.stop("subscribe bombs");
    assert_grown_less(&node, resident_then, SLACK, "10,000 filters after 10,000");
}

/// Sockets that are killed with unread bytes on their way: each will comes, once.
#[test]
fn wills_of_killed_sockets_come_once() {
    if !is_product() {
        return;
    }
    let node = Node::with_shards(2);
    let canary = Canary::start(&node);
    let mut watcher = Dial::clean(Version::V5, "watcher").connect(&node);
    watcher.subscribe("gone/#", QoS::AtLeastOnce);
    for round in 0..5 {
        let dying: Vec<Client> = (0..50)
            .map(|number| {
                let topic = format!("gone/{round}/{number}");
                let will = Parting::new(&topic, "gone", QoS::AtLeastOnce);
                let dial = Dial::clean(Version::V5, &format!("dying-{number}")).will(will);
                let mut client = dial.connect(&node);
                client.subscribe("dying", QoS::AtMostOnce);
                client
            })
            .collect();
        // Each dies with this unread in its buffer, and half-way through a packet of its own.
        watcher.publish("dying", "last words", QoS::AtLeastOnce);
        for mut client in dying {
            client.send_bytes(b"\x30\x7f\x00\x04half");
            drop(client);
        }
        let mut topics: Vec<String> = (0..50).map(|_| watcher.receive().topic).collect();
        topics.sort();
        topics.dedup();
        assert_eq!(topics.len(), 50, "{topics:?}");
    }
    let mut publisher = Dial::clean(Version::V5, "publisher").connect(&node);
    watcher.expect_nothing(&mut publisher, "gone/marker");
    canary.stop("killed sockets with wills");
}
