//! SUBSCRIBE and UNSUBSCRIBE: wildcards, overlap, options.

use engine_mqtt::{QoS, ReasonCode, SubscriptionOptions, Version};

use super::{VERSIONS, named};
use crate::client::Dial;
use crate::node::{Broker, Node};

fn at(qos: QoS) -> SubscriptionOptions {
    SubscriptionOptions {
        qos,
        ..SubscriptionOptions::default()
    }
}

/// [MQTT-4.7.1-2], [MQTT-4.7.1-3], [MQTT-4.7.2-1].
#[test]
fn wildcards_match_levels_and_leave_dollar_topics_alone() {
    let node = Node::with_shards(2);
    let topics = ["a", "a/b", "a/b/c", "/a", "a/", "$a/b", "b"];
    let filters: [(&str, &[&str]); 8] = [
        ("#", &["a", "a/b", "a/b/c", "/a", "a/", "b"]),
        ("a/#", &["a", "a/b", "a/b/c", "a/"]),
        ("+", &["a", "b"]),
        ("+/+", &["a/b", "/a", "a/"]),
        ("a/+/c", &["a/b/c"]),
        ("/+", &["/a"]),
        ("$a/#", &["$a/b"]),
        ("+/b", &["a/b"]),
    ];
    for version in VERSIONS {
        let mut publisher = Dial::clean(version, &named(version, "wild-from")).connect(&node);
        for (number, (filter, matching)) in filters.iter().enumerate() {
            let id = named(version, &format!("wild-{number}"));
            let mut subscriber = Dial::clean(version, &id).connect(&node);
            subscriber.subscribe(filter, QoS::AtLeastOnce);
            subscriber.subscribe("end/of/it/all", QoS::AtLeastOnce);
            for topic in topics {
                publisher.publish(topic, topic, QoS::AtLeastOnce);
            }
            publisher.publish("end/of/it/all", "end", QoS::AtLeastOnce);
            for topic in *matching {
                subscriber.expect(topic, topic, QoS::AtLeastOnce);
            }
            subscriber.expect("end/of/it/all", "end", QoS::AtLeastOnce);
            subscriber.disconnect();
        }
    }
}

/// Rule 4, [MQTT-3.3.4-3], [MQTT-3.3.4-4]: one delivery at the highest QoS with every id.
#[test]
fn overlapping_filters_bring_one_delivery_with_all_identifiers() {
    let node = Node::with_shards(2);
    if node.broker() == Broker::Mosquitto {
        return; // It delivers once per filter, which the standard allows.
    }
    let mut publisher = Dial::clean(Version::V5, "overlap-from").connect(&node);
    for durable in [false, true] {
        let dial = if durable {
            Dial::durable(Version::V5, "overlap-durable")
        } else {
            Dial::clean(Version::V5, "overlap-clean")
        };
        let mut subscriber = dial.connect(&node);
        subscriber.subscribe_with("o/+/c", at(QoS::AtMostOnce), Some(3));
        subscriber.subscribe_with("o/b/c", at(QoS::ExactlyOnce), Some(7));
        subscriber.subscribe_with("o/#", at(QoS::AtLeastOnce), Some(268_435_455));
        subscriber.subscribe_with("+/b/c", at(QoS::AtLeastOnce), None);
        for qos in [QoS::ExactlyOnce, QoS::AtLeastOnce] {
            publisher.publish("o/b/c", "once", qos);
            let message = subscriber.expect("o/b/c", "once", qos);
            assert_eq!(message.subscription_ids, [3, 7, 268_435_455]);
        }
        publisher.publish("o/x", "one filter", QoS::AtLeastOnce);
        let message = subscriber.expect("o/x", "one filter", QoS::AtLeastOnce);
        assert_eq!(message.subscription_ids, [268_435_455]);
        if durable {
            // A session that was away merges its queues in the same way.
            subscriber.vanish();
            publisher.publish("o/b/c", "missed", QoS::ExactlyOnce);
            let mut subscriber = dial.connect(&node);
            let message = subscriber.expect("o/b/c", "missed", QoS::ExactlyOnce);
            assert_eq!(message.subscription_ids, [3, 7, 268_435_455]);
            publisher.publish("o/x", "next", QoS::AtLeastOnce);
            subscriber.expect("o/x", "next", QoS::AtLeastOnce);
        }
    }
}

