//! More clients than the node may have descriptors: they take none when they are at home. Only
//! those that have not sent their CONNECT do; what log, index and state store need is kept for
//! them, and newcomers are refused until somebody has left the door.

use std::fs;
use std::time::{Duration, Instant};

use engine_mqtt::{QoS, ReasonCode, Version};

use super::pressure::{End, Pressure, receive_upto};
use crate::client::{Answer, Client, Dial};
use crate::node::{Broker, DEADLINE, Node};

/// Descriptors that the node may have.
const LIMIT: usize = 160;
/// Clients that a node with so few descriptors holds.
const MANY: usize = 1_000;
/// Clients that leave to make room.
const SOME: usize = 8;
/// Messages of 64 KiB: segments of 16, 32 and 64 MiB are filled, and the next one is begun.
const MESSAGES: u64 = 1_900;
/// Between two attempts of a client that was refused.
const PAUSE: Duration = Duration::from_millis(5);

fn descriptors(node: &Node) -> usize {
    let folder = format!("/proc/{}/fd", node.process_id());
    fs::read_dir(folder).expect("the node runs").count()
}

fn segments(node: &Node) -> usize {
    let folder = fs::read_dir(node.data().join("shard-0")).expect("the data of a shard");
    let names = folder.map(|entry| entry.expect("an entry").file_name());
    names
        .filter(|name| name.to_string_lossy().starts_with("segment-"))
        .count()
}

fn crowd_member(number: usize) -> Dial {
    Dial::clean(Version::V5, &format!("crowd-{number}"))
}

/// Connects a client, unless it is refused.
fn try_connect(number: usize, node: &Node) -> Option<Client> {
    let mut newest = Dial::silent(Version::V5, node);
    crowd_member(number).send(&mut newest);
    match newest.next() {
        Answer::ConnAck(welcome) => {
            assert_eq!(welcome.reason, ReasonCode::Success, "client {number}");
            Some(newest)
        }
        Answer::Closed => None,
        other => panic!("client {number}: {other:?}"),
    }
}

/// Connections without a CONNECT, until a client is refused.
fn crowd_at_door(node: &Node) -> Vec<Client> {
    let mut crowd = Vec::new();
    loop {
        match try_connect(0, node) {
            Some(client) => client.disconnect(),
            None => break,
        }
        crowd.push(Dial::silent(Version::V5, node));
        assert!(crowd.len() < LIMIT, "the limit of descriptors is not kept");
    }
    println!("{} connections fill {LIMIT} descriptors", crowd.len());
    crowd
}

/// Tries to connect until somebody is let in.
fn come_in(number: usize, node: &Node) -> Client {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(client) = try_connect(number, node) {
            return client;
        }
        assert!(Instant::now() < end, "nobody is let in");
        std::thread::park_timeout(PAUSE);
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
fn descriptors_do_not_bound_the_clients() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let mut node = limited();
    let mut subscriber = Dial::durable(Version::V5, "subscriber").connect(&node);
    subscriber.subscribe("crowd/#", QoS::ExactlyOnce);
    let mut crowd: Vec<_> = (0..MANY).map(|number| come_in(number, &node)).collect();
    let open = descriptors(&node);
    assert!(open + 8 <= LIMIT, "{open} descriptors are open");
    for (number, client) in crowd.iter_mut().enumerate() {
        let topic = format!("crowd/{number}");
        client.publish(&topic, "text", QoS::AtLeastOnce);
        subscriber.expect(&topic, "text", QoS::AtLeastOnce);
    }
    // Those that leave leave nothing behind.
    for (number, client) in crowd.drain(..MANY / 2).enumerate() {
        if number % 2 == 0 {
            client.disconnect();
        }
    }
    crowd.extend((0..MANY / 2).map(|number| come_in(MANY + number, &node)));
    for client in &mut crowd {
        client.ping();
    }
    let again = descriptors(&node);
    assert!(again <= open, "{again} descriptors are open, {open} before");
    assert!(node.terminate().success());
}

