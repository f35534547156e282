//! What is larger than usual: packets of up to 256 MiB, and a message in thousands of queues.

use std::thread;

use engine_mqtt::{
    Packet, Properties, QoS, ReasonCode, Subscribe, Subscription, SubscriptionOptions,
    Subscriptions, Version,
};

use crate::client::{Answer, Client, Dial, Message};
use crate::node::{Broker, Node};

const MIB: usize = 1 << 20;

/// A node that takes packets of 256 MiB.
fn generous(shards: u8) -> Option<Node> {
    if Broker::chosen() != Broker::Corelane {
        return None;
    }
    let mut node = Node::stopped(shards, &[]);
    node.configure("[limits]\npacket-bytes = 268435456\nconnect-timeout-s = 3600\n");
    node.run();
    Some(node)
}

/// So many MiB, each of which says which it is.
fn payload(mib: usize) -> Vec<u8> {
    let mut bytes = vec![0x5a; mib * MIB];
    for (number, part) in bytes.chunks_mut(MIB).enumerate() {
        part[..8].copy_from_slice(&((number * 1000 + mib) as u64).to_le_bytes());
    }
    bytes
}

#[track_caller]
fn expect_large(message: &Message, topic: &str, mib: usize) {
    assert_eq!((&*message.topic, message.payload.len()), (topic, mib * MIB));
    let rest = [0x5a; MIB];
    for (number, part) in message.payload.chunks(MIB).enumerate() {
        let first = ((number * 1000 + mib) as u64).to_le_bytes();
        let is_whole = part[..8] == first && part[8..] == rest[8..];
        assert!(is_whole, "MiB {number} of {mib}");
    }
}

/// Online, to a session that was away across a crash, and as a retained message.
#[test]
fn packets_of_up_to_256_mib_are_delivered_and_kept() {
    let Some(mut node) = generous(2) else { return };
    let dial = Dial::durable(Version::V5, "sleeper");
    let mut sleeper = dial.connect(&node);
    assert_eq!(sleeper.welcome().maximum_packet_size, Some(256 << 20));
    sleeper.subscribe("large/+", QoS::AtLeastOnce);
    sleeper.vanish();
    let mut reader = Dial::clean(Version::V311, "reader").connect(&node);
    reader.subscribe("large/+", QoS::AtLeastOnce);
    let mut publisher = Dial::clean(Version::V5, "publisher").connect(&node);
    for (topic, mib) in [("large/a", 3), ("large/b", 200), ("large/c", 20)] {
        publisher.publish_bytes(topic, &payload(mib), QoS::AtLeastOnce, false);
        expect_large(&reader.receive(), topic, mib);
        publisher.publish("large/small", "behind it", QoS::AtLeastOnce);
        reader.expect("large/small", "behind it", QoS::AtLeastOnce);
    }
    publisher.publish_bytes("kept", &payload(20), QoS::AtLeastOnce, true);
    node.crash_and_restart();
    let mut sleeper = dial.connect(&node);
    assert!(sleeper.welcome().session_present);
    for (topic, mib) in [("large/a", 3), ("large/b", 200), ("large/c", 20)] {
        expect_large(&sleeper.receive(), topic, mib);
        sleeper.expect("large/small", "behind it", QoS::AtLeastOnce);
    }
    sleeper.subscribe("kept", QoS::AtLeastOnce);
    let kept = sleeper.receive();
    assert!(kept.retain);
    expect_large(&kept, "kept", 20);
}

/// Several sessions that come back at once read the same and other large records; nobody pushes out
/// what another one waits for.
#[test]
fn large_messages_of_many_sessions_are_read_at_once() {
    let Some(mut node) = generous(1) else { return };
    let dials: Vec<_> = (0..4)
        .map(|number| Dial::durable(Version::V5, &format!("s{number}")))
        .collect();
    for (number, dial) in dials.iter().enumerate() {
        let mut client = dial.connect(&node);
        client.subscribe(&format!("{number}/#"), QoS::ExactlyOnce);
        client.subscribe("all/#", QoS::ExactlyOnce);
        client.disconnect();
    }
    let mut publisher = Dial::clean(Version::V5, "publisher").connect(&node);
    for number in 0..dials.len() {
        let topic = format!("{number}/own");
        publisher.publish_bytes(&topic, &payload(9 + number), QoS::ExactlyOnce, false);
    }
    publisher.publish_bytes("all/one", &payload(18), QoS::ExactlyOnce, false);
    node.crash_and_restart();
    let address = node.address();
    thread::scope(|scope| {
        for (number, dial) in dials.iter().enumerate() {
            scope.spawn(move || {
                let mut client = dial.attempt(address).expect("CONNACK");
                expect_large(&client.receive(), &format!("{number}/own"), 9 + number);
                expect_large(&client.receive(), "all/one", 18);
            });
        }
    });
}

