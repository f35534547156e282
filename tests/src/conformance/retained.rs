//! Retained messages.

use engine_mqtt::{QoS, RetainHandling, SubscriptionOptions, Version};

use super::{VERSIONS, named};
use crate::client::Dial;
use crate::node::Node;

fn handling(retain_handling: RetainHandling) -> SubscriptionOptions {
    SubscriptionOptions {
        qos: QoS::AtLeastOnce,
        retain_handling,
        ..Default::default()
    }
}

/// [MQTT-3.3.1-5], [MQTT-3.3.1-8], [MQTT-3.3.1-9]: kept, replaced, flagged for new subscribers
/// only, removed by an empty payload.
#[test]
fn the_last_retained_message_waits_for_subscribers() {
    let node = Node::with_shards(2);
    for version in VERSIONS {
        let base = named(version, "kept");
        let mut publisher = Dial::clean(version, &named(version, "kept-from")).connect(&node);
        let mut live = Dial::clean(version, &named(version, "kept-live")).connect(&node);
        live.subscribe(&format!("{base}/#"), QoS::ExactlyOnce);
        for number in 0..8 {
            let topic = format!("{base}/{number}");
            publisher.retain(&topic, "old", QoS::AtLeastOnce);
            publisher.retain(&topic, "new", QoS::ExactlyOnce);
            assert!(!live.expect(&topic, "old", QoS::AtLeastOnce).retain);
            assert!(!live.expect(&topic, "new", QoS::ExactlyOnce).retain);
        }
        // Topics live on different shards: one subscription collects them all.
        let mut late = Dial::clean(version, &named(version, "kept-late")).connect(&node);
        late.subscribe(&format!("{base}/+"), QoS::AtLeastOnce);
        let mut topics: Vec<String> = (0..8)
            .map(|_| {
                let message = late.receive();
                assert!(message.retain && !message.dup, "{message:?}");
                assert_eq!((message.text(), message.qos), ("new", QoS::AtLeastOnce));
                message.topic
            })
            .collect();
        topics.sort();
        let expected: Vec<String> = (0..8).map(|number| format!("{base}/{number}")).collect();
        assert_eq!(topics, expected);
        for topic in &expected {
            publisher.retain(topic, "", QoS::AtLeastOnce);
            assert!(!late.expect(topic, "", QoS::AtLeastOnce).retain);
        }
        let mut later = Dial::clean(version, &named(version, "kept-later")).connect(&node);
        later.subscribe(&format!("{base}/#"), QoS::AtLeastOnce);
        later.expect_nothing(&mut publisher, &format!("{base}/marker"));
    }
}

/// A QoS 0 retained message is kept, too.
#[test]
fn a_qos_0_message_can_be_retained() {
    let node = Node::with_shards(2);
    let mut client = Dial::clean(Version::V5, "zero").connect(&node);
    client.retain("zero", "text", QoS::AtMostOnce);
    // Its own subscription is read after its own publication.
    client.subscribe("zero", QoS::AtLeastOnce);
    assert!(client.expect("zero", "text", QoS::AtMostOnce).retain);
}

/// [MQTT-3.3.1-9] ff.: retain handling 0, 1 and 2.
#[test]
fn retain_handling_chooses_when_they_are_sent() {
    let node = Node::with_shards(2);
    let mut client = Dial::clean(Version::V5, "handling").connect(&node);
    client.retain("handling", "kept", QoS::AtLeastOnce);
    client.subscribe("marker", QoS::AtLeastOnce);
    let kept = |client: &mut crate::client::Client| {
        assert!(client.expect("handling", "kept", QoS::AtLeastOnce).retain);
    };
    let nothing = |client: &mut crate::client::Client| {
        client.publish("marker", "m", QoS::AtLeastOnce);
        client.expect("marker", "m", QoS::AtLeastOnce);
    };
    client.subscribe_with("handling", handling(RetainHandling::DoNotSend), None);
    nothing(&mut client);
    client.subscribe_with("handling", handling(RetainHandling::SendIfNew), None);
    nothing(&mut client);
    client.subscribe_with("handling", handling(RetainHandling::Send), None);
    kept(&mut client);
    client.unsubscribe("handling");
    client.subscribe_with("handling", handling(RetainHandling::SendIfNew), None);
    kept(&mut client);
}

/// [MQTT-3.3.1-12], [MQTT-3.3.1-13]: retain as published keeps the flag of live messages.
#[test]
fn retain_as_published_keeps_the_flag() {
    let node = Node::with_shards(2);
    let mut client = Dial::clean(Version::V5, "flag").connect(&node);
    let options = SubscriptionOptions {
        qos: QoS::AtLeastOnce,
        retain_as_published: true,
        ..Default::default()
    };
    client.subscribe_with("flag", options, None);
    client.retain("flag", "kept", QoS::AtLeastOnce);
    assert!(client.expect("flag", "kept", QoS::AtLeastOnce).retain);
    client.publish("flag", "live", QoS::AtLeastOnce);
    assert!(!client.expect("flag", "live", QoS::AtLeastOnce).retain);
}

/// Rule 7: retained messages, and their deletions, survive kill -9 and an orderly stop.
#[test]
fn retained_messages_survive_restarts() {
    let mut node = Node::with_shards(2);
    for round in 0..2 {
        let mut client = Dial::clean(Version::V5, "restart").connect(&node);
        for number in 0..6 {
            let value = format!("value {round}");
            client.retain(&format!("restart/{number}"), &value, QoS::AtLeastOnce);
        }
        client.retain("restart/5", "", QoS::AtLeastOnce);
        if round == 0 {
            node.crash_and_restart();
        } else {
            node.terminate();
            node.run();
        }
        let mut late = Dial::clean(Version::V5, "restart").connect(&node);
        late.subscribe("restart/+", QoS::AtLeastOnce);
        let mut found: Vec<(String, String)> = (0..5)
            .map(|_| late.receive())
            .map(|message| (message.topic.clone(), message.text().to_owned()))
            .collect();
        found.sort();
        let expected: Vec<(String, String)> = (0..5)
            .map(|number| (format!("restart/{number}"), format!("value {round}")))
            .collect();
        assert_eq!(found, expected);
    }
}
