//! More clients than the node may have descriptors: those that are there go on working, those that
//! are too many wait at the door, and come in when somebody leaves.

use std::fs;
use std::time::{Duration, Instant};

use engine_mqtt::{QoS, ReasonCode, Version};

use super::pressure::{End, Pressure, receive_upto};
use crate::client::{Answer, Client, Dial};
use crate::node::{Broker, DEADLINE, Node};

/// Descriptors that the node may have.
const LIMIT: usize = 160;
/// Clients that leave to make room.
const SOME: usize = 8;
/// Messages of 64 KiB: more than one segment of the log holds.
const MESSAGES: u64 = 300;
/// How often it is looked whether the newest client has been refused.
const GLANCE: Duration = Duration::from_millis(5);

fn descriptors(node: &Node) -> usize {
    let folder = format!("/proc/{}/fd", node.process_id());
    fs::read_dir(folder).expect("the node runs").count()
}

fn crowd_member(number: usize) -> Dial {
    Dial::clean(Version::V5, &format!("crowd-{number}"))
}

/// Connects clients until the kernel gives the node no more descriptors. The last client, which
/// has sent its CONNECT in vain, is the second result.
fn crowd_in(node: &Node) -> (Vec<Client>, Client) {
    let mut crowd = Vec::new();
    let end = Instant::now() + DEADLINE;
    loop {
        let mut newest = Dial::silent(Version::V5, node);
        crowd_member(crowd.len()).send(&mut newest);
        loop {
            match newest.next_within(GLANCE) {
                Some(Answer::ConnAck(_)) => break,
                Some(other) => panic!("client {}: {other:?}", crowd.len()),
                None if node.stderr().contains("refused by the kernel") => {
                    return (crowd, newest);
                }
                None => assert!(Instant::now() < end, "client {}", crowd.len()),
            }
        }
        crowd.push(newest);
        assert!(crowd.len() < LIMIT, "the limit of descriptors is not kept");
    }
}

/// A node with few descriptors.
fn limited() -> Node {
    let mut node = Node::stopped(1, &[]);
    node.set_launcher(&["prlimit", &format!("--nofile={LIMIT}:{LIMIT}")]);
    node.run();
    node
}

#[test]
fn without_descriptors_clients_stay_and_newcomers_wait() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let mut node = limited();
    let mut subscriber = Dial::durable(Version::V5, "subscriber").connect(&node);
    subscriber.subscribe("crowd/#", QoS::ExactlyOnce);
    let mut publisher = Dial::clean(Version::V5, "publisher").connect(&node);
    let (mut crowd, mut waiting) = crowd_in(&node);
    let open = descriptors(&node);
    assert!(open + 1 >= LIMIT, "{open} descriptors are open");
    println!("{} clients fill {LIMIT} descriptors", crowd.len());
    // All of these fit into the segment of the log that is open.
    for number in 0..200 {
        let topic = format!("crowd/{number}");
        let qos = if number % 2 == 0 {
            QoS::AtLeastOnce
        } else {
            QoS::ExactlyOnce
        };
        publisher.publish(&topic, "text", qos);
        subscriber.expect(&topic, "text", qos);
    }
    for client in &mut crowd {
        client.ping();
    }
    for client in crowd.drain(..SOME) {
        client.disconnect();
    }
    match waiting.next() {
        Answer::ConnAck(welcome) => assert_eq!(welcome.reason, ReasonCode::Success),
        other => panic!("expected CONNACK, got {other:?}"),
    }
    waiting.ping();
    crowd_member(LIMIT).connect(&node).ping();
    for client in &mut crowd {
        client.ping();
    }
    assert!(node.terminate().success());
}

/// The log needs a descriptor for its next segment. A node that gets none may end; what it has
/// acknowledged is there when it starts again.
#[test]
fn without_descriptors_for_the_log_nothing_acknowledged_is_lost() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let mut node = limited();
    let absent = Dial::durable(Version::V5, "absent");
    let mut first = absent.connect(&node);
    first.subscribe("crowd/#", QoS::AtLeastOnce);
    first.disconnect();
    let mut pressure = Pressure::new("crowd/all", &node);
    let (crowd, waiting) = crowd_in(&node);
    let end = pressure.publish_upto(MESSAGES);
    let acknowledged = pressure.acknowledged;
    println!(
        "{end:?}: {} sent, {acknowledged} acknowledged",
        pressure.sent
    );
    if end == End::Closed {
        assert_eq!(node.wait().code(), Some(3), "{}", node.stderr());
        let reason = node.stderr();
        assert!(reason.contains("Too many open files"), "{reason}");
        node.run();
    }
    drop((crowd, waiting));
    let mut absent = absent.connect(&node);
    assert!(absent.welcome().session_present);
    let received = receive_upto(&mut absent, 0, acknowledged);
    assert_eq!(received, acknowledged);
    assert!(node.terminate().success());
}
