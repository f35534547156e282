//! What clients may do, one limit after the other: each is set in the file, kept, and told to the
//! client where MQTT has words for it.

use std::fs;
use std::time::{Duration, Instant};

use engine_mqtt::{
    Packet, PacketId, Properties, Publish, QoS, ReasonCode, SubscriptionOptions, Version,
};

use crate::client::{Answer, Client, Dial};
use crate::node::{Broker, Node};

/// A node with this `[limits]` table; `None`: the broker under test has no such file.
fn limited(text: &str) -> Option<Node> {
    if Broker::chosen() != Broker::Corelane {
        return None;
    }
    let mut node = Node::stopped(1, &[]);
    let file = node.data().with_extension("toml");
    fs::write(&file, format!("[limits]\n{text}\n")).expect("a configuration file");
    node.add_argument("--config");
    node.add_argument(&file.to_string_lossy());
    node.run();
    Some(node)
}

fn refused(dial: &Dial, node: &Node) -> ReasonCode {
    let client = dial.attempt(node.address()).expect("CONNACK comes first");
    client.welcome().reason
}

fn granted(client: &mut Client, filter: &str) -> ReasonCode {
    client.subscribe_with(filter, SubscriptionOptions::default(), None)
}

fn send_open(client: &mut Client, qos: QoS) {
    let packet_id = client.packet_id();
    client.send(&Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        topic: "open",
        packet_id: Some(packet_id),
        properties: Properties::EMPTY,
        payload: b"",
    }));
}

#[test]
fn packets_have_a_size() {
    let Some(node) = limited("packet-bytes = 2048") else {
        return;
    };
    let mut client = Dial::clean(Version::V5, "large").connect(&node);
    assert_eq!(client.welcome().maximum_packet_size, Some(2048));
    client.publish_bytes("size", &[b'x'; 2000], QoS::AtLeastOnce, false);
    let payload = vec![b'x'; 2048];
    let packet_id = client.packet_id();
    client.send(&Packet::Publish(Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: "size",
        packet_id: Some(packet_id),
        properties: Properties::EMPTY,
        payload: &payload,
    }));
    client.expect_disconnect(ReasonCode::PacketTooLarge);
}

#[test]
fn client_ids_have_a_length() {
    let Some(node) = limited("client-id-bytes = 30") else {
        return;
    };
    for version in [Version::V311, Version::V5] {
        Dial::clean(version, &"i".repeat(30)).connect(&node);
        let reason = refused(&Dial::clean(version, &"i".repeat(31)), &node);
        assert_eq!(reason, ReasonCode::ClientIdentifierNotValid);
    }
}

#[test]
fn topics_have_a_length_and_a_depth() {
    let Some(node) = limited("topic-bytes = 20\ntopic-levels = 3") else {
        return;
    };
    for (fits, does_not) in [
        ("t".repeat(20), "t".repeat(21)),
        ("a/b/c".into(), "a/b/c/d".into()),
    ] {
        let mut client = Dial::clean(Version::V5, "deep").connect(&node);
        assert_eq!(granted(&mut client, &fits), ReasonCode::Success);
        assert_eq!(
            granted(&mut client, &does_not),
            ReasonCode::TopicFilterInvalid
        );
        client.publish(&fits, "here", QoS::AtLeastOnce);
        client.expect(&fits, "here", QoS::AtMostOnce);
        let packet_id = client.packet_id();
        client.send(&Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: &does_not,
            packet_id: Some(packet_id),
            properties: Properties::EMPTY,
            payload: b"",
        }));
        client.expect_disconnect(ReasonCode::TopicNameInvalid);
    }
}

#[test]
fn a_session_has_so_many_subscriptions() {
    let Some(node) = limited("subscriptions = 2") else {
        return;
    };
    let mut client = Dial::clean(Version::V5, "filters").connect(&node);
    assert_eq!(granted(&mut client, "a"), ReasonCode::Success);
    assert_eq!(granted(&mut client, "b/#"), ReasonCode::Success);
    assert_eq!(granted(&mut client, "c"), ReasonCode::QuotaExceeded);
    client.unsubscribe("a");
    assert_eq!(granted(&mut client, "c"), ReasonCode::Success);
}

