//! `kill -9` while publications wait until they are due, and in the moment they are.

use std::time::{Duration, Instant};

use engine_mqtt::{QoS, Version};

use crate::client::Dial;
use crate::node::{Broker, Node};

/// Publications that are due at about the same time: many commits of what is due.
const MANY: usize = 300;
/// The node is killed when so many of them have come.
const KILLED_AFTER: [usize; 3] = [1, 20, 150];

fn leave_session(node: &Node) {
    let mut reader = Dial::durable(Version::V5, "reader").connect(node);
    reader.subscribe("due", QoS::ExactlyOnce);
    reader.disconnect();
}

#[test]
fn what_is_acknowledged_comes_in_time_after_kill_9_and_after_an_orderly_stop() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let mut node = Node::with_shards(2);
    leave_session(&node);
    let begun = Instant::now();
    let mut publisher = Dial::clean(Version::V311, "publisher").connect(&node);
    for (payload, qos) in [
        ("1", QoS::AtLeastOnce),
        ("2", QoS::ExactlyOnce),
        ("0", QoS::AtMostOnce),
    ] {
        publisher.publish("$delayed/4/due", payload, qos);
    }
    // At QoS 0 as well it is durable before what comes next is answered.
    publisher.publish("other", "", QoS::AtLeastOnce);
    node.crash_and_restart();
    node.terminate();
    node.run();
    let mut reader = Dial::durable(Version::V5, "reader").connect(&node);
    let mut found = [(); 3].map(|()| {
        let message = reader.receive();
        let waited = begun.elapsed();
        assert!(waited >= Duration::from_secs(4), "after {waited:?}");
        (message.qos, message.text().to_owned())
    });
    found.sort();
    let expected = [
        (QoS::AtMostOnce, "0"),
        (QoS::AtLeastOnce, "1"),
        (QoS::ExactlyOnce, "2"),
    ];
    assert_eq!(found, expected.map(|(qos, text)| (qos, text.to_owned())));
    let mut marker = Dial::clean(Version::V5, "marker").connect(&node);
    reader.expect_nothing(&mut marker, "due");
}

#[test]
fn kill_9_when_they_are_due_loses_and_repeats_none() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let mut node = Node::with_shards(2);
    leave_session(&node);
    for (round, killed_after) in KILLED_AFTER.into_iter().enumerate() {
        let mut watcher = Dial::clean(Version::V5, "watcher").connect(&node);
        watcher.subscribe("due", QoS::AtMostOnce);
        let mut publisher = Dial::clean(Version::V5, "publisher").connect(&node);
        let payloads: Vec<String> = (0..MANY).map(|n| format!("{round}-{n}")).collect();
        for payload in &payloads {
            publisher.publish("$delayed/1/due", payload, QoS::ExactlyOnce);
        }
        for _ in 0..killed_after {
            watcher.message();
        }
        node.crash_and_restart();
        let mut reader = Dial::durable(Version::V5, "reader").connect(&node);
        for payload in &payloads {
            reader.expect("due", payload, QoS::ExactlyOnce);
        }
        let mut marker = Dial::clean(Version::V5, "marker").connect(&node);
        reader.expect_nothing(&mut marker, "due");
        reader.disconnect();
    }
}
