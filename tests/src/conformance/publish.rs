//! PUBLISH in both directions: QoS flows, DUP, order, receive maximum, properties.

use engine_mqtt::{
    Ack, Packet, PacketId, Properties, PropertiesBuilder, Publish, QoS, ReasonCode, Version,
};

use super::{VERSIONS, named};
use crate::client::{Answer, Client, Dial};
use crate::node::Node;

const LEVELS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

fn send_publish(client: &mut Client, id: PacketId, qos: QoS, dup: bool, topic: &str, text: &str) {
    client.send(&Packet::Publish(Publish {
        dup,
        qos,
        retain: false,
        topic,
        packet_id: Some(id),
        properties: Properties::EMPTY,
        payload: text.as_bytes(),
    }));
}

/// [MQTT-3.8.4-8]: the lower of the published and the granted QoS; the flags are clear.
#[test]
fn a_message_arrives_at_the_lower_qos() {
    let node = Node::with_shards(2);
    for version in VERSIONS {
        let mut subscriber = Dial::clean(version, &named(version, "lower-to")).connect(&node);
        let mut publisher = Dial::clean(version, &named(version, "lower-from")).connect(&node);
        for granted in LEVELS {
            let topic = named(version, &format!("lower/{}", granted.bits()));
            subscriber.subscribe(&topic, granted);
            for published in LEVELS {
                publisher.publish(&topic, "text", published);
                let message = subscriber.expect(&topic, "text", published.min(granted));
                assert!(!message.dup && !message.retain, "{message:?}");
                assert_eq!(message.packet_id.is_some(), message.qos != QoS::AtMostOnce);
            }
        }
    }
}

/// [MQTT-4.3.3-10], [MQTT-3.3.1-3], rule 6: a PUBLISH repeated before its PUBREL is the same
/// message, also on a new connection.
#[test]
fn a_repeated_qos_2_publish_is_one_message() {
    let node = Node::with_shards(2);
    for version in VERSIONS {
        let topic = named(version, "once");
        let mut subscriber = Dial::clean(version, &named(version, "once-to")).connect(&node);
        subscriber.subscribe(&topic, QoS::ExactlyOnce);
        let dial = Dial::durable(version, &named(version, "once-from"));
        let mut publisher = dial.connect(&node);
        let id = PacketId::new(7).expect("not 0");
        send_publish(&mut publisher, id, QoS::ExactlyOnce, false, &topic, "one");
        assert!(matches!(publisher.answer(), Answer::PubRec(got, _) if got == id));
        send_publish(&mut publisher, id, QoS::ExactlyOnce, true, &topic, "one");
        assert!(matches!(publisher.answer(), Answer::PubRec(got, _) if got == id));
        publisher.vanish();
        let mut publisher = dial.connect(&node);
        assert!(publisher.welcome().session_present);
        send_publish(&mut publisher, id, QoS::ExactlyOnce, true, &topic, "one");
        assert!(matches!(publisher.answer(), Answer::PubRec(got, _) if got == id));
        publisher.send(&Packet::PubRel(Ack::success(id)));
        assert_eq!(publisher.answer(), Answer::PubComp(id, ReasonCode::Success));
        // The id is free again: a new message.
        send_publish(&mut publisher, id, QoS::ExactlyOnce, false, &topic, "two");
        assert!(matches!(publisher.answer(), Answer::PubRec(got, _) if got == id));
        publisher.send(&Packet::PubRel(Ack::success(id)));
        assert_eq!(publisher.answer(), Answer::PubComp(id, ReasonCode::Success));
        for text in ["one", "two"] {
            assert!(!subscriber.expect(&topic, text, QoS::ExactlyOnce).dup);
        }
        // DUP coming in is not DUP going out, when it is the first that the server sees of it.
        send_publish(&mut publisher, id, QoS::AtLeastOnce, true, &topic, "three");
        assert!(!subscriber.expect(&topic, "three", QoS::AtLeastOnce).dup);
    }
}

/// A PUBREL for an id that is not known is answered all the same, so that the sender gets on.
#[test]
fn an_unknown_pubrel_is_completed() {
    let node = Node::start();
    for version in VERSIONS {
        let mut client = Dial::clean(version, &named(version, "rel")).connect(&node);
        let id = PacketId::new(99).expect("not 0");
        client.send(&Packet::PubRel(Ack::success(id)));
        assert!(matches!(client.answer(), Answer::PubComp(got, _) if got == id));
    }
}

