//! Wills, with rule 9 of the deliveries.

use std::time::{Duration, Instant};

use engine_mqtt::{Properties, QoS, ReasonCode, Version};

use super::{VERSIONS, named};
use crate::client::{Answer, Client, Dial, Parting};
use crate::node::{Broker, Node};

const LEVELS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
/// What a will waits after a crash of the node, for its client to come back.
const GRACE: Duration = Duration::from_secs(30);

fn watcher(node: &Node, version: Version, filter: &str) -> Client {
    let mut watcher = Dial::clean(version, &named(version, "watcher")).connect(node);
    watcher.subscribe(filter, QoS::ExactlyOnce);
    watcher
}

/// [MQTT-3.1.2-8]: published when the connection ends without DISCONNECT.
#[test]
fn a_will_is_published_when_the_connection_breaks() {
    let node = Node::with_shards(2);
    for version in VERSIONS {
        let topic = named(version, "will");
        let mut watcher = watcher(&node, version, &topic);
        for qos in LEVELS {
            let will = Parting::new(&topic, "gone", qos);
            Dial::clean(version, "dying")
                .will(will.clone())
                .connect(&node)
                .vanish();
            watcher.expect(&topic, "gone", qos);
            // A protocol error and a take-over break it, too.
            let mut broken = Dial::clean(version, "dying")
                .will(will.clone())
                .connect(&node);
            broken.send_bytes(b"\x00\x00");
            broken.expect_end();
            watcher.expect(&topic, "gone", qos);
        }
        // It is not retained, as nobody has asked for that.
        let mut late = Dial::clean(version, "late").connect(&node);
        late.subscribe(&topic, QoS::AtLeastOnce);
        late.expect_nothing(&mut watcher, &topic);
    }
}

/// [MQTT-3.14.4-3], [MQTT-3.1.2-8]: DISCONNECT removes the will; with MQTT 5 only with reason 0.
#[test]
fn disconnect_removes_the_will() {
    let node = Node::with_shards(2);
    for version in VERSIONS {
        let topic = named(version, "polite");
        let mut watcher = watcher(&node, version, &topic);
        let dial =
            Dial::clean(version, "leaving").will(Parting::new(&topic, "gone", QoS::AtLeastOnce));
        dial.connect(&node).disconnect();
        let mut publisher = Dial::clean(version, "marker").connect(&node);
        watcher.expect_nothing(&mut publisher, &topic);
        // mosquitto publishes it after the first of these only.
        let reasons = [
            ReasonCode::DisconnectWithWillMessage,
            ReasonCode::UnspecifiedError,
            ReasonCode::QuotaExceeded,
            ReasonCode::AdministrativeAction,
        ];
        let count = match (version, node.broker()) {
            (Version::V5, Broker::Corelane) => reasons.len(),
            (Version::V5, Broker::Mosquitto) => 1,
            _ => 0,
        };
        for reason in reasons.into_iter().take(count) {
            dial.connect(&node)
                .disconnect_with(reason, Properties::EMPTY);
            watcher.expect(&topic, "gone", QoS::AtLeastOnce);
        }
    }
}

/// [MQTT-3.1.2-17]: a will can be retained.
#[test]
fn a_will_can_be_retained() {
    let node = Node::with_shards(2);
    let mut watcher = watcher(&node, Version::V5, "kept");
    let will = Parting {
        retain: true,
        ..Parting::new("kept", "gone", QoS::AtLeastOnce)
    };
    Dial::clean(Version::V5, "kept-will")
        .will(will)
        .connect(&node)
        .vanish();
    assert!(!watcher.expect("kept", "gone", QoS::AtLeastOnce).retain);
    let mut late = Dial::clean(Version::V5, "late").connect(&node);
    late.subscribe("kept", QoS::AtLeastOnce);
    assert!(late.expect("kept", "gone", QoS::AtLeastOnce).retain);
}

/// [MQTT-3.1.3-9]: a delayed will is not published when the client is back in time.
#[test]
fn a_delayed_will_waits_for_the_client() {
    let node = Node::with_shards(2);
    let mut watcher = watcher(&node, Version::V5, "delayed");
    let will = Parting {
        delay: Some(1),
        ..Parting::new("delayed", "gone", QoS::AtLeastOnce)
    };
    let dial = Dial::durable(Version::V5, "delayed").will(will);
    dial.connect(&node).vanish();
    let back = dial.connect(&node);
    assert!(back.welcome().session_present);
    assert_eq!(
        watcher.next_within(Duration::from_millis(1500)),
        None,
        "the client is back"
    );
    let gone = Instant::now();
    back.vanish();
    watcher.expect("delayed", "gone", QoS::AtLeastOnce);
    assert!(
        gone.elapsed() >= Duration::from_millis(900),
        "after {:?}",
        gone.elapsed()
    );
}

/// Rule 9: after a crash of the node a will waits 30 s for its client; who is back has no will
/// published, and an orderly stop publishes none.
#[test]
fn wills_survive_a_crash_of_the_node_and_wait_for_the_client() {
    let mut node = Node::with_shards(2);
    if node.broker() == Broker::Mosquitto {
        return; // It keeps no will over a restart.
    }
    let dial = |id: &str| {
        let topic = format!("crash/{id}");
        Dial::durable(Version::V5, id).will(Parting::new(&topic, "gone", QoS::AtLeastOnce))
    };
    let lost = dial("lost").connect(&node);
    let back = dial("back").connect(&node);
    let polite = dial("polite").connect(&node);
    polite.disconnect();
    let mut watching = Dial::durable(Version::V5, "watching").connect(&node);
    watching.subscribe("crash/+", QoS::AtLeastOnce);
    node.kill9();
    drop((lost, back, watching));
    node.run();
    let restarted = Instant::now();
    let _back = dial("back").connect(&node);
    let mut watching = Dial::durable(Version::V5, "watching").connect(&node);
    match watching.next_within(GRACE * 2) {
        Some(Answer::Message(message)) => {
            assert_eq!(
                (message.topic.as_str(), message.text()),
                ("crash/lost", "gone")
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(
        restarted.elapsed() >= GRACE - Duration::from_secs(2),
        "{:?}",
        restarted.elapsed()
    );
    let mut publisher = Dial::clean(Version::V5, "marker").connect(&node);
    publisher.publish("crash/marker", "m", QoS::AtLeastOnce);
    assert_eq!(
        watching.message().topic,
        "crash/marker",
        "no other will is published"
    );
}
