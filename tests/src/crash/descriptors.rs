//! More clients than the node may have descriptors: they take none when they are at home. Only
//! those that have not sent their CONNECT do; what log, index and state store need is kept for
//! them, and newcomers wait in the kernel's backlog until somebody has left the door.

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
/// What the node writes when newcomers have to wait.
const FULL: &str = "newcomers wait: the door is full";
/// In which a client that has to wait hears nothing.
const SILENCE: Duration = Duration::from_millis(300);

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

/// Sends CONNECT, whose answer may have to wait.
fn send_connect(number: usize, node: &Node) -> Client {
    let mut newest = Dial::silent(Version::V5, node);
    crowd_member(number).send(&mut newest);
    newest
}

fn expect_welcome(client: &mut Client) {
    match client.next() {
        Answer::ConnAck(welcome) => assert_eq!(welcome.reason, ReasonCode::Success),
        other => panic!("expected CONNACK, got {other:?}"),
    }
}

fn come_in(number: usize, node: &Node) -> Client {
    let mut client = send_connect(number, node);
    expect_welcome(&mut client);
    client
}

/// Connections without a CONNECT, until newcomers have to wait.
fn crowd_at_door(node: &Node) -> Vec<Client> {
    let mut crowd = Vec::new();
    let is_full = || node.stderr().contains(FULL);
    while !is_full() {
        assert!(crowd.len() < LIMIT, "the limit of descriptors is not kept");
        let before = descriptors(node);
        crowd.push(Dial::silent(Version::V5, node));
        let end = Instant::now() + DEADLINE;
        while descriptors(node) == before && !is_full() {
            assert!(
                Instant::now() < end,
                "it is not taken, and the door is not full"
            );
            std::thread::yield_now();
        }
    }
    println!("{} connections fill {LIMIT} descriptors", crowd.len());
    crowd
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
fn without_descriptors_clients_stay_and_newcomers_wait() {
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
    let mut newcomers: Vec<_> = (0..2 * SOME).map(|n| send_connect(n, &node)).collect();
    assert_eq!(newcomers[0].next_within(SILENCE), None);
    assert_eq!(descriptors(&node), open, "nobody was taken in");
    let lines = node.stderr().matches(FULL).count();
    assert_eq!(lines, 1, "one line for all of them:\n{}", node.stderr());
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
    // Each place at the door serves one after the other.
    drop(crowd.drain(..SOME));
    for client in &mut newcomers {
        expect_welcome(client);
        client.ping();
    }
    assert!(node.terminate().success());
}

/// Nobody leaves a door full of silent connections: their time runs out, and who waited is served.
#[test]
fn newcomers_are_served_when_the_time_of_silent_connections_is_over() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let mut node = Node::stopped(2, &[]);
    node.set_launcher(&["prlimit", &format!("--nofile={LIMIT}:{LIMIT}")]);
    node.configure("[limits]\nconnect-timeout-s = 1\n");
    node.run();
    let mut canary = Dial::clean(Version::V5, "canary").connect(&node);
    // More than fit, so that some of them wait themselves before they are cut.
    let silent: Vec<_> = (0..2 * LIMIT)
        .map(|_| Dial::silent(Version::V5, &node))
        .collect();
    let mut newcomers: Vec<_> = (0..SOME).map(|n| send_connect(n, &node)).collect();
    for client in &mut newcomers {
        expect_welcome(client);
        client.ping();
    }
    canary.ping();
    for mut one in silent {
        one.expect_end();
    }
    assert!(node.stderr().contains(FULL), "{}", node.stderr());
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
