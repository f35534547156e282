//! A full disk, filled by the node itself and by somebody else to the last byte: publishers wait,
//! readers go on, the node never ends by itself and starts again as often as it is killed, and
//! nothing acknowledged is lost; when there is room again all goes on.

use std::thread::{JoinHandle, spawn};

use engine_mqtt::{Packet, Properties, Publish, QoS, Version};

use super::pressure::{End, MESSAGE_BYTES, Pressure, receive_upto};
use super::small_disk::SmallDisk;
use crate::client::{Answer, Client, Dial};
use crate::node::{Broker, Node};

const MIB: u64 = 1 << 20;
const DISK_BYTES: u64 = 384 * MIB;
/// What is there besides the node's data at first.
const BALLAST_BYTES: u64 = 160 * MIB;
/// Messages that are sent when there is room again: more than a first segment holds.
const MORE: u64 = 300;
/// Clients that send so many messages each without waiting for acknowledgements: together more
/// than the node keeps in memory.
const FLOOD_CLIENTS: usize = 4;
const FLOOD_MESSAGES: usize = 200;
/// Kills on the full disk.
const KILLS: usize = 4;

/// Sends its messages, and waits until all are acknowledged, however long that takes.
fn flood(mut client: Client) -> JoinHandle<usize> {
    let publish = |client: &mut Client| {
        let packet_id = client.packet_id();
        client.send(&Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: "flood",
            packet_id: Some(packet_id),
            properties: Properties::EMPTY,
            payload: &[b'f'; MESSAGE_BYTES],
        }));
    };
    spawn(move || {
        (0..FLOOD_MESSAGES).for_each(|_| publish(&mut client));
        let acknowledged =
            |answer: Answer| matches!(answer, Answer::PubAck(_, reason) if !reason.is_failure());
        (0..FLOOD_MESSAGES)
            .filter(|_| acknowledged(client.next()))
            .count()
    })
}

/// A node on a small disk; a session that is away and one that reads slowly subscribe to all.
fn on(disk: &SmallDisk) -> (Node, Dial, Client) {
    disk.take(BALLAST_BYTES);
    // What is tested is a disk without room, not what retention does long before.
    let never = [
        "--disk-clean-percent",
        "101",
        "--disk-force-percent",
        "101",
        "--disk-refuse-percent",
        "101",
    ];
    let mut node = Node::stopped(1, &never);
    node.set_data(disk.path().join("data"));
    node.run();
    let absent = Dial::durable(Version::V5, "absent");
    let mut first = absent.connect(&node);
    first.subscribe("full/#", QoS::AtLeastOnce);
    first.disconnect();
    // This one takes little at a time, and has much to read when the disk is full.
    let mut reader = Dial::durable(Version::V5, "reader")
        .receive_maximum(4)
        .connect(&node);
    reader.subscribe("full/#", QoS::AtLeastOnce);
    (node, absent, reader)
}

/// Publishes until the node has no more room.
fn fill(pressure: &mut Pressure) {
    let end = pressure.publish_upto(DISK_BYTES / MESSAGE_BYTES as u64);
    println!(
        "{end:?}: {} sent, {} acknowledged",
        pressure.sent, pressure.acknowledged
    );
    assert_eq!(end, End::HeldBack);
}

#[test]
fn on_a_full_disk_publishers_wait_and_readers_go_on() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let disk = SmallDisk::new(DISK_BYTES, 4096);
    let (mut node, absent, mut reader) = on(&disk);
    let mut pressure = Pressure::new("full/all", &node);
    fill(&mut pressure);
    disk.take_rest();
    let dial = |number| Dial::clean(Version::V5, &format!("flood-{number}"));
    let floods: Vec<_> = (0..FLOOD_CLIENTS)
        .map(|number| flood(dial(number).connect(&node)))
        .collect();
    let acknowledged = pressure.acknowledged;
    assert_eq!(receive_upto(&mut reader, 0, acknowledged), acknowledged);
    reader.ping();
    // Others still come, and subscribe.
    let mut other = Dial::durable(Version::V5, "other").connect(&node);
    other.subscribe("other", QoS::ExactlyOnce);
    other.disconnect();
    assert!(floods.iter().all(|flood| !flood.is_finished()));
    disk.free();
    let more = pressure.sent + MORE;
    assert_eq!(pressure.publish_upto(more), End::Enough);
    for flood in floods {
        assert_eq!(flood.join().expect("no panic"), FLOOD_MESSAGES);
    }
    assert_eq!(receive_upto(&mut reader, acknowledged, more), more);
    node.crash_and_restart();
    let mut absent = absent.connect(&node);
    assert!(absent.welcome().session_present);
    assert_eq!(receive_upto(&mut absent, 0, more), more);
    assert!(node.terminate().success());
}

/// Kills it on the full disk again and again; each time it serves.
fn crash_on_a_full_disk(block_bytes: u64) {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let disk = SmallDisk::new(DISK_BYTES, block_bytes);
    let (mut node, absent, mut reader) = on(&disk);
    let mut pressure = Pressure::new("full/all", &node);
    fill(&mut pressure);
    disk.take_rest();
    let mut read = receive_upto(&mut reader, 0, pressure.acknowledged / 2);
    for kill in 0..KILLS {
        node.crash_and_restart();
        // What was sent before the kill and not acknowledged may be there as well, so nobody
        // publishes to these readers any more.
        let upto = pressure.acknowledged;
        let mut reader = Dial::durable(Version::V5, "reader")
            .receive_maximum(4)
            .connect(&node);
        assert!(reader.welcome().session_present, "kill {kill}");
        let next = read + (upto - read) / 2;
        read = receive_from(&mut reader, read, next);
    }
    assert!(node.terminate().success());
    node.run();
    disk.free();
    let upto = pressure.acknowledged;
    let mut absent = absent.connect(&node);
    assert!(absent.welcome().session_present);
    assert_eq!(receive_upto(&mut absent, 0, upto), upto);
    let mut after = Pressure::new("after", &node);
    assert_eq!(after.publish_upto(MORE), End::Enough);
    assert!(node.terminate().success());
}

/// As [`receive_upto`], where messages at or below `from` may come again first.
fn receive_from(reader: &mut Client, from: u64, upto: u64) -> u64 {
    let mut last = 0;
    while last < upto {
        let number = super::pressure::receive_any(reader);
        assert!(last == 0 && number <= from + 1 || number == last + 1);
        last = number;
    }
    last
}

#[test]
fn a_node_starts_on_a_full_disk_as_often_as_it_is_killed() {
    crash_on_a_full_disk(4096);
}

#[test]
fn a_node_starts_on_a_full_disk_of_small_blocks_as_often_as_it_is_killed() {
    crash_on_a_full_disk(1024);
}