#[test]
fn so_many_deliveries_are_in_flight() {
    let Some(node) = limited("inflight = 2") else {
        return;
    };
    let mut reader = Dial::clean(Version::V5, "reader").connect(&node);
    reader.subscribe("flight", QoS::AtLeastOnce);
    let mut publisher = Dial::clean(Version::V5, "publisher").connect(&node);
    for text in ["1", "2", "3"] {
        publisher.publish("flight", text, QoS::AtLeastOnce);
    }
    let first = reader.message();
    let second = reader.message();
    assert_eq!((first.text(), second.text()), ("1", "2"));
    // The third comes when the first is acknowledged, and not before: a ping overtakes it.
    reader.ping();
    let id = first.packet_id.expect("QoS 1");
    reader.send(&Packet::PubAck(engine_mqtt::Ack::success(id)));
    assert_eq!(reader.message().text(), "3");
}

#[test]
fn a_client_has_so_many_publications_open() {
    let Some(node) = limited("receive-maximum = 3") else {
        return;
    };
    let mut client = Dial::clean(Version::V5, "open").connect(&node);
    assert_eq!(client.welcome().receive_maximum, Some(3));
    // None of these is completed by a PUBREL.
    for _ in 0..4 {
        send_open(&mut client, QoS::ExactlyOnce);
    }
    loop {
        match client.next() {
            Answer::PubRec(_, reason) if !reason.is_failure() => {}
            Answer::Disconnect(reason) => {
                assert_eq!(reason, ReasonCode::ReceiveMaximumExceeded);
                return;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_node_has_so_many_sessions() {
    let Some(node) = limited("sessions = 2") else {
        return;
    };
    let first = Dial::clean(Version::V5, "first").connect(&node);
    let durable = Dial::durable(Version::V5, "second");
    durable.connect(&node).disconnect();
    let third = Dial::clean(Version::V5, "third");
    assert_eq!(refused(&third, &node), ReasonCode::QuotaExceeded);
    // Who has a session comes in.
    durable.connect(&node);
    drop(first);
}

#[test]
fn a_node_has_so_many_retained_messages() {
    let Some(node) = limited("retained = 2") else {
        return;
    };
    let mut client = Dial::clean(Version::V5, "keeper").connect(&node);
    for topic in ["kept/a", "kept/b"] {
        client.retain(topic, "first", QoS::AtLeastOnce);
    }
    // Whoever can be told is told; the message has gone to those who had subscribed.
    for _ in 0..2 {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let id = PacketId::new(77).expect("not zero");
            client.send(&Packet::Publish(Publish {
                dup: false,
                qos,
                retain: true,
                topic: "kept/c",
                packet_id: Some(id),
                properties: Properties::EMPTY,
                payload: b"first",
            }));
            let expected = match qos {
                QoS::AtLeastOnce => Answer::PubAck(id, ReasonCode::QuotaExceeded),
                _ => Answer::PubRec(id, ReasonCode::QuotaExceeded),
            };
            assert_eq!(client.answer(), expected);
        }
    }
    let mut old = Dial::clean(Version::V311, "old").connect(&node);
    old.retain("kept/c", "first", QoS::ExactlyOnce);
    // One that is there may be replaced, and one that is deleted makes room.
    client.retain("kept/b", "second", QoS::AtLeastOnce);
    client.retain("kept/a", "", QoS::AtLeastOnce);
    client.retain("kept/d", "first", QoS::AtLeastOnce);
    client.subscribe("kept/+", QoS::AtMostOnce);
    let mut found = [client.message(), client.message()].map(|one| (one.topic, one.payload));
    found.sort();
    let expected = [("kept/b", "second"), ("kept/d", "first")];
    assert_eq!(
        found,
        expected.map(|(topic, text)| (topic.into(), text.into()))
    );
    client.ping();
}

#[test]
fn a_node_has_so_many_delayed_publications() {
    let Some(node) = limited("delayed = 2") else {
        return;
    };
    let mut client = Dial::clean(Version::V5, "waiter").connect(&node);
    client.subscribe("due", QoS::AtLeastOnce);
    let later = |client: &mut Client, qos| {
        let packet_id = client.packet_id();
        client.send(&Packet::Publish(Publish {
            dup: false,
            qos,
            retain: false,
            topic: "$delayed/1/due",
            packet_id: Some(packet_id),
            properties: Properties::EMPTY,
            payload: b"a",
        }));
        packet_id
    };
    for _ in 0..2 {
        client.publish("$delayed/1/due", "a", QoS::AtLeastOnce);
    }
    let quota = ReasonCode::QuotaExceeded;
    let packet_id = later(&mut client, QoS::AtLeastOnce);
    assert_eq!(client.answer(), Answer::PubAck(packet_id, quota));
    let packet_id = later(&mut client, QoS::ExactlyOnce);
    assert_eq!(client.answer(), Answer::PubRec(packet_id, quota));
    let mut old = Dial::clean(Version::V311, "old").connect(&node);
    later(&mut old, QoS::AtLeastOnce);
    old.expect_end();
    for _ in 0..2 {
        client.expect("due", "a", QoS::AtLeastOnce);
    }
    client.publish("$delayed/1/due", "b", QoS::AtLeastOnce);
    client.expect("due", "b", QoS::AtLeastOnce);
}

#[test]
fn a_node_has_so_many_exclusive_subscriptions() {
    let Some(node) = limited("exclusive = 2") else {
        return;
    };
    let mut client = Dial::clean(Version::V5, "owner").connect(&node);
    assert_eq!(granted(&mut client, "$exclusive/a"), ReasonCode::Success);
    assert_eq!(granted(&mut client, "$exclusive/b"), ReasonCode::Success);
    assert_eq!(
        granted(&mut client, "$exclusive/c"),
        ReasonCode::QuotaExceeded
    );
    assert_eq!(granted(&mut client, "c"), ReasonCode::Success);
    client.unsubscribe("$exclusive/a");
    assert_eq!(granted(&mut client, "$exclusive/c"), ReasonCode::Success);
}

#[test]
fn sessions_end_in_time() {
    let Some(node) = limited("session-expiry-s = 60") else {
        return;
    };
    let client = Dial::durable(Version::V5, "long").connect(&node);
    assert_eq!(client.welcome().session_expiry, Some(60));
}

#[test]
fn a_connect_comes_in_time() {
    let Some(node) = limited("connect-timeout-s = 1") else {
        return;
    };
    let start = Instant::now();
    let mut silent = Dial::silent(Version::V5, &node);
    silent.expect_end();
    let waited = start.elapsed();
    assert!(waited >= Duration::from_millis(900), "{waited:?}");
    assert!(waited < Duration::from_secs(8), "{waited:?}");
}

#[test]
fn connects_have_a_rate() {
    let Some(node) = limited("connects-per-s = 2") else {
        return;
    };
    let start = Instant::now();
    let (mut taken, mut last) = (0_u32, ReasonCode::Success);
    while last == ReasonCode::Success {
        last = refused(&Dial::clean(Version::V5, "hasty"), &node);
        taken += u32::from(last == ReasonCode::Success);
    }
    assert_eq!(last, ReasonCode::ConnectionRateExceeded);
    let passed = start.elapsed().as_secs_f64();
    assert!(
        f64::from(taken) <= 3.0 + 2.0 * passed,
        "{taken} in {passed} s"
    );
    assert!(taken >= 2);
}

/// `count` publications take as long as the rate says, and all are taken.
fn publish_slowly(node: &Node, count: u32, payload: &str, least: Duration) {
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let mut client = Dial::clean(Version::V5, "fast").connect(node);
        let mut other = Dial::clean(Version::V5, "other").connect(node);
        other.subscribe("fast", qos);
        let start = Instant::now();
        for _ in 0..count {
            client.publish("fast", payload, qos);
        }
        for _ in 0..count {
            other.receive();
        }
        let passed = start.elapsed();
        assert!(passed >= least, "{count} at {qos:?} in {passed:?}");
    }
}

#[test]
fn publications_have_a_rate() {
    let Some(node) = limited("publishes-per-s = 50") else {
        return;
    };
    // 50 at once, and 25 in half a second.
    publish_slowly(&node, 75, "x", Duration::from_millis(450));
}

#[test]
fn published_bytes_have_a_rate() {
    let Some(node) = limited("publish-bytes-per-s = 10000") else {
        return;
    };
    publish_slowly(&node, 16, &"x".repeat(1000), Duration::from_millis(450));
}
