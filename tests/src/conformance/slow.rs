//! A subscriber that stops reading costs little memory and misses nothing.

use engine_mqtt::{QoS, Version};

use crate::client::Dial;
use crate::node::{Broker, Node, memory_bytes};

/// Subscribers that do not read.
const STALLED: u64 = 40;
/// More than the kernel's socket buffers hold for one connection once the window is full.
const PAYLOAD_LEN: usize = 64 * 1024;
const MESSAGES: usize = 160;
/// What fills the tail of the log that is kept in memory, before the measurement.
const WARM_UP: usize = 700;
/// User memory that a stalled subscriber may cost.
const BYTES_PER_STALLED_MAX: u64 = 64 * 1024;
/// What the process may grow by for other reasons (allocator, caches).
const NOISE_BYTES: u64 = 3 * 1024 * 1024;

#[test]
fn a_subscriber_that_stops_reading_costs_at_most_64_kib_and_misses_nothing() {
    let node = Node::with_shards(2);
    if node.broker() == Broker::Mosquitto {
        return; // It queues in memory.
    }
    let payload = "x".repeat(PAYLOAD_LEN);
    let mut publisher = Dial::clean(Version::V5, "slow-from").connect(&node);
    let mut stalled: Vec<_> = (0..STALLED)
        .map(|number| {
            let mut client = Dial::durable(Version::V5, &format!("slow-{number}")).connect(&node);
            client.subscribe("slow", QoS::AtLeastOnce);
            client
        })
        .collect();
    for _ in 0..WARM_UP {
        publisher.publish("warm", &payload, QoS::AtLeastOnce);
    }
    let before = memory_bytes(node.process_id(), "RssAnon");
    for number in 0..MESSAGES {
        publisher.publish("slow", &format!("{number} {payload}"), QoS::AtLeastOnce);
    }
    let after = memory_bytes(node.process_id(), "RssAnon");
    let grown = after.saturating_sub(before);
    println!("{STALLED} stalled subscribers: {before} B before, {after} B after");
    assert!(
        grown <= STALLED * BYTES_PER_STALLED_MAX + NOISE_BYTES,
        "{grown} B more for {STALLED} stalled subscribers"
    );
    for client in stalled.iter_mut().step_by(13) {
        for number in 0..MESSAGES {
            let message = client.receive();
            let (got, _) = message
                .text()
                .split_once(' ')
                .expect("a number and a filling");
            assert_eq!(got, number.to_string());
        }
    }
}