/// At QoS 0 a packet crosses shards that is larger than all that waits there usually.
#[test]
fn a_large_packet_of_qos_0_reaches_every_shard() {
    let Some(node) = generous(4) else { return };
    let mut readers: Vec<_> = (0..8)
        .map(|number| {
            let dial = Dial::clean(Version::V5, &format!("reader-{number}"));
            let mut client = dial.connect(&node);
            client.subscribe("large", QoS::AtMostOnce);
            client
        })
        .collect();
    let mut publisher = Dial::clean(Version::V5, "publisher").connect(&node);
    publisher.publish_bytes("large", &payload(7), QoS::AtMostOnce, false);
    for reader in &mut readers {
        expect_large(&reader.receive(), "large", 7);
    }
}

#[test]
fn a_packet_above_the_maximum_is_refused_by_its_header() {
    let Some(node) = generous(1) else { return };
    let mut client = Dial::clean(Version::V5, "much").connect(&node);
    // PUBLISH with MQTT's largest remaining length, four bytes above the node's maximum.
    client.send_bytes(&[0x32, 0xff, 0xff, 0xff, 0x7f]);
    client.expect_disconnect(ReasonCode::PacketTooLarge);
    // CONNECT, of which nobody knows yet who it is from: 2 MiB.
    let mut client = Dial::silent(Version::V5, &node);
    client.send_bytes(&[0x10, 0x80, 0x80, 0x80, 0x01]);
    client.expect_end();
}

/// Levels of the topic below; filters differ in which of them are wildcards.
const LEVELS: u32 = 13;
/// More than one record is in.
const FILTERS: u32 = 4_500;

fn filter(number: u32) -> String {
    let level = |place| if number >> place & 1 == 1 { "+" } else { "a" };
    let levels: Vec<_> = (0..LEVELS).map(level).collect();
    levels.join("/")
}

fn subscribe_all(client: &mut Client, numbers: &[u32]) {
    let filters: Vec<_> = numbers.iter().map(|number| filter(*number)).collect();
    let options = SubscriptionOptions {
        qos: QoS::AtLeastOnce,
        ..SubscriptionOptions::default()
    };
    for part in filters.chunks(500) {
        let wanted = part.iter().map(|filter| Subscription { filter, options });
        let wanted: Vec<_> = wanted.collect();
        let packet_id = client.packet_id();
        client.send(&Packet::Subscribe(Subscribe {
            packet_id,
            properties: Properties::EMPTY,
            filters: Subscriptions::from(wanted.as_slice()),
        }));
        match client.answer() {
            Answer::SubAck(id, codes) if id == packet_id => {
                let is_granted = |code: &ReasonCode| *code == ReasonCode::GrantedQoS1;
                assert!(codes.iter().all(is_granted));
            }
            other => panic!("expected SUBACK, got {other:?}"),
        }
    }
}

/// A record is in 4,096 queues at most: the message takes several, of which each session gets one.
#[test]
fn a_message_in_more_queues_than_a_record_has_reaches_all_sessions_once() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let mut node = Node::start();
    let all: Vec<u32> = (1..=FILTERS).collect();
    let every = Dial::durable(Version::V5, "every");
    let mut client = every.connect(&node);
    subscribe_all(&mut client, &all);
    client.disconnect();
    let others: Vec<_> = all.iter().copied().step_by(150).collect();
    let dial = |number: u32| Dial::durable(Version::V5, &format!("filter-{number}"));
    for number in &others {
        let mut client = dial(*number).connect(&node);
        subscribe_all(&mut client, &[*number]);
        client.disconnect();
    }
    let topic = filter(0);
    let mut publisher = Dial::clean(Version::V5, "publisher").connect(&node);
    publisher.publish(&topic, "to all", QoS::AtLeastOnce);
    publisher.publish(&topic, "once more", QoS::AtLeastOnce);
    node.crash_and_restart();
    let mut publisher = Dial::clean(Version::V5, "publisher").connect(&node);
    // One message at a time is read for it: what comes with it is not left for the next.
    let every = every.receive_maximum(1);
    for dial in others.iter().map(|number| dial(*number)).chain([every]) {
        let mut client = dial.connect(&node);
        client.expect(&topic, "to all", QoS::AtLeastOnce);
        client.expect(&topic, "once more", QoS::AtLeastOnce);
        client.subscribe("marker", QoS::AtLeastOnce);
        client.expect_nothing(&mut publisher, "marker");
        client.disconnect();
    }
}