/// [MQTT-4.4.0-1], [MQTT-3.3.1-1]: what is not acknowledged comes again after a reconnect, in
/// order, with DUP and the same packet id; a QoS 2 message that was received comes as PUBREL.
#[test]
fn unacknowledged_messages_are_resent_in_order() {
    let node = Node::with_shards(2);
    for version in VERSIONS {
        let topic = named(version, "again");
        let dial = Dial::durable(version, &named(version, "again-to"));
        let mut subscriber = dial.connect(&node);
        subscriber.subscribe(&topic, QoS::ExactlyOnce);
        let mut publisher = Dial::clean(version, &named(version, "again-from")).connect(&node);
        for (text, qos) in [
            ("a", QoS::ExactlyOnce),
            ("b", QoS::AtLeastOnce),
            ("c", QoS::ExactlyOnce),
            ("d", QoS::AtLeastOnce),
        ] {
            publisher.publish(&topic, text, qos);
        }
        let first: Vec<_> = (0..4).map(|_| subscriber.message()).collect();
        assert!(first.iter().all(|message| !message.dup));
        let received = first[0].packet_id.expect("QoS 2");
        subscriber.send(&Packet::PubRec(Ack::success(received)));
        assert_eq!(
            subscriber.answer(),
            Answer::PubRel(received, ReasonCode::Success)
        );
        subscriber.vanish();

        let mut subscriber = dial.connect(&node);
        assert!(subscriber.welcome().session_present);
        let mut again = Vec::new();
        let mut released = None;
        while again.len() < 3 || released.is_none() {
            match subscriber.next() {
                Answer::Message(message) => again.push(message),
                Answer::PubRel(id, _) => released = Some(id),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(released, Some(received));
        for (message, before) in again.iter().zip(&first[1..]) {
            assert!(message.dup, "{message:?}");
            assert_eq!(message.packet_id, before.packet_id);
            assert_eq!(message.text(), before.text());
        }
        subscriber.disconnect();
    }
}

/// [MQTT-4.6.0-5]: messages of one publisher, topic and QoS arrive in order.
#[test]
fn messages_keep_their_order() {
    const COUNT: usize = 300;
    let node = Node::with_shards(2);
    for qos in LEVELS {
        let topic = format!("order/{}", qos.bits());
        let mut subscriber = Dial::clean(Version::V5, "order-to").connect(&node);
        subscriber.subscribe(&topic, QoS::ExactlyOnce);
        let mut publisher = Dial::clean(Version::V5, "order-from").connect(&node);
        for number in 0..COUNT {
            publisher.publish(&topic, &number.to_string(), qos);
        }
        for number in 0..COUNT {
            subscriber.expect(&topic, &number.to_string(), qos);
        }
    }
}

/// [MQTT-3.3.4-9]: no more unacknowledged messages than the client's receive maximum.
#[test]
fn the_receive_maximum_bounds_what_is_in_flight() {
    let node = Node::with_shards(2);
    let mut subscriber = Dial::clean(Version::V5, "window-to")
        .receive_maximum(2)
        .connect(&node);
    subscriber.subscribe("window", QoS::ExactlyOnce);
    let mut publisher = Dial::clean(Version::V5, "window-from").connect(&node);
    for number in 0..6 {
        let qos = if number % 2 == 0 {
            QoS::AtLeastOnce
        } else {
            QoS::ExactlyOnce
        };
        publisher.publish("window", &number.to_string(), qos);
    }
    let held = [subscriber.message(), subscriber.message()];
    subscriber.send(&Packet::PingReq);
    assert_eq!(subscriber.next(), Answer::PingResp, "no third message");
    subscriber.send(&Packet::PubAck(Ack::success(
        held[0].packet_id.expect("QoS 1"),
    )));
    assert_eq!(subscriber.message().text(), "2");
    subscriber.send(&Packet::PingReq);
    assert_eq!(subscriber.next(), Answer::PingResp, "no fourth message");
    // PUBREC frees nothing yet: the exchange ends with PUBCOMP.
    let second = held[1].packet_id.expect("QoS 2");
    subscriber.send(&Packet::PubRec(Ack::success(second)));
    assert_eq!(
        subscriber.next(),
        Answer::PubRel(second, ReasonCode::Success)
    );
    subscriber.send(&Packet::PubComp(Ack::success(second)));
    assert_eq!(subscriber.message().text(), "3");
}

/// [MQTT-3.3.2-4] ff.: what describes a message travels with it, in order.
#[test]
fn properties_travel_with_the_message() {
    let node = Node::with_shards(2);
    let mut subscriber = Dial::clean(Version::V5, "properties-to").connect(&node);
    subscriber.subscribe("properties", QoS::AtLeastOnce);
    let mut older = Dial::clean(Version::V311, "properties-older").connect(&node);
    older.subscribe("properties", QoS::AtLeastOnce);
    let mut publisher = Dial::clean(Version::V5, "properties-from").connect(&node);
    let mut properties = PropertiesBuilder::new();
    properties
        .user_property("b", "1")
        .message_expiry(600)
        .user_property("a", "2");
    properties
        .user_property("b", "3")
        .content_type("text")
        .correlation_data(b"\0\x01");
    publisher.publish_with("properties", "text", QoS::AtLeastOnce, false, &properties);
    let message = subscriber.expect("properties", "text", QoS::AtLeastOnce);
    let pairs: Vec<(&str, &str)> = message
        .user_properties
        .iter()
        .map(|(a, b)| (a.as_str(), b.as_str()))
        .collect();
    assert_eq!(pairs, [("b", "1"), ("a", "2"), ("b", "3")]);
    assert!(
        message
            .message_expiry
            .is_some_and(|left| (1..=600).contains(&left)),
        "{message:?}"
    );
    older.expect("properties", "text", QoS::AtLeastOnce);
}

/// [MQTT-3.3.2-12]: a topic alias stands for its topic, on its connection only.
#[test]
fn a_topic_alias_stands_for_its_topic() {
    let node = Node::start();
    let mut client = Dial::clean(Version::V5, "alias").connect(&node);
    let aliases = client.welcome().topic_alias_maximum;
    let aliases = aliases.expect("the node takes aliases");
    client.subscribe("alias/topic", QoS::AtLeastOnce);
    let mut alias = PropertiesBuilder::new();
    alias.topic_alias(aliases);
    client.publish_with("alias/topic", "whole", QoS::AtLeastOnce, false, &alias);
    client.publish_with("", "short", QoS::ExactlyOnce, false, &alias);
    client.expect("alias/topic", "whole", QoS::AtLeastOnce);
    client.expect("alias/topic", "short", QoS::AtLeastOnce);
    let mut unknown = PropertiesBuilder::new();
    unknown.topic_alias(aliases + 1);
    client.publish_with("alias/topic", "", QoS::AtMostOnce, false, &unknown);
    client.expect_disconnect(ReasonCode::TopicAliasInvalid);
    // The mapping ended with the connection [MQTT-3.3.2-7].
    let mut again = Dial::clean(Version::V5, "alias").connect(&node);
    again.publish_with("", "", QoS::AtMostOnce, false, &alias);
    again.expect_disconnect(ReasonCode::ProtocolError);
}

/// [MQTT-3.1.2-27]: a client is sent no more aliases than it takes, and none that it cannot know.
#[test]
fn a_client_is_sent_the_aliases_that_it_takes() {
    let node = Node::with_shards(2);
    let dial = Dial::durable(Version::V5, "aliased").topic_alias_maximum(2);
    let mut client = dial.connect(&node);
    let mut plain = Dial::clean(Version::V5, "plain").connect(&node);
    client.subscribe("#", QoS::AtLeastOnce);
    plain.subscribe("#", QoS::AtLeastOnce);
    let mut named = Vec::new();
    for topic in ["a", "b", "c", "a", "b", "c"] {
        plain.publish(topic, "text", QoS::AtLeastOnce);
        assert_eq!(plain.receive().topic_alias, None);
        let message = client.receive();
        named.push((message.topic, message.topic_alias));
    }
    let expected = [
        ("a", Some(1)),
        ("b", Some(2)),
        ("c", None),
        ("", Some(1)),
        ("", Some(2)),
        ("c", None),
    ];
    assert_eq!(
        named,
        expected.map(|(topic, alias)| (topic.to_owned(), alias))
    );
    // What is not acknowledged is sent again, and the next connection knows no alias.
    plain.publish("b", "again", QoS::AtLeastOnce);
    assert_eq!(client.message().topic, "");
    client.vanish();
    let mut client = dial.connect(&node);
    let message = client.receive();
    assert_eq!((&*message.topic, message.topic_alias), ("b", Some(1)));
}

/// [MQTT-3.1.2-24], [MQTT-3.1.2-25]: a packet too large for its client is not sent, and counts as
/// delivered.
#[test]
fn a_packet_too_large_for_its_client_is_left_out() {
    let node = Node::with_shards(2);
    let dial = Dial::durable(Version::V5, "small").maximum_packet_size(100);
    let mut client = dial.connect(&node);
    let mut publisher = Dial::clean(Version::V5, "large").connect(&node);
    for (topic, qos) in [("q0", 0), ("q1", 1), ("q2", 2)] {
        let qos = LEVELS[qos];
        client.subscribe(topic, qos);
        publisher.publish(topic, &"x".repeat(100), qos);
        publisher.publish(topic, "fits", qos);
        client.expect(topic, "fits", qos);
    }
    // Not cut off: the end of the last exchange is on its way, and would be begun again.
    client.disconnect();
    let mut client = Dial::durable(Version::V5, "small").connect(&node);
    publisher.publish("q2", "last", QoS::ExactlyOnce);
    client.expect("q2", "last", QoS::ExactlyOnce);
}

#[test]
fn payloads_of_every_size_arrive_whole() {
    let node = Node::with_shards(2);
    let mut client = Dial::clean(Version::V5, "sizes").connect(&node);
    client.subscribe("sizes", QoS::ExactlyOnce);
    for len in [
        0, 1, 127, 128, 4_095, 4_096, 4_097, 16_383, 16_384, 65_536, 500_000, 1_000_000,
    ] {
        let payload = "x".repeat(len);
        client.publish("sizes", &payload, QoS::ExactlyOnce);
        let message = client.receive();
        assert_eq!(message.payload.len(), len);
        assert!(
            message.text() == payload,
            "{len} bytes arrive as they were sent"
        );
    }
}
