//! Clients that mean harm, or cannot do better, against the real process: each is answered by the
//! book, a canary on the same node sees no error meanwhile, and the node's memory stays bounded.
//!
//! What lies below MQTT (TLS, WebSocket, PROXY headers) is in `transports::hostile`, too few
//! descriptors in `crash::descriptors`. The times that a run prints are for its reader; nothing is
//! asserted about them, as other tests may have the cores.

mod canary;
mod crowd;
mod packets;

use crate::node::{Broker, Node, memory_bytes};

/// The tests of this module are about the product only.
fn is_product() -> bool {
    Broker::chosen() == Broker::Corelane
}

/// Memory that the process has in RAM.
fn resident(node: &Node) -> u64 {
    memory_bytes(node.process_id(), "VmRSS")
}

/// Fails when the node has more memory than before by more than this.
#[track_caller]
fn assert_grown_less(node: &Node, before: u64, most: u64, what: &str) {
    let now = resident(node);
    println!("{what}: {} KiB before, {} KiB now", before >> 10, now >> 10);
    assert!(now < before + most, "{what}: from {before} to {now} bytes");
}