#[test]
fn without_descriptors_clients_stay_and_newcomers_are_refused() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let mut node = limited();
    let mut subscriber = Dial::durable(Version::V5, "subscriber").connect(&node);
    subscriber.subscribe("crowd/#", QoS::ExactlyOnce);
    let mut publisher = Dial::clean(Version::V5, "publisher").connect(&node);
    let mut crowd = crowd_at_door(&node);
    assert!(crowd.len() > LIMIT / 4, "{} connections", crowd.len());
    let open = descriptors(&node);
    assert!(open + 8 <= LIMIT, "{open} descriptors are open");
    for number in 0..50 {
        assert!(try_connect(number, &node).is_none(), "{number} came in");
    }
    let refused = node.stderr().matches("clients were refused").count();
    assert_eq!(refused, 1, "one line for all of them:\n{}", node.stderr());
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
    drop(crowd.drain(..SOME));
    let mut newcomers: Vec<_> = (0..2 * SOME).map(|number| come_in(number, &node)).collect();
    for client in &mut newcomers {
        client.ping();
    }
    assert!(node.terminate().success());
}

/// The log needs descriptors for its next segments, and there are some kept for it.
#[test]
fn without_descriptors_for_clients_the_log_goes_on() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let mut node = limited();
    let absent = Dial::durable(Version::V5, "absent");
    let mut first = absent.connect(&node);
    first.subscribe("crowd/#", QoS::AtLeastOnce);
    first.disconnect();
    let mut pressure = Pressure::new("crowd/all", &node);
    let crowd = crowd_at_door(&node);
    assert_eq!(pressure.publish_upto(MESSAGES), End::Enough);
    let found = segments(&node);
    assert!(found >= 4, "{found} segments");
    drop(crowd);
    come_in(LIMIT, &node).disconnect();
    node.crash_and_restart();
    let mut absent = absent.connect(&node);
    assert!(absent.welcome().session_present);
    assert_eq!(receive_upto(&mut absent, 0, MESSAGES), MESSAGES);
    assert!(node.terminate().success());
}

/// Something else takes the node's descriptors: its limit is lowered while it runs. Publishers
/// wait, readers go on, and when there are descriptors again all goes on.
#[test]
fn a_log_without_descriptors_holds_publishers_back() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let mut node = Node::start();
    let mut reader = Dial::durable(Version::V5, "reader")
        .receive_maximum(4)
        .connect(&node);
    reader.subscribe("crowd/#", QoS::AtLeastOnce);
    let mut pressure = Pressure::new("crowd/all", &node);
    let process = node.process_id().to_string();
    let limit = |soft: &str| {
        let status = std::process::Command::new("prlimit")
            .args(["--pid", &process, soft])
            .status()
            .expect("prlimit runs");
        assert!(status.success(), "prlimit {soft}: {status}");
    };
    limit("--nofile=1:");
    assert_eq!(pressure.publish_upto(MESSAGES), End::HeldBack);
    let acknowledged = pressure.acknowledged;
    println!("{acknowledged} acknowledged");
    assert_eq!(receive_upto(&mut reader, 0, acknowledged), acknowledged);
    reader.ping();
    limit("--nofile=1000:");
    let more = pressure.sent + 300;
    assert_eq!(pressure.publish_upto(more), End::Enough);
    assert_eq!(receive_upto(&mut reader, acknowledged, more), more);
    assert!(node.terminate().success());
}

#[test]
fn a_limit_too_low_for_one_client_is_refused_at_the_start() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let mut node = Node::stopped(1, &[]);
    node.set_launcher(&["prlimit", "--nofile=40:40"]);
    let failure = node.try_run().expect_err("no client could come");
    assert!(failure.contains("only 40 descriptors"), "{failure}");
    assert!(failure.contains("ulimit -n"), "{failure}");
}
