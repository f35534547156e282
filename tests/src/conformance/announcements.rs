//! What the node says below `$SYS`: who comes and goes, and its numbers. Nobody else may.

use engine_mqtt::{Packet, Properties, Publish, QoS, ReasonCode, Version};

use crate::client::{Answer, Client, Dial, Parting};
use crate::node::{Broker, Node};

fn node() -> Option<Node> {
    if Broker::chosen() != Broker::Corelane {
        return None;
    }
    let mut node = Node::stopped(2, &[]);
    node.configure("node-name = \"n1\"\nsys-interval = 1\n");
    node.run();
    Some(node)
}

#[track_caller]
fn expect_event(watcher: &mut Client, id: &str, what: &str, words: &[&str]) {
    let message = watcher.receive();
    let topic = format!("$SYS/brokers/n1/clients/{id}/{what}");
    assert_eq!(
        (message.topic.as_str(), message.qos),
        (topic.as_str(), QoS::AtMostOnce)
    );
    let text = message.text();
    let own = format!("{{\"clientid\":\"{id}\",\"ts\":");
    assert!(text.starts_with(&own) && text.ends_with('}'), "{text}");
    for word in words {
        assert!(text.contains(word), "{word} is not in {text}");
    }
}

#[test]
fn who_comes_and_goes_is_told_to_those_who_ask() {
    let Some(node) = node() else { return };
    for version in [Version::V311, Version::V5] {
        let name = format!("watcher-{}", version.level());
        let mut watcher = Dial::clean(version, &name).connect(&node);
        watcher.subscribe("$SYS/brokers/+/clients/+/+", QoS::AtLeastOnce);
        // On both shards.
        for id in ["a", "b", "c", "d"] {
            let id = &format!("{id}{}", version.level());
            let level = format!("\"proto_ver\":{},\"keepalive\":30", version.level());
            let dial = Dial::durable(version, id).keep_alive(30);
            let client = dial.connect(&node);
            expect_event(
                &mut watcher,
                id,
                "connected",
                &[&level, "\"session_present\":false"],
            );
            client.disconnect();
            expect_event(&mut watcher, id, "disconnected", &["\"reason\":\"normal\""]);
            let client = Dial::durable(version, id).connect(&node);
            expect_event(&mut watcher, id, "connected", &["\"session_present\":true"]);
            client.vanish();
            expect_event(
                &mut watcher,
                id,
                "disconnected",
                &["\"reason\":\"tcp_closed\""],
            );
        }
        // Who does not ask hears nothing: `#` does not begin with `$` [MQTT-4.7.2-1].
        let mut other = Dial::clean(version, "other").connect(&node);
        expect_event(&mut watcher, "other", "connected", &[]);
        other.subscribe("#", QoS::AtLeastOnce);
        watcher.disconnect();
        let mut publisher = Dial::clean(version, "publisher").connect(&node);
        other.expect_nothing(&mut publisher, "marker");
        // The next watcher is not to hear of their ends.
        other.disconnect();
        publisher.disconnect();
    }
}

#[test]
fn the_nodes_numbers_come_at_their_interval() {
    let Some(node) = node() else { return };
    for version in [Version::V311, Version::V5] {
        let mut client = Dial::clean(version, "dashboard").connect(&node);
        client.subscribe("$SYS/broker/#", QoS::AtLeastOnce);
        let mut seen = std::collections::BTreeMap::new();
        let mut received = 0;
        let sent = "$SYS/broker/messages/sent";
        // The numbers of the other shard are up to a second old.
        while seen.get(sent).is_none_or(|text| text == "0") || seen.len() < 11 {
            let message = client.receive();
            seen.insert(message.topic.clone(), message.text().to_owned());
            received += 1;
            assert!(received < 100, "{seen:?}");
        }
        for _ in 0..11 {
            let message = client.receive();
            seen.insert(message.topic.clone(), message.text().to_owned());
        }
        assert_eq!(seen.len(), 11, "{seen:?}");
        assert!(seen["$SYS/broker/version"].starts_with("corelane version "));
        assert!(seen["$SYS/broker/uptime"].ends_with(" seconds"));
        assert_eq!(seen["$SYS/broker/clients/connected"], "1");
        assert_eq!(seen["$SYS/broker/subscriptions/count"], "1");
        client.disconnect();
    }
}

