//! Sessions that are away are not in memory, and come back as they were: after `kill -9`, from a
//! state store made anew, on another number of shards.

use std::time::Instant;

use engine_mqtt::{QoS, Version};

use crate::client::Dial;
use crate::node::{Broker, DEADLINE, Node, free_port};
use crate::shards::per_shard;

const CLIENTS: usize = 40;

/// Even ones have an exact filter, odd ones a wildcard.
fn filter(number: usize) -> String {
    let last = if number.is_multiple_of(2) { "x" } else { "+" };
    format!("to/{number}/{last}")
}

fn dial(number: usize) -> Dial {
    let version = if number % 4 < 2 {
        Version::V5
    } else {
        Version::V311
    };
    Dial::durable(version, &format!("client-{number}"))
}

fn wait_for(port: u16, name: &str, wanted: f64) {
    let end = Instant::now() + DEADLINE;
    loop {
        let found: f64 = per_shard(port, name).values().sum();
        if (found - wanted).abs() < 0.5 {
            return;
        }
        assert!(Instant::now() < end, "{name} is {found}, not {wanted}");
    }
}

fn publish(node: &Node, payload: &str) {
    let mut publisher = Dial::clean(Version::V311, "publisher").connect(node);
    for number in 0..CLIENTS {
        publisher.publish(&format!("to/{number}/x"), payload, QoS::ExactlyOnce);
    }
    publisher.disconnect();
}

#[test]
fn sessions_out_of_memory_miss_nothing() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let metrics = free_port();
    let mut node = Node::stopped(2, &["--metrics", &format!("127.0.0.1:{metrics}")]);
    node.configure("[limits]\npark-after-s = 0\n");
    node.run();
    for number in 0..CLIENTS {
        let mut client = dial(number).connect(&node);
        let qos = [QoS::AtLeastOnce, QoS::ExactlyOnce][number / 2 % 2];
        client.subscribe(&filter(number), qos);
        client.disconnect();
    }
    wait_for(metrics, "corelane_sessions_parked", CLIENTS as f64);
    publish(&node, "away");
    // In flight to all: received, and not acknowledged.
    for number in 0..CLIENTS {
        let mut client = dial(number).connect(&node);
        let message = client.message();
        assert!(message.text() == "away" && !message.dup);
        client.vanish();
    }
    wait_for(metrics, "corelane_sessions_parked", CLIENTS as f64);
    publish(&node, "again away");
    node.kill9();
    node.set_shards(3);
    node.run();
    wait_for(metrics, "corelane_sessions_parked", CLIENTS as f64);
    publish(&node, "after the start");
    for number in 0..CLIENTS {
        let mut client = dial(number).connect(&node);
        assert!(client.welcome().session_present, "client {number}");
        let mut flying = client.receive();
        assert!(flying.text() == "away" && flying.dup, "client {number}");
        for expected in ["again away", "after the start"] {
            flying = client.receive();
            assert_eq!((flying.text(), flying.dup), (expected, false), "{number}");
        }
        client.disconnect();
    }
}
