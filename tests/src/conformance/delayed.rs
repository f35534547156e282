//! `$delayed/<seconds>/<topic>`: published to the topic so many seconds later.

use std::time::{Duration, Instant};

use engine_mqtt::{
    Packet, Properties, PropertiesBuilder, Publish, QoS, ReasonCode, SubscriptionOptions, Version,
};

use super::{VERSIONS, named};
use crate::client::{Answer, Client, Dial};
use crate::node::{Broker, Node};

const LEVELS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
/// The shortest delay.
const SECOND: Duration = Duration::from_secs(1);

/// A node that knows delayed publications; mosquitto does not.
fn node(arguments: &[&str]) -> Option<Node> {
    (Broker::chosen() == Broker::Corelane).then(|| Node::with_arguments(2, arguments))
}

fn send(client: &mut Client, topic: &str, qos: QoS) -> Option<engine_mqtt::PacketId> {
    let packet_id = (qos != QoS::AtMostOnce).then(|| client.packet_id());
    client.send(&Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        topic,
        packet_id,
        properties: Properties::EMPTY,
        payload: b"a",
    }));
    packet_id
}

#[test]
fn it_comes_when_it_is_due() {
    let Some(node) = node(&[]) else { return };
    let begun = Instant::now();
    let mut clients = VERSIONS.map(|version| {
        let topic = named(version, "later");
        let mut publisher = Dial::clean(version, &named(version, "publisher")).connect(&node);
        let mut watcher = Dial::clean(version, &named(version, "watcher")).connect(&node);
        watcher.subscribe(&topic, QoS::ExactlyOnce);
        for (seconds, qos) in (1..).zip(LEVELS) {
            let delayed = format!("$delayed/{seconds}/{topic}");
            publisher.publish(&delayed, &seconds.to_string(), qos);
        }
        // What is published at once overtakes them.
        watcher.expect_nothing(&mut publisher, &topic);
        (topic, publisher, watcher)
    });
    for (seconds, qos) in (1..).zip(LEVELS) {
        for (topic, _, watcher) in &mut clients {
            let message = watcher.expect(topic, &seconds.to_string(), qos);
            let waited = begun.elapsed();
            assert!(!message.retain && !message.dup);
            assert!(waited >= SECOND * seconds, "{seconds} s after {waited:?}");
        }
    }
    for (topic, publisher, watcher) in &mut clients {
        watcher.expect_nothing(publisher, topic);
    }
}

#[test]
fn it_may_be_retained() {
    let Some(node) = node(&[]) else { return };
    let mut publisher = Dial::clean(Version::V5, "publisher").connect(&node);
    let mut watcher = Dial::clean(Version::V5, "watcher").connect(&node);
    watcher.subscribe("kept", QoS::AtLeastOnce);
    publisher.retain("$delayed/1/kept", "a", QoS::AtLeastOnce);
    let mut early = Dial::clean(Version::V5, "early").connect(&node);
    early.subscribe("kept", QoS::AtLeastOnce);
    assert!(!early.expect("kept", "a", QoS::AtLeastOnce).retain);
    watcher.expect("kept", "a", QoS::AtLeastOnce);
    let mut late = Dial::clean(Version::V5, "late").connect(&node);
    late.subscribe("kept", QoS::AtLeastOnce);
    assert!(late.expect("kept", "a", QoS::AtLeastOnce).retain);
}

#[test]
fn its_properties_come_with_it_and_an_alias_may_stand_for_it() {
    let Some(node) = node(&[]) else { return };
    let mut publisher = Dial::clean(Version::V5, "publisher").connect(&node);
    let mut watcher = Dial::clean(Version::V5, "watcher").connect(&node);
    watcher.subscribe("t", QoS::AtLeastOnce);
    let mut properties = PropertiesBuilder::new();
    properties.topic_alias(1).message_expiry(1);
    for topic in ["$delayed/1/t", ""] {
        publisher.publish_with(topic, "a", QoS::AtLeastOnce, false, &properties);
    }
    // Its life of a second begins when it is due.
    watcher.expect("t", "a", QoS::AtLeastOnce);
    watcher.expect("t", "a", QoS::AtLeastOnce);
}

#[test]
fn a_bad_delay_is_refused() {
    let Some(node) = node(&[]) else { return };
    let invalid = ReasonCode::TopicNameInvalid;
    for delay in ["0", "4294968", "x", "-1", "1.5", ""] {
        let topic = format!("$delayed/{delay}/t");
        for qos in LEVELS {
            let mut old = Dial::clean(Version::V311, "old").connect(&node);
            send(&mut old, &topic, qos);
            old.expect_end();
        }
        let mut client = Dial::clean(Version::V5, "new").connect(&node);
        let packet_id = send(&mut client, &topic, QoS::AtLeastOnce).expect("an id");
        assert_eq!(client.answer(), Answer::PubAck(packet_id, invalid));
        let packet_id = send(&mut client, &topic, QoS::ExactlyOnce).expect("an id");
        assert_eq!(client.answer(), Answer::PubRec(packet_id, invalid));
        // There is no other way to tell.
        send(&mut client, &topic, QoS::AtMostOnce);
        client.expect_disconnect(invalid);
    }
}

#[test]
fn nobody_can_subscribe_to_what_is_delayed() {
    let Some(node) = node(&[]) else { return };
    let mut watcher = Dial::clean(Version::V5, "watcher").connect(&node);
    let options = SubscriptionOptions {
        qos: QoS::AtLeastOnce,
        ..SubscriptionOptions::default()
    };
    watcher.subscribe_with("$delayed/#", options, None);
    watcher.subscribe("t", QoS::AtLeastOnce);
    let mut publisher = Dial::clean(Version::V311, "publisher").connect(&node);
    publisher.publish("$delayed/1/t", "a", QoS::AtLeastOnce);
    watcher.expect("t", "a", QoS::AtLeastOnce);
}
