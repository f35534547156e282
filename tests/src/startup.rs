//! How the process starts, refuses to start, and stops. What needs no process is tested in
//! engine/server and bin.

use std::net::TcpListener;

use engine_mqtt::{QoS, ReasonCode, Version};

use crate::client::{Answer, Dial};
use crate::node::{Broker, Node};

/// mosquitto has messages and an exit code of its own.
fn is_product() -> bool {
    Broker::chosen() == Broker::Corelane
}

/// The node refuses to start, naming each of `words`.
#[track_caller]
fn refuses(mut node: Node, words: &[&str]) {
    let failure = node.try_run().expect_err("the node must not start");
    for word in words {
        assert!(failure.contains(word), "'{word}' is not in:\n{failure}");
    }
    assert!(!failure.contains("panicked"), "{failure}");
    assert!(!failure.contains("exit status: 0"), "{failure}");
}

#[test]
fn the_ready_line_names_listeners_and_shards() {
    if !is_product() {
        return;
    }
    let node = Node::with_shards(2);
    let line = node.ready_line();
    assert!(
        line.contains(&format!("mqtt://{}", node.address())),
        "{line}"
    );
    assert!(
        line.contains("2 shards") || line.contains("shards=2"),
        "{line}"
    );
}

#[test]
fn a_taken_port_is_named() {
    if !is_product() {
        return;
    }
    let node = Node::stopped(1, &[]);
    let _taken = TcpListener::bind(node.address()).expect("a free port");
    let port = node.port().to_string();
    refuses(node, &[&port]);
}

#[test]
fn a_data_directory_in_use_is_named() {
    if !is_product() {
        return;
    }
    let first = Node::start();
    let data = first.data();
    let data = data.to_str().expect("a path of text");
    refuses(Node::on_data_of(&first), &[data]);
}

/// Listeners beyond loopback need a word of consent while there is no authentication.
#[test]
fn a_public_listener_needs_allow_anonymous() {
    if !is_product() {
        return;
    }
    refuses(
        Node::stopped(1, &["--listen", "mqtt://0.0.0.0:0"]),
        &["--allow-anonymous"],
    );
}

/// SIGTERM: clients are told, logs synced, exit code 0, and the data is whole.
#[test]
fn an_orderly_stop_tells_the_clients_and_keeps_everything() {
    if !is_product() {
        return;
    }
    let mut node = Node::with_shards(2);
    let dial = Dial::durable(Version::V5, "stopped");
    let mut told = dial.connect(&node);
    told.subscribe("stop", QoS::ExactlyOnce);
    let mut older = Dial::clean(Version::V311, "older").connect(&node);
    let mut publisher = Dial::clean(Version::V5, "publisher").connect(&node);
    publisher.publish("stop", "kept", QoS::AtLeastOnce);
    assert_eq!(told.message().text(), "kept");
    node.signal("TERM");
    assert_eq!(
        told.answer(),
        Answer::Disconnect(ReasonCode::ServerShuttingDown)
    );
    told.expect_end();
    older.expect_end();
    assert!(node.wait().success(), "exit code 0");
    node.run();
    let mut told = dial.connect(&node);
    assert!(told.welcome().session_present);
    let again = told.receive();
    assert_eq!(again.text(), "kept");
    assert!(again.dup, "it was sent before");
}

/// A stop without clients is an orderly one, too, as is the one after it.
#[test]
fn a_node_starts_and_stops_again_and_again() {
    let mut node = Node::with_shards(2);
    for _ in 0..3 {
        node.terminate();
        node.run();
    }
    Dial::clean(Version::V5, "alive").connect(&node).ping();
}
