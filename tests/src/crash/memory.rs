//! A node that gets no more memory ends at once, and has kept what it acknowledged.

use engine_mqtt::{QoS, Version};

use super::pressure::{End, Pressure, receive_upto};
use crate::client::Dial;
use crate::node::{Broker, Node, memory_bytes};

/// Private memory above what an idle node has: less than what the log alone keeps in memory.
const MARGIN_BYTES: u64 = 16 << 20;
/// Messages of 64 KiB.
const MESSAGES: u64 = 1_200;

#[test]
fn without_memory_nothing_acknowledged_is_lost() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let mut node = Node::start();
    let absent = Dial::durable(Version::V5, "absent");
    let mut first = absent.connect(&node);
    first.subscribe("memory/#", QoS::AtLeastOnce);
    first.disconnect();
    let limit = memory_bytes(node.process_id(), "VmData") + MARGIN_BYTES;
    assert!(node.terminate().success());
    node.set_launcher(&["prlimit", &format!("--data={limit}")]);
    node.run();
    let mut pressure = Pressure::new("memory/all", &node);
    let end = pressure.publish_upto(MESSAGES);
    let acknowledged = pressure.acknowledged;
    println!(
        "{end:?} at {limit} bytes: {} sent, {acknowledged} acknowledged",
        pressure.sent
    );
    assert_eq!(end, End::Closed, "{} bytes are enough", limit);
    let status = node.wait();
    assert!(!status.success(), "{status}");
    node.set_launcher(&[]);
    node.run();
    let mut absent = absent.connect(&node);
    assert!(absent.welcome().session_present);
    let received = receive_upto(&mut absent, 0, acknowledged);
    assert_eq!(received, acknowledged);
    assert!(node.terminate().success());
}
