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

/// The node has ended, and says why; without room it does not start, and says why.
fn ended_for_lack_of_space(node: &mut Node) {
    assert_eq!(node.wait().code(), Some(3), "{}", node.stderr());
    let reason = node.stderr();
    assert!(reason.contains("no space is left"), "{reason}");
    if let Err(failure) = node.try_run() {
        println!("a start on the full disk: {failure}");
        assert!(failure.contains("exit status: 1;"), "{failure}");
        assert!(failure.contains("no space is left"), "{failure}");
    } else {
        println!("it starts on the full disk");
        node.kill9();
    }
}

fn fill(block_bytes: u64) {
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
    if pressure.publish_upto(pressure.sent) == End::HeldBack {
        assert_eq!(read, acknowledged);
        reader.ping();
        disk.free();
        let more = pressure.sent + MORE;
        assert_eq!(pressure.publish_upto(more), End::Enough);
        node.crash_and_restart();
    } else {
        ended_for_lack_of_space(&mut node);
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
        fill(4096);
    }
}

#[test]
fn on_a_full_disk_of_small_blocks_nothing_acknowledged_is_lost() {
    if Broker::chosen() == Broker::Corelane {
        fill(1024);
    }
}
