//! Sessions that outlive their connections, and the node.

use engine_mqtt::{QoS, Version};

use super::{VERSIONS, named};
use crate::client::{Dial, Message};
use crate::node::Node;

/// [MQTT-3.1.2-4], [MQTT-3.1.2-5]: kept, continued, thrown away by a clean start.
#[test]
fn a_durable_session_is_kept_until_a_clean_start() {
    let node = Node::with_shards(2);
    for version in VERSIONS {
        let id = named(version, "kept");
        let mut client = Dial::durable(version, &id).connect(&node);
        assert!(!client.welcome().session_present);
        client.subscribe("kept", QoS::AtLeastOnce);
        client.disconnect();
        let client = Dial::durable(version, &id).connect(&node);
        assert!(client.welcome().session_present);
        client.disconnect();
        let client = Dial::clean(version, &id).connect(&node);
        assert!(!client.welcome().session_present);
        client.disconnect();
        let mut client = Dial::durable(version, &id).connect(&node);
        assert!(
            !client.welcome().session_present,
            "a clean start ends the old session"
        );
        client.subscribe("marker", QoS::AtLeastOnce);
        client.publish("kept", "old subscription", QoS::AtLeastOnce);
        client.publish("marker", "m", QoS::AtLeastOnce);
        client.expect("marker", "m", QoS::AtLeastOnce);
        client.disconnect();
        Dial::clean(version, &id).connect(&node).disconnect();
    }
}

/// In MQTT 5 a clean start may begin a durable session, and no expiry ends it at once.
#[test]
fn session_expiry_decides_in_mqtt_5() {
    let node = Node::start();
    let dial = Dial::clean(Version::V5, "expiry");
    dial.clone()
        .session_expiry(3600)
        .connect(&node)
        .disconnect();
    let continued = dial.clone().clean_start(false).connect(&node);
    assert!(continued.welcome().session_present);
    continued.disconnect();
    let gone = dial.clean_start(false).connect(&node);
    assert!(
        !gone.welcome().session_present,
        "no expiry: the session ended with its connection"
    );
}

/// The session ends a second after its connection.
#[test]
fn a_session_expires() {
    let node = Node::with_shards(2);
    let dial = Dial::durable(Version::V5, "expires").session_expiry(1);
    let mut present = true;
    dial.connect(&node).disconnect();
    let mut bystander = Dial::clean(Version::V5, "bystander").connect(&node);
    let start = std::time::Instant::now();
    while present && start.elapsed() < crate::node::DEADLINE {
        // The bystander's silence measures two seconds without anything to wait for.
        let pause = std::time::Duration::from_secs(2);
        assert_eq!(bystander.next_within(pause), None);
        let client = dial.connect(&node);
        present = client.welcome().session_present;
        client.disconnect();
    }
    assert!(!present, "the session outlives its expiry");
}

/// Queued messages are delivered in order after a reconnect: exact and wildcard filters, each QoS.
#[test]
fn queued_messages_are_delivered_after_a_reconnect() {
    let node = Node::with_shards(2);
    for version in VERSIONS {
        let dial = Dial::durable(version, &named(version, "queue-to"));
        let exact = named(version, "queue/exact");
        let mut subscriber = dial.connect(&node);
        subscriber.subscribe(&exact, QoS::ExactlyOnce);
        subscriber.subscribe(&named(version, "queue/+/wild"), QoS::AtLeastOnce);
        subscriber.disconnect();
        let mut publisher = Dial::clean(version, &named(version, "queue-from")).connect(&node);
        for number in 0..200 {
            publisher.publish(&exact, &number.to_string(), QoS::ExactlyOnce);
        }
        publisher.publish(&named(version, "queue/a/wild"), "wild", QoS::AtLeastOnce);
        publisher.publish(&exact, "QoS 0 is not kept for the absent", QoS::AtMostOnce);
        let mut subscriber = dial.connect(&node);
        assert!(subscriber.welcome().session_present);
        // Order is promised by topic and QoS, not between them.
        let got: Vec<Message> = (0..=200).map(|_| subscriber.receive()).collect();
        let (wild, numbers): (Vec<_>, Vec<_>) = got.iter().partition(|one| one.topic != exact);
        let numbers: Vec<&str> = numbers.iter().map(|one| one.text()).collect();
        let expected: Vec<String> = (0..200).map(|number| number.to_string()).collect();
        assert_eq!(numbers, expected);
        assert_eq!(wild.len(), 1);
        assert_eq!((wild[0].text(), wild[0].qos), ("wild", QoS::AtLeastOnce));
        subscriber.expect_nothing(&mut publisher, &exact);
        subscriber.disconnect();
    }
}

/// The session, its subscriptions and what is queued survive kill -9 and an orderly stop.
#[test]
fn sessions_survive_restarts() {
    let mut node = Node::with_shards(2);
    let dial = Dial::durable(Version::V5, "restart-to");
    let mut subscriber = dial.connect(&node);
    subscriber.subscribe("restart/exact", QoS::ExactlyOnce);
    subscriber.subscribe("restart/+/wild", QoS::ExactlyOnce);
    subscriber.disconnect();
    Dial::clean(Version::V5, "not-kept").connect(&node).ping();
    for round in 0..4 {
        let mut publisher = Dial::clean(Version::V5, "restart-from").connect(&node);
        for number in 0..10 {
            let text = format!("{round} {number}");
            publisher.publish("restart/exact", &text, QoS::ExactlyOnce);
            publisher.publish("restart/a/wild", &text, QoS::AtLeastOnce);
        }
        if round % 2 == 0 {
            node.crash_and_restart();
        } else {
            assert!(node.terminate().success());
            node.run();
        }
        let mut subscriber = dial.connect(&node);
        assert!(subscriber.welcome().session_present, "round {round}");
        let got: Vec<Message> = (0..20).map(|_| subscriber.receive()).collect();
        let expected: Vec<String> = (0..10).map(|number| format!("{round} {number}")).collect();
        for (topic, qos) in [
            ("restart/exact", QoS::ExactlyOnce),
            ("restart/a/wild", QoS::AtLeastOnce),
        ] {
            let these = got
                .iter()
                .filter(|one| one.topic == topic && one.qos == qos);
            let texts: Vec<&str> = these.map(|one| one.text()).collect();
            assert_eq!(texts, expected, "{topic}, round {round}");
        }
        subscriber.disconnect();
    }
    let other = Dial::clean(Version::V5, "not-kept")
        .clean_start(false)
        .connect(&node);
    assert!(!other.welcome().session_present);
}
