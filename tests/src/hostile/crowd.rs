//! Thousands of connections that never say what they want.

use super::canary::Canary;
use super::{assert_grown_less, is_product, resident};
use crate::client::{Client, Dial};
use crate::crash::allow_descriptors;
use crate::node::Node;
use engine_mqtt::Version;

const CROWD: usize = 5_000;
/// Above what the node has for each of them, and less than a buffer each would take.
const BYTES_EACH: u64 = 8 << 10;

/// Silent ones, and ones that stop in the middle of CONNECT: all are cut when their time is over.
#[test]
fn five_thousand_half_open_connections_disturb_nobody() {
    if !is_product() {
        return;
    }
    allow_descriptors();
    let mut node = Node::stopped(2, &[]);
    node.configure("[limits]\nconnect-timeout-s = 3\n");
    node.run();
    let canary = Canary::start(&node);
    let before = resident(&node);
    let mut crowd: Vec<Client> = (0..CROWD)
        .map(|number| {
            let mut client = Dial::silent(Version::V5, &node);
            if number % 2 == 0 {
                client.send_bytes(b"\x10\x20\x00\x04MQ");
            }
            client
        })
        .collect();
    assert_grown_less(&node, before, CROWD as u64 * BYTES_EACH, "5,000 half-open");
    // A newcomer does not wait for them.
    Dial::clean(Version::V5, "newcomer").connect(&node).ping();
    for client in &mut crowd {
        client.expect_end();
    }
    drop(crowd);
    canary.stop("5,000 half-open connections");
    assert!(node.terminate().success());
}