/// [MQTT-3.8.4-3]: the same filter again replaces the subscription, without a gap.
#[test]
fn a_repeated_subscribe_replaces_the_options() {
    let node = Node::with_shards(2);
    for version in VERSIONS {
        let topic = named(version, "replace");
        let mut client = Dial::clean(version, &topic).connect(&node);
        for qos in [QoS::AtMostOnce, QoS::ExactlyOnce, QoS::AtLeastOnce] {
            client.subscribe(&topic, qos);
            client.publish(&topic, "text", QoS::ExactlyOnce);
            client.expect(&topic, "text", qos);
        }
    }
}

/// [MQTT-3.10.4-2]: after UNSUBACK nothing new is delivered for the filter.
#[test]
fn unsubscribe_ends_deliveries() {
    let node = Node::with_shards(2);
    for version in VERSIONS {
        let mut publisher = Dial::clean(version, &named(version, "un-from")).connect(&node);
        let mut client = Dial::durable(version, &named(version, "un-to")).connect(&node);
        client.subscribe("un/+", QoS::AtLeastOnce);
        client.subscribe("marker", QoS::AtLeastOnce);
        publisher.publish("un/a", "before", QoS::AtLeastOnce);
        client.expect("un/a", "before", QoS::AtLeastOnce);
        assert_eq!(client.unsubscribe("un/+"), ReasonCode::Success);
        publisher.publish("un/a", "after", QoS::AtLeastOnce);
        client.expect_nothing(&mut publisher, "marker");
        if version == Version::V5 {
            assert_eq!(
                client.unsubscribe("un/+"),
                ReasonCode::NoSubscriptionExisted
            );
        }
        client.disconnect();
    }
}

/// [MQTT-3.8.3-3]: no-local keeps a client's own messages from it.
#[test]
fn no_local_leaves_out_own_messages() {
    let node = Node::with_shards(2);
    let mut other = Dial::clean(Version::V5, "local-other").connect(&node);
    let mut client = Dial::clean(Version::V5, "local").connect(&node);
    let options = SubscriptionOptions {
        no_local: true,
        ..at(QoS::AtLeastOnce)
    };
    client.subscribe_with("local", options, None);
    client.publish("local", "mine", QoS::AtLeastOnce);
    other.publish("local", "theirs", QoS::AtLeastOnce);
    client.expect("local", "theirs", QoS::AtLeastOnce);
}

/// Rule 3: whatever is published after SUBACK arrives, wherever publisher and subscriber live.
#[test]
fn nothing_published_after_suback_is_missed() {
    let node = Node::with_shards(2);
    let mut publishers: Vec<_> = (0..4)
        .map(|number| Dial::clean(Version::V5, &format!("race-from-{number}")).connect(&node))
        .collect();
    for round in 0..40 {
        let topic = format!("race/{round}");
        let id = format!("race-to-{round}");
        let mut subscriber = Dial::clean(Version::V5, &id).connect(&node);
        let filter = if round % 2 == 0 {
            topic.clone()
        } else {
            format!("+/{round}")
        };
        subscriber.subscribe(&filter, QoS::AtLeastOnce);
        for publisher in &mut publishers {
            publisher.publish(&topic, "x", QoS::AtLeastOnce);
        }
        for _ in &publishers {
            subscriber.expect(&topic, "x", QoS::AtLeastOnce);
        }
        subscriber.disconnect();
    }
}

/// Names and filters may have as many bytes as a text of MQTT, and outlive the node.
#[test]
fn the_longest_names_are_served() {
    let mut node = Node::with_shards(2);
    let exact = "n".repeat(65_535);
    let wild = format!("+/{}", "n".repeat(65_533));
    let matched = format!("x/{}", "n".repeat(65_533));
    let dial = Dial::durable(Version::V5, "long-names");
    let mut client = dial.connect(&node);
    client.subscribe(&exact, QoS::ExactlyOnce);
    client.subscribe(&wild, QoS::ExactlyOnce);
    client.disconnect();
    let mut publisher = Dial::clean(Version::V5, "long-from").connect(&node);
    publisher.retain(&exact, "exact", QoS::ExactlyOnce);
    publisher.publish(&matched, "wild", QoS::ExactlyOnce);
    node.crash_and_restart();
    let mut client = dial.connect(&node);
    assert!(client.welcome().session_present);
    let mut got: Vec<String> = (0..2).map(|_| client.receive().text().to_owned()).collect();
    got.sort();
    assert_eq!(got, ["exact", "wild"]);
    let mut late = Dial::clean(Version::V311, "late").connect(&node);
    late.subscribe(&exact, QoS::AtLeastOnce);
    assert!(late.expect(&exact, "exact", QoS::AtLeastOnce).retain);
    client.unsubscribe(&exact);
    client.unsubscribe(&wild);
}
