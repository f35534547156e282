//! A full disk: publishers wait, readers go on, and nothing acknowledged is lost; when there is
//! room again the node goes on.
//!
//! The next segment of the log takes what room there is. When the state store needs some after
//! that, the node ends, and starts again when there is room. Which of the two happens depends on
//! where the file system has placed the state store's pages: both must lose nothing.

use engine_mqtt::{QoS, Version};

use super::pressure::{End, MESSAGE_BYTES, Pressure, receive_upto};
use super::small_disk::SmallDisk;
use crate::client::Dial;
use crate::node::{Broker, Node};

const MIB: u64 = 1 << 20;
const DISK_BYTES: u64 = 160 * MIB;
/// What is there besides the node's data at first; the rest has room for one segment of the log.
const BALLAST_BYTES: u64 = 112 * MIB;
/// Messages that are sent when there is room again: more than the first segment has left.
const MORE: u64 = 200;

/// Which way a node on a full disk goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// There is room again.
    Room,
    /// It is killed first, and started without room.
    Crash,
}

/// The node has ended, and says why.
fn ended_for_lack_of_space(node: &mut Node) {
    assert_eq!(node.wait().code(), Some(3), "{}", node.stderr());
    let reason = node.stderr();
    assert!(reason.contains("no space is left"), "{reason}");
}

/// A start without room serves, or is refused with the reason; both change nothing of what counts.
fn start_without_room(node: &mut Node) {
    match node.try_run() {
        Ok(()) => node.kill9(),
        Err(failure) => {
            assert!(failure.contains("exit status: 1;"), "{failure}");
            assert!(failure.contains("no space is left"), "{failure}");
        }
    }
}

fn fill(block_bytes: u64, then: Then) {
    let disk = SmallDisk::new(DISK_BYTES, block_bytes);
    disk.take(BALLAST_BYTES);
    let mut node = Node::stopped(1, &[]);
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
    let mut pressure = Pressure::new("full/all", &node);
    let end = pressure.publish_upto(DISK_BYTES / MESSAGE_BYTES as u64);
    let acknowledged = pressure.acknowledged;
    println!(
        "{end:?}: {} sent, {acknowledged} acknowledged",
        pressure.sent
    );
    assert_ne!(end, End::Enough, "the disk was not full");
    let read = receive_upto(&mut reader, 0, acknowledged);
    println!("{read} read on the full disk");
    // What the readers acknowledge takes room in the state store.
    let held_back = pressure.publish_upto(pressure.sent) == End::HeldBack;
    if held_back && then == Then::Room {
        assert_eq!(read, acknowledged);
        reader.ping();
        disk.free();
        let more = pressure.sent + MORE;
        assert_eq!(pressure.publish_upto(more), End::Enough);
        node.crash_and_restart();
    } else {
        if held_back {
            node.kill9();
        } else {
            ended_for_lack_of_space(&mut node);
        }
        start_without_room(&mut node);
        start_without_room(&mut node);
        disk.free();
        node.run();
    }
    let mut absent = absent.connect(&node);
    assert!(absent.welcome().session_present);
    let upto = pressure.acknowledged;
    assert_eq!(receive_upto(&mut absent, 0, upto), upto);
    assert!(node.terminate().success());
}

#[test]
fn on_a_full_disk_publishers_wait_and_readers_go_on() {
    if Broker::chosen() == Broker::Corelane {
        fill(4096, Then::Room);
    }
}

#[test]
fn a_crash_on_a_full_disk_loses_nothing_acknowledged() {
    if Broker::chosen() == Broker::Corelane {
        fill(1024, Then::Crash);
    }
}
