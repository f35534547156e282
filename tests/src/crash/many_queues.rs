//! Many queues: any of them is read after `kill -9`, and when retention has taken all that the
//! older half held, their names, ids and bytes are gone from memory and disk.

use std::fs;
use std::time::Instant;

use engine_mqtt::{
    Packet, Properties, PropertiesBuilder, Publish, QoS, ReasonCode, Subscribe, Subscription,
    SubscriptionOptions, Subscriptions, Version,
};

use crate::client::{Answer, Client, Dial};
use crate::node::{Broker, DEADLINE, Node, free_port};
use crate::shards::per_shard;

/// Queues of each half.
const QUEUES: usize = 1_000;
/// Messages of each queue.
const MESSAGES: usize = 20;
const MESSAGE_BYTES: usize = 2_048;
/// More than one half takes, and less than both.
const KEPT_BYTES: u64 = 48 << 20;
const SEGMENT_BYTES: &str = "8388608";
/// Publications without their acknowledgement.
const WINDOW: usize = 64;

fn topic(half: &str, queue: usize) -> String {
    format!("{half}/{queue}/value")
}

fn payload(number: usize) -> Vec<u8> {
    let mut payload = format!("{number} ").into_bytes();
    payload.resize(MESSAGE_BYTES, b'.');
    payload
}

/// One message to each queue after the other, so that each is spread over all of the half.
fn fill(half: &str, node: &Node) {
    let mut client = Dial::clean(Version::V5, "filler").connect(node);
    let mut open = 0;
    for number in 0..MESSAGES {
        let payload = payload(number);
        for queue in 0..QUEUES {
            let packet_id = client.packet_id();
            client.send(&Packet::Publish(Publish {
                dup: false,
                qos: QoS::AtLeastOnce,
                retain: false,
                topic: &topic(half, queue),
                packet_id: Some(packet_id),
                properties: Properties::EMPTY,
                payload: &payload,
            }));
            open += 1;
            if open == WINDOW {
                take_acknowledgement(&mut client);
                open -= 1;
            }
        }
    }
    for _ in 0..open {
        take_acknowledgement(&mut client);
    }
    client.disconnect();
}

fn take_acknowledgement(client: &mut Client) {
    match client.next() {
        Answer::PubAck(_, reason) => assert!(!reason.is_failure(), "PUBACK {reason:?}"),
        other => panic!("expected PUBACK, got {other:?}"),
    }
}

/// What the log has of a queue: the numbers of its messages, in order.
fn read(half: &str, queue: usize, node: &Node) -> Vec<usize> {
    let mut client = Dial::clean(Version::V5, "reader").connect(node);
    let filter = topic(half, queue);
    let options = SubscriptionOptions {
        qos: QoS::AtLeastOnce,
        ..SubscriptionOptions::default()
    };
    let mut properties = PropertiesBuilder::new();
    properties.user_property("corelane-replay", "earliest");
    let packet_id = client.packet_id();
    client.send(&Packet::Subscribe(Subscribe {
        packet_id,
        properties: properties.properties().expect("well-formed properties"),
        filters: Subscriptions::from(
            [Subscription {
                filter: &filter,
                options,
            }]
            .as_slice(),
        ),
    }));
    let answer = client.answer();
    let granted =
        matches!(&answer, Answer::SubAck(_, codes) if codes == &[ReasonCode::GrantedQoS1]);
    assert!(granted, "{answer:?}");
    client.publish(&filter, "end", QoS::AtLeastOnce);
    let mut numbers = Vec::new();
    loop {
        let message = client.receive();
        if message.payload == b"end" {
            client.disconnect();
            return numbers;
        }
        let number = message.text().split(' ').next().map(str::parse);
        numbers.push(number.expect("a number").expect("a number"));
    }
}

fn data_bytes(node: &Node) -> u64 {
    let folder = fs::read_dir(node.data().join("shard-0")).expect("the data of a shard");
    let files = folder.map(|entry| entry.expect("an entry"));
    files
        .map(|file| file.metadata().map_or(0, |metadata| metadata.len()))
        .sum()
}

#[test]
fn old_queues_vanish_and_all_others_can_be_read() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let metrics = free_port();
    let page = format!("127.0.0.1:{metrics}");
    let arguments = ["--metrics", &page, "--segment-bytes", SEGMENT_BYTES];
    let metric = |name: &str| per_shard(metrics, name).values().sum::<f64>();
    let mut node = Node::with_arguments(1, &arguments);
    let all: Vec<usize> = (0..MESSAGES).collect();
    fill("old", &node);
    // The index writes what it has: its files are what goes whole.
    assert!(node.terminate().success());
    node.run();
    fill("new", &node);
    node.kill9();
    node.run();
    for queue in [0, QUEUES / 3, QUEUES - 1] {
        assert_eq!(read("new", queue, &node), all, "queue {queue}");
        assert_eq!(read("old", queue, &node), all, "queue {queue}");
    }
    let before = data_bytes(&node);
    let known = metric("corelane_queues");
    assert!(known >= 2.0 * QUEUES as f64, "{known} queues");
    node.kill9();
    node.add_argument(&format!("--retention-bytes={KEPT_BYTES}"));
    node.run();
    // Three of the old ones have the ends of the reads above, and of some the filters of the
    // index's files cannot tell yet that they are gone.
    let gone = QUEUES as f64 * 0.95;
    let end = Instant::now() + DEADLINE;
    while metric("corelane_removed_queues_total") < gone {
        assert!(Instant::now() < end, "{}", metric("corelane_queues"));
    }
    while data_bytes(&node) > before * 3 / 4 {
        assert!(Instant::now() < end, "{} of {before}", data_bytes(&node));
    }
    let left = metric("corelane_queues");
    assert!(left <= known - gone, "{left} of {known}");
    assert_eq!(read("old", 7, &node), [0_usize; 0]);
    assert_eq!(read("new", QUEUES - 1, &node).last(), all.last());
    node.kill9();
    node.run();
    assert!(metric("corelane_queues") <= left + 1.0);
    assert_eq!(read("new", 8, &node).last(), all.last());
}
