//! Retention: old segments go, the disk gets its room back, and what is still current stays, also
//! when the node is killed meanwhile and everything but the logs is lost. A session that was behind
//! gets what is left, and the loss is told.

use std::fs;
use std::time::Instant;

use engine_mqtt::{QoS, Version};

use super::pressure::{End, MESSAGE_BYTES, Pressure, receive_any};
use super::small_disk::SmallDisk;
use crate::client::Dial;
use crate::node::{Broker, DEADLINE, Node, free_port};
use crate::shards::per_shard;

const MIB: u64 = 1 << 20;
/// What the node may keep.
const KEPT_BYTES: u64 = 32 * MIB;
/// The segments of a log that may keep so little.
const SEGMENT_BYTES: u64 = 8 * MIB;
/// Messages of 64 KiB between two kills: more than is kept.
const ROUND: u64 = 640;
const ROUNDS: u64 = 3;
/// Bytes of the disk that fills up.
const DISK_BYTES: u64 = 384 * MIB;

fn log_bytes(node: &Node) -> u64 {
    let folder = fs::read_dir(node.data().join("shard-0")).expect("the data of a shard");
    let files = folder.map(|entry| entry.expect("an entry"));
    files
        .filter(|file| file.file_name().to_string_lossy().starts_with("segment-"))
        .map(|file| file.metadata().map_or(0, |metadata| metadata.len()))
        .sum()
}

/// Deletes everything that the logs can rebuild.
pub(super) fn delete_derived(node: &Node) {
    let folder = fs::read_dir(node.data().join("shard-0")).expect("the data of a shard");
    for file in folder.map(|entry| entry.expect("an entry")) {
        let name = file.file_name().to_string_lossy().into_owned();
        if name == "state.redb" || name == "manifest" || name.starts_with("cq-") {
            fs::remove_file(file.path()).expect("the file is deleted");
        }
    }
}

fn metric(port: u16, name: &str) -> f64 {
    per_shard(port, name).values().sum()
}

/// Waits until a metric is at least so much; the page changes every second.
pub(super) fn wait_for(port: u16, name: &str, least: f64) {
    let end = Instant::now() + DEADLINE;
    while metric(port, name) < least {
        assert!(Instant::now() < end, "{name} is {}", metric(port, name));
    }
}

/// Whoever reads after the first message: in order, up to `upto`, and all but what retention takes
/// from below it meanwhile, in a few steps. Returns the first.
fn receive_tail(reader: &mut crate::client::Client, upto: u64) -> u64 {
    let first = receive_any(reader);
    let (mut last, mut steps) = (first, 0);
    while last < upto {
        let number = receive_any(reader);
        assert!(number > last, "{number} after {last}");
        steps += u32::from(number > last + 1);
        last = number;
    }
    assert!(last == upto && steps <= 4, "{last}, {steps} steps");
    first
}

#[test]
fn old_segments_go_and_what_is_current_stays() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let metrics = free_port();
    let bytes = KEPT_BYTES.to_string();
    let page = format!("127.0.0.1:{metrics}");
    let mut node = Node::with_arguments(1, &["--retention-bytes", &bytes, "--metrics", &page]);
    let mut owner = Dial::durable(Version::V5, "owner").connect(&node);
    owner.subscribe("kept/+", QoS::ExactlyOnce);
    owner.retain("kept/a", "first", QoS::AtLeastOnce);
    owner.retain("kept/b", "gone", QoS::AtLeastOnce);
    owner.expect("kept/a", "first", QoS::AtLeastOnce);
    owner.expect("kept/b", "gone", QoS::AtLeastOnce);
    owner.retain("kept/b", "", QoS::AtLeastOnce);
    owner.expect("kept/b", "", QoS::AtLeastOnce);
    owner.disconnect();
    let absent = Dial::durable(Version::V5, "absent");
    let mut first = absent.connect(&node);
    first.subscribe("crowd/#", QoS::AtLeastOnce);
    first.disconnect();
    for round in 0..ROUNDS {
        let mut pressure = Pressure::new("crowd/all", &node);
        assert_eq!(pressure.publish_upto(ROUND), End::Enough);
        if round == 0 {
            // The session that was away has lost the beginning, and has not been told so yet.
            wait_for(metrics, "corelane_retired_segments_total", 1.0);
            let mut absent = absent.connect(&node);
            assert!(absent.welcome().session_present);
            let first = receive_tail(&mut absent, ROUND);
            assert!(first > 1, "nothing was lost");
            wait_for(metrics, "corelane_retention_cuts_total", 1.0);
            assert!(
                node.stderr().contains("retention has taken records"),
                "{}",
                node.stderr()
            );
            absent.unsubscribe("crowd/#");
            absent.disconnect();
        }
        node.kill9();
        if round == 1 {
            delete_derived(&node);
        }
        node.run();
    }
    // What is kept, the segment that is written, and those that are prepared.
    let end = Instant::now() + DEADLINE;
    while log_bytes(&node) > KEPT_BYTES + 3 * SEGMENT_BYTES {
        assert!(Instant::now() < end, "{} bytes", log_bytes(&node));
    }
    let mut owner = Dial::durable(Version::V5, "owner").connect(&node);
    assert!(owner.welcome().session_present);
    owner.publish("kept/c", "routed", QoS::AtLeastOnce);
    owner.expect("kept/c", "routed", QoS::AtLeastOnce);
    let mut other = Dial::clean(Version::V5, "other").connect(&node);
    other.subscribe("kept/#", QoS::AtLeastOnce);
    let retained = other.expect("kept/a", "first", QoS::AtLeastOnce);
    assert!(retained.retain);
    other.publish("kept/d", "last", QoS::AtLeastOnce);
    other.expect("kept/d", "last", QoS::AtLeastOnce);
    assert!(node.terminate().success());
}

#[test]
fn a_disk_that_fills_up_loses_the_oldest_and_goes_on() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let disk = SmallDisk::new(DISK_BYTES, 4096);
    let metrics = free_port();
    let page = format!("127.0.0.1:{metrics}");
    let segments = SEGMENT_BYTES.to_string();
    let mut node = Node::stopped(1, &["--metrics", &page, "--segment-bytes", &segments]);
    node.add_argument("--disk-clean-percent=75");
    node.add_argument("--disk-force-percent=85");
    node.add_argument("--disk-refuse-percent=90");
    node.set_data(disk.path().join("data"));
    node.run();
    let mut pressure = Pressure::new("full/all", &node);
    let more_than_fits = 3 * DISK_BYTES / 2 / MESSAGE_BYTES as u64;
    assert_eq!(pressure.publish_upto(more_than_fits), End::Enough);
    let percent = metric(metrics, "corelane_disk_used_percent");
    assert!((50.0..85.0).contains(&percent), "{percent} % of the disk");
    assert!(node.terminate().success());
}