#[test]
fn only_the_node_publishes_below_sys() {
    let Some(node) = node() else { return };
    let mut watcher = Dial::clean(Version::V5, "watcher").connect(&node);
    watcher.subscribe("$SYS/mine/#", QoS::ExactlyOnce);
    let will = Parting::new("$SYS/mine/a", "will", QoS::AtLeastOnce);
    for version in [Version::V311, Version::V5] {
        let mut client = Dial::clean(version, "liar").connect(&node);
        client.publish("$SYS/mine/a", "dropped", QoS::AtMostOnce);
        let packet_id = client.packet_id();
        client.send(&Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: "$SYS/mine/a",
            packet_id: Some(packet_id),
            properties: Properties::EMPTY,
            payload: b"refused",
        }));
        let denied = ReasonCode::NotAuthorized;
        if version == Version::V5 {
            assert_eq!(client.answer(), Answer::PubAck(packet_id, denied));
        } else {
            client.expect_end();
        }
        let mut refused = Dial::silent(version, &node);
        Dial::clean(version, "liar")
            .will(will.clone())
            .send(&mut refused);
        let Answer::ConnAck(answer) = refused.answer() else {
            panic!("no CONNACK");
        };
        assert_eq!(answer.reason, denied);
    }
    let mut publisher = Dial::clean(Version::V5, "publisher").connect(&node);
    watcher.subscribe("marker", QoS::AtLeastOnce);
    watcher.expect_nothing(&mut publisher, "marker");
}

/// An event of a client has its id in its topic, and is no topic when that is too long or has a
/// wildcard: then it is not told, and nothing else happens.
#[test]
fn a_client_id_that_makes_no_topic_is_no_event() {
    let Some(node) = node() else { return };
    let mut watcher = Dial::clean(Version::V5, "watcher").connect(&node);
    watcher.subscribe("$SYS/brokers/#", QoS::AtLeastOnce);
    for version in [Version::V311, Version::V5] {
        for id in [
            "x".repeat(65_530),
            "/".repeat(1_000),
            "a+b".into(),
            "#".into(),
        ] {
            let client = Dial::clean(version, &id).connect(&node);
            client.disconnect();
        }
        let client = Dial::clean(version, "short").connect(&node);
        expect_event(&mut watcher, "short", "connected", &[]);
        client.disconnect();
        expect_event(&mut watcher, "short", "disconnected", &[]);
    }
}

/// Events of a million clients leave no names of queues behind.
#[test]
fn events_make_no_queues() {
    let port = crate::node::free_port();
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let metrics = format!("127.0.0.1:{port}");
    let node = Node::with_arguments(1, &["--metrics", &metrics]);
    let mut watcher = Dial::durable(Version::V5, "watcher").connect(&node);
    watcher.subscribe("$SYS/brokers/#", QoS::AtLeastOnce);
    for number in 0..20 {
        let id = format!("guest-{number}");
        let client = Dial::clean(Version::V5, &id).connect(&node);
        assert!(watcher.receive().topic.ends_with("/connected"));
        client.disconnect();
        assert!(watcher.receive().topic.ends_with("/disconnected"));
    }
    watcher.publish("last", "word", QoS::AtLeastOnce);
    let end = std::time::Instant::now() + crate::node::DEADLINE;
    let sum = |name: &str| crate::shards::per_shard(port, name).values().sum::<f64>();
    // The numbers are up to a second old: this message makes two queues.
    while sum("corelane_received_qos1_total") < 1.0 {
        assert!(std::time::Instant::now() < end, "no numbers");
    }
    assert!(sum("corelane_queues") <= 3.0, "{}", sum("corelane_queues"));
}
